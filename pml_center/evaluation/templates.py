"""Templates: one embedding for several images of a person."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import as_array, as_matrix, class_codes
from pml_center.evaluation.search import Matrix


def templates(
    embeddings: Any,
    template_ids: Iterable[Hashable],
    media_ids: Iterable[Hashable] | None = None,
    weights: Any = None,
    normalize: bool = False,
) -> tuple[Matrix, list[Hashable]]:
    """One embedding for each set of images, as in IJB: the mean of each medium, their sum, divided by its length.

    A medium is a still image or a video. A video's frames resemble each other and count once.

    Args:
        embeddings: (N, D) finite real numbers.
        template_ids: (N,) the template of each image, anything hashable.
        media_ids: (N,) the medium of each image; the same id in another template is another medium. None means that
            each image is a medium.
        weights: (N,) at least 0, by which embeddings are multiplied, e.g. the score of a face detector. None means 1.
        normalize: divide each embedding by its length first. Otherwise the length counts as quality.

    Returns:
        The templates, (T, D) float32 of length 1, and their T ids in order of appearance: ``names`` of
        :meth:`Pairs.of_names`.

    Raises:
        TypeError: embeddings or weights that are not real numbers, ids that are not hashable.
        ValueError: NaN or infinity, different lengths, negative weights, a template that adds up to zero.

    Example:
        >>> templates([[3, 0], [0, 2], [0, 4], [1, 0]], ["t1", "t1", "t1", "t2"], ["still", "video", "video", "still"])
        (array([[0.70710677, 0.70710677],
               [1.        , 0.        ]], dtype=float32), ['t1', 't2'])

    Source: Whitelam et al., IARPA Janus Benchmark-B, CVPR Workshops 2017 (the sets); Crosswhite et al., Template
        adaptation, FG 2017, arXiv:1603.03958 (averages of media).
    """
    from scipy.sparse import csr_array

    matrix = as_matrix(embeddings, "embeddings", np.float64)
    if normalize:
        matrix = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    known: dict[Hashable, int] = {}
    codes = class_codes(template_ids, len(matrix), "template_ids", known)
    media = np.arange(len(matrix)) if media_ids is None else class_codes(media_ids, len(matrix), "media_ids")
    _, medium, counts = np.unique(np.stack([codes, media]), axis=1, return_inverse=True, return_counts=True)
    share = 1 / counts[medium.ravel()]  # of an image in its medium's mean
    if weights is not None:
        share = share * _checked_weights(weights, len(matrix))
    sums = csr_array((share, (codes, np.arange(len(matrix))))) @ matrix  # (T, D)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    empty = np.flatnonzero(norms[:, 0] == 0)
    if len(empty):
        raise ValueError(
            f"templates must have a direction, got zero as the sum of template {list(known)[empty[0]]!r} "
            f"({len(empty)} of {len(sums)} templates). Leave it out, or check its weights."
        )
    return (sums / norms).astype(np.float32), list(known)


def _checked_weights(weights: Any, count: int) -> NDArray[np.float64]:
    values = as_matrix(as_array(weights, "weights").reshape(-1, 1), "weights", np.float64)[:, 0]
    if len(values) != count or values.min() < 0:
        raise ValueError(
            f"weights must be one per image ({count}) and at least 0, got {len(values)}, the smallest {values.min()}. "
            "Pass one score per image."
        )
    return values
