"""Retrieval metrics: functions of where the relevant references of a query stand.

Finding that out is the business of ``search``. References of equal score form a *group*. Under the rule that ties are
ranked by row every group has one member; otherwise a metric is its mean over all orders of the members of each group,
in closed form.

Source of the closed forms: McSherry and Najork, Computing information retrieval performance measures efficiently in the
presence of tied scores, ECIR 2008.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import check_count
from pml_center.evaluation.search import Counts, Ranking, Values
from pml_center.names import unknown_name


def recall_at_k(ranking: Ranking, k: int) -> Values:
    """Whether a query has a hit among its first k neighbours: 0 or 1, shape (Q,).

    The Recall@K of metric learning, also called hit rate, or CMC@K in re-identification. It is not the recall of
    information retrieval, the share of relevant references that were found: that is :func:`ir_recall_at_k`.

    Args:
        ranking: where the relevant references stand.
        k: neighbours that count, in [1, depth].

    Raises:
        ValueError: ``k`` out of range.

    Example:
        >>> hits = np.array([[False, True, True], [False, False, True]])
        >>> recall_at_k(Ranking.of(hits, np.array([2, 1])), k=2)
        array([1., 0.])
    """
    inside = ranking.inside(check_count("k", k))
    first = ranking.hits_before == 0  # whatever stands in later groups, this one decides
    found = np.minimum(inside, 1).astype(np.float64)
    split = first & (inside > 0) & (inside < ranking.size)
    found[split] = _any_hit(ranking.size[split], ranking.hits[split], inside[split])
    return ranking.sum(np.where(first, found, 0.0))


def ir_recall_at_k(ranking: Ranking, k: int) -> Values:
    """The share of the relevant references that stand among the first k: in [0, 1], shape (Q,); 0 where R is 0.

    Args:
        ranking: where the relevant references stand.
        k: neighbours that count, in [1, depth].

    Raises:
        ValueError: ``k`` out of range.

    Example:
        >>> ir_recall_at_k(Ranking.of(np.array([[False, True, True]]), np.array([4])), k=2)
        array([0.25])
    """
    inside = ranking.inside(check_count("k", k))
    return ranking.sum(ranking.hits * inside / ranking.size) / np.maximum(ranking.relevant, 1)


def precision_at_k(ranking: Ranking, k: int) -> Values:
    """The share of hits among the first k neighbours: in [0, 1], shape (Q,).

    Args:
        ranking: where the relevant references stand.
        k: neighbours that count, in [1, depth].

    Raises:
        ValueError: ``k`` out of range.

    Example:
        >>> precision_at_k(Ranking.of(np.array([[False, True, True]]), np.array([2])), k=2)
        array([0.5])
    """
    inside = ranking.inside(check_count("k", k))
    return ranking.sum(ranking.hits * inside / ranking.size) / k


def r_precision(ranking: Ranking) -> Values:
    """The share of hits among a query's first R neighbours: in [0, 1], shape (Q,); 0 where R is 0.

    Args:
        ranking: where the relevant references stand, at least R deep.

    Raises:
        ValueError: a query with more relevant references than neighbours.

    Example:
        >>> r_precision(Ranking.of(np.array([[True, False, True]]), np.array([2])))
        array([0.5])
    """
    inside = ranking.inside(ranking.relevant)
    return ranking.sum(ranking.hits * inside / ranking.size) / np.maximum(ranking.relevant, 1)


def mean_average_precision_at_r(ranking: Ranking) -> Values:
    """MAP@R of each query: in [0, 1], shape (Q,); 0 where R is 0.

    The mean over the first R neighbours of the precision up to that neighbour where it is a hit, and of 0 where it is
    not: R-precision that also rewards hits for coming early. Never above R-precision.

    Args:
        ranking: where the relevant references stand, at least R deep.

    Raises:
        ValueError: a query with more relevant references than neighbours.

    Example:
        >>> ranking = Ranking.of(np.array([[True, False, True]]), np.array([3]))
        >>> mean_average_precision_at_r(ranking).round(4)
        array([0.5556])

    Source: Musgrave et al., A Metric Learning Reality Check, ECCV 2020, arXiv:2003.08505, section 3.2.
    """
    return _summed_precision(ranking, ranking.inside(ranking.relevant)) / np.maximum(ranking.relevant, 1)


def mean_average_precision(ranking: Ranking) -> Values:
    """Average precision over the whole gallery: in [0, 1], shape (Q,); 0 where R is 0.

    The mean over the relevant references of the precision up to them, wherever they stand.

    Args:
        ranking: where all relevant references stand.

    Raises:
        ValueError: relevant references that were not found.

    Example:
        >>> ranking = Ranking.of(np.array([[True, False, False, True]]), np.array([2]))
        >>> mean_average_precision(ranking)
        array([0.75])
    """
    ranking.check_complete()
    return _summed_precision(ranking, ranking.size) / np.maximum(ranking.relevant, 1)


def map_at_k(ranking: Ranking, k: int) -> Values:
    """Average precision of the first k neighbours, over min(R, k): in [0, 1], shape (Q,); 0 where R is 0.

    The denominator of retrieval challenges: 1 where as many of the first k are hits as can be. Others divide by R (PML)
    or by the hits found (OML, torchmetrics), which rewards finding fewer.

    Args:
        ranking: where the relevant references stand.
        k: neighbours that count, in [1, depth].

    Raises:
        ValueError: ``k`` out of range.

    Example:
        >>> map_at_k(Ranking.of(np.array([[True, False, False, True]]), np.array([5])), k=2)
        array([0.5])
    """
    inside = ranking.inside(check_count("k", k))
    return _summed_precision(ranking, inside) / np.clip(ranking.relevant, 1, k)


def mean_reciprocal_rank(ranking: Ranking) -> Values:
    """One over the rank of the first hit: in (0, 1], shape (Q,); 0 where R is 0.

    Args:
        ranking: where all relevant references stand.

    Raises:
        ValueError: relevant references that were not found.

    Example:
        >>> mean_reciprocal_rank(Ranking.of(np.array([[False, True, True]]), np.array([2])))
        array([0.5])
    """
    ranking.check_complete()
    first = ranking.hits_before == 0
    return ranking.sum(np.where(first, _mean_over_first_hit(ranking, first, lambda before, size, at: 1 / at), 0))


def ndcg_at_k(ranking: Ranking, k: int) -> Values:
    """Normalised discounted cumulative gain of the first k neighbours: in [0, 1], shape (Q,); 0 where R is 0.

    A hit at rank i gains 1 / log2(i + 1); the sum is divided by that of the best order.

    Args:
        ranking: where the relevant references stand.
        k: neighbours that count, in [1, depth].

    Raises:
        ValueError: ``k`` out of range.

    Example:
        >>> ndcg_at_k(Ranking.of(np.array([[False, True, True]]), np.array([2])), k=3).round(4)
        array([0.6934])

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20, 2002.
    """
    inside = ranking.inside(check_count("k", k))
    k = min(k, max(int((ranking.before + ranking.size).max(initial=0)), int(ranking.relevant.max(initial=0))))
    gains = 1 / np.log2(np.arange(2, k + 2))  # no farther than there is anything to gain, whatever was asked for
    total = np.concatenate([[0], gains.cumsum()])
    start = np.minimum(ranking.before, k)
    mean = (total[start + inside] - total[start]) / ranking.size
    mean = np.where(ranking.size == 1, np.append(gains, 0)[start], mean)
    best = total[np.minimum(ranking.relevant, k)]
    return ranking.sum(ranking.hits * mean) / np.where(best == 0, 1, best)


def mean_inverse_negative_penalty(ranking: Ranking) -> Values:
    """How much of the list must be read to see all relevant references, R over the rank of the last: (0, 1], (Q,).

    mINP of re-identification: the hardest match counts. 0 where R is 0.

    Args:
        ranking: where all relevant references stand.

    Raises:
        ValueError: relevant references that were not found.

    Example:
        >>> ranking = Ranking.of(np.array([[True, False, False, True]]), np.array([2]))
        >>> mean_inverse_negative_penalty(ranking)
        array([0.5])

    Source: Ye et al., Deep Learning for Person Re-identification, TPAMI 2021, arXiv:2001.04193, section 4.1.
    """
    ranking.check_complete()
    last = ranking.hits_before + ranking.hits == ranking.relevant[ranking.query]
    # Seen from its end, the last hit of a group is its first.
    mirrored = _mean_over_first_hit(ranking, last, lambda before, size, at: 1 / (2 * before + size + 1 - at))
    return ranking.sum(np.where(last, mirrored, 0)) * ranking.relevant


def _summed_precision(ranking: Ranking, inside: Counts) -> Values:
    """The sum (Q,) of the precision at each hit, of the hits among the first ``inside`` members of each group.

    The j-th of n members is a hit with probability r / n. Then (j - 1)(r - 1) / (n - 1) of those before it are, so that
    its precision is (hits_before + 1 + (j - 1)(r - 1) / (n - 1)) / (before + j) in the mean.
    """
    before, size, hits = ranking.before, ranking.size, ranking.hits
    slope = (hits - 1) / np.maximum(size - 1, 1)
    alone = size == 1
    harmonic = np.where(alone, inside / (before + 1), 0.0)  # sums of 1 / (before + j)
    if not alone.all():
        total = np.concatenate([[0], (1 / np.arange(1, (before + size).max() + 1)).cumsum()])
        harmonic = np.where(alone, harmonic, total[before + inside] - total[before])
    return ranking.sum(hits / size * ((ranking.hits_before + 1 - slope * (before + 1)) * harmonic + slope * inside))


def _any_hit(size: Counts, hits: Counts, inside: Counts) -> Values:
    """The probability that one of ``hits`` among ``size`` members stands among the first ``inside``."""
    from scipy.special import gammaln

    def log_choose(n: Counts, k: Counts) -> Values:
        return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)

    possible = hits <= size - inside
    misses = np.where(possible, size - hits, inside)
    return 1 - np.where(possible, np.exp(log_choose(misses, inside) - log_choose(size, inside)), 0)


def _mean_over_first_hit(
    ranking: Ranking, groups: NDArray[np.bool_], value: Callable[[Any, Any, Any], Values]
) -> Values:
    """The mean (G,) of ``value(before, size, rank)`` over where a group's first hit may stand; 0 outside ``groups``."""
    from scipy.special import gammaln

    means = np.where(groups, value(ranking.before, ranking.size, ranking.before + 1), 0)
    tied = np.flatnonzero(groups & (ranking.size > 1))
    kinds = np.stack([ranking.before[tied], ranking.size[tied], ranking.hits[tied]], axis=1)
    kinds, which = np.unique(kinds, axis=0, return_inverse=True)
    found = np.empty(len(kinds))
    for i, (before, size, hits) in enumerate(kinds.tolist()):
        place = np.arange(1, size - hits + 2)  # C(size - place, hits - 1) of the C(size, hits) orders
        log_orders = gammaln(size - place + 1) - gammaln(hits) - gammaln(size - place - hits + 2)
        log_orders -= gammaln(size + 1) - gammaln(hits + 1) - gammaln(size - hits + 1)
        found[i] = np.exp(log_orders) @ value(before, size, before + place)
    means[tied] = found[which]
    return means


@dataclass(frozen=True)
class Metric:
    """A metric of rankings.

    Args:
        function: the ranking of Q queries, and ``k`` where the metric has one -> values (Q,).
        looks_at: the neighbours that it is decided by: ``"k"``, the first k; ``"r"``, as many as there are relevant
            references; ``"gallery"``, all.
        k: how many are the first; 0 where the metric has none.

    Example:
        >>> Metric(precision_at_k, "k", k=2)(Ranking.of(np.array([[True, True, False]]), np.array([2])))
        array([1.])
    """

    function: Callable[..., Values]
    looks_at: Literal["k", "r", "gallery"]
    k: int = 0

    def __call__(self, ranking: Ranking) -> Values:
        """Its values (Q,) for the queries of a ranking."""
        return self.function(ranking, self.k) if self.looks_at == "k" else self.function(ranking)


METRICS = {
    "r_precision": Metric(r_precision, "r"),
    "mean_average_precision_at_r": Metric(mean_average_precision_at_r, "r"),
    "mean_average_precision": Metric(mean_average_precision, "gallery"),
    "mean_reciprocal_rank": Metric(mean_reciprocal_rank, "gallery"),
    "mean_inverse_negative_penalty": Metric(mean_inverse_negative_penalty, "gallery"),
    "recall_at_K": Metric(recall_at_k, "k"),
    "precision_at_K": Metric(precision_at_k, "k"),
    "ir_recall_at_K": Metric(ir_recall_at_k, "k"),
    "map_at_K": Metric(map_at_k, "k"),
    "ndcg_at_K": Metric(ndcg_at_k, "k"),
}


def metric_named(name: str) -> Metric:
    """The metric of a name, which has a number in place of K.

    Raises:
        ValueError: an unknown name, or a K that is not a positive integer.

    Example:
        >>> metric_named("precision_at_2").k
        2
        >>> metric_named("r_precission")
        Traceback (most recent call last):
        ...
        ValueError: metric must be a known name, got 'r_precission'. Did you mean 'r_precision' or ...
    """
    match = re.fullmatch(r"(\w+_at_)([1-9]\d*)", str(name))
    metric = METRICS.get(f"{match[1]}K" if match else str(name))
    if metric is None or (metric.looks_at == "k") != bool(match):
        raise ValueError(
            unknown_name("metric", str(name), list(METRICS), f"Choose from {', '.join(METRICS)} with K from 1.")
        )
    return replace(metric, k=int(match[2])) if match else metric
