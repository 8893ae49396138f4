"""write_comparison: a comparison as JSON, as a picture and as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pml_center import plots
from pml_center.comparison.result import LEVEL, Comparison, interval
from pml_center.evaluation import Report, write_html
from pml_center.pages.parts import Part, drawn
from pml_center.training.run_folder import environment

FILES = {"json": "compare.json", "picture": "compare.png", "page": "compare.html"}


def write_comparison(comparison: Comparison, folder: Path, options: Mapping[str, Any]) -> None:
    """Write ``compare.json``, ``compare.png`` and ``compare.html``.

    Args:
        comparison: what was found.
        folder: where.
        options: what was asked for, to be shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    comparison.to_json(folder / FILES["json"])
    _draw(comparison, folder / FILES["picture"])
    _write_page(comparison, folder / FILES["page"], options)


def table(comparison: Comparison, digits: int = 4) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the ranking, for a terminal or a page: losses, those that failed, raw pixels.

    Args:
        comparison: what was found.
        digits: of a value, behind the point.
    """

    def written(value: float | None) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    columns = ["loss", "value", f"{100 * LEVEL:g} % interval", "±", "behind", "p", "s", "GiB"]
    rows = []
    for rank, row in enumerate(comparison.rows, 1):
        memory, behind = row.candidate.memory_gib, row.behind
        rows.append(
            [
                f"{rank} {row.candidate.name}",
                written(row.value),
                " … ".join(map(written, row.interval)),
                written(row.deviation),
                "" if behind is None else written(behind.test.difference),
                "" if behind is None else behind.shown_p,
                f"{np.mean(row.candidate.seconds):.1f}",
                "" if memory is None else f"{memory:.2f}",
            ]
        )
    rows += [[f"– {candidate.name}", "failed", *[""] * 6] for candidate in comparison.failed]
    if comparison.metric in comparison.pixels:
        pixels = comparison.pixels[comparison.metric]
        rows.append(
            ["– raw pixels", written(float(np.nanmean(pixels))), " … ".join(map(written, interval(pixels))), *[""] * 5]
        )
    return columns, rows


def _draw(comparison: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 1.5 + 0.5 * len(comparison.rows)), layout="constrained")
    ax = _picture(comparison, figure.subplots())
    ax.set_title(f"{100 * LEVEL:g} % intervals over seeds and queries; a ring is a seed", fontsize=10, pad=18)
    figure.savefig(path, dpi=150)


def _picture(comparison: Comparison, ax: Any) -> Any:
    pixels = comparison.pixels.get(comparison.metric)
    return plots.seed_intervals(
        {row.candidate.name: row.of_seeds for row in comparison.rows},
        {row.candidate.name: row.interval for row in comparison.rows},
        None if pixels is None else float(np.nanmean(pixels)),
        comparison.metric,
        ax=ax,
    )


def _write_page(comparison: Comparison, path: Path, options: Mapping[str, Any]) -> None:
    columns, rows = table(comparison)
    parts = [
        Part("Ranking", _HOW_TO_READ, columns=columns, rows=rows),
        Part(
            "Picture",
            "Each loss: its mean as a dot, the interval as a bar, each seed as a ring.",
            "plots",
            plots=[drawn(lambda ax: _picture(comparison, ax), comparison.summary)],
        ),
        *_against_the_best(comparison),
        _metrics(comparison),
        _runs(comparison),
        *_chosen(comparison),
    ]
    shown = {name: value for name, value in options.items() if value is not None and name != "loss"}
    write_html(
        path,
        {"": Report(metrics={}, protocol=comparison.verdict, warnings=tuple(comparison.doubts))},
        title="Comparison of losses",
        details={"Configuration": shown, "Environment": environment()},
        extra=parts,
    )


_HOW_TO_READ = (
    "Intervals are over seeds and queries together. ±: the standard deviation over seeds. p is that of the "
    "distance to the best: paired by query, with what seeds contribute, corrected for all pairs of losses; below 0.05 "
    "the distance is called real, if both have several seeds. s: seconds of training, a run. GiB: the most memory that "
    "a run used."
)


def _against_the_best(comparison: Comparison) -> list[Part]:
    rows = [
        [
            name,
            f"{behind.test.difference:.4f}",
            f"{behind.test.low:.4f} … {behind.test.high:.4f}",
            *(f"{value:.2g}" for value in (behind.test.p_value, behind.p_corrected, behind.p_queries)),
            behind.judgement,
        ]
        for name, behind in comparison.others
    ]
    columns = ["loss", "behind", f"{100 * LEVEL:g} % interval", "p", "p corrected", "p over queries alone", ""]
    best = comparison.rows[0].candidate.name
    text = f"How far each is behind {best}, over seeds and queries. The last p takes the models as they are."
    return [Part("Against the best", text, columns=columns, rows=rows)] if rows else []


def _metrics(comparison: Comparison) -> Part:
    names = [
        name
        for name in comparison.rows[0].candidate.values
        if all(name in row.candidate.values for row in comparison.rows)
    ]
    rows = [
        [row.candidate.name, *(f"{np.nanmean(row.candidate.values[name]):.4f}" for name in names)]
        for row in comparison.rows
    ]
    if comparison.pixels:
        pixels = comparison.pixels
        rows.append(["raw pixels", *(f"{np.nanmean(pixels[name]):.4f}" if name in pixels else "" for name in names)])
    return Part("All metrics", "Means over seeds and queries.", columns=["loss", *names], rows=rows, sortable=True)


def _runs(comparison: Comparison) -> Part:
    rows = []
    for row in comparison.rows:
        one = row.candidate
        for folder, seed, value, seconds, cpu in zip(
            one.runs, one.seeds, row.of_seeds, one.seconds, one.cpu_seconds, strict=True
        ):
            rows.append(
                [one.name, folder, str(seed), f"{value:.4f}", f"{seconds:.1f}", "" if cpu is None else f"{cpu:.1f}"]
            )
    columns = ["loss", "folder", "seed", comparison.metric, "s", "CPU s"]
    return Part(
        "Runs", "Every run, with the seconds of its training and of its process.", columns=columns, rows=rows, texts=2
    )


def _chosen(comparison: Comparison) -> list[Part]:
    """What a search chose, where the runs do not train with the loss that gives the candidate its name."""
    chosen = [row.candidate for row in comparison.rows]
    if all(one.options["loss"] == one.name and one.options["lr"] == chosen[0].options["lr"] for one in chosen):
        return []
    rows = [[one.name, one.options["loss"], f"{one.options['lr']:g}"] for one in chosen]
    return [Part("Settings", "What each was trained with.", columns=["loss", "trained with", "lr"], rows=rows, texts=2)]
