"""Intervals and tests: how far a number would move with other queries, classes or people.

What is resampled is what was measured, never what was searched in: a reference drawn twice would be its own perfect
neighbour.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import as_array, as_numbers, check_count
from pml_center.checks import check_between, check_choices

Interval = tuple[float, float]
Values = NDArray[np.float64]
ENOUGH = 5  # units from which on intervals hold as often as they say


def mean_of(values: Any) -> float:
    """The mean of what is not NaN, correctly rounded: no order of the values changes its last digit.

    Example:
        >>> mean_of([1e16, 1.0, -1e16, float("nan")]), mean_of([1.0, 1e16, -1e16])
        (0.3333333333333333, 0.3333333333333333)
    """
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    return math.fsum(known.tolist()) / len(known) if len(known) else math.nan


def means_by_class(values: Values, codes: NDArray[np.int64]) -> Values:
    """The mean of each class (C,), whose last digit no order of the rows changes: they are added from small to large.

    Args:
        values: (U,) without NaN.
        codes: (U,) the class of each, 0 to C - 1, each of which occurs.

    Example:
        >>> means_by_class(np.array([1.0, 0.0, 0.5]), np.array([1, 0, 1]))
        array([0.  , 0.75])
    """
    order = np.lexsort((values, codes))
    return np.bincount(codes[order], values[order]) / np.bincount(codes)


def cluster_codes(clusters: Any, units: int, name: str = "clusters") -> NDArray[np.int64]:
    """The cluster that each unit belongs to, (U,) integers.

    Raises:
        ValueError: another shape or type.
    """
    clusters = as_array(clusters, name)
    if clusters.shape != (units,) or clusters.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be {units} integers, one per unit, got shape {clusters.shape} of {clusters.dtype}. "
            "Number the classes with np.unique(classes, return_inverse=True)."
        )
    return clusters


def bootstrap_interval(
    values: Any, clusters: Any = None, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> list[Interval]:
    """Percentile bootstrap intervals of means, all of them from the same resamples.

    Args:
        values: (M, U) the values of M metrics for each of U units (queries, folds, episodes), or (U,) of one. Units
            where any of them is NaN are left out.
        clusters: (U,) integers: the class, person or recording that a unit belongs to. Clusters are then resampled
            with all their units, because units of a cluster resemble each other. None resamples units.
        level: the share of such intervals that hold the true value, in (0, 1).
        resamples: how often to resample.
        seed: of the random numbers.

    Returns:
        (low, high) of each metric.

    Raises:
        ValueError: no unit without NaN, ``level`` or ``resamples`` out of range.

    Example:
        >>> [(low, high)] = bootstrap_interval([0, 1, 1, 1, 0, 1, 1, 1, 1, 1])
        >>> low, high
        (0.5, 1.0)

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3. scipy's ``bootstrap`` draws such
        resamples too, but takes several times as long: it gathers the values of each metric, where counts will do.
    """
    check_level(level)
    table = np.atleast_2d(as_numbers(values, "values"))  # (M, U)
    if table.ndim != 2:
        raise ValueError(f"values must have shape (metrics, units), got {table.shape}. Give a row for each metric.")
    known = ~np.isnan(table).any(axis=0)
    if not known.any():
        raise ValueError(
            f"values must have a unit without NaN, got {table.shape[1]} units. Check what was left out as not a number."
        )
    table = table[:, known]
    sizes = np.ones(table.shape[1])
    if clusters is not None:
        _, codes = np.unique(cluster_codes(clusters, np.size(known))[known], return_inverse=True)
        table = np.stack([np.bincount(codes, row) for row in table])  # (M, C)
        sizes = np.bincount(codes).astype(np.float64)
    table = np.concatenate([table, sizes[None]])  # the last row counts the units of a resample
    sums = np.stack([table @ counts for counts in resampled_counts(len(sizes), resamples, seed)])
    ends = np.quantile(sums[:, :-1] / sums[:, -1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return list(zip(*ends.tolist(), strict=True))


def wilson_interval(successes: float, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion: honest at 0 and 1, where a bootstrap sees nothing vary.

    Args:
        successes: how many, in [0, trials].
        trials: out of how many, at least 1.
        level: the share of such intervals that hold the true value, in (0, 1).

    Raises:
        ValueError: a number out of range.

    Example:
        >>> low, high = wilson_interval(20, 20)
        >>> round(low, 3), high
        (0.839, 1.0)

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    from scipy.stats import binomtest

    check_level(level)
    rule = f"in [0, {check_count('trials', trials)}], the number of trials"
    check_between(rule, "Count again.", successes=successes)
    low, high = binomtest(round(float(successes)), trials).proportion_ci(level, method="wilson")
    return float(low), float(high)


def settled(interval: Interval, units: int, level: float) -> Interval:
    """A bootstrap interval of a proportion; Wilson's where every resample gave 0, or every one 1.

    Args:
        interval: (low, high) of the bootstrap.
        units: what was resampled, how many.
        level: of the interval, in (0, 1).

    Example:
        >>> settled((0.25, 0.5), 8, 0.95), settled((1.0, 1.0), 8, 0.95)
        ((0.25, 0.5), (0.675..., 1.0))
    """
    low, high = interval
    return wilson_interval(low * units, units, level) if low == high and low in (0, 1) else interval


def bootstrap_intervals(values: Mapping[str, Values], level: float, resamples: int, seed: int) -> dict[str, Interval]:
    """:func:`bootstrap_interval` of metrics by their names, each :func:`settled`.

    Args:
        values: (U,) of each metric.
        level: as of :func:`bootstrap_interval`, like all that follows.
        resamples: how often to resample.
        seed: of the random numbers.

    Example:
        >>> bootstrap_intervals({"recall_at_1": np.array([1.0, 1.0, 1.0, 1.0])}, 0.95, 100, 0)
        {'recall_at_1': (0.510..., 1.0)}
    """
    table = np.stack(list(values.values()))
    known = ~np.isnan(table).any(axis=0)
    found = bootstrap_interval(table, None, level, resamples, seed)
    return {name: settled(interval, int(known.sum()), level) for name, interval in zip(values, found, strict=True)}


def two_sample_bootstrap(
    statistic: Callable[[NDArray[np.int64], NDArray[np.int64]], Any],
    genuine_ids: Any,
    impostor_ids: Any,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Values, Values]:
    """Percentile bootstrap interval of a verification statistic, by resampling people.

    Scores that share a person depend on each other, so that resampling scores gives intervals that are too narrow.
    Here people are drawn with replacement. A genuine pair counts as often as its person was drawn, an impostor pair as
    often as both its people were drawn together, the product of their counts.

    Args:
        statistic: (genuine weights (G,), impostor weights (I,)) -> a number or an array: the quantity computed with
            each score counted so many times. Sort scores once, outside.
        genuine_ids: (G,) integers, the person of each genuine pair.
        impostor_ids: (I, 2) integers, the two people of each impostor pair.
        level: the share of such intervals that hold the true value, in (0, 1).
        resamples: how often to resample.
        seed: of the random numbers.

    Returns:
        Lower and upper ends, each in the shape that ``statistic`` returns.

    Raises:
        ValueError: ids of another shape, ``level`` or ``resamples`` out of range.

    Example:
        >>> genuine, impostor = np.array([0.9, 0.8, 0.4]), np.array([0.1, 0.5])
        >>> def tar_at_half(genuine_weights, impostor_weights):
        ...     return (genuine_weights * (genuine >= 0.5)).sum() / max(1, genuine_weights.sum())
        >>> low, high = two_sample_bootstrap(tar_at_half, [7, 8, 9], [(7, 8), (8, 9)])
        >>> float(low), float(high)
        (0.0, 1.0)

    Source: Wu et al., NISTIR 7730, 2010 (two samples); Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1,
        2007, arXiv:0712.1111 (weights that are products).
    """
    check_level(level)
    found = two_sample_values(statistic, genuine_ids, impostor_ids, resamples, seed)
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def two_sample_values(
    statistic: Callable[[NDArray[np.int64], NDArray[np.int64]], Any],
    genuine_ids: Any,
    impostor_ids: Any,
    resamples: int,
    seed: int,
) -> Values:
    """What the statistic of :func:`two_sample_bootstrap` is in each resample, (resamples, ...); arguments as there.

    Example:
        >>> two_sample_values(lambda genuine, impostor: genuine.sum() + impostor.sum(), [0, 1], [(0, 1)], 2, 0).shape
        (2,)
    """
    check_seed(seed)
    genuine_ids, impostor_ids = as_array(genuine_ids, "genuine_ids"), as_array(impostor_ids, "impostor_ids")
    for name, ids in (("genuine_ids", genuine_ids), ("impostor_ids", impostor_ids)):
        if ids.size and ids.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integers, got dtype {ids.dtype}. Number the people from 0.")
    if genuine_ids.ndim != 1 or impostor_ids.ndim != 2 or impostor_ids.shape[1] != 2:
        raise ValueError(
            "genuine_ids must have shape (G,) and impostor_ids shape (I, 2), "
            f"got {genuine_ids.shape} and {impostor_ids.shape}. Give the person of each genuine pair, and both of each "
            "impostor pair."
        )
    people, codes = np.unique(np.concatenate([genuine_ids, impostor_ids.ravel()]), return_inverse=True)
    genuine, pairs = codes[: len(genuine_ids)], codes[len(genuine_ids) :].reshape(-1, 2)
    found = [
        statistic(counts[genuine], counts[pairs[:, 0]] * counts[pairs[:, 1]])
        for counts in resampled_counts(len(people), resamples, seed)
    ]
    return np.asarray(found, dtype=np.float64)


def resampled_tests(differences: Values, level: float, units: int) -> list[tuple[Interval, float]]:
    """The interval and the p-value of each difference between two models, by resamples that both share.

    The p-value is twice the share of resamples in which the other model is ahead, so that it agrees with the interval;
    but never below what exchanging the models could reach with so few units.

    Args:
        differences: (resamples, M); NaN where a resample has none.
        level: of the intervals, in (0, 1).
        units: that were resampled.

    Example:
        >>> resampled_tests(np.arange(-1, 10.0)[:, None], 0.5, units=3)
        [((1.5, 6.5), 0.5)]
    """
    low, high = np.nanquantile(differences, [(1 - level) / 2, (1 + level) / 2], axis=0)
    drawn = np.count_nonzero(~np.isnan(differences), axis=0)
    rarer = np.minimum((differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0))
    p_values = np.clip(2 * (rarer + 1) / (drawn + 1), 2.0 ** (1 - units), 1)
    return list(zip(zip(low.tolist(), high.tolist(), strict=True), p_values.tolist(), strict=True))


def resampled_counts(units: int, resamples: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """How often each unit comes in each of some resamples with replacement: arrays (units,) that add up to ``units``.

    Args:
        units: how many there are.
        resamples: how many arrays.
        seed: of the random numbers.

    Example:
        >>> [counts.sum().item() for counts in resampled_counts(units=5, resamples=3)]
        [5, 5, 5]
    """
    check_count("units", units)
    check_seed(seed)
    random = np.random.default_rng(seed)
    for _ in range(check_count("resamples", resamples)):
        yield np.bincount(random.integers(units, size=units, dtype=np.int32), minlength=units)


def few_units(units: int, what: str) -> tuple[str, ...]:
    """A warning where so few classes or people say little of others.

    Example:
        >>> few_units(3, "classes")[0]
        '3 classes are few to judge others by: no interval holds as often as it says. From 5 classes on ...'
    """
    if units >= ENOUGH:
        return ()
    some = f"1 of the {what} is too little" if units == 1 else f"{units} {what} are few"
    return (
        f"{some} to judge others by: no interval holds as often as it says. From {ENOUGH} {what} on they do; "
        "20 or more make them short",
    )


def check_intervals(ci: str | None, kinds: Any, level: float, resamples: int, seed: int) -> None:
    """How an evaluator makes its intervals, if it does.

    Args:
        ci: what is resampled; None for no intervals.
        kinds: the ``Literal`` of what can be.
        level: in (0, 1).
        resamples: at least 1.
        seed: at least 0.

    Raises:
        ValueError: another value.
    """
    if ci is not None:
        check_choices(ci=(ci, kinds))
    check_level(level)
    check_count("resamples", resamples)
    check_seed(seed)


def check_seed(seed: int) -> None:
    """What random numbers begin from must be an integer of at least 0.

    Raises:
        ValueError: anything else.
    """
    check_between("an integer of at least 0", "Use 0.", seed=seed)


def check_level(level: float) -> None:
    """A confidence level must be in (0, 1).

    Raises:
        ValueError: anything else.
    """
    check_between("in (0, 1)", "Use 0.95 for 95 %.", level=level)
