"""How tight classes are and how far apart they lie."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pml_center.arrays import as_matrix, class_codes
from pml_center.evaluation.statistics import mean_of


def intra_inter_distance(embeddings: Any, labels: Iterable[Hashable]) -> tuple[float, float]:
    """Mean distance of the samples to the mean of their class, and mean distance between the class means.

    Both are Euclidean, of the embeddings as they are (nothing is normalised), and computed in float64. Samples weigh
    alike in the first, pairs of different classes in the second. What center loss wants is a small ratio of the two.

    Args:
        embeddings: (N, D) finite real numbers: a numpy array or a tensor on any device.
        labels: (N,) the class of each row: integers, strings or anything hashable; at least two classes.

    Returns:
        The intra-class and the inter-class distance, both at least 0.

    Raises:
        TypeError: embeddings that are not real numbers, labels that are not hashable.
        ValueError: NaN or infinity, another number of labels than of rows, fewer than two classes.

    Example:
        >>> intra_inter_distance([[0, 1], [0, -1], [4, 2], [4, -2]], ["a", "a", "b", "b"])
        (1.5, 4.0)
    """
    matrix = as_matrix(embeddings, "embeddings", np.float64)
    codes = class_codes(labels, len(matrix))
    order = _by_content(matrix)  # so that no order of the rows changes a last digit
    matrix, codes = matrix[order], codes[order]
    counts = np.bincount(codes)
    if len(counts) < 2:
        raise ValueError("labels must name at least two classes, got 1. One class has no distance to another.")
    means = np.zeros((len(counts), matrix.shape[1]))
    np.add.at(means, codes, matrix)
    means /= counts[:, None]
    intra = mean_of(np.linalg.norm(matrix - means[codes], axis=1))
    return intra, _mean_distance(torch.from_numpy(means[_by_content(means)]))


def _by_content(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order of the rows (N,) that is a function of what they hold alone."""
    return np.argsort(rows.view(f"V{rows.itemsize * rows.shape[1]}")[:, 0], kind="stable")


def _mean_distance(points: torch.Tensor) -> float:
    """Mean Euclidean distance over the pairs of rows, by blocks of rows rather than one (C, C) matrix."""
    exact = "donot_use_mm_for_euclid_dist"  # the matrix product cancels digits where means lie close together
    total = sum(torch.cdist(block, points, compute_mode=exact).sum().item() for block in points.split(1024))
    return total / (len(points) * (len(points) - 1))
