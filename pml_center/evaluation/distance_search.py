"""Nearest neighbours by any distance of pytorch-metric-learning."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pml_center.evaluation.ordering import order_keys
from pml_center.evaluation.search import ENTRIES, ExactSearch, Ids, Matrix, Similarity, first_of

NUMBERS = 2**24  # in the largest temporary array of a distance, which may hold (q, N, D)


def native_similarity(distance: Any) -> Similarity | None:
    """The similarity that ranks as a PML distance does, where there is one.

    Raises:
        TypeError: something else than a PML distance.

    Example:
        >>> from pytorch_metric_learning.distances import LpDistance, SNRDistance
        >>> native_similarity(LpDistance()), native_similarity(LpDistance(normalize_embeddings=False))
        ('cosine', 'euclidean')
        >>> native_similarity(SNRDistance()) is None
        True
    """
    from pytorch_metric_learning.distances import BaseDistance, CosineSimilarity, DotProductSimilarity, LpDistance

    if not isinstance(distance, BaseDistance):
        raise TypeError(
            f"similarity must be a name or a distance of pytorch-metric-learning, got {distance!r}. "
            "Use 'cosine', 'dot', 'euclidean' or e.g. distances.LpDistance(p=1)."
        )
    if distance.p != 2 or distance.power <= 0:
        return None
    if type(distance) in (CosineSimilarity, DotProductSimilarity):
        return "cosine" if distance.normalize_embeddings else "dot"
    if type(distance) is LpDistance:
        return "cosine" if distance.normalize_embeddings else "euclidean"  # between unit vectors they rank alike
    return None


class DistanceSearch(ExactSearch):
    """:class:`ExactSearch` by any PML distance, computed for all pairs, a block of queries at a time.

    Ties are those of the numbers that the distance returns. Scores are its values where larger is nearer, and their
    negatives where smaller is.

    Example:
        >>> from pytorch_metric_learning.distances import LpDistance
        >>> search = DistanceSearch([[0.0], [1], [3]], None, LpDistance(p=1, normalize_embeddings=False))
        >>> [(rows.tolist(), ids.tolist()) for rows, ids, scores in search.chunks(k=1)]
        [([0, 1, 2], [[1, 2], [0, 2], [1, 0]])]
    """

    def __init__(
        self,
        queries: Any,
        references: Any,
        distance: Any,
        **options: Any,
    ):
        super().__init__(queries, references, "euclidean", **options)
        self.similarity = type(distance).__name__  # type: ignore[assignment]
        self.rounding = np.zeros(len(self.queries))
        self._distance = distance

    def block_size(self, entries: int) -> int:
        """How many queries have a block of at most so many scores, and of few enough differences of vectors."""
        return max(1, min(super().block_size(entries), NUMBERS // self.references.size))

    def block(self, rows: Ids) -> Matrix:
        """The scores (q, N) of all references for some queries; minus infinity where excluded.

        Raises:
            ValueError: a distance that is not finite.
        """
        with torch.no_grad():
            values = self._distance(torch.from_numpy(self.queries[rows]), torch.from_numpy(self.references)).numpy()
        if not np.isfinite(values).all():
            query = rows[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]]
            raise ValueError(
                f"{self.similarity} must be finite, got nan or infinity for query {query}. "
                "Look for vectors that the distance cannot compare, such as zero or constant ones."
            )
        block = np.asarray(values if self._distance.is_inverted else -values, dtype=np.float32)
        self.exclude(block, rows)
        return block

    def exact_scores(self, block: Matrix, rows: Ids, places: Ids, ids: Ids) -> Matrix:
        """The scores (P,) of the references ``ids`` for the queries ``rows[places]``."""
        return block[places, ids]

    def _needed(self, copies: int) -> Ids | None:
        return None  # a block holds all references

    def _chunk_size(self, width: int) -> int:
        return self.block_size(ENTRIES)

    def _nearest(
        self, rows: Ids, k: int, width: int, references: Matrix, some: Ids | None
    ) -> tuple[Ids, Matrix, NDArray[np.bool_]]:
        ids, scores = first_of(order_keys(self.block(rows), np.arange(len(self.references))), k + 1)
        return ids, scores, np.ones(len(rows), dtype=bool)
