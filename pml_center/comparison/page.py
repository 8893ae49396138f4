"""write_comparison: a comparison as JSON, as tables, as a picture and as a page."""

import csv
import itertools
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from pml_center import plots
from pml_center.comparison.result import LEVEL, Candidate, Comparison, table
from pml_center.evaluation import Report, write_html
from pml_center.evaluation.report import told_once
from pml_center.pages.parts import Part, drawn
from pml_center.training.config import TrainConfig
from pml_center.training.loss_catalog import describe_loss, list_losses, references
from pml_center.training.loss_formula import parse_terms
from pml_center.training.run_folder import Run, environment

FILES = {
    "json": "compare.json",
    "csv": "compare.csv",
    "latex": "compare.tex",
    "picture": "compare.png",
    "page": "compare.html",
}
RANKED = 9  # columns of the ranking; after a search a table has one more, which a page shows below
TRIALS = "search.csv"  # all that a search tried


def write_comparison(comparison: Comparison, folder: Path, options: Mapping[str, Any]) -> None:
    """Write ``compare.json``, ``.csv``, ``.tex``, ``.png`` and ``.html``, and ``search.csv`` after a search.

    Args:
        comparison: what was found.
        folder: where.
        options: what was asked for, to be shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    comparison.to_json(folder / FILES["json"])
    columns, rows = table(comparison)
    _write_table(folder / FILES["csv"], columns, rows)
    (folder / FILES["latex"]).write_text(_latex(columns, rows), encoding="utf-8")
    trials = _tried(comparison)
    if trials:
        _write_table(folder / TRIALS, *trials)
    _draw(comparison, folder / FILES["picture"])
    _write_page(comparison, folder / FILES["page"], options)


def _draw(comparison: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 1.5 + 0.5 * len(comparison.rows)), layout="constrained")
    ax = _picture(comparison, figure.subplots())
    ax.set_title(f"{100 * LEVEL:g} % intervals over seeds and {comparison.over}; a ring is a seed", fontsize=10, pad=18)
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
        Part("Ranking", _how_to_read(comparison), columns=columns[:RANKED], rows=[row[:RANKED] for row in rows]),
        *_unseen(comparison),
        _settings(comparison),
        Part(
            "Picture",
            "Each loss: its mean as a dot, the interval as a bar, each seed as a ring."
            + " Raw pixels stand beside them." * (comparison.metric in comparison.pixels),
            "plots",
            plots=[drawn(lambda ax: _picture(comparison, ax), comparison.summary)],
        ),
        *_against_the_best(comparison),
        _metrics(comparison),
        *_learning(comparison),
        _runs(comparison, path.parent),
        *_search(comparison),
        *_sources(comparison),
    ]
    shown = {name: value for name, value in options.items() if value is not None and name != "loss"}
    models = " and ".join(dict.fromkeys(str(TrainConfig(**row.candidate.options).model) for row in comparison.rows))
    write_html(
        path,
        {"": Report(metrics={}, protocol=comparison.summary, warnings=tuple(comparison.doubts))},
        title=f"Which loss for {models} on {comparison.data}",
        first=[*comparison.unbeaten, comparison.verdict],
        details={"Configuration": shown, "Environment": environment()},
        extra=parts,
    )


def _how_to_read(comparison: Comparison) -> str:
    unit = "query" if comparison.units is None else "class"
    return (
        f"Intervals are over seeds and {comparison.over} together. ±: the standard deviation over seeds. p is that of "
        f"the distance to the best: paired by {unit}, with what seeds contribute, corrected for all pairs of losses; "
        "below 0.05 the distance is called real, if both have several seeds. s: seconds of training, a run. GiB: the "
        "most memory that a run used."
    )


def _unseen(comparison: Comparison) -> list[Part]:
    """How far a loss must be behind to be seen."""
    rows = []
    for name, behind in comparison.others:
        found = (behind.detectable(), behind.detectable(runs=2), behind.detectable(units=2))
        rows.append([name, *("–" if value is None else f"{value:.4f}" for value in found)])
    what = "queries" if comparison.units is None else "classes"
    columns = ["loss", "seen four times of five", "with twice the seeds", f"with twice the {what}"]
    return [Part("What it cannot see", comparison.unseen, columns=columns, rows=rows)] if comparison.unseen else []


def _against_the_best(comparison: Comparison) -> list[Part]:
    rows = [
        [
            name,
            f"{behind.test.difference:.4f}",
            f"{behind.test.low:.4f} … {behind.test.high:.4f}",
            *(f"{value:.2g}" for value in (behind.test.p_value, behind.p_corrected, behind.p_models)),
            behind.judgement,
            f"{behind.at_most:.4f}",
        ]
        for name, behind in comparison.others
    ]
    columns = [
        "loss",
        "behind",
        f"{100 * LEVEL:g} % interval",
        "p",
        "p corrected",
        "p of these models",
        "judgement",
        "at most",
    ]
    best = comparison.rows[0].candidate.name
    text = (
        f"How far each is behind {best}, over seeds and {comparison.over}. The intervals hold for all pairs together, "
        "as does p corrected, and end at 0 where only the sign is sure; the last p takes the models as they are. At "
        "most: how far both may differ, by the interval."
    )
    return [Part("Against the best", text, columns=columns, rows=rows)] if rows else []


def _metrics(comparison: Comparison) -> Part:
    first, *others = (row.candidate.values for row in comparison.rows)
    names = told_once(name for name in first if all(name in values for values in others))
    rows = [
        [row.candidate.name, *(f"{np.nanmean(row.candidate.values[name]):.4f}" for name in names)]
        for row in comparison.rows
    ]
    for beside, values in comparison.beside.items():
        rows.append([beside, *(f"{np.nanmean(values[name]):.4f}" if name in values else "" for name in names)])
    return Part("All metrics", "Means over seeds and queries.", columns=["loss", *names], rows=rows, sortable=True)


def _runs(comparison: Comparison, folder: Path) -> Part:
    from markupsafe import Markup

    rows = []
    for row in comparison.rows:
        one = row.candidate
        for run, seed, value, seconds, cpu in zip(
            one.runs, one.seeds, row.of_seeds, one.seconds, one.cpu_seconds, strict=True
        ):
            link = Markup('<a href="{}">{}</a>').format(quote(os.path.relpath(run, folder)), run)
            rows.append(
                [one.name, link, str(seed), f"{value:.4f}", f"{seconds:.1f}", "" if cpu is None else f"{cpu:.1f}"]
            )
    columns = ["loss", "folder", "seed", comparison.metric, "s", "CPU s"]
    return Part(
        "Runs", "Every run, with the seconds of its training and of its process.", columns=columns, rows=rows, texts=2
    )


def _settings(comparison: Comparison) -> Part:
    columns, text = ["loss", "command"], "The line that trains each again; --seed chooses another run."
    rows = [[row.candidate.name, row.candidate.command] for row in comparison.rows]
    settings = [row.candidate.setting for row in comparison.rows]
    if any(settings):
        columns.append("chosen by the search")
        rows = [[*cells, setting or "–"] for cells, setting in zip(rows, settings, strict=True)]
        text += " Where the largest or the smallest that was tried was chosen, a better one may lie beyond."
    return Part("Settings", text, columns=columns, rows=rows, texts=3)


def _learning(comparison: Comparison) -> list[Part]:
    """How each loss went down, as a share of its first epoch: losses have no common unit; and how validation went."""
    metric = comparison.metric
    drawings = []
    for event, key, label, text in (
        ("epoch", "loss", "loss, of that of epoch 1", "Means over seeds, in training."),
        ("val", metric, metric, "Means over seeds, on the validation images."),
    ):
        courses = {}
        for row in comparison.rows:
            logs = [Run(Path(run)).events(event) for run in row.candidate.runs]
            length = min(map(len, logs), default=0)
            values = np.array([[each.get(key, np.nan) for each in log[:length]] for log in logs])
            if event == "epoch":
                values = values / np.where(values[:, :1] == 0, np.nan, values[:, :1])
            if length > 1 and not np.isnan(values).any():
                courses[row.candidate.name] = ([each["epoch"] for each in logs[0][:length]], values.mean(axis=0))
        if courses:
            drawings.append(drawn(partial(_courses, courses, label), text))
    return [Part("Learning curves", kind="plots", plots=drawings)] if drawings else []


def _courses(courses: Mapping[str, tuple[list[int], np.ndarray]], label: str, ax: Any) -> None:
    lines = itertools.cycle(itertools.product(plots.LINES, plots.COLOURS))
    for (name, (epochs, values)), (line, colour) in zip(courses.items(), lines, strict=False):
        ax.plot(epochs, values, line, color=colour, label=name)
    ax.set(xlabel="epoch", ylabel=label)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(color=plots.GREY, alpha=0.25)
    ax.legend(frameon=False, fontsize=8)


def _tried(comparison: Comparison) -> tuple[list[str], list[list[str]]] | None:
    """All trials as columns and rows; None without a search."""
    searched = [one for one in comparison.candidates if one.trials]
    if not searched:
        return None
    columns = ["loss", "trial", "chosen", "mean", "scores", "setting", "run", "error"]
    rows = []
    for one in searched:
        for trial in one.trials:
            scores = trial["scores"]
            values = ", ".join(f"{name} {value:.4g}" for name, value in trial["values"].items() if value is not None)
            rows.append(
                [
                    one.name,
                    trial["trial"],
                    "yes" if trial["chosen"] else "",
                    f"{np.mean(scores):.4f}" if scores else "",
                    " ".join(f"{score:.4f}" for score in scores),
                    values,
                    trial["run"],
                    trial["error"] or "",
                ]
            )
    return columns, rows


def _search(comparison: Comparison) -> list[Part]:
    """What a search tried, and how much it matters."""
    trials = _tried(comparison)
    if trials is None:
        return []
    columns, rows = trials
    drawings = [
        drawn(partial(_sensitivity, one), f"{one.name}: each number at its value, all moved at once.")
        for one in comparison.candidates
        if any(trial["scores"] for trial in one.trials)
    ]
    text = "On validation images, which are no part of those held out. The ring is what was chosen."
    return [
        Part("Search", text, "plots", plots=drawings),
        Part("All that was tried", columns=columns[:6], rows=[row[:6] for row in rows], texts=6),
    ]


def _sensitivity(candidate: Candidate, ax: Any) -> None:
    """The score over the rank of each value among all that were tried, a colour for each number."""
    trials = [trial for trial in candidate.trials if trial["scores"]]
    scores = np.array([np.mean(trial["scores"]) for trial in trials])
    for number, name in enumerate(trials[0]["values"]):
        values = [trial["values"][name] for trial in trials]
        known = [value for value in values if value is not None]
        low, high = min(known), max(known)
        if low == high:
            continue
        log = low > 0 and high > 4 * low
        ends, scale = (np.log([low, high]), np.log) if log else (np.array([low, high]), np.asarray)
        places = [np.nan if value is None else (scale(value) - ends[0]) / (ends[1] - ends[0]) for value in values]
        order = np.argsort(places)
        colour, marker = (marks[number % len(marks)] for marks in (plots.COLOURS, plots.MARKERS))
        label = f"{name} {low:.3g} … {high:.3g}"
        ax.plot(np.array(places)[order], scores[order], marker, color=colour, markersize=5, label=label)
        for place, score, trial in zip(places, scores, trials, strict=True):
            if trial["chosen"]:
                ax.plot(place, score, "o", color=colour, markersize=11, fillstyle="none")
    ax.set(xlabel="from the smallest to the largest value tried", ylabel="score in validation")
    ax.grid(color=plots.GREY, alpha=0.25)
    if ax.lines:
        ax.legend(frameon=False, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))


def _sources(comparison: Comparison) -> list[Part]:
    """What to cite."""
    terms = dict.fromkeys(term.name for row in comparison.rows for term in parse_terms(row.candidate.options["loss"]))
    known = list(itertools.chain.from_iterable(list_losses().values()))
    rows = [[name, references(describe_loss(name).source)] for name in terms if name in known]
    found = [row for row in rows if row[1]]
    return (
        [Part("Sources", "The papers of the losses.", columns=["loss", "paper"], rows=found, texts=2)] if found else []
    )


def _write_table(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def _latex(columns: list[str], rows: list[list[str]]) -> str:
    """For the package booktabs."""
    lines = [" & ".join(re.sub(r"([&%$#_{}])", r"\\\1", cell) for cell in row) + r" \\" for row in [columns, *rows]]
    text = "\n".join(
        [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    )
    text = text.replace("±", r"$\pm$").replace("…", r"\dots").replace("–", "--")
    return f"{text}\n\\bottomrule\n\\end{{tabular}}\n"
