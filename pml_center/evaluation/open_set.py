"""Open sets: are images of unknown classes told from those of known ones, and are these classified rightly?"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import as_matrix, check_several, class_codes, joined
from pml_center.checks import check_choices
from pml_center.evaluation.class_intervals import class_interval, over_classes
from pml_center.evaluation.evaluator import Evaluator, labelled_samples
from pml_center.evaluation.paired_tests import PairedTest
from pml_center.evaluation.report import Report, ThresholdReport
from pml_center.evaluation.roc import Flags, RankedPairs, Scores, check_rates
from pml_center.evaluation.search import ExactSearch, Ids, Similarity, duplicates, queries_among
from pml_center.evaluation.statistics import (
    Interval,
    check_intervals,
    few_units,
    resampled_counts,
    resampled_tests,
    settled,
)

Resampled = Literal["class", "query"]
FPR = "fpr_at_tpr_"


class Judged(NamedTuple):
    """What was said of each query: how surely it is of a known class, and whether the class is right."""

    score: Scores  # (Q,) of the most likely known class
    known: Flags  # (Q,) whether its class is a known one
    right: Flags  # (Q,) whether the most likely class is its own
    units: Ids  # (Q,) what could have been others together with it

    def resampled(self, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """How often each query counts (Q,): known and unknown units are drawn apart, so that none are missing."""
        weights, draws = np.empty(len(self.units), dtype=np.int64), []
        for number, kind in enumerate((self.known, ~self.known)):
            units, codes = np.unique(self.units[kind], return_inverse=True)
            draws.append((kind, codes, resampled_counts(len(units), resamples, seed + number)))
        for _ in range(resamples):
            for kind, codes, counts in draws:
                weights[kind] = next(counts)[codes]
            yield weights


class _Rates:
    """The metrics of queries, each counted so many times."""

    def __init__(self, judged: Judged, tpr: Sequence[float]):
        self.judged, self.tpr = judged, tpr
        self.names = ["accuracy", "area_under_roc", "area_under_oscr", *(f"{FPR}{target:g}" for target in tpr)]
        self.ranking = RankedPairs(judged.score, judged.known)
        # A wrong class is never accepted: what is left of the ROC is the curve of Dhamija et al.
        accepted = np.where(judged.known & ~judged.right, -np.inf, judged.score)
        self.correct = RankedPairs(accepted, judged.known)

    def __call__(self, weights: NDArray | None = None) -> list[float]:
        curve, correct = self.ranking.roc(weights), self.correct.roc(weights)
        right = self.judged.right if weights is None else weights * self.judged.right
        accuracy = float(right.sum() / curve.genuine_pairs)
        return [accuracy, curve.area, correct.area, *(curve.far_at(target) for target in self.tpr)]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class OpenSetReport(ThresholdReport):
    """A report on an open set. Its ``thresholds`` accept as many known queries as the name of the metric says.

    ``curves["known_and_unknown"]`` is the ROC, ``curves["oscr"]`` the share of known queries that are accepted and
    rightly classified over the share of unknown ones that are accepted.

    Args:
        judged: what was said of each query.
    """

    judged: Judged

    def compare(self, other: Report, resamples: int = 1000, seed: int = 0) -> dict[str, PairedTest]:
        """Test whether this model differs from another on the same queries.

        Args:
            other: the report of another model on the same queries, known classes and all.
            resamples: of the tests.
            seed: of their random numbers.

        Returns:
            A test of each metric that both have: of the accuracy that of :meth:`Report.compare`, of the others by
            classes, or queries, drawn once for both models.

        Raises:
            ValueError: other queries or classes, or none in common.

        Example:
            >>> scores = np.random.default_rng(0).normal(size=(60, 3))
            >>> labels = np.arange(60) % 6  # of which three are columns
            >>> one, other = (
            ...     OpenSetEvaluator(ci="query").of_scores(scores + gain * np.eye(3, 6).T[labels], labels, range(3))
            ...     for gain in (3, 2)
            ... )
            >>> print(one.compare(other)["area_under_roc"])
            +0.1200  [+0.0544, +0.1967]  p = 0.0020  over 60 queries
        """
        tests = super().compare(other, resamples, seed)
        if not isinstance(other, OpenSetReport):
            return tests
        if not np.array_equal(self.judged.known, other.judged.known):
            raise ValueError(
                "other must be about the same known classes, got others. Evaluate both models on the same data."
            )
        tpr = [float(name.removeprefix(FPR)) for name in self.metrics if name.startswith(FPR) and name in other.metrics]
        rates = [_Rates(each.judged, tpr) for each in (self, other)]
        drawn = self.judged.resampled(resamples, seed)
        values = np.array([[each(weights) for each in rates] for weights in drawn])
        differences = values[:, 0] - values[:, 1]
        number = len(np.unique(self.judged.units))
        found = zip(rates[0].names, resampled_tests(differences, self.ci_level, number), strict=True)
        return {
            name: PairedTest(self[name] - other[name], *interval, p_value, number, self.over)
            for name, (interval, p_value) in found
        } | tests

    def _unit_columns(self) -> dict[str, Sequence]:
        return {"known": self.judged.known.tolist(), "score": self.judged.score.tolist()}


@dataclass(frozen=True)
class OpenSetEvaluator(Evaluator[OpenSetReport]):
    """Which queries are of a known class, and of which: AUROC, FPR at 95 % TPR, and OSCR.

    A query is given the class of its nearest reference, and is accepted as known if that scores at least a threshold.
    What the references are decides by what unknown classes are rejected: images, by their similarity; centers with
    ``similarity="euclidean"``, by the distance; class weights with ``"dot"``, by the largest logit.

    * ``accuracy``, closed set: the share of known queries that are given their class, whatever the score.
    * ``area_under_roc`` (AUROC): how often a known query scores above an unknown one, a tie counting half.
    * ``area_under_oscr`` (OSCR): the area under the open set classification rate, which is the share of known queries
      that are accepted *and* given their class, over the share of unknown queries that are accepted. It is at most the
      accuracy.
    * ``fpr_at_tpr_0.95`` (FPR95): the share of unknown queries that are accepted by the strictest threshold that
      accepts 95 % of the known ones. Lower is better.

    Args:
        tpr: targets of the true positive rate, in (0, 1): shares of known queries to accept.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``, whose score is minus the squared distance.
        ci: what could have been others, and so what intervals and :meth:`OpenSetReport.compare` are about: ``"class"``,
            a known or unknown class with all its queries, or ``"query"``. None means no intervals, and tests by class.
        ci_level: the level of the intervals, in (0, 1).
        resamples: of the bootstrap.
        seed: of its random numbers.

    Raises:
        ValueError: an unknown choice, or a number out of range.

    Example:
        >>> centers = [[4, 0], [0, 4]]
        >>> queries = [[3, 0], [4, 1], [1, 3], [2, 1], [-3, 0], [1, 1]]
        >>> evaluator = OpenSetEvaluator(similarity="euclidean", ci=None)
        >>> print(evaluator(queries, ["ant", "ant", "bee", "bee", "cat", "dog"], centers, ["ant", "bee"]))
        6 queries, 4 known, 2 unknown, 2 references: euclidean similarity
        accuracy          0.7500
        area_under_roc    1.0000
        area_under_oscr   0.7500
        fpr_at_tpr_0.95   0.0000

    Source: Dhamija et al., Reducing Network Agnostophobia, NeurIPS 2018, arXiv:1811.04110 (OSCR).
    Differs: where known and unknown queries tie, the curve of OSCR is a straight line, as that of the ROC is; by the
        paper's strict inequality they would count as rejected and accepted.
    """

    tpr: Sequence[float] = (0.95,)
    similarity: Similarity = "cosine"
    ci: Resampled | None = "class"
    ci_level: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(similarity=(self.similarity, Similarity))
        check_intervals(self.ci, Resampled, self.ci_level, self.resamples, self.seed)
        check_several(tpr=self.tpr)
        check_rates("tpr", self.tpr)

    def __call__(
        self,
        embeddings: Any,
        labels: Iterable[Hashable] | None = None,
        gallery: Any = None,
        gallery_labels: Iterable[Hashable] | None = None,
    ) -> OpenSetReport:
        """Judge queries by their nearest reference.

        Args:
            embeddings: (Q, D) finite real numbers, the queries: a numpy array or memmap, or a tensor on any device; or
                the folder of :func:`save_samples`, which holds labels too.
            labels: (Q,) the class of each, anything hashable. A class without a reference is an unknown one.
            gallery: (N, D) the references, likewise: images of the known classes, their centers, or class weights.
            gallery_labels: (N,) the class of each reference.

        Raises:
            TypeError: embeddings that are not real numbers, labels that are not hashable.
            ValueError: as for :func:`nearest_neighbours`; labels that do not match their rows; no query of a known
                class, or none of an unknown one.
        """
        queries, references = (
            labelled_samples("embeddings", embeddings, labels),
            labelled_samples("gallery", gallery, gallery_labels),
        )
        search = ExactSearch(
            joined(queries.embeddings),
            references.embeddings,
            self.similarity,
            names=(queries.names, references.names),
            called=("embeddings", "gallery"),
        )
        known: dict[Hashable, int] = {}
        codes = class_codes(queries.labels, len(search.queries), "labels", known)
        classes = class_codes(references.labels, len(search.references), "gallery_labels", known)
        ids, scores = search.nearest(1)
        nearest = ids[:, 0]
        alike = queries_among(duplicates(search, nearest), len(codes))
        how = f"{self.similarity} similarity"
        return self._report(scores[:, 0].astype(np.float64), classes[nearest], codes, classes, how, "references", alike)

    def of_scores(self, scores: Any, labels: Iterable[Hashable], classes: Iterable[Hashable]) -> OpenSetReport:
        """Judge queries by scores of the known classes, such as the logits of a loss or probabilities.

        Args:
            scores: (Q, C) finite real numbers, larger for more likely. Pass distances with a minus sign.
            labels: (Q,) the class of each query, anything hashable.
            classes: (C,) the class of each column.

        Raises:
            TypeError: scores that are not real numbers, labels that are not hashable.
            ValueError: NaN or infinity, labels that do not match the rows, classes that do not match the columns; no
                query of a known class, or none of an unknown one.

        Example:
            >>> logits, classes = [[5, 1], [1, 4], [2, 2]], ["ant", "bee"]
            >>> report = OpenSetEvaluator(ci=None).of_scores(logits, ["ant", "bee", "cat"], classes)
            >>> report["area_under_oscr"], report.thresholds
            (1.0, {'fpr_at_tpr_0.95': 4.0})
        """
        matrix = as_matrix(scores, "scores", np.float64)
        known: dict[Hashable, int] = {}
        codes = class_codes(labels, len(matrix), "labels", known)
        columns = class_codes(classes, matrix.shape[1], "classes", known)
        best = matrix.argmax(axis=1)
        return self._report(matrix.max(axis=1), columns[best], codes, columns, "given scores", "known classes")

    def _report(
        self,
        score: Scores,
        given: Ids,
        codes: Ids,
        classes: Ids,
        how: str,
        what: str,
        warnings: tuple[str, ...] = (),
    ) -> OpenSetReport:
        """The report on queries (Q,), each ``given`` one of the known ``classes`` (N,)."""
        known = np.isin(codes, classes)
        if known.all() or not known.any():
            raise ValueError(
                f"labels must be of known and unknown classes, got {known.sum():,} queries of the known ones and "
                f"{(~known).sum():,} of others. Queries need both; check that known classes are named alike."
            )
        judged = Judged(score, known, given == codes, np.arange(len(codes)) if self.ci == "query" else codes)
        rates = _Rates(judged, self.tpr)
        curve, correct = rates.ranking.roc(), rates.correct.roc()
        accuracy = np.where(known, judged.right, np.nan)
        kinds = [len(np.unique(judged.units[kind])) for kind in (known, ~known)]
        over = "queries" if self.ci == "query" else "classes"
        method = f"bootstrap over {kinds[0]:,} known and {kinds[1]:,} unknown {over}"
        ci = self._intervals(judged, rates, min(kinds))
        if self.ci == "class":
            for number, kind in zip(kinds, ("known classes", "unknown classes"), strict=True):
                warnings += few_units(number, kind)
            if kinds[0] > 1:
                ci["accuracy"] = class_interval(accuracy, codes, self.ci_level)
                method += f"; accuracy {over_classes(kinds[0])}"
        points, rated = curve.points(), correct.points()
        accepted = rated["threshold"] > -np.inf  # behind it stand the wrong classes
        return OpenSetReport(
            metrics=dict(zip(rates.names, rates(), strict=True)),
            protocol=how,
            counts={
                "queries": len(codes),
                "known": int(known.sum()),
                "unknown": int((~known).sum()),
                what: len(classes),
            },
            per_unit={"accuracy": accuracy},
            clusters=None if self.ci == "query" else codes,
            over=over,
            ci=ci,
            ci_level=self.ci_level,
            ci_method=method,
            curves={
                "known_and_unknown": {"false positive rate": points["far"], "true positive rate": points["tar"]},
                "oscr": {
                    "false positive rate": rated["far"][accepted],
                    "correct classification rate": rated["tar"][accepted],
                },
            },
            warnings=warnings,
            thresholds={f"{FPR}{target:g}": float(curve.threshold[curve.index_at_tar(target)]) for target in self.tpr},
            judged=judged,
        )

    def _intervals(self, judged: Judged, rates: _Rates, units: int) -> dict[str, Interval]:
        if self.ci is None:
            return {}
        found = [rates(weights) for weights in judged.resampled(self.resamples, self.seed)]
        ends = np.quantile(found, [(1 - self.ci_level) / 2, (1 + self.ci_level) / 2], axis=0)
        intervals = zip(rates.names, zip(*ends.tolist(), strict=True), strict=True)
        return {name: settled(interval, units, self.ci_level) for name, interval in intervals}
