"""What commands print: tables, lists and paragraphs for a reader, one JSON object for a program."""

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence

SCHEMA = 1  # of the JSON; a new number where a reader of the old one would be misled
WIDE = 200  # characters in a line that no terminal has to show


def show_json(command: str, content: Mapping[str, object]) -> None:
    """Print one JSON object: the schema, the command, and what it found."""
    print(json.dumps({"schema": SCHEMA, "command": command, **content}))


def show_entries(entries: Mapping[str, str]) -> None:
    """Print names, and beside each what it is, wrapped to the terminal."""
    column = max(map(len, entries), default=0) + 2
    for name, text in entries.items():
        print(_wrapped(text, f"{name:<{column}}", " " * column))


def show_text(text: str) -> None:
    """Print paragraphs, wrapped to the terminal; tables and indented lines stay as they are."""
    for paragraph in text.split("\n\n"):
        print(paragraph if re.search(r"^(\s|=)", paragraph, re.MULTILINE) else _wrapped(paragraph), end="\n\n")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, all others, which hold numbers, to the right.

    Names that are too long for the terminal are wrapped, numbers never. A file has room for all.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def show_files(files: Mapping[str, object]) -> None:
    """Print what each file is, and where."""
    for name, path in files.items():
        print(f"{name:<7} {path}")


def _wrapped(text: str, first: str = "", rest: str = "") -> str:
    width = max(shutil.get_terminal_size().columns, len(rest) + 40)
    return (
        textwrap.fill(
            text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
        or first.rstrip()
    )
