"""What a retrieval evaluation has to find: two sets, their classes, and which pairs count."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import ENTRIES, class_codes, joined, parts_of
from pml_center.evaluation.embed import Samples
from pml_center.evaluation.search import (
    Counts,
    DistanceSearch,
    ExactSearch,
    Ids,
    IndexSearch,
    Neighbours,
    Ranking,
    Ties,
    native_similarity,
    rank_gallery,
)
from pml_center.notebooks import progress_bar


class Ranked(NamedTuple):
    """Some queries, and where their relevant references stand."""

    rows: Ids
    """(c,) which queries."""
    ranking: Ranking
    """Of these queries."""
    tied: NDArray[np.bool_]
    """(c,) whether a tie may decide about a metric: of a hit and a miss, or of the last neighbour and the next."""
    neighbours: Neighbours | None = None
    """Their first neighbours (c, k), where they were ranked among these."""
    absent: Iterator["WithoutClass"] = iter(())
    """How they would stand without each of the classes that they were mistaken for, as far as that is known."""


class WithoutClass(NamedTuple):
    """Some queries, each without the references of one class."""

    rows: Ids
    """(p,) which queries."""
    gone: Ids
    """(p,) the class that is not there."""
    ranking: Ranking
    """What is then found."""


@dataclass(frozen=True, eq=False)
class RetrievalTask:
    """Queries to search for among references, and their classes.

    Args:
        search: the two sets, and the references that do not exist for a query.
        classes: the labels that occur, indexed by code.
        codes: (Q,) the class of each query.
        reference_codes: (N,) the class of each reference.
        relevant: (Q,) how many references have the query's label and exist for it, R.

    Example:
        >>> task = RetrievalTask.of(Samples([[1.0, 0], [0, 1], [1, 1]], ["a", "b", "a"]))
        >>> task.classes, task.codes, task.relevant
        (['a', 'b'], array([0, 1, 0]), array([1, 0, 1]))
    """

    search: ExactSearch
    classes: list[Hashable]
    codes: Ids
    reference_codes: Ids
    relevant: Counts

    @classmethod
    def of(
        cls,
        queries: Samples,
        references: Samples | None = None,
        similarity: Any = "cosine",
        index: Any = "Flat",
        included: bool = False,
        overlap: bool = False,
    ) -> "RetrievalTask":
        """Check two sets and number their classes.

        Args:
            queries: embeddings, labels and perhaps groups and names.
            references: likewise; None means leave-one-out.
            similarity: a name or a PML distance.
            index: ``"Flat"``, a string for ``faiss.index_factory`` or a ``knn_func``.
            included: the first Q references are the queries, each of which is left out for itself.
            overlap: queries may be among the references, and then find themselves.

        Raises:
            TypeError: embeddings that are not real numbers, labels or groups that are not hashable.
            ValueError: as for :func:`nearest_neighbours`; labels or groups that do not match their rows; groups of one
                set only; first references that are not the queries.
        """
        classes: dict[Hashable, int] = {}
        codes = reference_codes = _codes(queries.labels, queries, "labels", classes)
        if references is not None:
            reference_codes = _codes(references.labels, references, "gallery_labels", classes)
        excluded = _same_label_and_group(queries, references, codes, reference_codes)
        if included and references is not None:
            _check_included(queries, references, codes, reference_codes)
            excluded = np.arange(len(codes)), np.arange(len(reference_codes))
        search = _open_search(queries, references, similarity, index, excluded, included or overlap)
        of_class = np.bincount(reference_codes, minlength=len(classes))
        # What is left out shares the label of the query.
        return cls(search, list(classes), codes, reference_codes, of_class[codes] - search.left_out)

    def first_neighbours(
        self, needed: Counts, kept: int, chunk_size: int | None = None, depth: int = 0
    ) -> Iterator[Ranked]:
        """Rank among the first neighbours of each query.

        Args:
            needed: (Q,) how many neighbours the metrics of a query look at.
            kept: how many neighbours to give beside the ranking.
            chunk_size: at most this many queries at a time.
            depth: how many neighbours the metrics look at, were there so many.
        """
        for rows, ids, scores in self.search.chunks(np.maximum(needed, kept), chunk_size=chunk_size):
            codes = self.reference_codes[ids]
            hits = (codes == self.codes[rows, None]) & (ids >= 0)
            place = np.arange(1, hits.shape[1])
            last = needed[rows, None]
            # Whom the last neighbour ties with is not all known, so that hits may be among them.
            ties = (scores[:, 1:] == scores[:, :-1]) & (ids[:, 1:] >= 0)
            ties &= (hits[:, 1:] != hits[:, :-1]) & (place < last) | (place == last)
            deepest = int(needed[rows].max())
            ranking = Ranking.of(hits[:, :deepest], self.relevant[rows], max(deepest, depth))
            # What stands behind may not be next.
            known = (ids >= 0) & (np.arange(ids.shape[1]) < np.maximum(last, kept))
            absent = self._without_classes(rows, codes, known, ranking.depth)
            found = Neighbours(ids[:, :kept].copy(), scores[:, :kept].copy())  # lets go of the others
            yield Ranked(rows, ranking, ties.any(axis=1), found, absent)

    def _without_classes(self, rows: Ids, codes: Ids, known: NDArray[np.bool_], depth: int) -> Iterator[WithoutClass]:
        """What neighbours of classes ``codes`` (c, K), where ``known``, would be without those of one other class."""
        hits = (codes == self.codes[rows, None]) & known
        behind = np.maximum.accumulate(hits[:, ::-1], axis=1)[:, ::-1] & ~hits & known  # a hit comes later
        query, place = np.nonzero(behind)
        pairs = np.unique(query * len(self.classes) + codes[query, place])
        for some in np.array_split(pairs, -(-len(pairs) * codes.shape[1] // ENTRIES)) if len(pairs) else ():
            query, gone = np.divmod(some, len(self.classes))
            ranking = Ranking.of(hits[query], self.relevant[rows[query]], max(depth, codes.shape[1]))
            fewer = np.cumsum(codes[query] == gone[:, None], axis=1)[ranking.query, ranking.before]
            yield WithoutClass(rows[query], gone, replace(ranking, before=ranking.before - fewer))

    def whole_gallery(self, ties: Ties, deepest: int, chunk_size: int | None = None) -> Iterator[Ranked]:
        """Rank the whole gallery for the queries that have something to find; see :func:`rank_gallery`.

        Args:
            ties: what becomes of equal scores.
            deepest: how many neighbours the metrics look at, were there so many.
            chunk_size: at most this many queries at a time.
        """
        some = np.flatnonzero(self.relevant)
        for rows, ranking, tied in rank_gallery(self.search, self.codes, self.reference_codes, some, ties, chunk_size):
            yield Ranked(rows, replace(ranking, depth=max(ranking.depth, deepest)), tied)


def _open_search(
    queries: Samples,
    references: Samples | None,
    similarity: Any,
    index: Any,
    excluded: tuple[Ids, Ids] | None,
    overlap: bool,
) -> ExactSearch:
    native: Any = similarity if isinstance(similarity, str) else native_similarity(similarity)
    sets = (queries.embeddings, None if references is None else references.embeddings)
    options: dict[str, Any] = {
        "excluded": excluded,
        "overlap": overlap,
        "names": (queries.names, None if references is None else references.names),
        "called": ("embeddings", "gallery"),
    }
    if native is None:
        return DistanceSearch(*sets, similarity, **options)
    if isinstance(index, str) and index == "Flat":
        return ExactSearch(*sets, native, **options)
    return IndexSearch(*sets, native, index, **options)


def _codes(values: Any, samples: Samples, name: str, known: dict[Hashable, int]) -> Ids:
    rows = sum(len(part) if part.ndim else 0 for part in parts_of(samples.embeddings))
    return class_codes(values, rows, name, known)


def _same_label_and_group(
    queries: Samples, references: Samples | None, codes: Ids, reference_codes: Ids
) -> tuple[Ids, Ids] | None:
    """A number for each pair of a label and a group, of the queries and of the references."""
    if references is not None and (queries.groups is None) != (references.groups is None):
        given = "gallery_groups" if queries.groups is None else "query_groups"
        raise ValueError(
            f"query_groups and gallery_groups must come together, got only {given}. Pass both, or neither."
        )
    if queries.groups is None:
        return None
    known: dict[Hashable, int] = {}
    groups = reference_groups = _codes(queries.groups, queries, "query_groups", known)
    if references is not None:
        reference_groups = _codes(references.groups, references, "gallery_groups", known)
    pairs = np.concatenate([codes * len(known) + groups, reference_codes * len(known) + reference_groups])
    _, numbers = np.unique(pairs, return_inverse=True)
    return numbers[: len(codes)], numbers[len(codes) :]


def _check_included(queries: Samples, references: Samples, codes: Ids, reference_codes: Ids) -> None:
    first = joined(references.embeddings, "reference")[: len(codes)]
    if not np.array_equal(first, joined(queries.embeddings, "query")) or (reference_codes[: len(codes)] != codes).any():
        raise ValueError(
            f"reference must begin with the {len(codes)} queries because ref_includes_query=True, got other embeddings "
            "or labels. Put the queries first, or set ref_includes_query=False."
        )


def with_bar(chunks: Iterator[Ranked], queries: int) -> Iterator[Ranked]:
    """The same chunks, with a bar where the work takes seconds."""
    with progress_bar(total=queries, desc="search", unit="query", delay=2) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk.rows))
