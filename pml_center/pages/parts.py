"""What the page of a report is made of: cards, drawings and tables, in parts that have a heading."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from os.path import basename
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pml_center import plots
from pml_center.evaluation.embed import Samples
from pml_center.evaluation.report import Report, told_once
from pml_center.pages.thumbnails import Thumbnails

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAIRS = 16  # pictured pairs of each kind
INK = "#010203"  # stands for the colour of the text, which the page decides
STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Material:
    """What reports do not keep, to be shown beside them.

    Args:
        images: of the queries or rows; None shows names alone.
        reference_images: of the references, where these are another set.
        embeddings: (Q, D) of the queries or rows.
        references: (N, D) of the references, where these are another set.
        has_roc: whether a report on the page has a ROC of its own, so that retrieval need not estimate one.
    """

    images: Sequence[Any] | None = None
    reference_images: Sequence[Any] | None = None
    embeddings: Any = None
    references: Any = None
    has_roc: bool = False


class Card(NamedTuple):
    """One image."""

    picture: str | None  # a data URI
    title: str
    name: str
    note: str = ""
    kind: str = ""  # "hit", "miss" or neither
    file: str = ""  # shown where the user may want to look for it


class Plot(NamedTuple):
    """One drawing."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Part:
    """A headed part of the page: plots, rows of cards or a table."""

    title: str
    text: str = ""
    kind: str = "table"  # or "plots", "gallery", "pairs"
    plots: Sequence[Plot] = ()
    rows: Sequence[Sequence[Any]] = ()
    columns: Sequence[str] = ()
    texts: int = 1  # columns that hold text; the others hold numbers
    sortable: bool = False


def drawn(draw: "Callable[[Axes], Any]", caption: str) -> Plot:
    """A drawing as SVG whose lines and letters take the colour of the text around it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.7), layout="constrained", facecolor="none")
        ax = figure.subplots()
        draw(ax)
        for collection in ax.collections:
            collection.set_rasterized(np.size(collection.get_offsets()) > 400)  # else thousands of points are megabytes
        buffer = StringIO()
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    svg = buffer.getvalue()
    return Plot(svg[svg.index("<svg") :].replace(INK, "currentColor"), caption)


class Rows:
    """The images of one set: what they are called and how they look."""

    def __init__(self, labels: Sequence[Any] | None, names: Sequence[str] | None, images: Any, thumbnails: Thumbnails):
        self.labels, self.images, self.thumbnails = labels, images, thumbnails
        name = getattr(images, "name", None)
        self.name: Callable[[int], str] = lambda row: (
            str(names[row]) if names is not None else name(row) if callable(name) else f"row {row}"
        )

    def card(self, row: int, note: str = "", kind: str = "", show_file: bool = False) -> Card:
        """One of them, with a note, as a hit or a miss, with the name of its file where that matters."""
        picture, name = self.thumbnails.uri(self.images, row), self.name(row)
        file = basename(name)
        title = file if self.labels is None else str(self.labels[row])
        shown = self.labels is not None and (show_file or picture is None)
        return Card(picture, title, name, note, kind, file if shown else "")


def curves(report: Report) -> list[Plot]:
    """Every curve that a report has."""
    found = []
    if "roc" in report.curves:
        points = {name: report.curves["roc"].get(name) for name in ("far", "tar", "low", "high")}
        pairs = f"{report.counts.get('genuine', 0):,} genuine and {report.counts.get('impostor', 0):,} impostor pairs."
        if points["low"] is not None:
            pairs += f" Band: {100 * report.ci_level:g} % intervals."
        found += roc_and_det(points, pairs)
    if "cmc" in report.curves:
        curve: dict[str, Any] = {name: report.curves["cmc"].get(name) for name in ("rank", "rate", "low", "high")}
        found.append(drawn(lambda ax: plots.cmc(**curve, ax=ax), f"Over {measured(report)}."))
    for name in [name for name in report.curves if name not in ("roc", "cmc", "scores")]:
        (across, xs), (up, ys) = list(report.curves[name].items())[:2]
        found.append(
            drawn(
                partial(_line, xs=xs, ys=ys, xlabel=across, ylabel=up, title=name.replace("_", " ")),
                f"Over {measured(report)}.",
            )
        )
    return found


def roc_and_det(curve: dict[str, Any], caption: str) -> list[Plot]:
    """Both plots of one curve; none where no impostor pair is ever accepted, which has no place on a log scale."""
    if not (np.asarray(curve["far"]) > 0).any():
        return []
    return [
        drawn(lambda ax: plots.roc(**curve, ax=ax), caption),
        drawn(lambda ax: plots.det(**curve, ax=ax), f"{caption} The dotted line is where both errors are equal."),
    ]


def _line(ax: "Axes", xs: NDArray, ys: NDArray, **words: str) -> None:
    ax.plot(xs, ys, marker="o" if len(xs) < 40 else None, color=plots.BRIGHT[0])
    ax.grid(color=plots.GREY, alpha=0.25)
    ax.set(xscale="log" if xs.min() > 0 and xs.max() > 50 * xs.min() else "linear", **words)  # type: ignore[arg-type]


def histogram(counts: Mapping[str, NDArray], threshold: float, name: str, caption: str) -> Plot:
    """How similar genuine and impostor pairs are, of numbers by bin as of :meth:`Roc.histogram`."""
    genuine, impostor, edges = counts["genuine"], counts["impostor"], counts["edge"]
    return drawn(
        lambda ax: plots.similarity_histogram(genuine, impostor, threshold, name, edges, ax=ax),
        f"{caption} Genuine: one class. Impostor: two.",
    )


def measured(report: Report) -> str:
    """How many units a report is about."""
    return ", ".join(f"{number:,} {name}" for name, number in list(report.counts.items())[:1])


def history(epochs: Sequence[Mapping[str, float]], validations: Sequence[Mapping[str, Any]] = ()) -> list[Part]:
    """How the loss and its parts moved in training, and what was measured meanwhile.

    Args:
        epochs: for each epoch its number ``epoch``, the learning rate ``lr``, and the means of the loss and its parts.
        validations: for each epoch after which validation images were looked at: its number and the metrics, of which
            those over classes are left out.
    """
    if not epochs:
        return []
    losses = [name for name in epochs[0] if name not in ("epoch", "lr", "seconds")]
    found = validations[0] if validations else ()
    metrics = told_once(name for name in found if name not in ("epoch", "event") and not name.startswith("macro_"))
    drawings = [_course(epochs, losses, "Means over each epoch."), _course(epochs, ["lr"], "At the end of each epoch.")]
    if metrics:
        drawings.insert(1, _course(validations, metrics, "On the validation images."))
    return [Part("Training", kind="plots", plots=drawings)]


def _course(events: Sequence[Mapping[str, Any]], names: Sequence[str], caption: str) -> Plot:
    """Some numbers over epochs."""
    words = {"lr": "learning rate"}
    values = {words.get(name, name): [event[name] for event in events] for name in names}
    return drawn(lambda ax: plots.training_curves([event["epoch"] for event in events], values, ax=ax), caption)


def neighbours(
    names: Sequence[str], queries: Any, samples: Samples, images: Any, ids: NDArray, scores: NDArray, score: str
) -> Part:
    """Images, each with those that are most like it.

    Args:
        names: of the Q queries.
        queries: their images, None where there are none.
        samples: the rows that were searched in.
        images: of the rows, None where there are none.
        ids: (Q, K) the rows found, nearest first.
        scores: (Q, K) their scores.
        score: what the scores are.
    """
    thumbnails = Thumbnails()
    own, others = Rows(None, names, queries, thumbnails), Rows(samples.labels, samples.names, images, thumbnails)
    rows = [
        [own.card(number), *(others.card(row, f"{value:#.3g}") for row, value in zip(*found, strict=True))]
        for number, found in enumerate(zip(ids.tolist(), scores.tolist(), strict=True))
    ]
    return Part("Nearest images", f"Below each image: its class and its {score}.", "gallery", rows=rows)
