"""Nearest neighbours by any distance of pytorch-metric-learning."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pml_center.arrays import ENTRIES, joined
from pml_center.evaluation.search.exact_search import ExactSearch, first_of
from pml_center.evaluation.search.ordering import order_keys
from pml_center.evaluation.search.references import Ids, Matrix, Similarity

DIFFERENCES = 2**24  # numbers in the largest temporary array of a distance, which may hold (q, N, D)


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

    References in several parts are joined in memory.

    Ties are those of the numbers that the distance returns. Scores are its values where larger is nearer, and their
    negatives where smaller is.

    Example:
        >>> from pytorch_metric_learning.distances import LpDistance
        >>> search = DistanceSearch([[0.0], [1], [3]], None, LpDistance(p=1, normalize_embeddings=False))
        >>> [(rows.tolist(), ids.tolist()) for rows, ids, scores in search.chunks(k=1)]
        [([0, 1, 2], [[1, 2], [0, 2], [1, 0]])]
    """

    def __init__(self, queries: Any, references: Any, distance: Any, **options: Any):
        super().__init__(queries, None if references is None else joined(references), "euclidean", **options)
        self.similarity = type(distance).__name__  # type: ignore[assignment]
        self.rounding = np.zeros(len(self.queries))
        self._distance = distance
        self._last: tuple[bytes, Matrix] | None = None  # rows and block: a ranking looks at a block more than once

    def block_size(self, entries: int) -> int:
        """How many queries have a block of at most so many scores, and of few enough differences of vectors."""
        return max(1, min(super().block_size(entries), DIFFERENCES // self.references.whole.size))

    def blocks(self, rows: Ids) -> Iterator[tuple[int, Matrix]]:
        """The scores (q, N) of all references for some queries, as one block; minus infinity where excluded.

        Raises:
            ValueError: a distance that is not finite.
        """
        yield 0, self._block(rows)

    def exact_scores(self, rows: Ids, places: Ids, ids: Ids) -> Matrix:
        """The scores (P,) of the references ``ids`` for the queries ``rows[places]``."""
        return self._block(rows)[places, ids]

    def _block(self, rows: Ids) -> Matrix:
        if self._last is None or self._last[0] != rows.tobytes():
            self._last = None  # makes room
            self._last = rows.tobytes(), self._computed(rows)
        return self._last[1]

    def _computed(self, rows: Ids) -> Matrix:
        with torch.no_grad():
            references = torch.from_numpy(self.references.whole)
            values = self._distance(torch.from_numpy(self.queries[rows]), references).numpy()
        if not np.isfinite(values).all():
            query = rows[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]]
            raise ValueError(
                f"{self.similarity} must be finite, got nan or infinity for query {query}. "
                "Look for vectors that the distance cannot compare, such as zero or constant ones."
            )
        block = np.asarray(values if self._distance.is_inverted else -values, dtype=np.float32)
        self.exclude(block, rows, np.arange(block.shape[1]))
        return block

    def chunk_length(self, width: int) -> int:
        """How many queries have few enough scores at a time."""
        return self.block_size(ENTRIES)

    def ranked_candidates(self, rows: Ids, k: int, width: int, copies: int) -> tuple[Ids, Matrix, NDArray[np.bool_]]:
        """Rank all references, whatever ``width`` and ``copies`` say; see :meth:`ExactSearch.ranked_candidates`."""
        ids, scores = first_of(order_keys(self._block(rows), np.arange(len(self.references))), k + 1)
        return ids, scores, np.ones(len(rows), dtype=bool)
