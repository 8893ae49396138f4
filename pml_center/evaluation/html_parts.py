"""What stands on the page of a report: which plots, pictures and tables each kind of report has."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from os.path import basename
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pml_center import plots
from pml_center.evaluation.embed import Samples
from pml_center.evaluation.pairs import Pairs
from pml_center.evaluation.report import Report
from pml_center.evaluation.retrieval_report import NEAR_DUPLICATE, RetrievalReport
from pml_center.evaluation.roc import roc
from pml_center.evaluation.search import ENTRIES, ExactSearch, Similarity
from pml_center.evaluation.thumbnails import Thumbnails
from pml_center.evaluation.verification import VerificationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUERIES = 8  # rows of the gallery
PAIRS = 16  # pictures pairs of each kind
SAMPLED = 100_000  # pairs of each kind, for the histogram
PROJECTED = 3_000  # points
CLASSES = 1_000  # rows of a table
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
        pairs: those that were verified.
        has_roc: whether a report on the page has a ROC of its own, so that retrieval need not estimate one.
    """

    images: Sequence[Any] | None = None
    reference_images: Sequence[Any] | None = None
    embeddings: Any = None
    references: Any = None
    pairs: Pairs | None = None
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


def parts_of(report: Report, material: Material, thumbnails: Thumbnails) -> Iterator[Part]:
    """The parts that a report has, by its kind and by what there is to show.

    Args:
        report: the report.
        material: what it does not keep.
        thumbnails: where pictures come from.
    """
    if isinstance(report, RetrievalReport):
        yield from _RetrievalParts(report, material, thumbnails)
    elif isinstance(report, VerificationReport):
        yield from _verification_parts(report, material, thumbnails)
    else:
        drawings = _curves(report)
        if drawings:
            yield Part("Curves", kind="plots", plots=drawings)


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


def history(epochs: Sequence[Mapping[str, float]]) -> list[Part]:
    """How the loss and its parts moved in training.

    Args:
        epochs: for each epoch its number ``epoch``, the learning rate ``lr``, and the means of the loss and its parts.
    """
    if not epochs:
        return []
    steps = [each["epoch"] for each in epochs]
    losses = {name: [each[name] for each in epochs] for name in epochs[0] if name not in ("epoch", "lr", "seconds")}
    rates = {"learning rate": [each["lr"] for each in epochs]}
    drawings = [
        drawn(lambda ax: plots.training_curves(steps, losses, ax=ax), "Means over each epoch."),
        drawn(lambda ax: plots.training_curves(steps, rates, ax=ax), "At the end of each epoch."),
    ]
    return [Part("Training", kind="plots", plots=drawings)]


def neighbours(queries: Any, samples: Samples, images: Any, ids: NDArray, scores: NDArray, score: str) -> Part:
    """Images, each with those that are most like it.

    Args:
        queries: Q images that have names.
        samples: the rows that were searched in.
        images: of the rows, None where there are none.
        ids: (Q, K) the rows found, nearest first.
        scores: (Q, K) their scores.
        score: what the scores are.
    """
    thumbnails = Thumbnails()
    own, others = _Rows(None, None, queries, thumbnails), _Rows(samples.labels, samples.names, images, thumbnails)
    rows = [
        [own.card(number), *(others.card(row, f"{value:.3f}") for row, value in zip(*found, strict=True))]
        for number, found in enumerate(zip(ids.tolist(), scores.tolist(), strict=True))
    ]
    return Part("Nearest images", f"Below each image: its class and its {score}.", "gallery", rows=rows)


def _curves(report: Report) -> list[Plot]:
    found = []
    if "roc" in report.curves:
        points = {name: report.curves["roc"].get(name) for name in ("far", "tar", "low", "high")}
        pairs = f"{report.counts.get('genuine', 0):,} genuine and {report.counts.get('impostor', 0):,} impostor pairs."
        bars = [
            (float(name.removeprefix("tar_at_far_")), *ends)
            for name, ends in report.ci.items()
            if name.startswith("tar_at_far_")
        ]
        if bars:
            pairs += f" Bars: {100 * report.ci_level:g} % intervals of the true accept rate."
        found += _roc_and_det(points, pairs, bars)
    if "cmc" in report.curves:
        curve: dict[str, Any] = {name: report.curves["cmc"].get(name) for name in ("rank", "rate", "low", "high")}
        found.append(drawn(lambda ax: plots.cmc(**curve, ax=ax), f"Over {_measured(report)}."))
    for name in report.curves.keys() - {"roc", "cmc"}:
        (across, xs), (up, ys) = list(report.curves[name].items())[:2]
        found.append(
            drawn(partial(_line, xs=xs, ys=ys, xlabel=across, ylabel=up, title=name), f"Over {_measured(report)}.")
        )
    return found


def _line(ax: "Axes", xs: NDArray, ys: NDArray, **words: str) -> None:
    ax.plot(xs, ys, marker="o", color=plots.BRIGHT[0])
    ax.grid(color=plots.GREY, alpha=0.25)
    ax.set(xscale="log" if xs.min() > 0 and xs.max() > 50 * xs.min() else "linear", **words)  # type: ignore[arg-type]


def _roc_and_det(curve: dict[str, Any], caption: str, bars: Sequence[tuple] = ()) -> list[Plot]:
    """Both plots of one curve, with bars (FAR, low, high) where the true accept rate has an interval."""
    if not (np.asarray(curve["far"]) > 0).any():
        return []
    style: Any = {"color": plots.BRIGHT[0], "alpha": 0.45, "linewidth": 5}

    def draw_roc(ax: "Axes") -> None:
        plots.roc(**curve, ax=ax)
        for far, low, high in bars:
            ax.plot([far, far], [low, high], solid_capstyle="butt", **style)

    def draw_det(ax: "Axes") -> None:
        plots.det(**curve, ax=ax)
        for far, low, high in bars:
            ax.plot([far, far], [1 - high, 1 - low], solid_capstyle="butt", **style)

    return [
        drawn(draw_roc, caption),
        drawn(draw_det, f"{caption} The dotted line is where both errors are equal."),
    ]


def _measured(report: Report) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in list(report.counts.items())[:1])


def _check_rows(name: str, values: Any, rows: int) -> None:
    if values is not None and len(values) != rows:
        raise ValueError(
            f"{name} must be {rows}, as many as the report is about, got {len(values)}. Pass the same rows."
        )


class _Rows:
    """The images of one set: what they are called and how they look."""

    def __init__(self, labels: Sequence[Any] | None, names: Sequence[str] | None, images: Any, thumbnails: Thumbnails):
        self.labels, self.images, self.thumbnails = labels, images, thumbnails
        name = getattr(images, "name", None)
        self.name: Callable[[int], str] = lambda row: (
            str(names[row]) if names is not None else name(row) if callable(name) else f"row {row}"
        )

    def card(self, row: int, note: str = "", kind: str = "", show_file: bool = False) -> Card:
        picture, name = self.thumbnails.uri(self.images, row), self.name(row)
        file = basename(name)
        title = file if self.labels is None else str(self.labels[row])
        shown = self.labels is not None and (show_file or picture is None)
        return Card(picture, title, name, note, kind, file if shown else "")


class _RetrievalParts:
    """The parts of a report on retrieval."""

    def __init__(self, report: RetrievalReport, material: Material, thumbnails: Thumbnails):
        self.report, self.material = report, material
        reference_images = material.images if report.leave_one_out else material.reference_images
        reference_names = report.names if report.leave_one_out else report.reference_names
        self.queries = _Rows(report.labels, report.names, material.images, thumbnails)
        self.references = _Rows(report.reference_labels, reference_names, reference_images, thumbnails)
        self.values = next(iter(report.per_unit.values()))
        _check_rows("images", material.images, len(report.codes))
        _check_rows("reference_images", material.reference_images, len(report.reference_codes))
        _check_rows("embeddings", material.embeddings, len(report.codes))
        _check_rows("references", material.references, len(report.reference_codes))
        self.search = None
        if material.embeddings is not None and report.similarity in get_args(Similarity):
            references = None if report.leave_one_out else material.references
            if report.leave_one_out or references is not None:
                self.search = ExactSearch(material.embeddings, references, cast(Similarity, report.similarity))

    def __iter__(self) -> Iterator[Part]:
        for part in (
            self.gallery(),
            self.hardest_mistakes(),
            self.hardest_positives(),
            self.label_errors(),
            self.near_duplicates(),
            self.drawings(),
            self.confusions(),
            self.per_class(),
        ):
            if part.rows or part.plots:
                yield part

    def gallery(self) -> Part:
        """Some queries with what was found for them."""
        measured = np.flatnonzero(~np.isnan(self.values))
        chosen = np.random.default_rng(0).choice(measured, min(QUERIES, len(measured)), replace=False)
        rows = [[self.queries.card(row, "query"), *self._found(row)] for row in chosen.tolist()]
        return Part(
            "Retrieved images",
            f"{len(rows)} queries drawn at random, each with its nearest references and their {self._score}. Green: of "
            "the query's class. Red and dashed: of another.",
            "gallery",
            rows=rows,
        )

    def hardest_mistakes(self) -> Part:
        """Queries that are sure of a wrong reference."""
        report = self.report
        wrong = ~report.hits[:, 0] & (report.neighbours.ids[:, 0] >= 0) & ~np.isnan(self.values)
        rows = np.flatnonzero(wrong)
        worst = rows[np.argsort(-report.neighbours.scores[rows, 0], kind="stable")]
        pairs = self._first(worst, report.neighbours.ids[worst, 0], report.neighbours.scores[worst, 0])
        return Part(
            "Hardest mistakes",
            f"Queries whose nearest reference is of another class, the most similar first: {len(rows):,} of "
            f"{np.count_nonzero(~np.isnan(self.values)):,} queries.",
            "pairs",
            rows=self._pairs(pairs, "miss"),
        )

    def hardest_positives(self) -> Part:
        """Queries whose nearest reference of their own class is far away."""
        if self.search is None:
            return Part("")
        mates, scores = nearest_mates(self.search, self.report.codes, self.report.reference_codes)
        rows = np.flatnonzero(mates >= 0)
        worst = rows[np.argsort(scores[rows], kind="stable")]
        return Part(
            "Hardest positives",
            "Queries whose nearest reference of their own class is the least similar of all.",
            "pairs",
            rows=self._pairs(self._first(worst, mates[worst], scores[worst]), "hit"),
        )

    def label_errors(self) -> Part:
        """Pairs of different labels that are each other's nearest."""
        pairs = self.report.label_errors()
        return Part(
            "Likely label errors",
            "Pairs with different labels of which each is the other's nearest neighbour, the most similar first: "
            f"{len(pairs):,} in all. One of the two labels may be wrong.",
            "pairs",
            rows=self._pairs(pairs[:PAIRS].tolist(), "miss", show_file=True),
        )

    def near_duplicates(self) -> Part:
        """Pairs that may be one image."""
        if self.report.similarity not in NEAR_DUPLICATE:
            return Part("")
        pairs = self.report.near_duplicates()
        return Part(
            "Near-duplicates",
            f"Pairs with {self._score} of at least {NEAR_DUPLICATE[self.report.similarity]:g}, which may be one image: "
            f"{len(pairs):,} in all.",
            "pairs",
            rows=self._pairs(pairs[:PAIRS].tolist(), "", show_file=True),
        )

    def drawings(self) -> Part:
        """The plots."""
        report, found = self.report, []
        if self.search is not None:
            first, second, same = sampled_pairs(
                report.codes, report.reference_codes, report.leave_one_out, SAMPLED, seed=0
            )
            if same.any() and not same.all():
                scores = row_scores(self.search, first, second)
                curve = roc(scores, same)
                drawn_from = f"{SAMPLED:,} pairs of each kind, drawn at random."
                found.append(_histogram(scores, same, curve.equal_error_threshold, self._score, drawn_from))
                if not self.material.has_roc:
                    points = curve.points()
                    found += _roc_and_det({"far": points["far"], "tar": points["tar"]}, drawn_from)
        found += _curves(report)
        if "cmc" not in report.curves:
            reached = np.maximum.accumulate(report.hits, axis=1)[~np.isnan(self.values)].mean(axis=0)
            ranks = np.arange(1, len(reached) + 1)
            found.append(drawn(lambda ax: plots.cmc(ranks, reached, ax=ax), f"Over {_measured(report)}."))
        if self.material.embeddings is not None and len(report.codes) > 1:
            found.append(self._projection())
        return Part("Plots", kind="plots", plots=found)

    def confusions(self) -> Part:
        """Which classes are taken for which."""
        return Part(
            "Confused classes",
            "How many queries of a class have a nearest reference of another one.",
            rows=[(str(one), str(other), f"{number:,}") for one, other, number in self.report.confusions()],
            columns=("class", "taken for", "queries"),
            texts=2,
        )

    def per_class(self) -> Part:
        """Every class, the worst first."""
        table = self.report.per_class()
        metrics = list(self.report.per_unit)
        by = "mean_average_precision_at_r"
        order = np.argsort(table[by if by in metrics else metrics[0]], kind="stable")
        shown = table[order[:CLASSES]]
        cut = f"; the {CLASSES:,} worst are shown" if len(table) > CLASSES else ""
        return Part(
            "Classes",
            f"{len(table):,} classes, the worst first{cut}. A click on a heading sorts by it.",
            rows=[
                (str(row["label"]), f"{row['queries']:,}", *(f"{row[name]:.4f}" for name in metrics)) for row in shown
            ],
            columns=("class", "queries", *metrics),
            sortable=True,
        )

    @property
    def _score(self) -> str:
        return (
            "minus squared distance"
            if self.report.similarity == "euclidean"
            else f"{self.report.similarity} similarity"
        )

    def _found(self, row: int) -> list[Card]:
        ids, scores = self.report.neighbours.ids[row], self.report.neighbours.scores[row]
        hits = self.report.hits[row]
        return [
            self.references.card(reference, f"{'✓' if hit else '✗'} {score:.3f}", "hit" if hit else "miss")
            for reference, score, hit in zip(ids.tolist(), scores.tolist(), hits.tolist(), strict=True)
            if reference >= 0
        ]

    def _pairs(self, pairs: Sequence[tuple], kind: str, show_file: bool = False) -> list[list[Card]]:
        return [
            [
                self.queries.card(int(query), "query", show_file=show_file),
                self.references.card(int(reference), f"{score:.3f}", kind, show_file),
            ]
            for query, reference, score in pairs
        ]

    def _first(self, queries: NDArray, references: NDArray, scores: NDArray) -> list[tuple]:
        """The first pairs, each once where either image of it may be the query."""
        found: dict[tuple, tuple] = {}
        for pair in zip(queries.tolist(), references.tolist(), scores.tolist(), strict=True):
            key = tuple(sorted(pair[:2])) if self.report.leave_one_out else pair[:2]
            found.setdefault(key, pair)
            if len(found) == PAIRS:
                break
        return list(found.values())

    def _projection(self) -> Plot:
        codes = self.report.codes
        rows = np.sort(np.random.default_rng(0).permutation(len(codes))[:PROJECTED])
        points = np.asarray(self.search.queries if self.search is not None else self.material.embeddings)[rows]
        names = [str(label) for label in self.report.classes]
        shown = "All queries" if len(rows) == len(codes) else f"{len(rows):,} queries drawn at random"
        return drawn(
            lambda ax: plots.projection(points, codes[rows], names, ax=ax),
            f"{shown}; the ten largest classes have a colour. Distances in two dimensions say little of those in "
            f"{points.shape[1]}.",
        )


def _verification_parts(report: VerificationReport, material: Material, thumbnails: Thumbnails) -> Iterator[Part]:
    drawings = []
    if report.scores is not None and report.same is not None:
        name = "accuracy" if "accuracy" in report.thresholds else "equal_error_rate"
        drawings.append(
            _histogram(
                report.scores,
                report.same,
                report.thresholds[name],
                "similarity",
                f"All {len(report.scores):,} pairs. The threshold is that of {name}.",
            )
        )
        if material.pairs is not None and len(material.pairs) == len(report.scores):
            rows = _Rows(None, None, material.images, thumbnails)
            yield from _wrong_pairs(report, material.pairs, rows)
    yield Part("Plots of pairs", kind="plots", plots=drawings + _curves(report))


def _wrong_pairs(report: VerificationReport, pairs: Pairs, rows: _Rows) -> Iterator[Part]:
    worst = report.mistakes(len(pairs))
    genuine = pairs.same[worst["pair"]]
    for same, title, text in (
        (True, "Rejected genuine pairs", "One identity, judged to be two: the least similar first."),
        (False, "Accepted impostor pairs", "Two identities, judged to be one: the most similar first."),
    ):
        chosen = worst[genuine == same]
        cards = [
            [
                rows.card(int(pairs.first[pair])),
                rows.card(int(pairs.second[pair]), f"{score:.3f}", "hit" if same else "miss"),
            ]
            for pair, score in chosen[:PAIRS].tolist()
        ]
        if cards:
            yield Part(title, f"{text} {len(chosen):,} in all.", "pairs", rows=cards)


def _histogram(scores: NDArray, same: NDArray, threshold: float, name: str, caption: str) -> Plot:
    return drawn(
        lambda ax: plots.similarity_histogram(scores[same], scores[~same], threshold, name, ax=ax),
        f"{caption} Genuine: one class. Impostor: two.",
    )


def nearest_mates(search: ExactSearch, codes: NDArray, reference_codes: NDArray) -> tuple[NDArray, NDArray]:
    """The most similar reference of each query's own class, and its score; -1 and NaN where there is none."""
    mates, scores = np.full(len(codes), -1), np.full(len(codes), np.nan)
    order = np.argsort(reference_codes, kind="stable")
    starts = np.searchsorted(reference_codes[order], np.arange(codes.max() + 2))
    by_class = np.argsort(codes, kind="stable")
    for queries in np.split(by_class, np.flatnonzero(np.diff(codes[by_class])) + 1):
        own = order[starts[codes[queries[0]]] : starts[codes[queries[0]] + 1]]
        step = max(1, ENTRIES // max(1, len(own)))
        for rows in np.split(queries, range(step, len(queries), step)):
            block = block_scores(search, rows, own)
            if search.leave_one_out:
                block[rows[:, None] == own] = -np.inf
            if not block.size:
                continue
            best = block.argmax(axis=1)
            found = np.isfinite(block[np.arange(len(rows)), best])
            mates[rows[found]], scores[rows[found]] = own[best[found]], block.max(axis=1)[found]
    return mates, scores


def block_scores(search: ExactSearch, queries: NDArray, references: NDArray) -> NDArray:
    """The score of some queries with some references, (q, n)."""
    left, right = search.queries[queries], search.references[references]
    products = left @ right.T
    if search.similarity != "euclidean":
        return products
    return 2 * products - np.square(left).sum(axis=1)[:, None] - np.square(right).sum(axis=1)


def row_scores(search: ExactSearch, queries: NDArray, references: NDArray) -> NDArray:
    """The score of each query with the reference beside it, (P,)."""
    scores = np.empty(len(queries), dtype=np.float32)
    step = max(1, ENTRIES // search.queries.shape[1])
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        left, right = search.queries[queries[part]], search.references[references[part]]
        if search.similarity == "euclidean":
            scores[part] = -np.square(left - right).sum(axis=1)
        else:
            scores[part] = np.einsum("ij,ij->i", left, right)
    return scores


def sampled_pairs(
    codes: NDArray, reference_codes: NDArray, leave_one_out: bool, count: int, seed: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Pairs of a query and a reference, drawn with replacement: as many genuine as impostor ones, where there are any.

    Args:
        codes: (Q,) the class of each query, numbered from 0.
        reference_codes: (N,) the class of each reference.
        leave_one_out: whether the references are the queries, so that a query is no reference of its own.
        count: of pairs of a kind.
        seed: of the random numbers.

    Returns:
        Query rows (P,), reference rows (P,) and whether both are of one class (P,).

    Example:
        >>> queries, references, same = sampled_pairs(np.array([0, 0, 1]), np.array([0, 0, 1]), True, count=4, seed=0)
        >>> same.tolist()
        [True, True, True, True, False, False, False, False]
        >>> sorted(zip(queries[:4].tolist(), references[:4].tolist()))[0]
        (0, 1)
    """
    random = np.random.default_rng(seed)
    order = np.argsort(reference_codes, kind="stable")
    starts = np.searchsorted(reference_codes[order], np.arange(max(codes.max(), reference_codes.max()) + 2))
    sizes = np.diff(starts)
    place = np.empty(len(order), dtype=np.int64)  # of each reference among those of its class
    place[order] = np.arange(len(order)) - starts[reference_codes[order]]
    found = []
    for same in (True, False):
        choices = sizes[codes] - leave_one_out if same else len(order) - sizes[codes]  # references to each query
        if not choices.sum():
            continue
        queries = random.choice(len(codes), count, p=choices / choices.sum())
        places = random.integers(choices[queries])
        own = codes[queries]
        if same:
            places += starts[own] + (places >= place[queries] if leave_one_out else 0)
        else:
            places += np.where(places >= starts[own], sizes[own], 0)
        found.append((queries, order[places], np.full(count, same)))
    queries, references, flags = (np.concatenate(each) for each in zip(*found, strict=True))
    return queries, references, flags
