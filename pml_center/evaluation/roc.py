"""The receiver operating characteristic: how many pairs a threshold accepts, exactly, at every observed score.

A *genuine* pair shows one identity twice, an *impostor* pair shows two. ``score >= threshold`` accepts a pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import as_array, check_several
from pml_center.checks import check_between

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]

FEW = 10  # a rate that rests on fewer errors than this is mostly chance
DECADES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of which those are measured that rest on enough


class Costs(NamedTuple):
    """What mistakes cost, for a detection cost; see :meth:`Roc.detection_cost`.

    Example:
        >>> Costs(0.01).metric, Costs(0.01, c_miss=10).metric
        ('min_dcf_0.01', 'min_dcf_0.01_10_1')
    """

    p_target: float
    c_miss: float = 1
    c_fa: float = 1

    @property
    def metric(self) -> str:
        """The name of its minimum."""
        return "min_dcf_" + "_".join(f"{value:g}" for value in (self[:1] if self[1:] == (1, 1) else self))


@dataclass(frozen=True, eq=False)
class Roc:
    """Accepted pairs at each threshold, strictest first. :func:`roc` makes one from scores.

    Args:
        threshold: (T,) descending; the first is infinity, which accepts nothing.
        genuine: (T,) how many genuine pairs have ``score >= threshold``.
        impostor: (T,) how many impostor pairs have.
        genuine_pairs: how many genuine pairs there are.
        impostor_pairs: how many impostor pairs there are.

    Example:
        >>> curve = roc([0.9, 0.8, 0.7, 0.6, 0.5], [True, True, False, True, False])
        >>> curve.far.tolist(), curve.tar.round(2).tolist()
        ([0.0, 0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.33, 0.67, 0.67, 1.0, 1.0])
        >>> curve.tar_at(far=0.1), curve.threshold_at(far=0.1)
        (0.6666666666666666, 0.8)
    """

    threshold: Scores
    genuine: Counts
    impostor: Counts
    genuine_pairs: float
    impostor_pairs: float

    @property
    def far(self) -> Scores:
        """(T,) false accept rate: the share of impostor pairs that is accepted, ascending. FMR, or the ROC's x."""
        return self.impostor / self.impostor_pairs

    @property
    def tar(self) -> Scores:
        """(T,) true accept rate: the share of genuine pairs that is accepted, ascending. 1 − FNMR, or the ROC's y."""
        return self.genuine / self.genuine_pairs

    def tar_at(self, far: float) -> float:
        """``TAR@FAR`` by the conservative rule: the largest TAR among the thresholds whose FAR is at most ``far``.

        Args:
            far: the target, in [0, 1). No interpolation: what is reported is what a threshold does.
        """
        return float(self.tar[self.index_at(far)])

    def threshold_at(self, far: float) -> float:
        """The threshold of :meth:`tar_at`: the smallest observed score whose FAR is at most ``far``.

        Infinity where an impostor pair has the highest score of all and ``far`` allows none.
        """
        return float(self.threshold[self.index_at(far)])

    def far_at(self, tar: float) -> float:
        """The smallest FAR of a threshold whose TAR is at least ``tar``: the FPR at 95 % TPR of open sets, say.

        Args:
            tar: the target, in (0, 1).
        """
        return float(self.far[self.index_at_tar(tar)])

    def index_at_tar(self, tar: float) -> int:
        """The first point whose TAR is at least ``tar``, which is where :meth:`far_at` reads.

        Raises:
            ValueError: a target outside (0, 1).
        """
        check_between("in (0, 1)", "Use 0.95 to accept 95 %.", tar=tar)
        return int(np.searchsorted(self.tar, tar))

    def detection_cost(self, p_target: float, c_miss: float = 1, c_fa: float = 1) -> Scores:
        """(T,) NIST's normalised detection cost of each threshold, whose minimum is the minDCF.

        ``(c_miss · (1 − TAR) · p_target + c_fa · FAR · (1 − p_target)) / min(c_miss · p_target, c_fa · (1 −
        p_target))``: 1 is what accepting nothing costs, or accepting everything, whichever is cheaper.

        Args:
            p_target: how often a pair to decide about is expected to be genuine, in (0, 1), whatever the share here.
            c_miss: what it costs to reject a genuine pair, positive.
            c_fa: what it costs to accept an impostor pair, positive.

        Raises:
            ValueError: a number out of range.

        Example:
            >>> roc([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1]).detection_cost(0.5).round(3).tolist()
            [1.0, 0.667, 0.333, 1.333, 1.0]

        Source: NIST, The NIST Year 2010 Speaker Recognition Evaluation Plan, section 3.
        """
        check_costs([p_target], c_miss, c_fa)
        miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
        return (miss * (1 - self.tar) + false_alarm * self.far) / min(miss, false_alarm)

    def index_at(self, far: float) -> int:
        """The last point whose FAR is at most ``far``, which is where :meth:`tar_at` reads.

        Raises:
            ValueError: a target outside [0, 1).
        """
        check_between("in [0, 1)", "Use 0.001 for one in a thousand.", far=far)
        return int(np.searchsorted(self.far, far, side="right")) - 1

    @property
    def equal_error_rate(self) -> float:
        """EER: where the false accept rate equals the false reject rate, on straight lines between the thresholds."""
        far, after = self.far, self.index_at_equal_error
        early, late = (self.far + self.tar - 1)[after - 1 : after + 1]
        return float(far[after - 1] + early / (early - late) * (far[after] - far[after - 1]))

    @property
    def equal_error_threshold(self) -> float:
        """The strictest observed score at which the false accept rate is at least the false reject rate."""
        return float(self.threshold[self.index_at_equal_error])

    @property
    def index_at_equal_error(self) -> int:
        """The first point whose FAR is at least its false reject rate."""
        return int(np.argmax(self.far + self.tar >= 1))

    @property
    def area(self) -> float:
        """The area under the curve: how often a genuine pair scores above an impostor pair, a tie counting half."""
        genuine = self.genuine.astype(np.float64)  # sums of counts are exact, and 1 comes out as 1
        return float(
            (np.diff(self.impostor) * (genuine[1:] + genuine[:-1])).sum() / (2 * genuine[-1] * self.impostor[-1])
        )

    def points(self, most: int = 2000) -> dict[str, Scores]:
        """The curve as arrays for a plot, dense where FAR is small.

        Args:
            most: how many points at most; a curve with fewer is returned whole.

        Returns:
            ``far``, ``tar`` and ``threshold``, all of the same length.
        """
        last = len(self.threshold) - 1
        kept = np.arange(last + 1)
        if last >= most:
            kept = np.unique(np.r_[0, np.geomspace(1, last, most // 2), np.linspace(0, last, most // 2)].astype(int))
        return {"far": self.far[kept], "tar": self.tar[kept], "threshold": self.threshold[kept]}

    def histogram(self, bins: int = 100) -> dict[str, NDArray]:
        """How the scores of both kinds spread, for a plot.

        Args:
            bins: of equal width, from the lowest score to the highest.

        Returns:
            ``edge`` (bins + 1,), and ``genuine`` and ``impostor`` (bins,), numbers of pairs.
        """
        scores = self.threshold[1:]
        genuine, edges = np.histogram(scores, bins, weights=np.diff(self.genuine))
        impostor, _ = np.histogram(scores, edges, weights=np.diff(self.impostor))
        return {"edge": edges, "genuine": genuine, "impostor": impostor}


def roc(scores: Any, same: Any) -> Roc:
    """The receiver operating characteristic of scored pairs, with a threshold at every distinct score.

    Args:
        scores: (P,) finite real numbers, larger for more alike. Pass distances with a minus sign.
        same: (P,) whether a pair shows one identity: booleans, or 0 and 1. Both must occur.

    Raises:
        TypeError: scores that are not real numbers.
        ValueError: NaN or infinity, different lengths, other flags, only genuine or only impostor pairs.

    Example:
        >>> roc([0.2, 0.9, 0.4, 0.7], [0, 1, 1, 0]).equal_error_rate
        0.5
    """
    return RankedPairs(*checked_pairs(scores, same)).roc()


class RankedPairs:
    """Scored pairs, sorted once, whose curve is wanted under several weights. Takes arrays that were checked."""

    def __init__(self, scores: NDArray, same: Flags):
        self.order = np.argsort(-scores, kind="stable")
        self.same = same[self.order]
        ranked = scores[self.order]
        self.ends = last_of_ties(ranked)
        self.threshold = np.concatenate([[np.inf], ranked[self.ends]])

    def roc(self, weights: NDArray | None = None) -> Roc:
        """The curve in which each pair counts as often as its weight (P,) says; once by default."""
        weights = np.ones(len(self.order), dtype=np.int64) if weights is None else weights[self.order]
        sums = [(weights * kind).cumsum() for kind in (self.same, ~self.same)]
        genuine, impostor = (np.concatenate([[0], each[self.ends]]) for each in sums)
        return Roc(self.threshold, genuine, impostor, genuine[-1].item(), impostor[-1].item())


def last_of_ties(scores: NDArray) -> Counts:
    """Where sorted scores change: the position of the last of each value."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True))


def checked_pairs(scores: Any, same: Any) -> tuple[Scores, Flags]:
    """Scores and flags of pairs as plain arrays, by the rules of :func:`roc`."""
    values = as_array(scores, "scores")
    if values.dtype.kind not in "fiu":
        raise TypeError(f"scores must be real numbers, got dtype {values.dtype}. Convert them to float64.")
    if values.ndim != 1:
        raise ValueError(f"scores must have shape (pairs,), got shape {values.shape}. Pass one score per pair.")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"scores must be finite, got {values[bad[0]]} at position {bad[0]} ({len(bad)} of {len(values)} pairs). "
            "Look for overflow, or leave out the pairs that have no score."
        )
    return values.astype(np.float64), checked_flags(same, len(values))


def checked_flags(same: Any, pairs: int) -> Flags:
    """Whether each pair shows one identity, (P,) booleans with both values among them."""
    flags = as_array(same, "same")
    if flags.shape != (pairs,):
        raise ValueError(f"same must be one per pair ({pairs}), got shape {flags.shape}. Pass it in the same order.")
    is_number = flags.dtype.kind in "biuf"
    if flags.dtype.kind not in "biu" or not np.isin(flags, (0, 1)).all():
        other = flags[~np.isin(flags, (0, 1))][:1].tolist() if is_number else []
        raise ValueError(
            f"same must be booleans, or 0 and 1, got {other or flags.dtype}. Say True where a pair shows one identity."
        )
    flags = flags.astype(bool)
    if flags.all() or not flags.any():
        kind = "impostor" if flags.any() else "genuine"
        raise ValueError(
            f"same must have genuine and impostor pairs, got {pairs} pairs without a single {kind} one. "
            "Error rates need both; check which value means the same identity."
        )
    return flags


def check_rates(name: str, rates: Sequence[float] | None) -> None:
    """Targets of an error rate must be a list of numbers in (0, 1)."""
    rates = () if rates is None else rates
    check_several(**{name: rates})
    for rate in rates:
        check_between("in (0, 1)", "Use 0.001 for one in a thousand.", **{name: rate})


def check_costs(p_target: Sequence[float], c_miss: float, c_fa: float) -> None:
    """How often pairs are genuine must be in (0, 1), and costs positive."""
    check_rates("p_target", p_target)
    check_between("finite and positive", "NIST has 1, or 10 for a miss.", c_miss=c_miss, c_fa=c_fa)


def measurable(
    wanted: Sequence[float] | None, trials: int, what: str, units: str
) -> tuple[list[float], tuple[str, ...]]:
    """The targets of an error rate to measure, and a warning where those that were asked for rest on too little."""
    if wanted is None:
        return [rate for rate in DECADES if rate * trials >= FEW], ()
    doubtful = [f"{rate:g}" for rate in wanted if rate * trials < FEW]
    if not doubtful:
        return list(wanted), ()
    return list(wanted), (
        f"{what} {', '.join(doubtful)} is decided by fewer than {FEW} of {trials:,} {units}: mostly chance",
    )
