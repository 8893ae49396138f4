"""Retrieval metrics: functions of hits, and the evaluator that finds the hits.

A *hit* is a neighbour with the query's label. The functions here see only which neighbours are hits and how many
references could be; finding the neighbours is the business of ``search``.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pml_center.checks import unknown_name
from pml_center.evaluation.inputs import check_positive, class_codes
from pml_center.evaluation.retrieval_report import Neighbours, RetrievalReport
from pml_center.evaluation.search import ExactSearch, Similarity
from pml_center.evaluation.statistics import Interval, bootstrap_interval, check_level, wilson_interval

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
Values = NDArray[np.float64]
Singletons = Literal["skip", "zero", "error"]
Resampled = Literal["query", "class"]

KEPT = 10  # neighbours that a report keeps of each query


def recall_at_k(hits: Hits, k: int) -> Values:
    """Whether a query has a hit among its first k neighbours: 0 or 1, shape (Q,).

    The Recall@K of metric learning, also called hit rate, or CMC@K in re-identification. It is not the recall of
    information retrieval, the share of relevant references that were found.

    Args:
        hits: (Q, K) whether the i-th neighbour has the query's label; the query itself removed.
        k: neighbours that count, in [1, K].

    Raises:
        ValueError: ``k`` out of range.

    Example:
        >>> recall_at_k(np.array([[False, True, True], [False, False, True]]), k=2)
        array([1., 0.])
    """
    check_positive("k", k)
    _check_depth(hits, k, "k")
    return np.asarray(hits[:, :k].any(axis=1), dtype=np.float64)


def precision_at_1(hits: Hits) -> Values:
    """Whether the nearest neighbour is a hit: 0 or 1, shape (Q,). Equal to ``recall_at_k(hits, 1)``.

    Args:
        hits: (Q, K) whether the i-th neighbour has the query's label; the query itself removed.

    Example:
        >>> precision_at_1(np.array([[False, True], [True, False]]))
        array([0., 1.])
    """
    return recall_at_k(hits, 1)


def r_precision(hits: Hits, relevant: Counts) -> Values:
    """The share of hits among a query's first R neighbours: in [0, 1], shape (Q,); 0 where R is 0.

    Args:
        hits: (Q, K) whether the i-th neighbour has the query's label; the query itself removed.
        relevant: (Q,) the number R of references with the query's label, at most K.

    Raises:
        ValueError: a query with more relevant references than neighbours.

    Example:
        >>> r_precision(np.array([[True, False, True]]), np.array([2]))
        array([0.5])
    """
    return _first_r(hits, relevant).sum(axis=1) / np.maximum(relevant, 1)


def mean_average_precision_at_r(hits: Hits, relevant: Counts) -> Values:
    """MAP@R of each query: in [0, 1], shape (Q,); 0 where R is 0.

    The mean over the first R neighbours of the precision up to that neighbour where it is a hit, and of 0 where it is
    not: R-precision that also rewards hits for coming early. Never above R-precision.

    Args:
        hits: (Q, K) whether the i-th neighbour has the query's label; the query itself removed.
        relevant: (Q,) the number R of references with the query's label, at most K.

    Raises:
        ValueError: a query with more relevant references than neighbours.

    Example:
        >>> mean_average_precision_at_r(np.array([[True, False, True]]), np.array([3])).round(4)
        array([0.5556])

    Source: Musgrave et al., A Metric Learning Reality Check, ECCV 2020, arXiv:2003.08505, section 3.2.
    """
    hits = _first_r(hits, relevant)
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(axis=1) / np.maximum(relevant, 1)


def _first_r(hits: Hits, relevant: Counts) -> Hits:
    """The hits (Q, K) that stand among a query's first R neighbours."""
    _check_depth(hits, int(relevant.max(initial=0)), "relevant")
    return hits & (np.arange(hits.shape[1]) < relevant[:, None])


def _check_depth(hits: Hits, needed: int, name: str) -> None:
    if needed > hits.shape[1]:
        raise ValueError(
            f"{name} must be at most the number of neighbours per query ({hits.shape[1]}), got {needed}. "
            "Search for more neighbours: with fewer the metric would come out wrong."
        )


@dataclass(frozen=True)
class RetrievalEvaluator:
    """Exact retrieval metrics of embeddings: Recall@K, Precision@1, R-precision and MAP@R.

    The metrics bear PML's names and equal PML's values. As many neighbours are searched for as the metrics need.

    Args:
        recall_at: the K of each ``recall_at_K``.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        singletons: what to do with a query whose label no reference has. ``"skip"`` leaves it out and counts it, as PML
            leaves it out; ``"zero"`` counts it as found wrong in every metric; ``"error"`` refuses it.
        ci: what the bootstrap of the confidence intervals resamples: ``"query"``, or ``"class"``, with all its queries.
            None means no intervals. Never the references: a duplicate would be a perfect neighbour.
        ci_level: the level of the intervals, in (0, 1).
        resamples: of the bootstrap.
        seed: of its random numbers.

    Raises:
        ValueError: an unknown choice, or a K that is not a positive integer.

    Example:
        >>> embeddings = [[1, 0], [0.9, 0.3], [0, 1], [0.4, 0.8], [0.8, 0.6]]
        >>> print(RetrievalEvaluator(recall_at=(1, 2))(embeddings, ["a", "a", "b", "b", "c"]))
        4 queries, 5 references, 1 skipped: exact cosine search, leave-one-out
        recall_at_1                  0.7500  [0.2500, 1.0000]
        recall_at_2                  1.0000  [0.5101, 1.0000]
        precision_at_1               0.7500  [0.2500, 1.0000]
        r_precision                  0.7500  [0.2500, 1.0000]
        mean_average_precision_at_r  0.7500  [0.2500, 1.0000]
        95 % intervals: bootstrap over queries
    """

    recall_at: Sequence[int] = (1, 2, 4, 8)
    similarity: Similarity = "cosine"
    singletons: Singletons = "skip"
    ci: Resampled | None = "query"
    ci_level: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("similarity", self.similarity, get_args(Similarity)),
            ("singletons", self.singletons, get_args(Singletons)),
        ):
            if value not in choices:
                raise ValueError(unknown_name(name, str(value), choices, f"Choose from {', '.join(choices)}."))
        if self.ci not in (None, *get_args(Resampled)):
            raise ValueError(unknown_name("ci", str(self.ci), get_args(Resampled), "Choose 'query', 'class' or None."))
        check_level(self.ci_level)
        check_positive("resamples", self.resamples)
        for k in self.recall_at:
            check_positive("recall_at", k)

    def __call__(
        self,
        embeddings: Any,
        labels: Iterable[Hashable],
        references: Any = None,
        reference_labels: Iterable[Hashable] | None = None,
    ) -> RetrievalReport:
        """Evaluate embeddings, each against all the others or against references.

        Args:
            embeddings: (Q, D) finite real numbers: a numpy array or memmap, or a tensor on any device.
            labels: (Q,) the class of each row: integers, strings or anything hashable.
            references: (N, D) rows to search in. None means leave-one-out: each row is searched for among the others.
            reference_labels: (N,) the class of each reference.

        Returns:
            The report: means over the queries, and the values of each query.

        Raises:
            TypeError: embeddings that are not real numbers, labels that are not hashable.
            ValueError: as for :func:`nearest_neighbours`; labels that do not match their rows; references without
                labels; no query with a relevant reference.
        """
        if (references is None) != (reference_labels is None):
            given = "reference_labels" if references is None else "references"
            raise ValueError(
                f"references and reference_labels must come together, got only {given}. "
                "Pass both, or neither for leave-one-out."
            )
        search = ExactSearch(embeddings, references, self.similarity)
        known: dict[Hashable, int] = {}
        codes = class_codes(labels, len(search.queries), "labels", known)
        reference_codes = codes
        if reference_labels is not None:
            reference_codes = class_codes(reference_labels, len(search.references), "reference_labels", known)
        relevant = np.bincount(reference_codes, minlength=len(known))[codes] - search.leave_one_out  # (Q,)
        self._check_singletons(relevant, list(known), codes)
        per_query, neighbours = self._per_query(search, codes, reference_codes, relevant)
        skipped = int((relevant == 0).sum()) if self.singletons == "skip" else 0
        return RetrievalReport(
            metrics={name: float(np.nanmean(values)) for name, values in per_query.items()},
            protocol=self._protocol(search.leave_one_out),
            counts={"queries": len(codes) - skipped, "references": len(search.references), "skipped": skipped},
            per_unit=per_query,
            ci=self._intervals(per_query, codes),
            ci_level=self.ci_level,
            ci_method=f"bootstrap over {'queries' if self.ci == 'query' else 'classes'}",
            classes=list(known),
            codes=codes,
            reference_codes=reference_codes,
            neighbours=neighbours,
            similarity=self.similarity,
            leave_one_out=search.leave_one_out,
        )

    def _check_singletons(self, relevant: Counts, names: list[Hashable], codes: Counts) -> None:
        alone = np.flatnonzero(relevant == 0)
        if len(alone) == len(relevant):
            raise ValueError(
                f"labels must be shared by queries and references, got {len(relevant)} queries without a reference of "
                "their label. Check that both sets name their classes alike and that classes repeat."
            )
        if len(alone) and self.singletons == "error":
            raise ValueError(
                f"labels must each have a reference because singletons='error', got {names[codes[alone[0]]]!r} at "
                f"position {alone[0]} without one ({len(alone)} of {len(relevant)} queries). "
                "Use singletons='skip' or 'zero', or remove these queries."
            )

    def _per_query(
        self, search: ExactSearch, codes: Counts, reference_codes: Counts, relevant: Counts
    ) -> tuple[dict[str, Values], Neighbours]:
        """Each metric's values (Q,) and the first neighbours, from one chunk of hits at a time."""
        empty = np.full(len(codes), 0.0 if self.singletons == "zero" else np.nan)
        values: dict[str, Values] = {}
        k = min(max(KEPT, *self.recall_at, int(relevant.max())), search.available)
        kept = min(KEPT, k)
        neighbours = Neighbours(np.empty((len(codes), kept), np.int64), np.empty((len(codes), kept), np.float32))
        for rows, ids, scores in search.chunks(k):
            neighbours.ids[rows], neighbours.scores[rows] = ids[:, :kept], scores[:, :kept]
            hits = reference_codes[ids] == codes[rows, None]
            for name, value in self._metrics(hits, relevant[rows]).items():
                values.setdefault(name, empty.copy())[rows] = value
        for value in values.values():
            value[relevant == 0] = 0 if self.singletons == "zero" else np.nan
        return values, neighbours

    def _metrics(self, hits: Hits, relevant: Counts) -> dict[str, Values]:
        recalls = {f"recall_at_{k}": recall_at_k(hits, min(k, hits.shape[1])) for k in self.recall_at}
        return recalls | {
            "precision_at_1": precision_at_1(hits),
            "r_precision": r_precision(hits, relevant),
            "mean_average_precision_at_r": mean_average_precision_at_r(hits, relevant),
        }

    def _intervals(self, per_query: dict[str, Values], codes: Counts) -> dict[str, Interval]:
        """Each metric's interval; Wilson's where every query has 0 or every query 1, and no resample differs."""
        if self.ci is None:
            return {}
        clusters = codes if self.ci == "class" else None
        table = np.stack(list(per_query.values()))
        found = bootstrap_interval(table, clusters, self.ci_level, self.resamples, self.seed)
        intervals = dict(zip(per_query, found, strict=True))
        for name, (low, high) in intervals.items():
            if low == high and low in (0, 1):
                queries = int((~np.isnan(per_query[name])).sum())
                intervals[name] = wilson_interval(low * queries, queries, self.ci_level)
        return intervals

    def _protocol(self, leave_one_out: bool) -> str:
        protocol = f"exact {self.similarity} search, " + ("leave-one-out" if leave_one_out else "separate references")
        if self.singletons == "zero":
            protocol += ", 0 for queries without a relevant reference"
        return protocol
