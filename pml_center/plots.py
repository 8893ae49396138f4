"""Plots: arrays and an optional Axes in, Axes out.

Colours are told apart with any colour vision, on light and on dark paper. They are never alone: lines also differ in
dashes, points in shape.
"""

from pml_center.names import require

require(__name__, "PIL", "matplotlib", "sklearn")

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from pml_center.checks import check_choices
from pml_center.decoding import convert

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Paul Tol's "muted" scheme and black, for light paper.
COLOURS = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000")
# Paul Tol's "bright" scheme, for light and dark paper.
BRIGHT = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
GREY = "#8A8A8A"
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "*")
LINES = ("-", "--", "-.", ":")
GENUINE, IMPOSTOR = BRIGHT[:2]
# Okabe and Ito's bluish green and vermilion: green and red that nobody confuses.
HIT, MISS = "#009E73", "#D55E00"

Projection = Literal["pca", "umap"]


def features(points: Any, labels: Any, names: Any = None, ax: "Axes | None" = None) -> "Axes":
    """Two-dimensional features, a colour, a marker and a name for each class.

    Args:
        points: (N, 2).
        labels: (N,) integers.
        names: of the classes, indexed by label; the labels themselves by default.
        ax: to draw on; a new figure by default.

    Raises:
        ValueError: points of another shape.

    Example:
        >>> ax = features([[0.0, 1.0], [1.0, 0.0]], [0, 1])
        >>> [text.get_text() for text in ax.texts]
        ['0', '1']
    """
    from matplotlib.patheffects import withStroke

    points, labels = _two_dimensional(points, labels)
    ax = _axes(ax)
    for label in np.unique(labels):
        own = points[labels == label]
        ax.scatter(own[:, 0], own[:, 1], s=16, linewidths=0, alpha=0.75, **_class_style(label))
    for label in np.unique(labels):  # after all points, so that none hides a name
        outline = [withStroke(linewidth=3, foreground="white")]
        _write_class(ax, np.median(points[labels == label], axis=0), label, names, path_effects=outline)
    ax.set_aspect("equal", "datalim")
    ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.set(xlabel="feature 1", ylabel="feature 2")
    return ax


def directions(
    points: Any, labels: Any, class_weights: Any = None, names: Any = None, seed: int = 0, ax: "Axes | None" = None
) -> "Axes":
    """Directions of two-dimensional features: what a loss of cosines sees of them, on the unit circle.

    Points of one direction would hide each other. They stand outside the circle, at a random distance that means
    nothing. A class vector is a line from the origin to the circle.

    Args:
        points: (N, 2).
        labels: (N,) integers.
        class_weights: (C, 2) the class vectors of the loss, indexed by label, of any length.
        names: of the classes, indexed by label; the labels themselves by default.
        seed: of the distances.
        ax: to draw on; a new figure by default.

    Raises:
        ValueError: points of another shape.

    Example:
        >>> ax = directions([[0.0, 2.0], [3.0, 0.0]], [0, 1], class_weights=[[0.0, 1.0], [1.0, 0.0]])
        >>> [text.get_text() for text in ax.texts]
        ['0', '1']
    """
    from matplotlib.patches import Circle

    points, labels = _two_dimensional(points, labels)
    ax = _axes(ax)
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    spread = unit * np.random.default_rng(seed).uniform(1.02, 1.22, (len(unit), 1))
    ax.add_patch(Circle((0, 0), 1, fill=False, edgecolor=GREY, linewidth=1.0))
    for label in np.unique(labels):
        own, style = labels == label, _class_style(label)
        ax.scatter(spread[own, 0], spread[own, 1], s=12, linewidths=0, alpha=0.6, **style)
        vector = unit[own].mean(axis=0) if class_weights is None else np.asarray(class_weights)[label]
        vector = vector / max(np.linalg.norm(vector), 1e-12)
        if class_weights is not None:
            ax.plot([0, vector[0]], [0, vector[1]], color=style["color"], linewidth=1.8, solid_capstyle="round")
        _write_class(ax, 1.36 * vector, label, names)
    ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    ax.set(xlabel="feature 1 / length", ylabel="feature 2 / length")
    return ax


def projection(
    embeddings: Any,
    labels: Any,
    names: Any = None,
    method: Projection = "pca",
    classes: int = 10,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    """Embeddings in two dimensions: the largest classes in colour, all others in grey.

    Args:
        embeddings: (N, D) finite real numbers, at least 2 rows.
        labels: (N,) integers.
        names: of the classes, indexed by label; the labels themselves by default.
        method: ``"pca"``, the two directions in which they vary most, with their share of the variance; ``"umap"``,
            which keeps neighbours together and says nothing by distances (needs umap-learn).
        classes: how many classes are coloured, at most.
        seed: of UMAP.
        ax: to draw on; a new figure by default.

    Raises:
        ImportError: ``"umap"`` without umap-learn.
        ValueError: another method, fewer than 2 rows, or than 5 with ``"umap"``.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(30, 4)) * [9, 1, 1, 1]
        >>> projection(rows, np.arange(30) % 3).get_xlabel()
        'component 1 (96 % of the variance)'
    """
    check_choices(method=(method, Projection))
    embeddings, labels = np.asarray(embeddings, dtype=np.float32), np.asarray(labels)
    if embeddings.ndim != 2 or len(embeddings) < 2 or len(labels) != len(embeddings):
        raise ValueError(
            f"embeddings must have shape (rows, embedding_size) with 2 rows or more and a label each, got shape "
            f"{embeddings.shape} and {len(labels)} labels. Pass one row and one label per image."
        )
    ax = _axes(ax)
    points, axis_names = (_pca if method == "pca" else _umap)(embeddings, seed)
    found, counts = np.unique(labels, return_counts=True)
    largest = found[np.argsort(-counts, kind="stable")][:classes]
    others = points[~np.isin(labels, largest)]
    drawn, texts = [], []
    if len(others):
        drawn.append(ax.scatter(others[:, 0], others[:, 1], s=6, linewidths=0, alpha=0.35, color=GREY))
        texts.append(f"{len(found) - len(largest)} others")
    for number, label in enumerate(largest):
        style: dict[str, Any] = {"color": BRIGHT[number % len(BRIGHT)], "marker": MARKERS[number % len(MARKERS)]}
        own = points[labels == label]
        drawn.append(ax.scatter(own[:, 0], own[:, 1], s=16, linewidths=0, alpha=0.8, **style))
        texts.append(_class_name(label, names))
    place: Any = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    ax.legend(drawn, texts, frameon=False, fontsize="small", markerscale=1.5, **place)
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1], title="Embeddings in two dimensions")
    return ax


def _pca(embeddings: np.ndarray, seed: int) -> tuple[np.ndarray, list[str]]:
    from sklearn.decomposition import PCA

    width = min(2, embeddings.shape[1])
    pca = PCA(width, svd_solver="covariance_eigh").fit(embeddings)
    points = np.zeros((len(embeddings), 2))
    points[:, :width] = pca.transform(embeddings)
    shares = [*pca.explained_variance_ratio_, 0.0][:2]
    return points, [f"component {n} ({100 * share:.0f} % of the variance)" for n, share in enumerate(shares, start=1)]


def _umap(embeddings: np.ndarray, seed: int) -> tuple[np.ndarray, list[str]]:
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError("umap-learn is not installed: pip install umap-learn, or use method='pca'.") from error
    if len(embeddings) < 5:
        raise ValueError(f"embeddings must be 5 rows or more for UMAP, got {len(embeddings)}. Use method='pca'.")
    neighbours = min(15, len(embeddings) - 1)  # UMAP's default, where there are so many
    points = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(embeddings)
    return points, ["UMAP 1", "UMAP 2"]


def similarity_histogram(
    genuine: Any,
    impostor: Any,
    threshold: float | None = None,
    similarity: str = "cosine similarity",
    edges: Any = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """How similar pairs of one class are, and pairs of two, each as a share of its own kind.

    Args:
        genuine: (G,) scores of pairs of the same class; with ``edges``, how many there are in each bin.
        impostor: (I,) scores of pairs of different classes, or their numbers.
        threshold: from which score on a pair is accepted, drawn as a line.
        similarity: what the scores are.
        edges: (B + 1,) of the bins, where pairs were counted already.
        ax: to draw on; a new figure by default.

    Raises:
        ValueError: no pairs of a kind.

    Example:
        >>> ax = similarity_histogram([0.7, 0.8, 0.9], [0.0, 0.1, 0.4], threshold=0.5)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['genuine', 'impostor', 'threshold 0.500']
    """
    genuine, impostor = np.asarray(genuine, dtype=np.float64), np.asarray(impostor, dtype=np.float64)
    pairs = (genuine.size, impostor.size) if edges is None else (int(genuine.sum()), int(impostor.sum()))
    if not all(pairs):
        raise ValueError(
            f"genuine and impostor must each have a pair, got {pairs[0]} and {pairs[1]}. "
            "Pass pairs of the same class and pairs of different classes."
        )
    if edges is None:
        low, high = min(genuine.min(), impostor.min()), max(genuine.max(), impostor.max())
        margin = 1e-6 * max(1, abs(low), abs(high))  # equal scores need a width too
        edges = np.linspace(low - margin, high + margin, 61)
        genuine, impostor = (np.histogram(scores, edges)[0] for scores in (genuine, impostor))
    ax = _axes(ax)
    for counts, name, colour, dashes in ((genuine, "genuine", GENUINE, "-"), (impostor, "impostor", IMPOSTOR, "--")):
        line: dict[str, Any] = {"edgecolor": colour, "linewidth": 1.4, "linestyle": dashes}
        ax.stairs(100 * counts / counts.sum(), edges, fill=True, facecolor=(colour, 0.35), label=name, **line)
    if threshold is not None:
        ax.axvline(threshold, color=GREY, linewidth=1.5, label=f"threshold {threshold:#.3g}")
    ax.legend(frameon=False)
    ax.set(xlabel=similarity, ylabel="pairs of the kind, %", title="Similarity of pairs")
    return ax


def roc(
    far: Any, tar: Any, low: Any = None, high: Any = None, label: str | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Receiver operating characteristic: the true accept rate at each false accept rate, which runs on a log scale.

    What is drawn at a false accept rate is the largest true accept rate of a threshold that does not exceed it, so
    nothing is interpolated. Call it again with the same ``ax`` for another model.

    Args:
        far: (T,) false accept rates, ascending, in [0, 1].
        tar: (T,) true accept rates, ascending, in [0, 1].
        low: (T,) lower end of a confidence band around ``tar``.
        high: (T,) upper end.
        label: what the curve is of, for the legend.
        ax: to draw on; a new figure by default.

    Raises:
        ValueError: arrays of different lengths, or no false accept rate above 0.

    Example:
        >>> roc(far=[0, 0.001, 0.01, 1], tar=[0.2, 0.5, 0.9, 1]).get_xlabel()
        'false accept rate'
    """
    far, *rates = _curve(far, tar, low, high)
    ax = _axes(ax)
    _draw_curve(ax, far, rates, label, step="post")
    ax.set(xscale="log", xlim=(min(far[0], ax.get_xlim()[0]) if len(ax.lines) > 1 else far[0], 1), ylim=(0, 1.01))
    ax.set(xlabel="false accept rate", ylabel="true accept rate", title="ROC")
    return _with_grid(ax, label)


def det(
    far: Any, tar: Any, low: Any = None, high: Any = None, label: str | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Detection error trade-off: the false reject rate at each false accept rate, both on log scales.

    The dotted line is where both errors are equal.

    Args:
        far: (T,) false accept rates, ascending, in [0, 1].
        tar: (T,) true accept rates, ascending, in [0, 1]; what is drawn is 1 − ``tar``.
        low: (T,) lower end of a confidence band around ``tar``.
        high: (T,) upper end.
        label: what the curve is of, for the legend.
        ax: to draw on; a new figure by default.

    Raises:
        ValueError: arrays of different lengths, or no false accept rate above 0.

    Example:
        >>> det(far=[0, 0.001, 0.01, 1], tar=[0.2, 0.5, 0.9, 1]).get_ylabel()
        'false reject rate'
    """
    far, tar, low, high = _curve(far, tar, low, high)
    least = (1 - tar)[tar < 1].min(initial=1) / 2  # where a curve without errors leaves the picture
    rejected = [None if rate is None else np.maximum(1 - rate, least) for rate in (tar, high, low)]
    ax = _axes(ax)
    _draw_curve(ax, far, rejected, label, step="post")
    if len(ax.lines) == 1:
        ax.plot([1e-9, 1], [1e-9, 1], color=GREY, linestyle=":", linewidth=1.2, zorder=0, label="_equal errors")
        ax.set(xscale="log", yscale="log", xlim=(far[0], 1), ylim=(least, 1))
    else:
        ax.set(xlim=(min(far[0], ax.get_xlim()[0]), 1), ylim=(min(least, ax.get_ylim()[0]), 1))
    ax.set(xlabel="false accept rate", ylabel="false reject rate", title="DET")
    return _with_grid(ax, label)


def cmc(
    rank: Any, rate: Any, low: Any = None, high: Any = None, label: str | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Cumulative match characteristic: the share of queries with a true match among the first k.

    Args:
        rank: (K,) ranks k, ascending from 1.
        rate: (K,) shares in [0, 1].
        low: (K,) lower end of a confidence band around ``rate``.
        high: (K,) upper end.
        label: what the curve is of, for the legend.
        ax: to draw on; a new figure by default.

    Raises:
        ValueError: arrays of different lengths.

    Example:
        >>> cmc(rank=[1, 2, 3], rate=[0.5, 0.7, 0.75]).get_title()
        'CMC'
    """
    from matplotlib.ticker import MaxNLocator

    rank, *rates = _same_length(rank=rank, rate=rate, low=low, high=high)
    ax = _axes(ax)
    _draw_curve(ax, rank, rates, label, marker=MARKERS[len(ax.lines) % len(MARKERS)] if len(rank) <= 20 else "")
    if rank[-1] > 50:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    lowest = min(np.min(line.get_ydata()) for line in ax.lines)
    ax.set_ylim(lowest - 0.1 if lowest > 0.5 else 0, 1.01)
    ax.set(xlabel="rank k", ylabel="queries with a true match in the first k", title="CMC")
    return _with_grid(ax, label)


def error_by_norm(norms: Any, errors: Any, bins: int = 10, ax: "Axes | None" = None) -> "Axes":
    """Mean error of embeddings of like norm: does a short embedding, of a poor image say, go wrong more often?

    Args:
        norms: (N,) lengths of embeddings before they are normalised, positive.
        errors: (N,) the error of each in [0, 1], such as 1 - precision at 1.
        bins: groups of as many embeddings each, by norm; fewer where norms are equal.
        ax: to draw on; a new figure by default.

    Raises:
        ValueError: arrays of different lengths.

    Example:
        >>> ax = error_by_norm(norms=[1, 1, 2, 2], errors=[1, 0, 0, 0], bins=2)
        >>> ax.lines[0].get_xydata().tolist()
        [[1.0, 0.5], [2.0, 0.0]]
    """
    norms, errors = _same_length(norms=norms, errors=errors)
    edges = np.unique(np.quantile(norms, np.linspace(0, 1, bins + 1)[1:-1]))
    which = np.searchsorted(edges, norms)
    counts = np.bincount(which)
    filled = counts > 0
    means, rates = (np.bincount(which, values)[filled] / counts[filled] for values in (norms, errors))
    ax = _axes(ax)
    ax.plot(means, rates, marker="o", linewidth=1.8, color=BRIGHT[0])
    ax.axhline(errors.mean(), color=GREY, linestyle=":")
    ax.set_ylim(0, min(1.01, 1.15 * max(rates.max(), 0.05)))
    ax.set(xlabel="norm of the embedding", ylabel="mean error", title="Error by norm")
    return _with_grid(ax)


def metric_intervals(
    metrics: Mapping[str, float], ci: Mapping[str, tuple[float, float]], ax: "Axes | None" = None
) -> "Axes":
    """Each metric as a dot, with its confidence interval as a bar.

    Args:
        metrics: each metric's value.
        ci: (low, high) of those that have an interval.
        ax: to draw on; a new figure by default.

    Example:
        >>> ax = metric_intervals({"recall_at_1": 0.8, "r_precision": 0.6}, {"recall_at_1": (0.75, 0.84)})
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['recall_at_1', 'r_precision']
    """
    ax = _axes(ax)
    for row, (name, value) in enumerate(metrics.items()):
        low, high = ci.get(name, (value, value))
        ax.plot([low, high], [row, row], color=BRIGHT[0], linewidth=5, alpha=0.4, solid_capstyle="butt")
        ax.plot(value, row, "o", color=BRIGHT[0])
        ax.annotate(f"{value:.3f}", (high, row), (7, 0), textcoords="offset points", va="center")
    ax.set(xlabel="value and confidence interval", title="Metrics")
    return _with_rows(ax, list(metrics), room=0.2)


def class_means(
    means: Any,
    mean: float,
    interval: tuple[float, float] | None = None,
    metric: str = "value",
    ax: "Axes | None" = None,
) -> "Axes":
    """How classes differ: a dot for each, stacked where they are alike, above the mean of all and its interval.

    Args:
        means: (C,) of each class, in [0, 1].
        mean: of all.
        interval: (low, high) of that mean, where it has one.
        metric: what the numbers are.
        ax: to draw on; a new figure by default.

    Example:
        >>> ax = class_means([0.2, 0.9, 0.9, 1.0], 0.75, (0.4, 0.9), metric="recall_at_1")
        >>> [height for _, height in ax.collections[0].get_offsets().tolist()]
        [1.0, 1.0, 2.0, 1.0]
    """
    means = np.asarray(means, dtype=np.float64)
    bins = np.floor(means * 60).astype(np.int64)
    order = np.argsort(bins, kind="stable")
    _, first, counts = np.unique(bins[order], return_index=True, return_counts=True)
    heights = np.empty(len(means))
    heights[order] = np.arange(len(means)) - np.repeat(first, counts) + 1
    ax = _axes(ax)
    tallest = heights.max()
    ax.scatter(means, heights, s=min(30.0, 6000 / tallest**2), color=BRIGHT[0], alpha=0.7, linewidths=0)
    below = -0.08 * max(tallest, 4)
    if interval is not None:
        ax.plot(interval, [below, below], color=BRIGHT[0], linewidth=5, alpha=0.4, solid_capstyle="butt")
    ax.plot(mean, below, "o", color=BRIGHT[0])
    ax.set(
        xlim=(-0.02, 1.02), ylim=(2.5 * below, max(1.1 * tallest, 5)), xlabel=metric, ylabel="classes", title="Classes"
    )
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= ax.get_ylim()[1]])
    return _with_grid(ax)


def seed_intervals(
    values: Mapping[str, Any],
    ci: Mapping[str, tuple[float, float]],
    baseline: float | None = None,
    metric: str = "value",
    ax: "Axes | None" = None,
) -> "Axes":
    """Models that were trained with several seeds: the mean as a dot, its interval as a bar, each seed as a ring.

    Args:
        values: (S,) a number for each seed, by the name of the model, from top to bottom.
        ci: (low, high) of the means that have an interval.
        baseline: what raw pixels reach: a dashed line, or a number above the frame where the line would be far away.
        metric: what the numbers are.
        ax: to draw on; a new figure by default.

    Example:
        >>> ax = seed_intervals({"SoftmaxLoss": [0.7, 0.72], "CenterLoss": [0.6, 0.5]}, {"SoftmaxLoss": (0.6, 0.8)})
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['SoftmaxLoss', 'CenterLoss']
    """
    ax = _axes(ax)
    for row, (name, seeds) in enumerate(values.items()):
        mean = float(np.mean(seeds))
        low, high = ci.get(name, (mean, mean))
        ax.plot([low, high], [row, row], color=BRIGHT[0], linewidth=7, alpha=0.35, solid_capstyle="butt")
        ax.plot(seeds, [row] * len(seeds), "o", color=BRIGHT[0], markerfacecolor="none", markersize=6)
        ax.plot(mean, row, "o", color=BRIGHT[0], markersize=6)
        ax.annotate(f"{mean:.3f}", (max(high, *seeds), row), (7, 0), textcoords="offset points", va="center")
    if baseline is not None:
        _draw_baseline(ax, baseline, [end for group in (*ci.values(), *values.values()) for end in group])
    ax.set(xlabel=metric, ylabel="loss")
    return _with_rows(ax, [_as_label(name, 60) for name in values], room=0.15)


def training_curves(steps: Any, values: Mapping[str, Any], xlabel: str = "epoch", ax: "Axes | None" = None) -> "Axes":
    """How numbers moved in training: one line each.

    Args:
        steps: (T,) epochs or batches.
        values: (T,) numbers by name, such as the parts of a loss.
        xlabel: what the steps are.
        ax: to draw on; a new figure by default.

    Raises:
        ValueError: arrays of different lengths.

    Example:
        >>> ax = training_curves([1, 2, 3], {"SoftmaxLoss": [2.0, 1.1, 0.7], "CenterLoss": [0.4, 0.2, 0.1]})
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['SoftmaxLoss', 'CenterLoss']
    """
    from matplotlib.ticker import MaxNLocator

    ax = _axes(ax)
    for name, series in values.items():
        steps, series = _same_length(steps=steps, **{name: series})
        _draw_curve(ax, steps, [series, None, None], name, marker="o" if len(steps) == 1 else "")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=xlabel, ylabel="value", title="Training")
    return _with_grid(ax, label="")


def retrieval_gallery(
    queries: Sequence[Any], neighbours: Sequence[Sequence[Any]], hits: Any, scores: Any = None, ax: "Axes | None" = None
) -> "Axes":
    """Queries, each with its nearest neighbours: green borders for hits, red and dashed ones for misses.

    Args:
        queries: Q images: PIL images or arrays (H, W) or (H, W, 3).
        neighbours: Q lists of up to K images, nearest first.
        hits: (Q, K) whether a neighbour has the query's label.
        scores: (Q, K) written below the neighbours.
        ax: to draw on; a new figure by default.

    Raises:
        ValueError: another number of neighbours than of hits.

    Example:
        >>> image = np.zeros((8, 8), dtype=np.uint8)
        >>> ax = retrieval_gallery([image], [[image, image]], hits=[[True, False]], scores=[[0.9, 0.8]])
        >>> [text.get_text() for text in ax.texts]
        ['query', '✓ 0.900', '✗ 0.800']
    """
    from matplotlib.patches import Rectangle

    hits = np.asarray(hits, dtype=bool)
    if hits.ndim != 2 or len(queries) != len(hits) or any(len(row) > hits.shape[1] for row in neighbours):
        raise ValueError(
            f"hits must have shape (queries, neighbours), got shape {hits.shape} for {len(queries)} queries with up to "
            f"{max(map(len, neighbours), default=0)} neighbours. Say for each neighbour whether it is a hit."
        )
    ax = _axes(ax, figsize=(1.1 * (hits.shape[1] + 1), 1.4 * len(hits)))
    for row, (query, images) in enumerate(zip(queries, neighbours, strict=True)):
        for column, image in enumerate([query, *images]):
            left, top = column + (0.15 if column else 0), 1.25 * row
            image = convert(image, channels=3) if isinstance(image, Image.Image) else image
            ax.imshow(np.asarray(image), cmap="gray", extent=(left, left + 0.9, top + 0.9, top))
            note = "query"
            border: dict[str, Any] = {"edgecolor": GREY, "linewidth": 1.0}
            if column:
                hit = hits[row, column - 1]
                note = ("✓" if hit else "✗") + ("" if scores is None else f" {scores[row][column - 1]:#.3g}")
                border = {"edgecolor": HIT if hit else MISS, "linewidth": 2.5, "linestyle": "-" if hit else "--"}
            ax.add_patch(Rectangle((left, top), 0.9, 0.9, fill=False, **border))
            ax.text(left + 0.45, top + 0.93, note, ha="center", va="top", fontsize=9)
    ax.set(xlim=(-0.05, hits.shape[1] + 1.1), ylim=(1.25 * len(hits) - 0.1, -0.05), aspect="equal")
    ax.set_axis_off()
    return ax


def _axes(ax: "Axes | None", **figure: Any) -> "Axes":
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained", **figure)[1]


def _two_dimensional(points: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    points, labels = np.asarray(points), np.asarray(labels)
    if points.shape != (len(labels), 2):
        raise ValueError(
            f"points must have shape ({len(labels)}, 2), got shape {points.shape}. "
            "Train with embedding_size=2, or draw them with pml_center.plots.projection."
        )
    return points, labels


def _class_style(label: int) -> dict[str, Any]:
    """The colour and the marker of a class."""
    marker = MARKERS[(label + label // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[label % len(COLOURS)], "marker": marker}


def _class_name(label: int, names: Any) -> str:
    return _as_label(label if names is None else names[label])


def _write_class(ax: "Axes", place: np.ndarray, label: int, names: Any, **style: Any) -> None:
    """The name of a class, around a place."""
    x, y = place
    ax.text(x, y, _class_name(label, names), ha="center", va="center", weight="bold", fontsize=12, **style)


def _draw_curve(
    ax: "Axes", x: Any, curve: Sequence[Any], label: str | None, step: Literal["post"] | None = None, **style: Any
) -> None:
    """A line in the colour and dashes that no line of the Axes has yet, and the band around it where there is one.

    Args:
        ax: to draw on.
        x: (T,) where the points are.
        curve: (T,) the points, and the lower and the upper end of the band, None for none.
        label: for the legend.
        step: ``"post"`` for a line of steps, each as high as the point at its left.
        style: of the line.
    """
    y, low, high = curve
    number = sum(not str(line.get_label()).startswith("_equal") for line in ax.lines)
    colour, dashes = BRIGHT[number % len(BRIGHT)], LINES[number % len(LINES)]
    style |= {"drawstyle": "steps-post"} if step else {}
    ax.plot(x, y, color=colour, linestyle=dashes, linewidth=1.8, label=label, **style)
    if low is not None:
        ax.fill_between(x, low, high, step=step, color=colour, alpha=0.2, linewidth=0)


def _draw_baseline(ax: "Axes", baseline: float, others: Sequence[float]) -> None:
    """What raw pixels reach, beside other numbers."""
    span = max(others) - min(others)
    above: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points"}  # the frame
    if min(others) - span <= baseline <= max(others) + span:
        ax.axvline(baseline, color=GREY, linestyle="--", linewidth=1.2)
        ax.annotate("raw pixels", (baseline, 1), xycoords=ax.get_xaxis_transform(), ha="center", **above)
    elif baseline < min(others):  # a line would press all else together
        ax.annotate(f"← raw pixels {baseline:.3f}", (0, 1), xycoords=ax.transAxes, ha="left", **above)
    else:
        ax.annotate(f"raw pixels {baseline:.3f} →", (1, 1), xycoords=ax.transAxes, ha="right", **above)


def _with_grid(ax: "Axes", label: str | None = None) -> "Axes":
    """With a legend where a label was given."""
    ax.grid(color=GREY, alpha=0.25)
    if label is not None:
        ax.legend(frameon=False)
    return ax


def _with_rows(ax: "Axes", names: Sequence[str], room: float) -> "Axes":
    """With a name for each row, from top to bottom, and room at the sides for numbers."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.margins(x=room)
    ax.grid(axis="x", color=GREY, alpha=0.25)
    return ax


def _same_length(**arrays: Any) -> list[Any]:
    """The arrays in float64; those that are None stay None."""
    found = [None if values is None else np.asarray(values, dtype=np.float64) for values in arrays.values()]
    shapes = {name: values.shape for name, values in zip(arrays, found, strict=True) if values is not None}
    first = next(iter(shapes.values()))
    if len(first) != 1 or not first[0] or set(shapes.values()) != {first}:
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"a curve must have arrays of one length, got {got}. Give a value for each point.")
    return found


def _curve(far: Any, tar: Any, low: Any, high: Any) -> list[Any]:
    """The points for a log scale: what is accepted before the first false accept stands at half the least rate."""
    found = _same_length(far=far, tar=tar, low=low, high=high)
    positive = np.flatnonzero(found[0] > 0)
    if not len(positive):
        raise ValueError("far must have a rate above 0 to be drawn on a log scale, got none. Pass the whole curve.")
    start = max(0, positive[0] - 1)
    found = [None if values is None else values[start:].copy() for values in found]
    if found[0][0] == 0:
        found[0][0] = found[0][1] / 2
    return found


def _as_label(name: object, most: int = 24) -> str:
    """A name as text to draw: short, in one line, with characters that a font can have, and no mathematics."""
    text = " ".join(str(name).encode("utf-8", "backslashreplace").decode("utf-8").split())
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text.replace("$", r"\$")
