"""Verification: do two images show the same identity? Accuracy over folds, error rates over pairs or over all pairs."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import as_list, as_matrix, check_count, check_several, class_codes, joined
from pml_center.checks import check_between, check_choices
from pml_center.evaluation.accuracy import over_folds, over_own_folds
from pml_center.evaluation.all_pairs import all_pairs
from pml_center.evaluation.evaluator import Evaluator, samples_of
from pml_center.evaluation.pair_intervals import PairSample, pair_intervals, pair_tests, thinned
from pml_center.evaluation.paired_tests import PairedTest
from pml_center.evaluation.pairs import Pairs, check_rows, check_two_images, checked_folds, checked_people, read_pairs
from pml_center.evaluation.report import Report, ThresholdReport
from pml_center.evaluation.roc import (
    Costs,
    Flags,
    RankedPairs,
    Roc,
    Scores,
    check_costs,
    check_rates,
    checked_pairs,
    measurable,
)
from pml_center.evaluation.score_norm import as_norm
from pml_center.evaluation.search import ExactSearch, Ids, Similarity
from pml_center.evaluation.statistics import Interval, check_intervals, few_units, mean_of

TAR = "tar_at_far_"


def shared_identities(labels: Iterable[Hashable], others: Iterable[Hashable]) -> list[Hashable]:
    """The identities that two sets have in common, in the order of the first.

    A model that was trained on people of the test set scores too well. Ask before you evaluate.

    Args:
        labels: the identity of each image of one set.
        others: of each image of the other set.

    Example:
        >>> shared_identities(["Ann", "Bob", "Ann", "Cid"], ["Cid", "Ann"])
        ['Ann', 'Cid']
    """
    known = set(as_list(others, "others"))
    return [label for label in dict.fromkeys(as_list(labels, "labels")) if label in known]


@dataclass(frozen=True, eq=False, kw_only=True)
class VerificationReport(ThresholdReport):
    """A report on pairs. Over folds the threshold of ``accuracy`` is the mean of theirs.

    ``curves["roc"]`` has ``far``, ``tar`` and ``threshold``, and the band from ``low`` to ``high`` around ``tar`` where
    there are intervals. ``curves["scores"]`` has a histogram of both kinds, see :meth:`Roc.histogram`.

    Args:
        scores: (P,) the score of each pair, larger for more alike; None for all pairs.
        same: (P,) whether each shows one identity; None for all pairs.
        pairs: the pairs; None for all pairs, and where only scores were given.
        names: (N,) what to call the rows of the pairs; None where nobody said.
        people: who is on the images of each pair (P, 2), or on each image (N,) of all pairs; None where nobody said.
        sample: of the pairs, which intervals and tests are made from; None where there are no intervals.
        costs: what mistakes cost, of each minDCF.

    Example:
        >>> report = VerificationEvaluator(far=[0.5], ci=None).of_scores([0.9, 0.2, 0.4, 0.6], [1, 1, 0, 0])
        >>> report.thresholds
        {'equal_error_rate': 0.6, 'tar_at_far_0.5': 0.6}
        >>> report.mistakes()
        array([(1, 0.2), (3, 0.6)], dtype=[('pair', '<i8'), ('score', '<f8')])
    """

    scores: Scores | None = None
    same: Flags | None = None
    pairs: Pairs | None = None
    names: Sequence[str] | None = None
    people: Ids | None = None
    sample: PairSample | None = None
    costs: tuple[Costs, ...] = ()

    def compare(self, other: Report, resamples: int = 1000, seed: int = 0) -> dict[str, PairedTest]:
        """Test whether this model differs from another on the same people, by people drawn once for both.

        Args:
            other: the report of another model on the same pairs.
            resamples: of the bootstrap.
            seed: of its random numbers.

        Returns:
            A test of each rate that both have, of folds where nobody says who is on the images.

        Raises:
            ValueError: other pairs, other people, or nothing in common.

        Example:
            >>> evaluator, people = VerificationEvaluator(far=(0.5,)), np.arange(40) // 4
            >>> rows = np.random.default_rng(0).normal(size=(2, 40, 4)) + 3 * np.eye(10)[people][:, :4]
            >>> one, other = (evaluator(each, people) for each in rows)
            >>> print(one.compare(other)["equal_error_rate"])
            +0.0167  [-0.0526, +0.1205]  p = 0.4835  over 10 people
        """
        if self.sample is None or not isinstance(other, VerificationReport) or other.sample is None:
            if not self.per_unit and isinstance(other, VerificationReport):
                raise ValueError(
                    "other must have intervals, like this report, to compare pairs without folds, got none in one of "
                    "them. Evaluate both models with ci='identity', and say who is on the images."
                )
            return super().compare(other, resamples, seed)
        if not all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("people", "same")):
            raise ValueError(
                f"other must be about the same pairs of the same people, got {other.summary} beside {self.summary}. "
                "Evaluate both models on the same data, in the same order."
            )
        far = [float(name.removeprefix(TAR)) for name in self.metrics if name.startswith(TAR) and name in other.metrics]
        costs = [each for each in self.costs if each in other.costs]
        tests = pair_tests(self.sample, other.sample, far, costs, self.ci_level, resamples, seed)
        people = len(np.unique(np.asarray(self.people)))
        return {
            name: PairedTest(self[name] - other[name], *interval, p_value, people, self.over)
            for name, (interval, p_value) in tests.items()
            if name in self.metrics and name in other.metrics
        }

    def mistakes(self, k: int = 20) -> NDArray[np.void]:
        """The pairs that are judged wrongly by most, at the threshold of the accuracy, else of the equal error rate.

        Args:
            k: how many at most.

        Returns:
            A structured array of ``pair`` and ``score``, the worst first.

        Raises:
            ValueError: a report on all pairs, which keeps none.
        """
        if self.scores is None or self.same is None:
            raise ValueError("mistakes must be asked of a list of pairs, got a report on all pairs. Evaluate a list.")
        threshold = self.thresholds.get("accuracy", self.thresholds["equal_error_rate"])
        wrong = np.flatnonzero((self.scores >= threshold) != self.same)
        by = np.where(self.same[wrong], threshold - self.scores[wrong], self.scores[wrong] - threshold)
        worst = wrong[np.argsort(-by, kind="stable")[: check_count("k", k)]]
        found = np.empty(len(worst), dtype=[("pair", np.int64), ("score", np.float64)])
        found["pair"], found["score"] = worst, self.scores[worst]
        return found


@dataclass(frozen=True)
class VerificationEvaluator(Evaluator[VerificationReport]):
    """Accuracy, equal error rate, ``TAR@FAR`` and minDCF: of the pairs of a protocol, or of all pairs of labelled rows.

    Args:
        far: targets of the false accept rate, in (0, 1), each reported as ``tar_at_far_…``: the largest true accept
            rate of a threshold whose FAR is at most that. None means 0.1, 0.01, …, 1e-6, as far as ten impostor pairs
            or more may be accepted. A target below that is measured with a warning.
        p_target: how often pairs are expected to be genuine, each in (0, 1), and each reported as ``min_dcf_…``: the
            least normalised detection cost of any threshold, see :meth:`Roc.detection_cost`. 0.01 and 0.05 are usual
            for speakers. Needs a list of pairs.
        c_miss: what it costs to reject a genuine pair, for minDCF.
        c_fa: what it costs to accept an impostor pair.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"`` (minus the squared distance).
        top_n: how many of a cohort normalise the scores of a row, at least 2; a smaller cohort counts whole.
        center: subtract from all embeddings, for each fold, the mean of those on both sides of the pairs of the other
            folds, as evaluation code of face papers does (Liu et al., SphereFace, 2017). Needs pairs with folds.
        threshold: at which to measure accuracy, e.g. that of other pairs, see :func:`best_threshold`. None means that
            each fold gets the one that is best on the other folds; pairs without folds then have no accuracy.
        ci: ``"identity"``: confidence intervals by a two-sample bootstrap that resamples people, or images where
            nobody says who is on them. None means no intervals.
        ci_level: the level of the intervals, in (0, 1).
        resamples: of the bootstrap.
        seed: of its random numbers.

    Raises:
        ValueError: an unknown choice, or a number out of range.

    Example:
        >>> embeddings = [[1, 0], [0.9, 0.3], [0, 1], [0.3, 0.9], [-1, 0.2], [-0.9, -0.1]]
        >>> print(VerificationEvaluator(ci=None)(embeddings, ["a", "a", "b", "b", "c", "c"]))
        15 pairs, 3 genuine, 12 impostor: cosine similarity, all pairs
        equal_error_rate  0.0000
        >>> pairs = Pairs([0, 1, 2, 3], [1, 5, 3, 4], same=[1, 0, 1, 0], folds=[0, 0, 1, 1])
        >>> print(VerificationEvaluator(ci=None)(embeddings, pairs=pairs))
        4 pairs, 2 genuine, 2 impostor, 2 folds: cosine similarity, each fold by the threshold best on the others
        accuracy          1.0000
        accuracy_se       0.0000
        equal_error_rate  0.0000
        area_under_roc    1.0000
    """

    far: Sequence[float] | None = None
    p_target: Sequence[float] = ()
    c_miss: float = 1
    c_fa: float = 1
    similarity: Similarity = "cosine"
    top_n: int = 300
    center: bool = False
    threshold: float | None = None
    ci: Literal["identity"] | None = "identity"
    ci_level: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(similarity=(self.similarity, Similarity))
        check_intervals(self.ci, Literal["identity"], self.ci_level, self.resamples, self.seed)
        check_rates("far", self.far)
        check_several(p_target=self.p_target)
        check_costs(self.p_target, self.c_miss, self.c_fa)
        check_between("an integer of at least 2", "The field's are 200 to 600.", top_n=self.top_n)
        if self.center and self.threshold is not None:
            raise ValueError(
                f"threshold must be None with center, got {self.threshold}. Leave one out: each fold is centered "
                "otherwise."
            )
        if self.threshold is not None and not (isinstance(self.threshold, Real) and math.isfinite(self.threshold)):
            raise ValueError(f"threshold must be finite, got {self.threshold!r}. Leave it out to have one chosen.")

    def __call__(
        self,
        embeddings: Any,
        labels: Iterable[Hashable] | None = None,
        pairs: Pairs | str | Path | None = None,
        names: Sequence[str] | None = None,
        cohort: Any = None,
    ) -> VerificationReport:
        """Verify the pairs of a protocol, or all N(N − 1)/2 pairs of rows.

        Args:
            embeddings: (N, D) finite real numbers: a numpy array or memmap, or a tensor on any device; or the folder of
                :func:`save_samples`, which holds labels and names too.
            labels: (N,) the identity of each row, anything hashable. Without pairs they say which pairs are genuine.
                With pairs they may be left out; they serve the intervals and the checks of the protocol.
            pairs: those to verify, or a file of them: LFW's, see :func:`lfw_pairs`; trials, see :func:`speaker_trials`;
                or CSV with columns ``first``, ``second``, ``same`` (1 or 0) and, where there are folds, ``fold``. None
                means all.
            names: (N,) what to call each row, e.g. its path, for such a file and for errors.
            cohort: (M, D) embeddings of others than those in the pairs, or their folder: scores are then normalised by
                those with the cohort (AS-Norm), as is usual for speakers. One mean for each speaker of the training
                set is a good one, see :func:`templates`. None leaves scores as they are.

        Returns:
            The report. All pairs have neither folds nor accuracy: there, the share of impostor pairs is an accident of
            the data set.

        Raises:
            TypeError: embeddings that are not real numbers, labels that are not hashable.
            ValueError: NaN or infinity, a zero vector with ``"cosine"``, labels that do not match their rows or the
                pairs, rows of pairs that do not exist, neither labels nor pairs, no genuine or no impostor pair; a file
                of pairs without names; a cohort or costs without pairs, a cohort that holds rows of the pairs.
        """
        samples = samples_of(embeddings, labels, names=names)
        search = ExactSearch(samples.embeddings, similarity=self.similarity, names=(samples.names, None))
        codes = None if samples.labels is None else class_codes(samples.labels, len(search.queries))
        if pairs is not None and not isinstance(pairs, (Pairs, str, Path)):
            raise TypeError(f"pairs must be Pairs or a file of them, got {type(pairs).__name__}. Make them with Pairs.")
        if pairs is None:
            if cohort is not None or len(self.p_target):
                what = "p_target" if cohort is None else "cohort"
                raise ValueError(
                    f"pairs must be a list where there is a {what}, got none: of all pairs scores are not kept. Pass "
                    "Pairs or a file of trials."
                )
            if codes is None:
                raise ValueError("labels or pairs must say which pairs are genuine, got neither. Pass one of them.")
            return self._all(search, codes)
        if not isinstance(pairs, Pairs):
            if samples.names is None:
                raise ValueError(
                    f"names must say which image each row is because pairs come from {str(pairs)!r}, got none. "
                    "Pass names=, or a folder of save_samples that has them."
                )
            pairs = read_pairs(pairs, samples.names)
        check_rows(pairs.first, pairs.second, len(search.queries))
        if samples.names is not None:
            check_two_images(pairs, samples.names)
        scores, how = self._pair_scores(search, samples.embeddings, pairs), f"{self.similarity} similarity"
        if cohort is not None:
            if self.center:
                raise ValueError(
                    "center must be False with a cohort, got True. Subtract the mean of the cohort instead."
                )
            others = samples_of(cohort)
            scores, norm = as_norm(scores, pairs.first, pairs.second, samples, others, self.similarity, self.top_n)
            how = f"{how}, {norm}"
        people, unit = pairs.people, "people"
        if codes is not None:
            people = checked_people(np.stack([codes[pairs.first], codes[pairs.second]], axis=1), pairs.same)
        elif people is None:
            people, unit = np.stack([pairs.first, pairs.second], axis=1), "images"
        report = self._listed(scores, pairs.same, pairs.folds, people, how, unit)
        return replace(report, pairs=pairs, names=samples.names)

    def _pair_scores(self, search: ExactSearch, embeddings: Any, pairs: Pairs) -> Scores:
        """The score of each pair, (P,), or, where they are centered, by the mean of each fold's others, (F, P)."""
        if not self.center:
            return search.pair_scores(pairs.first, pairs.second).astype(np.float64)
        if pairs.folds is None:
            raise ValueError(
                "pairs must have folds to be centered by the other folds, got none. Subtract a mean of other images."
            )
        rows = as_matrix(joined(embeddings), "embeddings", np.float64)
        scores = []
        for fold in range(int(pairs.folds.max()) + 1):
            others = np.concatenate([pairs.first[pairs.folds != fold], pairs.second[pairs.folds != fold]])
            centered = ExactSearch((rows - rows[others].mean(0)).astype(np.float32), similarity=self.similarity)
            scores.append(centered.pair_scores(pairs.first, pairs.second))
        return np.stack(scores).astype(np.float64)

    def of_scores(self, scores: Any, same: Any, folds: Any = None, people: Any = None) -> VerificationReport:
        """Verify pairs that something else has scored.

        Args:
            scores: (P,) finite real numbers, larger for more alike. Pass distances with a minus sign.
            same: (P,) whether a pair shows one identity: booleans, or 0 and 1.
            folds: (P,) the fold of each pair, or None.
            people: (P, 2) integers, who is on the two images; None means no intervals.

        Raises:
            TypeError: scores that are not real numbers, people that are not integers.
            ValueError: NaN or infinity, different lengths, other flags, a single fold, people that do not fit.
        """
        scores, same = checked_pairs(scores, same)
        folds = None if folds is None else checked_folds(folds, len(scores))
        people = None if people is None else checked_people(people, same)
        return self._listed(scores, same, folds, people, "given scores")

    def _listed(
        self, scores: Scores, same: Flags, folds: Ids | None, people: Ids | None, how: str, unit: str = "people"
    ) -> VerificationReport:
        """The report on a list of pairs; ``scores`` are (P,), or (F, P) where each fold has its own."""
        by_fold = scores
        if by_fold.ndim == 2:
            assert folds is not None
            scores, how = by_fold[folds, np.arange(len(folds))], f"{how}, centered by the other folds"
        curve = RankedPairs(scores, same).roc()
        genuine, impostor = int(same.sum()), int((~same).sum())
        far, warnings = measurable(self.far, impostor, "TAR at FAR", "impostor pairs")
        costs = tuple(Costs(each, self.c_miss, self.c_fa) for each in self.p_target)
        metrics, thresholds = _rates(curve, far, costs)
        metrics["area_under_roc"] = curve.area
        per_fold, right = {}, None
        counts = {"pairs": len(scores), "genuine": genuine, "impostor": impostor}
        if folds is not None:
            counts["folds"] = int(folds.max()) + 1
            warnings += _overlap(people, folds, unit)
        if self.threshold is not None:
            right = (scores >= self.threshold) == same
            metrics, thresholds = {"accuracy": float(right.mean())} | metrics, {"accuracy": self.threshold} | thresholds
            how += f", accuracy at {self.threshold:g}"
        elif folds is not None:
            found = (over_folds if by_fold.ndim == 1 else over_own_folds)(by_fold, same, folds)
            right, per_fold = (scores >= found.threshold[folds]) == same, {"accuracy": found.accuracy}
            metrics = {"accuracy": mean_of(found.accuracy), "accuracy_se": found.standard_error} | metrics
            thresholds = {"accuracy": mean_of(found.threshold)} | thresholds
            how += ", each fold by the threshold best on the others"
        sample = None
        if self.ci is not None and people is not None:
            sample, kept = thinned(scores, same, people)
            sample = sample._replace(right=None if right is None else right[kept])
        ci, curves = self._intervals(curve, sample, far, metrics, costs)
        return VerificationReport(
            metrics=metrics,
            protocol=how,
            counts=counts,
            per_unit=per_fold,
            unit="fold",
            ci=ci,
            ci_level=self.ci_level,
            ci_method=_method(people, unit),
            over="folds" if sample is None else unit,
            curves=curves,
            warnings=warnings if sample is None else warnings + few_units(len(np.unique(sample.people)), unit),
            thresholds=thresholds,
            scores=scores,
            same=same,
            people=people,
            sample=sample,
            costs=costs,
        )

    def _all(self, search: ExactSearch, codes: Ids) -> VerificationReport:
        """The report on all pairs."""
        sizes = np.bincount(codes)
        genuine = int((sizes * (sizes - 1) // 2).sum())
        impostor = len(codes) * (len(codes) - 1) // 2 - genuine
        if not genuine or not impostor:
            raise ValueError(
                f"labels must make genuine and impostor pairs, got {genuine:,} and {impostor:,}. "
                "There must be two identities, and one of them needs two rows."
            )
        far, warnings = measurable(self.far, impostor, "TAR at FAR", "impostor pairs")
        found = all_pairs(search, codes, far, self.ci is not None, self.seed)
        metrics, thresholds = _rates(found.exact, far)
        ci, curves = self._intervals(found.binned, found.sample, far, metrics)
        return VerificationReport(
            metrics=metrics,
            protocol=f"{self.similarity} similarity, all pairs",
            counts={"pairs": genuine + impostor, "genuine": genuine, "impostor": impostor},
            ci=ci,
            ci_level=self.ci_level,
            ci_method=_method(codes, "people"),
            over="people",
            curves=curves,
            warnings=warnings if found.sample is None else warnings + few_units(len(np.unique(codes)), "people"),
            thresholds=thresholds,
            people=codes,
            sample=found.sample,
        )

    def _intervals(
        self,
        curve: Roc,
        sample: PairSample | None,
        far: Sequence[float],
        metrics: Mapping[str, float],
        costs: Sequence[Costs] = (),
    ) -> tuple[dict[str, Interval], dict[str, dict[str, NDArray]]]:
        """The intervals of the metrics, and the curves for plots, with a band where there is a sample."""
        points = curve.points()
        if sample is None:
            return {}, {"roc": points, "scores": curve.histogram()}
        found, band = pair_intervals(sample, far, costs, self.ci_level, self.resamples, self.seed)
        points |= {end: np.interp(points["far"], band.far, getattr(band, end)) for end in ("low", "high")}
        ci = {name: interval for name, interval in found.items() if name in metrics}
        return ci, {"roc": points, "scores": curve.histogram()}


def _method(people: Ids | None, unit: str) -> str:
    how_many = "" if people is None else f"{len(np.unique(people)):,} "
    return f"two-sample bootstrap over {how_many}{unit}"


def _rates(curve: Roc, far: Sequence[float], costs: Sequence[Costs] = ()) -> tuple[dict[str, float], dict[str, float]]:
    """The error rates of a curve, and the threshold behind each."""
    metrics = {"equal_error_rate": curve.equal_error_rate}
    thresholds = {"equal_error_rate": curve.equal_error_threshold}
    for target in far:
        metrics[f"{TAR}{target:g}"] = curve.tar_at(target)
        thresholds[f"{TAR}{target:g}"] = curve.threshold_at(target)
    for each in costs:
        cost = curve.detection_cost(*each)
        metrics[each.metric], thresholds[each.metric] = float(cost.min()), float(curve.threshold[cost.argmin()])
    return metrics, thresholds


def _overlap(people: Ids | None, folds: Ids, unit: str) -> tuple[str, ...]:
    """A warning where folds share people: a threshold was then chosen on those whom it is measured on."""
    if people is None:
        return ()
    seen = np.unique(np.stack([people.ravel(), np.repeat(folds, 2)]), axis=1)[0]
    folds_of_each = np.unique(seen, return_counts=True)[1]
    several = int((folds_of_each > 1).sum())
    if not several:
        return ()
    return (
        f"{several:,} of {len(folds_of_each):,} {unit} appear in several folds: thresholds were chosen on them too",
    )
