"""Exact nearest neighbours on faiss: checked inputs, bounded memory, no self-matches, ties in row order.

faiss computes scores as matrix products. Their last bits depend on the size of a block, on the number of threads and on
where in a block a row stands, so that of two equal references one may come out nearer. Here faiss only proposes
candidates. Their scores are computed again pair by pair, which gives equal vectors equal scores, and a query is settled
when its last neighbour beats everything that was not proposed by more than rounding can explain. The result is then a
function of the vectors alone.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import ENTRIES, Names, check_count, check_width, joined
from pml_center.checks import check_choices
from pml_center.evaluation.search.ordering import Keys, order_keys, rows_of, scores_of
from pml_center.evaluation.search.references import Ids, Matrix, References, Similarity, checked_rows

SPARE = 2  # candidates beyond k, so that few queries need a second look
WIDEN = 4  # how many times more candidates a second look takes
# Queries and references in a matrix product of faiss. Its own 4096 and 1024 need the same memory and 6 % more time.
BLOCK = {"distance_compute_blas_query_bs": 1024, "distance_compute_blas_database_bs": 4096}


class Neighbours(NamedTuple):
    """The first neighbours of every query, nearest first; id -1 and score -inf where a query has no more."""

    ids: Ids
    """(Q, K) rows of the references."""
    scores: Matrix
    """(Q, K), larger is nearer."""

    @classmethod
    def none(cls, queries: int, k: int = 0) -> "Neighbours":
        """No neighbours yet, with room for k of each query."""
        return cls(np.full((queries, k), -1), np.full((queries, k), -np.inf, dtype=np.float32))

    def put(self, rows: Ids, ids: Ids, scores: Matrix) -> None:
        """Keep the first of the neighbours (q, n) of some queries, as many as there is room for."""
        k = min(ids.shape[1], self.ids.shape[1])
        self.ids[rows, :k], self.scores[rows, :k] = ids[:, :k], scores[:, :k]


def nearest_neighbours(
    queries: Any,
    k: int,
    references: Any = None,
    similarity: Similarity = "cosine",
    chunk_size: int | None = None,
) -> Neighbours:
    """The k nearest references of each query, exactly: ``argsort(-scores)[:, :k]`` without the (Q, N) matrix.

    Neighbours are ranked by score, largest first; equal scores by reference row, smallest first. The result depends
    neither on ``chunk_size`` nor on the number of threads or of parts.

    Args:
        queries: (Q, D) finite real numbers: a numpy array or memmap of any layout, or a tensor on any device.
        k: neighbours per query, at most the number of references (one less for leave-one-out).
        references: (N, D) rows to search in, or a list of such matrices, which are searched one after the other: with
            memory-mapped files, memory holds one of them at a time. None means leave-one-out: each query is searched
            for among the other queries. Its own row is left out by number, so exact duplicates of it stay.
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
    if check_count("k", k) > (fewest := search.available.min()):
        left = " other than the query" if search.leave_one_out else ""
        raise ValueError(
            f"k must be at most {fewest}, the number of references{left}, got {k}. "
            "Ask for fewer neighbours or add references."
        )
    return search.nearest(k, chunk_size=chunk_size)


class ExactSearch:
    """Two checked sets of embeddings, searched in chunks by the rules of :func:`nearest_neighbours`.

    Args:
        queries: (Q, D) finite real numbers.
        references: (N, D) rows to search in, or a list of such matrices; None for leave-one-out.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        excluded: integers (Q,) and (N,) in [0, ...): references with the number of a query do not exist for it. None
            means the query itself for leave-one-out, and none otherwise.
        overlap: the queries may be among the references, because ``excluded`` says which they are.
        names: what to call the rows of the queries and of the references in an error, e.g. their paths.
        called: what to call the two sets in an error.

    Raises:
        TypeError: embeddings that are not real numbers.
        ValueError: as for :func:`nearest_neighbours`.

    Example:
        >>> search = ExactSearch([[0.0], [1.0], [3.0]], similarity="euclidean")
        >>> [(rows.tolist(), ids.tolist()) for rows, ids, scores in search.chunks(k=1)]
        [([0, 1, 2], [[1, 2], [0, 2], [1, 0]])]
    """

    def __init__(
        self,
        queries: Any,
        references: Any = None,
        similarity: Similarity = "cosine",
        excluded: tuple[Ids, Ids] | None = None,
        overlap: bool = False,
        names: tuple[Names, Names] = (None, None),
        called: tuple[str, str] = ("queries", "references"),
    ):
        check_choices(similarity=(similarity, Similarity))
        self.similarity = similarity
        self.leave_one_out = references is None
        if self.leave_one_out:
            self.queries, norms = checked_rows(joined(queries), "embeddings", similarity, names[0])
            self.references = References(self.queries, "embeddings", "dot")  # they are prepared already
        else:
            queries = joined(queries, called[0])
            self.queries, norms = checked_rows(queries, called[0], similarity, names[0])
            self.references = References(references, called[1], similarity, names[1])
            check_width(queries, self.references.parts[0], *called)
            if not overlap:
                check_two_sets(queries, self.references.parts, *called)
                _check_other_images(self, *names, *called)
        self.rounding = _rounding(norms, self.references.largest, self.queries.shape[1], similarity)  # (Q,)
        if excluded is None and self.leave_one_out:
            rows = np.arange(len(self.queries))
            excluded = (rows, rows)
        self.excluded = excluded

    @property
    def protocol(self) -> str:
        """How it searches, in a few words."""
        return f"exact {self.similarity} search"

    @property
    def available(self) -> Ids:
        """How many neighbours each query can have, (Q,)."""
        return len(self.references) - self.left_out

    @property
    def left_out(self) -> Ids:
        """How many references do not exist for each query, (Q,)."""
        if self.excluded is None:
            return np.zeros(len(self.queries), dtype=np.int64)
        own, theirs = self.excluded
        return np.bincount(theirs, minlength=int(own.max()) + 1)[own]

    def chunks(
        self, k: int | Ids, rows: Ids | None = None, chunk_size: int | None = None
    ) -> Iterator[tuple[Ids, Ids, Matrix]]:
        """Search for the neighbours of some queries, a chunk at a time.

        Args:
            k: how many neighbours of every query, or of each (Q,); where fewer are ``available``, these.
            rows: (q,) the queries to search for; None means all.
            chunk_size: at most this many queries at a time; None lets memory decide.

        Returns:
            An iterator of query rows (c,), ids and scores (c, K); id -1 and score -inf where a query has no more
            neighbours. K is one more than the largest k of the chunk, or all there are. What stands behind the k of a
            query may not be its next neighbour, but its score is equal to the last one's if the next neighbour's is.
            Each query comes once, in no fixed order.

        Raises:
            ValueError: ``chunk_size`` that is not a positive integer.
        """
        chunk_size = len(self.queries) if chunk_size is None else check_count("chunk_size", chunk_size)
        needed = np.minimum(k, self.available)  # (Q,)
        widths = needed + self.left_out + SPARE
        copies = int(widths.max())  # behind so many equal references, another is not among the nearest
        rows = np.arange(len(self.queries)) if rows is None else rows
        return self._settle(rows[np.argsort(widths[rows], kind="stable")], needed, widths, copies, chunk_size)

    def nearest(self, k: int, rows: Ids | None = None, chunk_size: int | None = None) -> Neighbours:
        """The first k neighbours of some queries; arguments as of :meth:`chunks`."""
        found = Neighbours.none(len(self.queries), k)
        for near, ids, scores in self.chunks(k, rows, chunk_size) if k else ():
            found.put(near, ids, scores)
        return found if rows is None else Neighbours(found.ids[rows], found.scores[rows])

    def block_size(self, entries: int) -> int:
        """How many queries have blocks of at most so many scores."""
        return max(1, entries // self.references.longest)

    def blocks(self, rows: Ids) -> Iterator[tuple[int, Matrix]]:
        """The scores of all references for some queries, up to ``rounding``; minus infinity where excluded.

        Returns:
            An iterator of the parts of the references: the number of the first, and the scores (q, n).
        """
        queries = self.queries[rows]
        for ids, references in self.references.open():
            block = queries @ references.T
            if self.similarity == "euclidean":
                block *= 2
                block -= np.square(queries).sum(axis=1, keepdims=True)
                block -= np.einsum("ij,ij->i", references, references)
            if self.excluded is not None:
                places, excluded = self._excluded_members.of(self.excluded[0][rows])
                inside = (ids[0] <= excluded) & (excluded <= ids[-1])
                block[places[inside], excluded[inside] - ids[0]] = -np.inf
            yield int(ids[0]), block

    def exclude(self, scores: Matrix, rows: Ids, ids: Ids) -> None:
        """Write minus infinity over the scores (q, n) of references, (q, n) or (n,), that do not exist for queries."""
        if self.excluded is not None:
            scores[self.excluded[1][ids] == self.excluded[0][rows, None]] = -np.inf

    def pair_scores(self, queries: Ids, references: Ids) -> Matrix:
        """The scores (P,) of some pairs of a query and a reference, each computed from its own two vectors alone."""
        scores = np.empty(len(queries), dtype=np.float32)
        for places, rows, own in self.references.split(references):
            scores[places] = _pairwise(self.queries, queries[places], rows, own, self.similarity)
        return scores

    def exact_scores(self, rows: Ids, places: Ids, ids: Ids) -> Matrix:
        """The scores (P,) of the references ``ids`` for the queries ``rows[places]``."""
        return self.pair_scores(rows[places], ids)

    def chunk_length(self, width: int) -> int:
        """How many queries keep the temporary arrays small, with so many candidates each."""
        return max(1, ENTRIES // max(int(width), self.queries.shape[1]))

    def ranked_candidates(self, rows: Ids, k: int, width: int, copies: int) -> tuple[Ids, Matrix, NDArray[np.bool_]]:
        """Rank candidates for some queries; with :meth:`chunk_length` what another way to search provides.

        Each part of the references proposes ``width`` candidates; a part that is smaller proposes all it has.

        Args:
            rows: (q,) the queries.
            k: how many neighbours are wanted.
            width: how many candidates to rank.
            copies: a reference behind so many equal ones need not be looked at.

        Returns:
            The first k + 1 candidates as ids and scores, (q, k + 1) or all there are, and for each query whether k of
            them are the k nearest of all (q,).
        """
        queries = self.queries[rows]
        keys, last, whole = None, np.full(len(rows), -np.inf), True
        for numbers, references in self.references.open(copies):
            ids, bound = _candidates(queries, references, min(width, len(references)), self.similarity)
            scores = _scores(queries, references, ids, self.similarity)
            ids = numbers[ids]
            self.exclude(scores, rows, ids)
            found = order_keys(scores, ids)
            keys = found if keys is None else smallest(np.concatenate([keys, found], axis=1), k + 1)
            last = np.maximum(last, bound)
            whole &= width >= len(references)
        assert keys is not None
        ids, scores = first_of(keys, k + 1)
        settled = np.full(len(rows), whole or k == 0)
        if not settled.all():
            settled = scores[:, k - 1] > last + self.rounding[rows]
        return ids, scores, settled

    @cached_property
    def _excluded_members(self) -> "Members":
        assert self.excluded is not None
        return Members(self.excluded[1])

    def _settle(
        self, rows: Ids, needed: Ids, widths: Ids, copies: int, chunk_size: int
    ) -> Iterator[tuple[Ids, Ids, Matrix]]:
        """Yield the queries that ``widths`` (Q,) candidates settle; look for the others among more.

        Rows come with their widths ascending; references behind so many ``copies`` of them are not looked at.
        """
        start = 0
        while start < len(rows):
            chunk = rows[start : start + min(chunk_size, self.chunk_length(widths[rows[start]]))]
            chunk = chunk[: self.chunk_length(widths[chunk[-1]])]
            width = min(int(widths[chunk[-1]]), self.references.longest)
            k = int(needed[chunk].max())
            ids, scores, settled = self.ranked_candidates(chunk, k, width, copies)
            if settled.any():
                yield chunk[settled], ids[settled], scores[settled]
            if not settled.all():
                wider = np.full(len(widths), WIDEN * width)
                yield from self._settle(chunk[~settled], needed, wider, copies, chunk_size)
            start += len(chunk)


class Members:
    """The rows of each class.

    Args:
        codes: (N,) the class of each row, integers from 0.

    Example:
        >>> owners, rows = Members(np.array([0, 1, 0])).of(np.array([1, 0]))
        >>> owners, rows
        (array([0, 1, 1]), array([1, 0, 2]))
    """

    def __init__(self, codes: Ids):
        self._rows = np.argsort(codes, kind="stable")
        self._counts = np.bincount(codes)
        self._starts = self._counts.cumsum() - self._counts

    def of(self, codes: Ids) -> tuple[Ids, Ids]:
        """All rows of some classes: the position in ``codes`` of the class that a row belongs to, and the row."""
        known = codes < len(self._counts)
        counts = np.where(known, self._counts[codes * known], 0)
        owners = np.repeat(np.arange(len(codes)), counts)
        return owners, self._rows[spans(self._starts[codes * known], counts)]


def spans(starts: Ids, lengths: Ids) -> Ids:
    """The integers of some ranges, one range after the other.

    Example:
        >>> spans(np.array([5, 0]), np.array([2, 3]))
        array([5, 6, 0, 1, 2])
    """
    ends = lengths.cumsum()
    return np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths)


def import_faiss() -> Any:
    """The faiss module, without its incomplete type stubs.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("faiss must be installed to search. Install it with: pip install faiss-cpu") from error
    return faiss


def first_of(keys: Keys, k: int) -> tuple[Ids, Matrix]:
    """The first of some keys (c, n), which change their order: rows (c, k), -1 where there are no more, and scores."""
    keys = smallest(keys, k)
    keys.sort(axis=1)
    ids, scores = rows_of(keys), scores_of(keys)
    ids[scores == -np.inf] = -1
    return ids, scores


def smallest(keys: Keys, k: int) -> Keys:
    """The smallest k of some keys (c, n), which change their order; all where there are no more."""
    if k < keys.shape[1]:
        keys.partition(k, axis=1)
    return keys[:, :k]


def _pairwise(queries: Matrix, rows: Ids, references: Matrix, ids: Ids, similarity: Similarity) -> Matrix:
    """The scores (P,) of the pairs of a query, ``rows``, and a reference, ``ids``."""
    faiss = import_faiss()
    pairwise = faiss.pairwise_indexed_inner_product
    if similarity == "euclidean":
        pairwise = faiss.pairwise_indexed_L2sqr
    rows, ids = np.ascontiguousarray(rows), np.ascontiguousarray(ids)
    scores = np.empty(len(rows), dtype=np.float32)
    threads = faiss.omp_get_max_threads()
    # Waking threads takes longer than few pairs do: those of the last matrix product may still be spinning.
    faiss.omp_set_num_threads(threads if len(rows) * queries.shape[1] > 32 * ENTRIES else 1)
    try:
        pairwise(queries.shape[1], len(rows), *map(faiss.swig_ptr, (queries, rows, references, ids, scores)))
    finally:
        faiss.omp_set_num_threads(threads)
    return -scores if similarity == "euclidean" else scores


def _candidates(queries: Matrix, references: Matrix, width: int, similarity: Similarity) -> tuple[Ids, NDArray]:
    """The references (q, width) that faiss finds nearest, and the score (q,) of the last of them, up to rounding."""
    faiss = import_faiss()
    if width == len(references):  # every reference is a candidate, and there is no other that could be nearer
        return np.tile(np.arange(width), (len(queries), 1)), np.full(len(queries), -np.inf)
    metric, sign = (faiss.METRIC_L2, -1) if similarity == "euclidean" else (faiss.METRIC_INNER_PRODUCT, 1)
    before = {name: getattr(faiss.cvar, name) for name in BLOCK}
    try:
        for name, size in BLOCK.items():
            setattr(faiss.cvar, name, size)
        values, ids = faiss.knn(queries, references, width, metric=metric)
    finally:
        for name, size in before.items():
            setattr(faiss.cvar, name, size)
    return ids, sign * values[:, -1]


def _scores(queries: Matrix, references: Matrix, ids: Ids, similarity: Similarity) -> Matrix:
    """The score of each candidate (q, width), computed from its own two vectors alone."""
    faiss = import_faiss()
    pairwise = faiss.fvec_L2sqr_by_idx if similarity == "euclidean" else faiss.fvec_inner_products_by_idx
    scores = np.empty(ids.shape, dtype=np.float32)
    pointers = [faiss.swig_ptr(array) for array in (scores, queries, references, ids)]
    pairwise(*pointers, queries.shape[1], *ids.shape)
    return -scores if similarity == "euclidean" else scores


def duplicates(search: ExactSearch, nearest: Ids) -> int:
    """How many queries have the very embedding of their ``nearest`` reference (Q,), -1 where there is none."""
    count = 0
    for start in range(0, len(nearest), 1024):
        some = nearest[start : start + 1024]
        equal = (search.queries[start : start + 1024] == search.references[some]).all(axis=1)
        count += int((equal & (some >= 0)).sum())
    return count


def queries_among(duplicates: int, queries: int) -> tuple[str, ...]:
    """A warning where a gallery seems to hold the queries."""
    if 2 * duplicates <= queries:
        return ()
    return (
        f"{duplicates:,} of {queries:,} queries have their very embedding in the gallery. Does it hold the "
        "queries themselves?",
    )


def image_named(name: object) -> str:
    """One text for the image that a name stands for, whether its path is relative or not, and whatever separates it.

    Example:
        >>> image_named("photos/../photos/a.png") == image_named(os.path.abspath("photos") + "\\\\a.png")
        True
    """
    return os.path.abspath(str(name).replace("\\", "/"))


def _check_other_images(search: ExactSearch, names: Names, reference_names: Names, query: str, reference: str) -> None:
    """No image may be in both sets: its name and its embedding say together that it is the same."""
    if names is None or reference_names is None:
        return
    rows = {image_named(name): row for row, name in enumerate(names)}
    ids = [number for number, name in enumerate(reference_names) if image_named(name) in rows]
    own = np.array([rows[image_named(reference_names[number])] for number in ids], dtype=np.int64)
    same = (search.queries[own] == search.references[np.array(ids, dtype=np.int64)]).all(axis=1)
    if same.any():
        first = names[own[np.argmax(same)]]
        raise ValueError(
            f"{query} and {reference} must be of other images, got {first!r} in both ({same.sum():,} of {len(names):,} "
            f"rows): it would find itself. Take these out of one of them."
        )


def check_two_sets(queries: NDArray, references: list[NDArray], query: str, reference: str) -> None:
    """Queries and references must be two sets of rows of one width.

    Raises:
        ValueError: the same rows, or rows that both share in memory.
    """
    starts = np.cumsum([0, *map(len, references)])
    equal = len(queries) == starts[-1] and all(map(np.array_equal, np.split(queries, starts[1:-1]), references))
    if equal or any(np.shares_memory(queries, part) for part in references):
        raise ValueError(
            f"{query} and {reference} must be two sets, got rows that are in both (shapes {queries.shape} and "
            f"{(int(starts[-1]), *references[0].shape[1:])}): each of them would find itself. Leave {reference} out "
            f"for leave-one-out, or take the {query} out of the {reference}."
        )


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
