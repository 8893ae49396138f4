"""Where the relevant references of some queries stand: what a search finds out, and what metrics are functions of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import as_array

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Where the relevant references of Q queries stand, as G groups of equal score that hold at least one of them.

    Args:
        relevant: (Q,) how many references with the query's label there are, R.
        depth: how many neighbours were looked at; nothing is known beyond.
        query: (G,) the query of each group; groups are sorted by query, and best first within one.
        before: (G,) how many references come before the group.
        size: (G,) how many are in it.
        hits: (G,) how many of these are relevant, at least 1.
        hits_before: (G,) how many of those before are relevant.

    Example:
        >>> ranking = Ranking.of(np.array([[True, False, True]]), np.array([2]))
        >>> ranking.before, ranking.hits_before
        (array([0, 2]), array([0, 1]))
    """

    relevant: Counts
    depth: int
    query: Counts
    before: Counts
    size: Counts
    hits: Counts
    hits_before: Counts

    @classmethod
    def of(cls, hits: Hits, relevant: Counts, depth: int | None = None) -> "Ranking":
        """The ranking that the first K neighbours give.

        Args:
            hits: (Q, K) whether the i-th neighbour has the query's label; the query itself removed.
            relevant: (Q,) how many references with the query's label there are, among the first K or beyond.
            depth: how many neighbours were looked at, where the gallery has fewer than that; None means K.
        """
        hits, relevant = as_array(hits, "hits"), as_array(relevant, "relevant")
        if hits.ndim != 2 or hits.dtype.kind not in "biu" or relevant.shape != hits.shape[:1]:
            raise ValueError(
                f"hits must be booleans (queries, k), and relevant one count per query, got {hits.dtype} of "
                f"shape {hits.shape} and shape {relevant.shape}. Compare the labels of the neighbours with the query's."
            )
        if relevant.dtype.kind not in "iu":
            raise TypeError(f"relevant must be integers, got dtype {relevant.dtype}. Count the references per query.")
        query, before = np.nonzero(hits)
        ones = np.ones_like(query)
        found = np.count_nonzero(hits, axis=1)
        hits_before = np.arange(len(query)) - np.repeat(found.cumsum() - found, found)
        depth = hits.shape[1] if depth is None else depth
        return cls(np.asarray(relevant, dtype=np.int64), depth, query, before, ones, ones, hits_before)

    def inside(self, k: int | Counts) -> Counts:
        """How many members of each group (G,) stand among the first k, one number or one for each query.

        Raises:
            ValueError: ``k`` beyond ``depth``.
        """
        deepest = int(np.max(k, initial=0))
        if deepest > self.depth:
            raise ValueError(
                f"k must be at most the number of neighbours per query ({self.depth}), got {deepest}. "
                "Search for more neighbours: with fewer the metric would come out wrong."
            )
        k = np.broadcast_to(k, self.relevant.shape)[self.query]
        return np.asarray(np.clip(k - self.before, 0, self.size), dtype=np.int64)

    def sum(self, values: Values | Counts) -> Values:
        """Add up what the groups (G,) contribute to their query, (Q,)."""
        weights = np.asarray(values, dtype=np.float64)
        return np.asarray(np.bincount(self.query, weights, len(self.relevant)), dtype=np.float64)

    def check_complete(self) -> None:
        """All relevant references must have been found.

        Raises:
            ValueError: some stand beyond ``depth``.
        """
        missing = np.flatnonzero(self.sum(self.hits) < self.relevant)
        if len(missing):
            raise ValueError(
                f"hits must hold all relevant references, got fewer for query {missing[0]} ({len(missing)} of "
                f"{len(self.relevant)} queries). Rank the whole gallery: with less the metric comes out wrong."
            )
