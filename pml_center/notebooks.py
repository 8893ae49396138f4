"""What a notebook shows: progress bars of its own, tables in place of long texts, data frames."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import tqdm.auto
from tqdm.std import tqdm as Bar

IN_NOTEBOOK = tqdm.auto.tqdm.__module__.startswith("tqdm.notebook")


def progress_bar(*args: Any, is_shown: bool = True, **kwargs: Any) -> Bar:
    """A bar of tqdm: in a notebook its widget, else on stderr where that is a terminal.

    Args:
        args: of tqdm.
        is_shown: False shows none.
        kwargs: of tqdm.
    """
    disable = True if not is_shown else False if IN_NOTEBOOK else None
    kind: Any = tqdm.auto.tqdm
    return kind(*args, disable=disable, **kwargs)


def html_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], above: str = "", below: Sequence[str] = ()
) -> str:
    """A table for a notebook, the first column to the left and all others, which hold numbers, to the right.

    Args:
        columns: their headings.
        rows: texts, one for each column.
        above: a sentence.
        below: sentences.

    Example:
        >>> html_table(["metric", "value"], [["a < b", "0.5"]])[:50]
        '<table><thead><tr><th style="text-align: left">met'
    """

    def cells(kind: str, texts: Sequence[str]) -> str:
        sides = ["left", *["right"] * len(texts)][: len(texts)]
        return "".join(
            f'<{kind} style="text-align: {side}">{escape(text)}</{kind}>'
            for side, text in zip(sides, texts, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{cells('th', columns)}</tr></thead><tbody>{body}</tbody></table>"
    return "".join([f"<p>{escape(above)}</p>" if above else "", table, *(f"<p>{escape(text)}</p>" for text in below)])


def data_frame(columns: Mapping[str, Any]) -> Any:
    """A data frame of pandas.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("pandas must be installed for a data frame. Install it with: pip install pandas") from error
    return pd.DataFrame(dict(columns))
