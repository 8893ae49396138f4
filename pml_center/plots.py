"""Plots: arrays and an optional Axes in, Axes out."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Paul Tol's "muted" scheme, told apart with any colour vision, and black.
COLOURS = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "*")


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
    import matplotlib.pyplot as plt
    from matplotlib.patheffects import withStroke

    points, labels = np.asarray(points), np.asarray(labels)
    if points.shape != (len(labels), 2):
        raise ValueError(
            f"points must have shape ({len(labels)}, 2), got shape {points.shape}. "
            "Train with embedding_size=2, or project them, e.g. with sklearn.decomposition.PCA(2)."
        )
    if ax is None:
        _, ax = plt.subplots()
    for label in np.unique(labels):
        own = points[labels == label]
        colour, marker = COLOURS[label % len(COLOURS)], MARKERS[(label + label // len(COLOURS)) % len(MARKERS)]
        ax.scatter(own[:, 0], own[:, 1], s=9, linewidths=0, alpha=0.7, color=colour, marker=marker)
    for label in np.unique(labels):  # after all points, so that none hides a name
        name = str(label if names is None else names[label])
        outline = [withStroke(linewidth=3, foreground="white")]
        x, y = np.median(points[labels == label], axis=0)
        ax.text(x, y, name, ha="center", va="center", weight="bold", fontsize=12, path_effects=outline)
    ax.set_aspect("equal", "datalim")
    ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.set_xlabel("feature 1")
    ax.set_ylabel("feature 2")
    return ax
