"""Confidence intervals and tests of error rates, by resampling the people on the pairs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pml_center.evaluation.roc import Costs, Counts, Flags, RankedPairs, Scores
from pml_center.evaluation.statistics import Interval, resampled_tests, settled, two_sample_bootstrap, two_sample_values

KEPT = 5_000  # the highest impostor scores that the bootstrap takes whole; of what lies below it takes ever fewer


class PairSample(NamedTuple):
    """Scored pairs, some of which stand for several."""

    scores: Scores  # (n,)
    same: Flags  # (n,)
    people: Counts  # (n, 2) who is on the two images
    weight: NDArray[np.float64]  # (n,) how many pairs each stands for
    right: Flags | None = None  # (n,) whether each is judged rightly; None where accuracy is not measured


def thinned(scores: Scores, same: Flags, people: Counts) -> tuple[PairSample, Counts]:
    """A sample of pairs for the bootstrap, and which they are, (n,).

    Small false accept rates rest on the highest impostor scores, which are all kept. Below them the ranks that are kept
    lie ever farther apart; each stands for those since the one before, so that the curve passes through its points.
    """
    chosen, weights = [], []
    for kind in (True, False):
        own = np.flatnonzero(same == kind)
        own, last = own[np.argsort(-scores[own], kind="stable")], len(own) - 1
        ranks = np.arange(len(own))
        if last > 2 * KEPT:
            spread = np.linspace(0, last, 2 * KEPT)
            if not kind:
                spread = np.r_[:KEPT, np.geomspace(KEPT, last, int(KEPT * np.log(last / KEPT)))]
            ranks = np.unique(spread.astype(np.int64))
        chosen.append(own[ranks])
        weights.append(np.diff(ranks, prepend=-1).astype(np.float64))
    kept = np.concatenate(chosen)
    return PairSample(scores[kept], same[kept], people[kept], np.concatenate(weights)), kept


class Band(NamedTuple):
    """Between which TAR the curve lies, at some FAR."""

    far: NDArray[np.float64]  # ascending, from 0 to 1
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class _Rates:
    """Accuracy, equal error rate, area under the curve, TAR@FAR and minDCF of pairs, each counted so many times."""

    def __init__(
        self, sample: PairSample, far: Sequence[float], costs: Sequence[Costs], grid: NDArray[np.float64] | None = None
    ):
        self.sample = sample
        self.far = far
        self.costs = costs
        self.grid = np.empty(0) if grid is None else grid  # where the curve is asked for too
        self.ranking = RankedPairs(sample.scores, sample.same)
        self.genuine_share = sample.weight[sample.same].sum() / sample.weight.sum()
        self.names = ([] if sample.right is None else ["accuracy"]) + ["equal_error_rate", "area_under_roc"]
        self.names += [*(f"tar_at_far_{target:g}" for target in far), *(each.metric for each in costs)]

    def __call__(self, genuine_weights: Counts, impostor_weights: Counts) -> list[float]:
        same, right = self.sample.same, self.sample.right
        times = np.empty(len(same))
        times[same], times[~same] = genuine_weights, impostor_weights
        times *= self.sample.weight
        curve = self.ranking.roc(times)
        if not curve.genuine_pairs or not curve.impostor_pairs:
            return [np.nan] * (len(self.names) + len(self.grid))
        whole = curve.tar[np.searchsorted(curve.far, self.grid, side="right") - 1]
        values = [curve.equal_error_rate, curve.area, *(curve.tar_at(target) for target in self.far)]
        values += [*(float(curve.detection_cost(*each).min()) for each in self.costs), *whole]
        if right is None:
            return values
        genuine, impostor = (times * right * same).sum(), (times * right * ~same).sum()
        share = self.genuine_share * genuine / curve.genuine_pairs
        return [share + (1 - self.genuine_share) * impostor / curve.impostor_pairs, *values]


def pair_intervals(
    sample: PairSample, far: Sequence[float], costs: Sequence[Costs], level: float, resamples: int, seed: int
) -> tuple[dict[str, Interval], Band]:
    """Intervals of accuracy, equal error rate, area under the curve, TAR@FAR and minDCF, and of the whole curve.

    In each resample all thresholds are found anew but those of the accuracy, which stay.

    Args:
        sample: scored pairs of both kinds.
        far: targets of the false accept rate.
        costs: of each minDCF.
        level: of the intervals, in (0, 1).
        resamples: how often to resample.
        seed: of the random numbers.

    Returns:
        (low, high) of each metric, and the band around the curve, each of its points for itself. Where no resample
        differs from 0, or from 1, a metric gets Wilson's interval with a trial for each person who has a genuine pair.
    """
    same, people = sample.same, sample.people
    least = 1 / sample.weight[~same].sum()
    grid = np.unique(np.r_[np.geomspace(least, 1, 100), np.linspace(0, 1, 51)])
    rates = _Rates(sample, far, costs, grid)
    low, high = two_sample_bootstrap(rates, people[same, 0], people[~same], level, resamples, seed)
    persons = len(np.unique(people[same, 0]))
    ends = zip(low.tolist(), high.tolist(), strict=True)
    intervals = {name: settled(interval, persons, level) for name, interval in zip(rates.names, ends, strict=False)}
    return intervals, Band(grid, low[len(rates.names) :], high[len(rates.names) :])


def pair_tests(
    first: PairSample,
    second: PairSample,
    far: Sequence[float],
    costs: Sequence[Costs],
    level: float,
    resamples: int,
    seed: int,
) -> dict[str, tuple[Interval, float]]:
    """How two models differ on the same people: the interval of the difference of each rate, and its p-value.

    People are drawn once for both. See :func:`resampled_tests`.

    Args:
        first: pairs of one model.
        second: of the other, with the same people; which pairs were thinned out may differ.
        far: as of :func:`pair_intervals`, like all that follows.
        costs: of each minDCF.
        level: of the intervals, in (0, 1).
        resamples: how often to resample.
        seed: of the random numbers.
    """
    one, other = _Rates(first, far, costs), _Rates(second, far, costs)
    own = int(first.same.sum()), int((~first.same).sum())

    def difference(genuine: Counts, impostor: Counts) -> NDArray[np.float64]:
        ahead = dict(zip(one.names, one(genuine[: own[0]], impostor[: own[1]]), strict=True))
        behind = dict(zip(other.names, other(genuine[own[0] :], impostor[own[1] :]), strict=True))
        return np.array([ahead[name] - behind[name] for name in shared])

    shared = [name for name in one.names if name in other.names]
    genuine = np.concatenate([first.people[first.same, 0], second.people[second.same, 0]])
    impostor = np.concatenate([first.people[~first.same], second.people[~second.same]])
    found = two_sample_values(difference, genuine, impostor, resamples, seed)
    units = len(np.unique(np.concatenate([genuine, impostor.ravel()])))
    return dict(zip(shared, resampled_tests(found, level, units), strict=True))
