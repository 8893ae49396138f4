"""The result of a retrieval evaluation: what was found for each query, and what looks wrong with it."""

import csv
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import check_count
from pml_center.evaluation.report import Report
from pml_center.evaluation.search import Neighbours
from pml_center.evaluation.statistics import means_by_class

NEAR_DUPLICATE = {"cosine": 0.99, "euclidean": 0.0}  # the score from which two embeddings may be of one image


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class RetrievalReport(Report):
    """A report on queries, each searched for among references.

    Args:
        classes: the labels that occur, indexed by code.
        codes: (Q,) the class of each query.
        reference_codes: (N,) the class of each reference.
        neighbours: the first neighbours of each query.
        similarity: of their scores.
        leave_one_out: whether the references are the queries.
        names: (Q,) what to call the queries, e.g. their paths; None where nobody said.
        reference_names: (N,) likewise for the references.
        tie_rate: the share of queries about which equal scores may decide, because a hit and a miss have the same.
        excluded: integers (Q,) and (N,); references with the number of a query do not exist for it, as in
            re-identification those of its label and camera. None where all exist.

    Example:
        >>> from pml_center.evaluation import RetrievalEvaluator
        >>> evaluator = RetrievalEvaluator(recall_at=(1,), ci=None)
        >>> report = evaluator([[1, 0], [0.9, 0.3], [0, 1], [0.4, 0.8], [0.8, 0.6]], ["a", "a", "b", "b", "a"])
        >>> report.neighbours.ids[0]
        array([1, 4, 3, 2])
        >>> report.hits[0]
        array([ True,  True, False, False])
        >>> report.worst(1)
        array([3])
    """

    classes: Sequence[Hashable]
    codes: NDArray[np.int64]
    reference_codes: NDArray[np.int64]
    neighbours: Neighbours
    similarity: str = "cosine"
    leave_one_out: bool = True
    names: Sequence[str] | None = None
    reference_names: Sequence[str] | None = None
    tie_rate: float = 0.0
    excluded: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def labels(self) -> list[Hashable]:
        """The label of each query."""
        return [self.classes[code] for code in self.codes.tolist()]

    @property
    def reference_labels(self) -> list[Hashable]:
        """The label of each reference."""
        return [self.classes[code] for code in self.reference_codes.tolist()]

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Which of the neighbours have the query's label, (Q, K)."""
        ids = self.neighbours.ids
        return (self.reference_codes[ids] == self.codes[:, None]) & (ids >= 0)

    @property
    def ranked_by(self) -> str:
        """The metric that queries and classes are sorted by: MAP@R, or the first where it was not measured."""
        default = "mean_average_precision_at_r"
        return default if default in self.per_unit else next(iter(self.per_unit))

    @property
    def per_query(self) -> NDArray:
        """A structured array (Q,): the label of each query, and each metric; NaN where it was skipped."""
        table = np.empty(len(self.codes), dtype=[("label", object), *((name, np.float64) for name in self.per_unit)])
        table["label"] = self.labels
        for name, values in self.per_unit.items():
            table[name] = values
        return table

    def per_class(self) -> NDArray:
        """A structured array (C,): each class with a query, how many were measured, and the mean of each metric.

        Example:
            >>> from pml_center.evaluation import RetrievalEvaluator
            >>> report = RetrievalEvaluator(similarity="euclidean")([[0.0], [0.1], [3], [3.3]], ["b", "b", "a", "a"])
            >>> report.per_class()[["label", "queries", "recall_at_1"]].tolist()
            [('b', 2, 1.0), ('a', 2, 1.0)]
        """
        known = ~np.isnan(np.stack(list(self.per_unit.values()))).any(axis=0)
        counts = np.bincount(self.codes[known], minlength=len(self.classes))
        present, numbers = np.unique(self.codes[known], return_inverse=True)
        fields = [("label", object), ("queries", np.int64), *((name, np.float64) for name in self.per_unit)]
        table = np.empty(len(present), dtype=fields)
        table["label"] = [self.classes[code] for code in present.tolist()]
        table["queries"] = counts[present]
        for name, values in self.per_unit.items():
            table[name] = means_by_class(values[known], numbers)
        return table

    def worst(self, k: int = 20, metric: str | None = None) -> NDArray[np.int64]:
        """The rows of the k queries with the lowest values, those with the most similar wrong neighbour first.

        Args:
            k: how many at most.
            metric: to rank by; None means MAP@R, or the first metric where it was not measured.

        Raises:
            KeyError: a metric that was not measured.
            ValueError: ``k`` that is not a positive integer.
        """
        check_count("k", k)
        values = self.per_unit[self._measured(metric or self.ranked_by, self.per_unit)]
        wrong = np.where(self.hits, -np.inf, self.neighbours.scores).max(axis=1, initial=-np.inf)  # (Q,)
        order = np.lexsort((-wrong, values))  # NaN comes last
        return order[: np.count_nonzero(~np.isnan(values))][:k]

    def label_errors(self) -> NDArray:
        """Pairs with different labels of which each is the other's nearest neighbour: a label may be wrong.

        With separate references, the other way looks only at the queries that have the reference as their nearest.

        Returns:
            A structured array (P,) of ``query``, ``reference`` (rows) and ``score``, most similar first. Leave-one-out
            has each pair once.
        """
        nearest, scores = self.neighbours.ids[:, 0], self.neighbours.scores[:, 0]
        queries = np.arange(len(nearest))
        if self.leave_one_out:
            mutual = (nearest >= 0) & (nearest[nearest] == queries) & (queries < nearest)
        else:
            best = np.full(len(self.reference_codes), -np.inf, dtype=scores.dtype)
            np.maximum.at(best, nearest[nearest >= 0], scores[nearest >= 0])
            mutual = (nearest >= 0) & (scores == best[nearest])
        return self._pairs(np.flatnonzero(mutual & ~self.hits[:, 0]), np.zeros(1, dtype=np.int64))

    def near_duplicates(self, score: float | None = None) -> NDArray:
        """Pairs so similar that they may be the same image, among the neighbours that were kept.

        Args:
            score: from which on; None means 0.99 for cosine, and 0, equal embeddings, for Euclidean.

        Returns:
            A structured array (P,) as of :meth:`label_errors`.

        Raises:
            ValueError: no ``score`` where the similarity has no natural scale.
        """
        if score is None and self.similarity not in NEAR_DUPLICATE:
            raise ValueError(f"score must be given for similarity {self.similarity!r}, got None. Look at the scores.")
        score = NEAR_DUPLICATE[self.similarity] if score is None else score
        queries, places = np.nonzero((self.neighbours.scores >= score) & (self.neighbours.ids >= 0))
        if self.leave_one_out:  # a pair may be in one list or in both
            ids = self.neighbours.ids[queries, places]
            _, once = np.unique(
                np.stack([np.minimum(queries, ids), np.maximum(queries, ids)]), axis=1, return_index=True
            )
            queries, places = queries[once], places[once]
        return self._pairs(queries, places)

    def confusions(self, k: int = 20) -> list[tuple[Hashable, Hashable, int]]:
        """The k most frequent (label, label of the nearest neighbour, queries) that differ."""
        check_count("k", k)
        nearest = self.neighbours.ids[:, 0]
        wrong = np.flatnonzero((nearest >= 0) & ~self.hits[:, 0])
        pairs = zip(self.codes[wrong].tolist(), self.reference_codes[nearest[wrong]].tolist(), strict=True)
        return [(self.classes[one], self.classes[other], n) for (one, other), n in Counter(pairs).most_common(k)]

    def absence_to_csv(self, path: str | Path) -> None:
        """Write what would change without each class: a line for each class and each other that it was mistaken for.

        Columns are ``gone``, ``finder``, and each metric's change, summed over the queries of the finder. Beside
        :meth:`to_csv` it is what a test over classes needs.
        """
        gone, finder, _ = next(iter(self.absence.values()))  # the same of all metrics
        different, place = np.unique(gone * len(self.classes) + finder, return_inverse=True)
        sums = [np.bincount(place, each.change, len(different)).tolist() for each in self.absence.values()]
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["gone", "finder", *self.absence])
            for pair, *changes in zip(different.tolist(), *sums, strict=True):
                writer.writerow([*(self.classes[code] for code in divmod(pair, len(self.classes))), *changes])

    def _check_same_units(self, other: Report) -> None:
        if isinstance(other, RetrievalReport) and self.labels != other.labels:
            raise ValueError(
                f"other must be about the same queries, got other labels ({len(self.codes)} and {len(other.codes)} "
                "queries). Evaluate both models on the same data, in the same order."
            )
        super()._check_same_units(other)

    def _unit_columns(self) -> dict[str, Sequence]:
        return ({} if self.names is None else {"name": self.names}) | {"label": self.labels}

    def _pairs(self, queries: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray:
        fields = [("query", np.int64), ("reference", np.int64), ("score", np.float64)]
        pairs = np.empty(len(queries), dtype=fields)
        pairs["query"], pairs["reference"] = queries, self.neighbours.ids[queries, places]
        pairs["score"] = self.neighbours.scores[queries, places]
        return pairs[np.argsort(-pairs["score"], kind="stable")]
