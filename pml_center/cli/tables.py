"""Tables for a terminal."""

import sys
from collections.abc import Sequence

WIDE = 200  # characters in a line that no terminal has to show


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
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
