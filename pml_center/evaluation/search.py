"""Exact nearest neighbours on faiss: checked inputs, bounded memory, no self-matches, ties in row order.

faiss computes scores as matrix products. Their last bits depend on the size of a block, on the number of threads and on
where in a block a row stands, so that of two equal references one may come out nearer. Here faiss only proposes
candidates. Their scores are computed again pair by pair, which gives equal vectors equal scores, and a query is settled
when its last neighbour beats everything that was not proposed by more than rounding can explain. The result is then a
function of the vectors alone.
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pml_center.checks import unknown_name
from pml_center.evaluation.inputs import as_array, as_matrix, check_positive

Similarity = Literal["cosine", "dot", "euclidean"]
Ids = NDArray[np.int64]
Matrix = NDArray[np.float32]

ENTRIES = 2**20  # numbers in the largest temporary array; all of them together then take about 50 MiB
SPARE = 8  # candidates beyond k, so that few queries need a second look
WIDEN = 4  # how many times more candidates a second look takes


def nearest_neighbours(
    queries: Any,
    k: int,
    references: Any = None,
    similarity: Similarity = "cosine",
    chunk_size: int | None = None,
) -> tuple[Ids, Matrix]:
    """The k nearest references of each query, exactly: ``argsort(-scores)[:, :k]`` without the (Q, N) matrix.

    Neighbours are ranked by score, largest first; equal scores by reference row, smallest first. The result depends
    neither on ``chunk_size`` nor on the number of threads.

    Args:
        queries: (Q, D) finite real numbers: a numpy array or memmap of any layout, or a tensor on any device.
        k: neighbours per query, at most the number of references (one less for leave-one-out).
        references: (N, D) rows to search in. None means leave-one-out: each query is searched for among the other
            queries. Its own row is left out by number, so exact duplicates of it stay.
        similarity: ``"cosine"``, ``"dot"``, or ``"euclidean"``, whose score is the negative squared distance: larger is
            always nearer. Scores are float32, and equal when they are equal in float32.
        chunk_size: at most this many queries at a time; None lets memory decide.

    Returns:
        ids, (Q, k) int64 rows of the references, and their scores, (Q, k) float32.

    Raises:
        TypeError: embeddings that are not real numbers.
        ValueError: NaN or infinity, a zero vector with ``"cosine"``, different widths, an empty set, ``k`` too large,
            an unknown similarity, or the same rows given as queries and as references.

    Example:
        >>> ids, scores = nearest_neighbours([[1, 0], [0, 1], [3, 4]], k=2)
        >>> ids
        array([[2, 1],
               [2, 0],
               [1, 0]])
        >>> scores.round(2)
        array([[0.6, 0. ],
               [0.8, 0. ],
               [0.8, 0.6]], dtype=float32)
    """
    search = ExactSearch(queries, references, similarity)
    chunks = search.chunks(k, chunk_size=chunk_size)
    ids = np.empty((len(search.queries), k), dtype=np.int64)
    scores = np.empty((len(search.queries), k), dtype=np.float32)
    for rows, near, near_scores in chunks:
        ids[rows], scores[rows] = near, near_scores
    return ids, scores


class ExactSearch:
    """Two checked sets of embeddings, searched in chunks by the rules of :func:`nearest_neighbours`.

    Args:
        queries: (Q, D) finite real numbers.
        references: (N, D) rows to search in, or None for leave-one-out.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.

    Raises:
        TypeError: embeddings that are not real numbers.
        ValueError: as for :func:`nearest_neighbours`.

    Example:
        >>> search = ExactSearch([[0.0], [1.0], [3.0]], similarity="euclidean")
        >>> [(rows.tolist(), ids.tolist()) for rows, ids, scores in search.chunks(k=1)]
        [([0, 1, 2], [[1], [0], [1]])]
    """

    def __init__(self, queries: Any, references: Any = None, similarity: Similarity = "cosine"):
        if similarity not in get_args(Similarity):
            names = get_args(Similarity)
            raise ValueError(unknown_name("similarity", str(similarity), names, f"Choose from {', '.join(names)}."))
        self.similarity = similarity
        self.leave_one_out = references is None
        if self.leave_one_out:
            self.queries, norms = _prepare(as_matrix(queries, "embeddings"), "embeddings", similarity)
            self.references, reference_norms = self.queries, norms
        else:
            queries, references = as_array(queries), as_array(references)
            shared = np.shares_memory(queries, references)
            queries, references = as_matrix(queries, "queries"), as_matrix(references, "references")
            _check_two_sets(queries, references, shared)
            self.queries, norms = _prepare(queries, "queries", similarity)
            self.references, reference_norms = _prepare(references, "references", similarity)
        self._rounding = _rounding(norms, reference_norms.max(), self.queries.shape[1], similarity)  # (Q,)

    @property
    def available(self) -> int:
        """How many neighbours a query can have."""
        return len(self.references) - self.leave_one_out

    def chunks(
        self, k: int, rows: Ids | None = None, chunk_size: int | None = None
    ) -> Iterator[tuple[Ids, Ids, Matrix]]:
        """Search for the neighbours of some queries, a chunk at a time.

        Args:
            k: neighbours per query, in [1, available].
            rows: (q,) rows of the queries to search for; None means all.
            chunk_size: at most this many queries at a time; None lets memory decide.

        Returns:
            An iterator of query rows (c,), ids (c, k) and scores (c, k). Each query comes once, in no fixed order.

        Raises:
            ValueError: ``k`` or ``chunk_size`` out of range.
        """
        check_positive("k", k)
        if k > self.available:
            left = " other than the query" if self.leave_one_out else ""
            raise ValueError(
                f"k must be at most {self.available}, the number of references{left}, got {k}. "
                "Ask for fewer neighbours or add references."
            )
        rows = np.arange(len(self.queries)) if rows is None else rows
        chunk_size = len(self.queries) if chunk_size is None else check_positive("chunk_size", chunk_size)
        width = min(k + self.leave_one_out + SPARE, len(self.references))
        return self._settle(rows, k, width, chunk_size)

    def _settle(self, rows: Ids, k: int, width: int, chunk_size: int) -> Iterator[tuple[Ids, Ids, Matrix]]:
        """Yield the queries that ``width`` candidates settle; look for the others among more."""
        size = max(1, min(chunk_size, ENTRIES // max(width, self.queries.shape[1])))
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            ids, scores, settled = self._nearest(chunk, k, width)
            yield chunk[settled], ids[settled], scores[settled]
            if not settled.all():
                yield from self._settle(chunk[~settled], k, min(WIDEN * width, len(self.references)), chunk_size)

    def _nearest(self, rows: Ids, k: int, width: int) -> tuple[Ids, Matrix, NDArray[np.bool_]]:
        """The k nearest of ``width`` candidates, and for each query whether they are the k nearest of all."""
        queries = self.queries[rows]
        ids, last = _candidates(queries, self.references, width, self.similarity)
        scores = _scores(queries, self.references, ids, self.similarity)
        if self.leave_one_out:
            scores[ids == rows[:, None]] = -np.inf
        order = np.empty(ids.shape, dtype=np.complex128)
        order.real, order.imag = -scores, ids  # complex numbers sort by real part, then by imaginary part
        order.sort(axis=1)
        ids, scores = order.imag[:, :k].astype(np.int64), -order.real[:, :k].astype(np.float32)
        return ids, scores, scores[:, -1] > last + self._rounding[rows]


def _candidates(queries: Matrix, references: Matrix, width: int, similarity: Similarity) -> tuple[Ids, NDArray]:
    """The references (q, width) that faiss finds nearest, and the score (q,) of the last of them, up to rounding."""
    import faiss

    if width == len(references):  # every reference is a candidate, and there is no other that could be nearer
        return np.tile(np.arange(width), (len(queries), 1)), np.full(len(queries), -np.inf)
    if similarity == "euclidean":
        distances, ids = faiss.knn(queries, references, width, metric=faiss.METRIC_L2)
        return ids, -distances[:, -1]
    scores, ids = faiss.knn(queries, references, width, metric=faiss.METRIC_INNER_PRODUCT)
    return ids, scores[:, -1]


def _scores(queries: Matrix, references: Matrix, ids: Ids, similarity: Similarity) -> Matrix:
    """The score of each candidate (q, width), computed from its own two vectors alone."""
    import faiss

    untyped: Any = faiss  # its type stubs do not know the two functions below
    pairwise = untyped.fvec_L2sqr_by_idx if similarity == "euclidean" else untyped.fvec_inner_products_by_idx
    scores = np.empty(ids.shape, dtype=np.float32)
    pointers = [faiss.swig_ptr(array) for array in (scores, queries, references, ids)]
    pairwise(*pointers, queries.shape[1], *ids.shape)
    return -scores if similarity == "euclidean" else scores


def _check_two_sets(queries: Matrix, references: Matrix, shared: bool) -> None:
    if queries.shape[1] != references.shape[1]:
        raise ValueError(
            f"queries and references must have the same width, got {queries.shape[1]} and {references.shape[1]} "
            "columns. Embed both with the same model."
        )
    if shared or np.array_equal(queries, references):
        raise ValueError(
            f"queries and references must be two sets, got rows that are in both (shapes {queries.shape} and "
            f"{references.shape}): each of them would find itself. Leave references out for leave-one-out, "
            "or take the queries out of the references."
        )


def _prepare(matrix: Matrix, name: str, similarity: Similarity) -> tuple[Matrix, NDArray[np.float64]]:
    """The rows (N, D) as faiss is to compare them, and their norms (N,)."""
    rows = max(1, ENTRIES // matrix.shape[1])
    norms = np.concatenate(
        [np.linalg.norm(matrix[i : i + rows].astype(np.float64), axis=1) for i in range(0, len(matrix), rows)]
    )
    if similarity != "cosine":
        return matrix, norms
    zero = np.flatnonzero(norms == 0)
    if len(zero):
        raise ValueError(
            f"{name} must have a direction for cosine similarity, got a zero vector in row {zero[0]} "
            f"({len(zero)} of {len(matrix)} rows). Remove these rows, or use similarity='euclidean'."
        )
    unit = np.divide(matrix, norms[:, None], out=np.empty_like(matrix), casting="same_kind")
    return unit, np.ones(len(unit))


def _rounding(norms: NDArray[np.float64], largest: float, width: int, similarity: Similarity) -> NDArray[np.float64]:
    """How far apart two float32 computations of a query's score can lie (Q,), in whatever order they add."""
    size = (norms + largest) ** 2 if similarity == "euclidean" else norms * largest
    float32 = np.finfo(np.float32)
    if size.max() > float32.max:
        raise ValueError(
            "embeddings must be small enough for their scores to fit float32, "
            f"got norms up to {norms.max():.3g} and {largest:.3g}. Scale them down, or use similarity='cosine'."
        )
    return (width + 4) * (float32.eps * size + float32.tiny)
