"""Retrieval metrics: functions of where the relevant references of a query stand.

Finding that out is the business of ``search``. References of equal score form a *group*. Under the rule that ties are
ranked by row every group has one member; otherwise a metric is its mean over all orders of the members of each group,
in closed form.

Source of the closed forms: McSherry and Najork, Computing information retrieval performance measures efficiently in the
presence of tied scores, ECIR 2008.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import check_count
from pml_center.names import unknown_name

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Where the relevant references of Q queries stand, as G groups of equal score that hold at least one of them.

    Args:
        relevant: (Q,) how many references with the query's label there are, R.
        depth: how many neighbours were looked at; nothing is known beyond.
        query: (G,) the query of each group; groups are sorted by query, and best first within one.
        before: (G,) how many references come before the group.
        size: (G,) how many are in it.
        hits: (G,) how many of these are relevant, at least 1.
        hits_before: (G,) how many of those before are relevant.

    Example:
        >>> ranking = Ranking.of(np.array([[True, False, True]]), np.array([2]))
        >>> ranking.before, ranking.hits_before
        (array([0, 2]), array([0, 1]))
    """

    relevant: Counts
    depth: int
    query: Counts
    before: Counts
    size: Counts
    hits: Counts
    hits_before: Counts

    @classmethod
    def of(cls, hits: Hits, relevant: Counts, depth: int | None = None) -> "Ranking":
        """The ranking that the first K neighbours give.

        Args:
            hits: (Q, K) whether the i-th neighbour has the query's label; the query itself removed.
            relevant: (Q,) how many references with the query's label there are, among the first K or beyond.
            depth: how many neighbours were looked at, where the gallery has fewer than that; None means K.
        """
        query, before = np.nonzero(hits)
        ones = np.ones_like(query)
        found = np.count_nonzero(hits, axis=1)
        hits_before = np.arange(len(query)) - np.repeat(found.cumsum() - found, found)
        depth = hits.shape[1] if depth is None else depth
        return cls(np.asarray(relevant, dtype=np.int64), depth, query, before, ones, ones, hits_before)

    def inside(self, k: int | Counts) -> Counts:
        """How many members of each group (G,) stand among the first k, one number or one for each query.

        Raises:
            ValueError: ``k`` beyond ``depth``.
        """
        deepest = int(np.max(k, initial=0))
        if deepest > self.depth:
            raise ValueError(
                f"k must be at most the number of neighbours per query ({self.depth}), got {deepest}. "
                "Search for more neighbours: with fewer the metric would come out wrong."
            )
        k = np.broadcast_to(k, self.relevant.shape)[self.query]
        return np.asarray(np.clip(k - self.before, 0, self.size), dtype=np.int64)

    def sum(self, values: Values | Counts) -> Values:
        """Add up what the groups (G,) contribute to their query, (Q,)."""
        weights = np.asarray(values, dtype=np.float64)
        return np.asarray(np.bincount(self.query, weights, len(self.relevant)), dtype=np.float64)

    def check_complete(self) -> None:
        """All relevant references must have been found.

        Raises:
            ValueError: some stand beyond ``depth``.
        """
        missing = np.flatnonzero(self.sum(self.hits) < self.relevant)
        if len(missing):
            raise ValueError(
                f"hits must hold all relevant references, got fewer for query {missing[0]} ({len(missing)} of "
                f"{len(self.relevant)} queries). Rank the whole gallery: with less the metric comes out wrong."
            )


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
    return precision_at_k(ranking, k) * k / np.maximum(ranking.relevant, 1)


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
    gains = 1 / np.log2(np.arange(2, k + 2))
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


WITHOUT_K: dict[str, Callable[[Ranking], Values]] = {
    "r_precision": r_precision,
    "mean_average_precision_at_r": mean_average_precision_at_r,
    "mean_average_precision": mean_average_precision,
    "mean_reciprocal_rank": mean_reciprocal_rank,
    "mean_inverse_negative_penalty": mean_inverse_negative_penalty,
}
WITH_K: dict[str, Callable[..., Values]] = {
    "recall_at_": recall_at_k,
    "precision_at_": precision_at_k,
    "ir_recall_at_": ir_recall_at_k,
    "map_at_": map_at_k,
    "ndcg_at_": ndcg_at_k,
}
FIRST_R = ("r_precision", "mean_average_precision_at_r")  # they look at the first R neighbours
WHOLE_GALLERY = ("mean_average_precision", "mean_reciprocal_rank", "mean_inverse_negative_penalty")


def metric_function(name: str) -> Callable[[Ranking], Values]:
    """The function of a metric by its name; ``partial`` with ``k`` where the name has one.

    Raises:
        ValueError: an unknown name, or a K that is not a positive integer.

    Example:
        >>> metric_function("precision_at_2")(Ranking.of(np.array([[True, True, False]]), np.array([2])))
        array([1.])
        >>> metric_function("r_precission")
        Traceback (most recent call last):
        ...
        ValueError: metric must be a known name, got 'r_precission'. Did you mean 'r_precision' or ...
    """
    if name in WITHOUT_K:
        return WITHOUT_K[name]
    match = re.fullmatch(r"(\w+_at_)([1-9]\d*)", name)
    if match and match[1] in WITH_K:
        return partial(WITH_K[match[1]], k=int(match[2]))
    known = [*WITHOUT_K, *(f"{prefix}K" for prefix in WITH_K)]
    raise ValueError(unknown_name("metric", name, known, f"Choose from {', '.join(known)} with K from 1."))
