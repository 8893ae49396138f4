"""Exact nearest neighbours on faiss: checked inputs, bounded memory, no self-matches, ties in row order.

faiss computes scores with matrix products, whose last bits depend on the size of a block, on the number of threads and
on the place of a row in it: of two equal references one may come out nearer. So faiss only proposes candidates here.
Their scores are computed again pair by pair, which gives equal vectors equal scores, and a query is done when its last
neighbour beats, by more than rounding can explain, everything that was not proposed. The result is then a function of
the vectors alone.
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pml_center.checks import unknown_name
from pml_center.evaluation.inputs import as_matrix

Similarity = Literal["cosine", "dot", "euclidean"]

ENTRIES = 2**20  # numbers in the largest temporary array: about 50 MiB for all of them together
SPARE = 16  # candidates beyond k, so that few queries need a second look


def nearest_neighbours(
    queries: Any,
    k: int,
    references: Any = None,
    similarity: Similarity = "cosine",
    chunk_size: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest references of each query, exactly: ``argsort(-scores)[:, :k]`` without the (Q, N) matrix.

    Neighbours are ranked by score, largest first, and equal scores by reference row, smallest first. Scores are float32;
    the result depends neither on ``chunk_size`` nor on the number of threads.

    Args:
        queries: (Q, D) numbers, finite: numpy array or memmap, tensor on any device, of any real dtype.
        k: neighbours per query, at most the number of references (one less for leave-one-out).
        references: (N, D) numbers to search in. None means leave-one-out: search among the queries, where each query's
            own row is left out by its row number, so that its exact duplicates stay.
        similarity: ``"cosine"`` in [-1, 1], ``"dot"``, or ``"euclidean"``: the negative squared distance, so that
            larger is always nearer.
        chunk_size: at most this many queries at a time; None lets memory decide.

    Returns:
        ids (Q, k) int64, rows of the references, and scores (Q, k) float32.

    Raises:
        TypeError: embeddings that are not real numbers.
        ValueError: NaN or infinity, a zero vector with ``"cosine"``, different widths, an empty set, ``k`` too large,
            an unknown similarity, or the same set given twice.

    Example:
        >>> ids, scores = nearest_neighbours([[1, 0], [0, 1], [3, 4]], k=2)
        >>> ids
        array([[2, 1],
               [2, 0],
               [1, 0]])
        >>> scores.round(1)
        array([[0.6, 0. ],
               [0.8, 0. ],
               [0.8, 0.6]], dtype=float32)
    """
    search = ExactSearch(queries, references, similarity)
    ids = np.empty((len(search.queries), k), dtype=np.int64)
    scores = np.empty((len(search.queries), k), dtype=np.float32)
    for rows, near, near_scores in search.chunks(k, chunk_size=chunk_size):
        ids[rows], scores[rows] = near, near_scores
    return ids, scores


class ExactSearch:
    """Checked embeddings, ready to be searched in chunks; see :func:`nearest_neighbours` for the rules.

    Args:
        queries: (Q, D) numbers.
        references: (N, D) numbers, or None for leave-one-out.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.

    Raises:
        TypeError: embeddings that are not real numbers.
        ValueError: embeddings that cannot be compared with this similarity.

    Example:
        >>> search = ExactSearch([[0.0], [1.0], [3.0]], similarity="euclidean")
        >>> [(rows.tolist(), ids.tolist()) for rows, ids, scores in search.chunks(k=1)]
        [([0, 1, 2], [[1], [0], [1]])]
    """

    def __init__(self, queries: Any, references: Any = None, similarity: Similarity = "cosine"):
        if similarity not in get_args(Similarity):
            known = get_args(Similarity)
            raise ValueError(unknown_name("similarity", str(similarity), known, f"Choose from {', '.join(known)}."))
        self.similarity = similarity
        self.leave_one_out = references is None
        self.queries = as_matrix(queries, "embeddings" if references is None else "queries")  # (Q, D)
        self.references = self.queries  # (N, D)
        if references is not None:
            self.references = as_matrix(references, "references")
            self._check_two_sets(queries, references)
        self._prepare()

    @property
    def available(self) -> int:
        """How many references a query can have as neighbours."""
        return len(self.references) - self.leave_one_out

    def chunks(
        self, k: int, rows: NDArray[np.int64] | None = None, chunk_size: int | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Search, a chunk of queries at a time.

        Args:
            k: neighbours per query, in [1, available].
            rows: query rows to search for; None means all of them.
            chunk_size: at most this many queries at a time; None lets memory decide.

        Returns:
            An iterator of rows (q,), ids (q, k) and scores (q, k). Each row comes once; rows come in any order.

        Raises:
            ValueError: ``k`` or ``chunk_size`` out of range.
        """
        check_positive_integer("k", k)
        if chunk_size is not None:
            check_positive_integer("chunk_size", chunk_size)
        if k > self.available:
            left = ", without the query itself," if self.leave_one_out else ""
            raise ValueError(
                f"k must be at most {self.available} because there are {len(self.references)} references, got {k}. "
                f"A query{left} has no more neighbours; ask for fewer or add references."
            )
        rows = np.arange(len(self.queries)) if rows is None else rows
        width = min(k + self.leave_one_out + SPARE, len(self.references))
        return self._settle(rows, k, width, chunk_size or len(rows))

    def _settle(self, rows, k, width, chunk_size):
        """Yield the queries that ``width`` candidates settle, and search for the others among twice as many."""
        size = max(1, min(chunk_size, ENTRIES // max(width, self.queries.shape[1])))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            ids, scores, settled = self._nearest(part, k, width)
            yield part[settled], ids[settled], scores[settled]
            if not settled.all():
                yield from self._settle(part[~settled], k, min(2 * width, len(self.references)), chunk_size)

    def _nearest(self, rows, k, width):
        """Ids (q, k) and scores (q, k) among ``width`` candidates, and whether no other reference can be among them."""
        queries = self.queries[rows]
        ids, last = self._candidates(queries, width)
        scores = self._scores(queries, ids)
        if self.leave_one_out:
            scores[ids == rows[:, None]] = -np.inf
        order = np.empty(ids.shape, dtype=np.complex128)  # complex numbers sort by real part, then by imaginary part
        order.real, order.imag = -scores, ids
        order.sort(axis=1)
        ids = order.imag[:, :k].astype(np.int64)
        scores = -order.real[:, :k].astype(np.float32)
        settled = scores[:, -1] > last + self.rounding[rows]
        return ids, scores, settled | (width == len(self.references))

    def _candidates(self, queries, width):
        """The rows (q, width) that faiss finds nearest, and the score (q,) of the last, up to rounding."""
        import faiss

        euclidean = self.similarity == "euclidean"
        metric = faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT
        values, ids = faiss.knn(queries, self.references, width, metric=metric)
        return ids, -values[:, -1] if euclidean else values[:, -1]

    def _scores(self, queries, ids):
        """Scores (q, width) of the candidates, each from its own two vectors alone."""
        import faiss

        scores = np.empty(ids.shape, dtype=np.float32)
        euclidean = self.similarity == "euclidean"
        pairwise = faiss.fvec_L2sqr_by_idx if euclidean else faiss.fvec_inner_products_by_idx
        pairwise(*map(faiss.swig_ptr, (scores, queries, self.references, ids)), queries.shape[1], *ids.shape)
        return -scores if euclidean else scores

    def _check_two_sets(self, queries, references):
        if self.queries.shape[1] != self.references.shape[1]:
            raise ValueError(
                f"queries and references must have the same width, got {self.queries.shape[1]} and "
                f"{self.references.shape[1]} columns. Embed both with the same model."
            )
        same = queries is references or _share_memory(queries, references)
        if same or np.array_equal(self.queries, self.references):
            raise ValueError(
                f"queries and references must be two sets, got the same rows in both (shapes {self.queries.shape} and "
                f"{self.references.shape}), where each query finds itself. Leave references out for leave-one-out, "
                "or take the queries out of the references."
            )

    def _prepare(self):
        """Normalise for cosine, and bound how far two float32 computations of one score can lie apart: rounding (Q,)."""
        norms = _norms(self.queries)
        reference_norms = norms if self.leave_one_out else _norms(self.references)
        if self.similarity == "cosine":
            self.queries = _normalise(self.queries, norms, "embeddings" if self.leave_one_out else "queries")
            if not self.leave_one_out:
                self.references = _normalise(self.references, reference_norms, "references")
            ...
