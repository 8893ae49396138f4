"""Intervals over classes: how far a number would move, had other classes been measured.

Nothing is drawn twice, as a bootstrap would: a reference would be its own perfect neighbour. Classes are left out, one
at a time.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import as_numbers
from pml_center.checks import check_flags
from pml_center.evaluation.statistics import Interval, Values, check_level, cluster_codes, means_by_class

ROUNDING = 1e-12  # a standard error below it, beside values of 1, is one of the computer's


class Absence(NamedTuple):
    """What would change without a class in the gallery: where others found it, they find what stands behind it."""

    gone: NDArray[np.int64]
    """(P,) the class that is not there."""
    finder: NDArray[np.int64]
    """(P,) the class of queries that found it."""
    change: Values
    """(P,) of the sum of their values."""

    @classmethod
    def mean(cls, runs: Sequence["Absence"]) -> "Absence":
        """What would change of the mean of several runs."""
        gone, finder, change = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        return cls(gone, finder, change / len(runs))

    def less(self, other: "Absence") -> "Absence":
        """What would change of the difference from another model."""
        joined = [np.concatenate(pair) for pair in zip(self, other._replace(change=-other.change), strict=True)]
        return Absence(*joined)


def class_interval(
    values: Any, classes: Any, level: float = 0.95, macro: bool = False, absence: Absence | None = None
) -> Interval:
    """The interval of a mean of numbers in [0, 1], over classes: how far it would move with other classes.

    Its variance is that of the jackknife: each class is left out in turn, its queries and, where ``absence`` is known,
    its references too, which other classes are mistaken for. What a mistake between two classes brings in is then in
    the variance twice, once with either of them, and is taken out once. The interval is Wilson's, with as many trials
    as would give that variance and Student's quantile, so that it stays in [0, 1] and says something at 0 and 1. The
    quantile has fewer degrees of freedom where a few classes bring in most of the variance: other classes could as well
    have held none of these.

    Args:
        values: (U,) of queries, in [0, 1]. NaN is left out.
        classes: (U,) integers, the class of each.
        level: the share of such intervals that hold the true value, in (0, 1).
        macro: of the mean of the means of classes, instead of the mean of all values.
        absence: what would change without each class. Classes that have no value are taken as they are.

    Raises:
        ValueError: another shape, values outside [0, 1], fewer than two classes without NaN.

    Example:
        >>> low, high = class_interval([1, 1, 0, 1, 1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
        >>> round(low, 2), round(high, 2)
        (0.21, 0.95)

    Source: Efron and Stein, The jackknife estimate of variance, Annals of Statistics 9, 1981, section 5, for what is
        counted twice; Kish, Survey Sampling, 1965, section 11.7, for the number of classes that equal ones would be
        worth; O'Neill, Some useful moment results in sampling problems, The American Statistician 68, 2014, for the
        degrees of freedom; Korn and Graubard, Confidence intervals for proportions with small expected number of
        positive counts estimated from survey data, Survey Methodology 24, 1998, for the trials.
    """
    check_level(level)
    check_flags(macro=macro)
    values = as_numbers(values, "values")
    if values.ndim != 1:
        raise ValueError(f"values must have shape (units,), got {values.shape}. Give one for each unit.")
    known = values[~np.isnan(values)]
    if not ((known >= 0) & (known <= 1)).all():
        raise ValueError(
            f"values must be in [0, 1], got {known.min():g} to {known.max():g}. runs_interval takes any, with clusters."
        )
    moments = class_moments(values, classes, absence, macro, "classes")
    return score_interval(moments.mean, moments.variance, moments.freedom + 1, level)


class Moments(NamedTuple):
    """What is known of a mean over classes."""

    mean: float
    variance: float
    """Of the mean, by leaving out one class at a time."""
    freedom: float
    """The degrees of freedom of that variance."""
    classes: int


def class_moments(
    values: Values, classes: Any, absence: Absence | None = None, macro: bool = False, name: str = "clusters"
) -> Moments:
    """The mean of numbers of any size over classes, and its variance; arguments as of :func:`class_interval`.

    Example:
        >>> class_moments(np.array([0.0, 1, 2, 3]), [0, 0, 1, 1])
        Moments(mean=1.5, variance=1.0, freedom=1.0, classes=2)
    """
    measured = ~np.isnan(values)
    values, codes = by_cluster(values, classes, name)
    weights = 1 / np.bincount(codes)[codes] if macro else np.ones(len(codes))
    sizes = np.bincount(codes, weights).astype(np.float64)
    sums = means_by_class(values, codes) * sizes
    left = _left_out(sums, sizes)
    variance = _jackknife(left)
    if absence is not None:
        present = np.unique(np.asarray(classes)[measured])
        gone, finder = (np.searchsorted(present, each) for each in (absence.gone, absence.finder))
        units = np.isin(absence.gone, present) & np.isin(absence.finder, present)
        gone, finder = gone[units], finder[units]
        change = absence.change[units] * weights[np.unique(codes, return_index=True)[1]][finder]
        pairs = np.minimum(gone, finder) * len(sizes) + np.maximum(gone, finder)
        twice = np.bincount(np.unique(pairs, return_inverse=True)[1], change)
        left = _left_out(sums, sizes, np.bincount(gone, change, len(sizes)).astype(np.float64))
        variance = max(variance, _jackknife(left) - float(np.square(twice).sum()) / sizes.sum() ** 2)
    return Moments(float(sums.sum() / sizes.sum()), variance, _freedom(left, _worth(sizes)), len(sizes))


def over_classes(classes: int) -> str:
    """What :func:`class_interval` is about, in words.

    Example:
        >>> over_classes(193)
        'over 193 classes, left out one at a time'
    """
    return f"over {classes:,} classes, left out one at a time"


def score_interval(mean: float, variance: float, units: float, level: float) -> Interval:
    """Wilson's interval of a mean of numbers in [0, 1] whose variance was estimated.

    Args:
        mean: in [0, 1].
        variance: of the mean; 0, where all units are alike, says nothing, and they count as trials.
        units: that the variance was estimated from, equal ones.
        level: in (0, 1).

    Example:
        >>> low, high = score_interval(0.5, 0.01, 20, 0.95)
        >>> round(low, 2), round(high, 2)
        (0.31, 0.69)
    """
    quantile = students_quantile(level, units - 1) ** 2
    spread = 0 < mean < 1 and variance > ROUNDING**2
    inverse = variance / (mean * (1 - mean)) if spread else 1 / units  # of the trials that would give that variance
    middle = (mean + quantile * inverse / 2) / (1 + quantile * inverse)
    half = math.sqrt(quantile * inverse * (mean * (1 - mean) + quantile * inverse / 4)) / (1 + quantile * inverse)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def students_quantile(level: float, freedom: float) -> float:
    """How many standard errors an interval reaches, with one degree of freedom at least: unequal units have fewer.

    Example:
        >>> round(students_quantile(0.95, 19), 3), round(students_quantile(0.95, 0.1), 3)
        (2.093, 12.706)
    """
    from scipy.special import stdtrit  # scipy.stats has it too, and takes seconds to import

    return float(stdtrit(max(freedom, 1), (1 + level) / 2))


def class_values(values: Values, codes: NDArray[np.int64]) -> tuple[Values, float]:
    """A value for each class, whose plain mean is the mean of all rows and whose variance is that of the jackknife.

    Where classes have different numbers of rows the mean of all rows is a ratio of two sums. Left out, a class moves
    it; C - 1 times that, turned round, is what it brings in.

    Args:
        values: (..., U) without NaN.
        codes: (U,) the class of each, 0 to C - 1, each of which occurs.

    Returns:
        (..., C), and how many classes of one size they are worth.

    Example:
        >>> class_values(np.array([1.0, 0.0, 0.5, 0.5]), np.array([1, 0, 1, 1]))
        (array([0.16666667, 0.83333333]), 1.6)
    """
    sizes = np.bincount(codes).astype(np.float64)
    mean = values.mean(axis=-1, keepdims=True)
    sums = np.apply_along_axis(lambda row: means_by_class(row, codes), -1, values) * sizes
    moved = (sums - mean * sizes) * (len(sizes) - 1) / (sizes.sum() - sizes)
    return mean + moved - moved.mean(axis=-1, keepdims=True), _worth(sizes)


def _left_out(sums: Values, sizes: Values, changes: Values | float = 0.0) -> Values:
    """The mean of all rows without those of each class (C,)."""
    return (sums.sum() - sums + changes) / (sizes.sum() - sizes)


def _jackknife(left: Values) -> float:
    """The variance of a mean, by what it is without each class."""
    return float(np.square(left - left.mean()).sum()) * (len(left) - 1) / len(left)


def _freedom(left: Values, worth: float) -> float:
    """The degrees of freedom of that variance: as of so many equal classes at most, fewer where some stand far out."""
    squares = np.square(left - left.mean())
    if squares.mean() <= (ROUNDING * abs(left).max()) ** 2:
        return worth - 1
    kurtosis, count = np.square(squares).mean() / squares.mean() ** 2, len(left)
    return float(min(worth - 1, 2 * count / (kurtosis - (count - 3) / (count - 1))))


def _worth(sizes: Values) -> float:
    """How many classes of one size are worth as much as these."""
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def by_cluster(values: Any, clusters: Any, name: str = "clusters") -> tuple[Values, NDArray[np.int64]]:
    """Values (..., U) of the units without NaN, and the cluster of each from 0 on.

    Raises:
        ValueError: no cluster for each unit, or fewer than two of them.
    """
    known = ~np.asarray(np.atleast_2d(np.isnan(values)).any(axis=0))
    codes = np.unique(cluster_codes(clusters, len(known), name)[known], return_inverse=True)[1]
    if codes.max(initial=0) < 1:
        raise ValueError(
            f"{name} must be two or more, got {len(np.unique(codes))} with a value. One says nothing of others."
        )
    return values[..., known], codes
