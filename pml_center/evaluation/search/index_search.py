"""Nearest neighbours among the candidates of an approximate index, and how many of the exact ones it finds."""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pml_center.arrays import joined
from pml_center.evaluation.search.exact_search import ExactSearch, first_of
from pml_center.evaluation.search.faiss_searcher import FaissSearcher
from pml_center.evaluation.search.ordering import order_keys
from pml_center.evaluation.search.references import Ids, Matrix, Similarity

SAMPLE = 1000  # queries whose recall is measured
DEPTH = 10  # neighbours of each


class IndexSearch(ExactSearch):
    """:class:`ExactSearch` among candidates that an index proposes: ranked exactly, but some neighbours may be missing.

    Args:
        queries: (Q, D) finite real numbers.
        references: (N, D), or a list of such matrices, which are joined in memory; None for leave-one-out.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        index: a string for ``faiss.index_factory``, or a ``knn_func`` of PML.
        options: the other arguments of :class:`ExactSearch`.

    Example:
        >>> search = IndexSearch([[0.0], [1.0], [3.0]], None, "euclidean", index="HNSW4")
        >>> [(rows.tolist(), ids.tolist()) for rows, ids, scores in search.chunks(k=1)]
        [([0, 1, 2], [[1, 2], [0, 2], [1, 0]])]
        >>> search.recall()
        1.0
    """

    def __init__(self, queries: Any, references: Any, similarity: Similarity, index: str | Callable, **options: Any):
        super().__init__(queries, None if references is None else joined(references), similarity, **options)
        self._kind = index if isinstance(index, str) else type(index).__name__
        # The rows have length 1 already where they are compared by cosine.
        self._plain: Similarity = "dot" if similarity == "cosine" else similarity
        self._knn: Callable = FaissSearcher(index, self._plain) if isinstance(index, str) else copy(index)
        self._trained = isinstance(self._knn, FaissSearcher)
        if isinstance(self._knn, FaissSearcher):
            self._knn.train(self.references.whole)

    @property
    def protocol(self) -> str:
        """How it searches, in a few words, and how many of the exact neighbours it finds."""
        found = f"finds {self.recall():.1%} of the first {DEPTH} neighbours"
        return f"{self._kind} {self.similarity} search ({found})"

    def recall(self) -> float:
        """The share of the exact first neighbours that are found, of a sample of the queries."""
        rows = np.random.default_rng(0).permutation(len(self.queries))[:SAMPLE]
        excluded = None if self.excluded is None else (self.excluded[0][rows], self.excluded[1])
        exact = ExactSearch(self.queries[rows], self.references.whole, self._plain, excluded, overlap=True)
        true, found = exact.nearest(DEPTH).ids, self.nearest(DEPTH, rows).ids
        hits = (found[:, :, None] == true[:, None]) & (found >= 0)[:, :, None]
        return int(hits.sum()) / int(np.minimum(exact.available, DEPTH).sum())

    def ranked_candidates(self, rows: Ids, k: int, width: int, copies: int) -> tuple[Ids, Matrix, NDArray[np.bool_]]:
        """Rank what the index proposes, which is all there is; see :meth:`ExactSearch.ranked_candidates`."""
        queries = torch.from_numpy(self.queries[rows])
        known = () if self._trained else (torch.from_numpy(self.references.whole),)
        ids = self._knn(queries, width, *known)[1].cpu().numpy()
        scores = self.pair_scores(np.repeat(rows, width), np.maximum(ids, 0).ravel()).reshape(ids.shape)
        scores[ids < 0] = -np.inf
        self.exclude(scores, rows, ids)
        ids, scores = first_of(order_keys(scores, ids), k + 1)
        return ids, scores, np.ones(len(rows), dtype=bool)
