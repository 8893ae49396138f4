"""Confidence intervals of error rates, by resampling the people on the pairs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pml_center.evaluation.roc import Counts, Flags, RankedPairs, Scores
from pml_center.evaluation.statistics import Interval, settled, two_sample_bootstrap

KEPT = 5_000  # the highest impostor scores that the bootstrap takes whole; of what lies below it takes ever fewer


class PairSample(NamedTuple):
    """Scored pairs, some of which stand for several."""

    scores: Scores  # (n,)
    same: Flags  # (n,)
    people: Counts  # (n, 2) who is on the two images
    weight: NDArray[np.float64]  # (n,) how many pairs each stands for


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


def pair_intervals(
    sample: PairSample, right: Flags | None, far: Sequence[float], level: float, resamples: int, seed: int
) -> tuple[dict[str, Interval], Band]:
    """Intervals of accuracy, equal error rate, area under the curve and TAR@FAR, and of the whole curve.

    In each resample the thresholds of TAR@FAR and of the equal error rate are found anew. Those of the accuracy stay.

    Args:
        sample: scored pairs of both kinds.
        right: (n,) whether each pair is judged rightly; None where accuracy is not measured.
        far: targets of the false accept rate.
        level: of the intervals, in (0, 1).
        resamples: how often to resample.
        seed: of the random numbers.

    Returns:
        (low, high) of each metric, and the band around the curve, each of its points for itself. Where no resample
        differs from 0, or from 1, a metric gets Wilson's interval with a trial for each person who has a genuine pair.
    """
    same, weight = sample.same, sample.weight
    ranking = RankedPairs(sample.scores, same)
    genuine_share = weight[same].sum() / weight.sum()
    names = ([] if right is None else ["accuracy"]) + ["equal_error_rate", "area_under_roc"]
    names += [f"tar_at_far_{target:g}" for target in far]
    least = 1 / weight[~same].sum()
    grid = np.unique(np.r_[np.geomspace(least, 1, 100), np.linspace(0, 1, 51)])

    def statistic(genuine_weights: Counts, impostor_weights: Counts) -> list[float]:
        times = np.empty(len(same))
        times[same], times[~same] = genuine_weights, impostor_weights
        times *= weight
        curve = ranking.roc(times)
        if not curve.genuine_pairs or not curve.impostor_pairs:
            return [np.nan] * (len(names) + len(grid))
        whole = curve.tar[np.searchsorted(curve.far, grid, side="right") - 1]
        values = [curve.equal_error_rate, curve.area, *(curve.tar_at(target) for target in far), *whole]
        if right is None:
            return values
        genuine, impostor = (times * right * same).sum(), (times * right * ~same).sum()
        share = genuine_share * genuine / curve.genuine_pairs + (1 - genuine_share) * impostor / curve.impostor_pairs
        return [share, *values]

    people = sample.people
    low, high = two_sample_bootstrap(statistic, people[same, 0], people[~same], level, resamples, seed)
    persons = len(np.unique(people[same, 0]))
    ends = zip(low.tolist(), high.tolist(), strict=True)
    intervals = {name: settled(interval, persons, level) for name, interval in zip(names, ends, strict=False)}
    return intervals, Band(grid, low[len(names) :], high[len(names) :])
