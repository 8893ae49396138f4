"""Tables of images: a CSV file with the path and the label of each."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pml_center import text_files
from pml_center.data.archives import files_in, split_archive
from pml_center.data.image_folder import check_names
from pml_center.data.labeled_images import LabeledImages, encode_labels
from pml_center.data.split_folders import SPLITS, split_named
from pml_center.names import unknown_name
from pml_center.text_files import wrong_cells

COLUMNS = ("path", "label", "group", "split")


@dataclass(frozen=True)
class Table:
    """The sound rows of a table, and what is wrong with the others.

    Attributes:
        images: one for every sound row, in the order of the rows.
        splits: of each image; None where the table has no such column.
        missing: the paths that lead nowhere, and their lines.
        faults: one sentence for everything else.
    """

    images: LabeledImages
    splits: list[str] | None
    missing: dict[str, int]
    faults: list[str]


def image_table(path: str | Path) -> LabeledImages:
    """The images of a table, whatever their splits.

    Args:
        path: a CSV file in UTF-8, or in UTF-16 with its mark, whose first line names the columns:
            ``path``, relative to the folder of the table or into a zip file there; ``label``, any text; if wanted,
            ``group``, the camera, sequence or session, and ``split``: train, val or test. Other columns do not
            count.

    Returns:
        The images in the order of the rows, with classes in natural order.

    Raises:
        FileNotFoundError: no such table, or an image that is not there.
        ValueError: a column that is missing, an empty cell, a path that comes twice, an unknown split, or fewer than 2
            classes.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ["1.png", "2.png"]:
        ...         Image.new("L", (8, 8)).save(Path(folder, name))
        ...     rows = ["path,label,group", "1.png,dog,left", "2.png,cat,right"]
        ...     _ = Path(folder, "images.csv").write_text("\\n".join(rows))
        ...     data = image_table(Path(folder, "images.csv"))
        >>> data.classes, data.labels.tolist(), data.groups.tolist()
        (['cat', 'dog'], [1, 0], ['left', 'right'])
    """
    return sound(path, read_table(path)).images


def sound(path: str | Path, table: Table) -> Table:
    """The table, if nothing is wrong with it; raises as :func:`image_table` does."""
    if table.faults:
        more = f" {len(table.faults) - 1} more lines are wrong." if len(table.faults) > 1 else ""
        raise ValueError(table.faults[0] + more)
    if table.missing:
        name, line = next(iter(table.missing.items()))
        more = f" and {len(table.missing) - 1} more" if len(table.missing) > 1 else ""
        raise FileNotFoundError(
            f"{path}, line {line}: path must lead from the folder of the table to a file, got {name!r}{more}, which is "
            "not there. Correct the path or remove the line."
        )
    check_names(table.images.images)
    if table.images.num_classes < 2:
        raise ValueError(
            f"label must name at least 2 classes, got {table.images.num_classes} in {str(path)!r}. "
            "Check that the column holds the class of each image."
        )
    return table


def read_table(path: str | Path) -> Table:
    """Read a table and list all that is wrong with its rows.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a file that is no such table: without the columns, or not in UTF-8.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"table must be an existing CSV file, got {str(path)!r}. Check the path.")
    columns, lines = text_files.read_table(path, "table", ("path", "label"), COLUMNS)
    rows, faults = [], []
    places: dict[str, int] = {}
    missing: dict[str, int] = {}
    for number, cells in lines:
        row, fault = _checked(columns, cells)
        where = os.path.normpath(path.parent / row["path"])
        if not fault and where in places:
            fault = f"path must come once, got {row['path']!r} in line {places[where]} too. Remove one of them."
        if fault:
            faults.append(f"{path}, line {number}: {fault}")
            continue
        places[where] = number
        if _exists(where):
            rows.append(row | {"path": where})
        else:
            missing[row["path"]] = number
    labels, classes = encode_labels([row["label"] for row in rows])
    groups = [row["group"] for row in rows] if "group" in columns else None
    images = LabeledImages([row["path"] for row in rows], labels, classes, source=str(path), groups=groups)
    return Table(images, [row["split"] for row in rows] if "split" in columns else None, missing, faults)


def _checked(columns: list[str], cells: list[str]) -> tuple[dict[str, str], str]:
    """The row, its split by the usual name, and what is wrong with it."""
    row = {"path": ""} | dict(zip(columns, cells, strict=False))
    if fault := wrong_cells(columns, cells, COLUMNS):
        return row, fault
    if "split" in columns:
        split = split_named(row["split"])
        if split is None:
            return row, unknown_name("split", row["split"], SPLITS, "Write 'train', 'val' or 'test'.")
        row["split"] = split
    return row, ""


def _exists(path: str) -> bool:
    if os.path.isfile(path):
        return True
    archive, inner = split_archive(path)
    return archive is not None and inner in _names_in(archive, archive.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _names_in(archive: Path, written: int) -> frozenset[str]:
    return frozenset(map(str, files_in(archive)))
