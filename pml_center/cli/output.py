"""What commands print: lists and paragraphs for a reader, one JSON object for a program."""

import json
import re
import shutil
import textwrap
from collections.abc import Mapping

SCHEMA = 1  # of the JSON; a new number where a reader of the old one would be misled


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


def _wrapped(text: str, first: str = "", rest: str = "") -> str:
    width = max(shutil.get_terminal_size().columns, len(rest) + 40)
    return (
        textwrap.fill(
            text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
        or first.rstrip()
    )
