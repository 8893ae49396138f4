"""Text files as people save them: every list and table that a user hands over is read here."""

import codecs
import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

# The marks that editors, Excel and PowerShell write before the text. That of UTF-32 starts as that of UTF-16 does.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: str | Path, name: str) -> str:
    """The text of a file in UTF-8, or in what its byte order mark says, with ``\\n`` at the ends of lines.

    Args:
        path: the file.
        name: what to call it in an error.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another encoding.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels.txt")
        ...     _ = path.write_bytes("Käse\\r\\ncat".encode("utf-16"))
        ...     read_text(path, "labels")
        'Käse\\ncat'
    """
    path = Path(path).expanduser()
    if not path.exists() or path.is_dir():  # a pipe such as <(cut -f 1 table) is a file to read, too
        raise FileNotFoundError(f"{name} must be an existing file, got {str(path)!r}. Check the path.")
    return decoded(path.read_bytes(), name, str(path))


def decoded(content: bytes, name: str, where: str) -> str:
    """The same of bytes, and where they are from.

    Raises:
        ValueError: another encoding.
    """
    encoding = next((known for mark, known in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be in UTF-8, got {where!r} ({error}). Save it in this encoding.") from error
    if "\0" in text:  # UTF-16 without its mark, or no text at all
        raise ValueError(f"{name} must be a text in UTF-8, got {where!r} with characters of value 0. Save it again.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path, name: str) -> list[str]:
    """The lines of a file without white space around them; empty lines at the end do not count.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another encoding.
    """
    lines = [line.strip() for line in read_text(path, name).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def read_rows(path: str, name: str) -> list[str]:
    """The lines of a text file, one for each row, such as its label.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another encoding, or an empty line.
    """
    lines = read_lines(path, name)
    if "" in lines:
        raise ValueError(
            f"{name} must be one a line, got an empty line {lines.index('') + 1} in {path!r}. Write one for each row, "
            "or remove the rows that have none."
        )
    return lines


def read_table(
    path: str | Path, name: str, required: Sequence[str], optional: Sequence[str] = ()
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """A CSV file: the names of its columns, and the number and the cells of every other line that is not empty.

    Cells have no white space around them. A line may have more or fewer than there are columns, see
    :func:`wrong_cells`.

    Args:
        path: the file.
        name: what to call it in an error.
        required: columns that there must be, once.
        optional: columns that there may be, once. Others do not count.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another encoding or format, a column that is missing or there twice.
    """
    reader = csv.reader(StringIO(read_text(path, name)))
    try:
        columns = [cell.strip() for cell in next(reader, [])]
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{name} must be a CSV file, got {str(path)!r} ({error}). Save it again.") from error
    lacking = [column for column in required if column not in columns]
    if lacking:
        raise ValueError(
            f"{name} must have columns {_listed(required)}, got {', '.join(map(repr, columns)) or 'none'} in "
            f"{str(path)!r} without {_listed(lacking)}. Name the columns in the first line, with commas between them: "
            f"{_listed(lacking)} not found."
        )
    twice = [column for column in (*required, *optional) if columns.count(column) > 1]
    if twice:
        raise ValueError(f"{name} must have each column once, got {twice[0]!r} twice in {str(path)!r}. Remove one.")
    return columns, lines


def wrong_cells(columns: Sequence[str], cells: Sequence[str], counted: Sequence[str]) -> str:
    """What is wrong with a line: another number of cells than columns, or an empty one that counts; else nothing.

    Example:
        >>> wrong_cells(["path", "label"], ["1.png", ""], counted=["label"])
        'label must not be empty, got an empty cell. Fill it or remove the line.'
    """
    if len(cells) != len(columns):
        return (
            f"line must have {len(columns)} cells as the first has, got {len(cells)}. "
            "Put quotes around texts that hold commas."
        )
    empty = [name for name in counted if name in columns and not cells[columns.index(name)]]
    return f"{empty[0]} must not be empty, got an empty cell. Fill it or remove the line." if empty else ""


def read_columns(
    path: str | Path, name: str, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The columns of a CSV file that are known, with a cell in every line that is not empty; see :func:`read_table`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as for :func:`read_table`; a line with other cells than the first, or with an empty one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "pairs.csv")
        ...     _ = path.write_text("first, second, note\\na, b, x\\nb, c, \\n", encoding="utf-8-sig")
        ...     read_columns(path, "pairs", ["first", "second"])
        {'first': ['a', 'b'], 'second': ['b', 'c']}
    """
    counted = (*required, *optional)
    columns, lines = read_table(path, name, required, optional)
    for number, cells in lines:
        if fault := wrong_cells(columns, cells, counted):
            raise ValueError(f"{path}, line {number}: {fault}")
    places = {column: columns.index(column) for column in counted if column in columns}
    return {column: [cells[place] for _, cells in lines] for column, place in places.items()}


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
