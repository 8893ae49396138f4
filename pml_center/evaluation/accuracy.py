"""Accuracy of verification: the share of pairs that a threshold judges rightly, and which threshold to take."""

from typing import Any, NamedTuple

import numpy as np

from pml_center.evaluation.pairs import checked_folds
from pml_center.evaluation.roc import Counts, Flags, Scores, checked_pairs, last_of_ties


class FoldAccuracy(NamedTuple):
    """What cross-validation gave on each fold."""

    accuracy: Scores
    """(F,) the share of pairs judged rightly."""
    threshold: Scores
    """(F,) best on the other folds; infinity where it was best to accept nothing."""

    @property
    def standard_error(self) -> float:
        """Of the mean accuracy: the folds' standard deviation (of a sample) divided by the root of their number."""
        return float(np.sort(self.accuracy).std(ddof=1) / np.sqrt(len(self.accuracy)))


def cross_validated_accuracy(scores: Any, same: Any, folds: Any) -> FoldAccuracy:
    """Accuracy on each fold, with the threshold that is best on the other folds.

    Every observed score is tried, without a grid; among equally good thresholds the strictest is taken.

    Args:
        scores: (P,) finite real numbers, larger for more alike. Pass distances with a minus sign.
        same: (P,) whether a pair shows one identity: booleans, or 0 and 1.
        folds: (P,) the fold of each pair, anything hashable, at least two different.

    Returns:
        Accuracy and threshold of each fold, in the order in which the folds come.

    Raises:
        TypeError: scores that are not real numbers.
        ValueError: NaN or infinity, different lengths, other flags, a single fold.

    Example:
        >>> found = cross_validated_accuracy([0.8, 0.2, 0.8, 0.3, 0.1, 0.4], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2])
        >>> found.accuracy.tolist(), found.threshold.tolist()
        ([1.0, 1.0, 0.5], [0.8, 0.8, 0.8])

    Source: Huang et al., Labeled Faces in the Wild, University of Massachusetts Amherst, report 07-49, 2007 (View 2).
    """
    scores, same = checked_pairs(scores, same)
    return over_folds(scores, same, checked_folds(folds, len(scores)))


def best_threshold(scores: Any, same: Any) -> float:
    """The threshold that judges most pairs rightly; the strictest of several.

    Choose it on other pairs than those that you report: on LFW, on View 1.

    Args:
        scores: (P,) finite real numbers, larger for more alike.
        same: (P,) whether a pair shows one identity: booleans, or 0 and 1.

    Returns:
        One of the scores, or infinity where it is best to accept nothing.

    Raises:
        TypeError: scores that are not real numbers.
        ValueError: NaN or infinity, different lengths, other flags.

    Example:
        >>> best_threshold([0.9, 0.2, 0.8, 0.3], [True, False, True, False])
        0.8
    """
    scores, same = checked_pairs(scores, same)
    order = np.argsort(-scores, kind="stable")
    return _strictest(scores[order], _gain(same[order]))


def over_folds(scores: Scores, same: Flags, folds: Counts) -> FoldAccuracy:
    """:func:`cross_validated_accuracy` of arrays that were checked, from one sort."""
    order = np.argsort(-scores, kind="stable")
    ranked, gain, ranked_folds = scores[order], _gain(same[order]), folds[order]
    threshold = np.array(
        [_strictest(ranked, np.where(ranked_folds == fold, 0, gain)) for fold in range(folds.max() + 1)]
    )
    return _judged(scores, same, folds, threshold)


def over_own_folds(scores: Scores, same: Flags, folds: Counts) -> FoldAccuracy:
    """The same where each fold scores all pairs its own way, (F, P): its threshold is that of its own scores."""
    numbers = range(folds.max() + 1)
    threshold = np.array([best_threshold(scores[fold][folds != fold], same[folds != fold]) for fold in numbers])
    return _judged(scores[folds, np.arange(len(folds))], same, folds, threshold)


def _judged(scores: Scores, same: Flags, folds: Counts, threshold: Scores) -> FoldAccuracy:
    right = (scores >= threshold[folds]) == same
    return FoldAccuracy(np.bincount(folds, right) / np.bincount(folds), threshold)


def _gain(same: Flags) -> Counts:
    """How many more pairs are judged rightly when one more is accepted: 1 or -1."""
    return np.where(same, 1, -1)


def _strictest(ranked: Scores, gain: Counts) -> float:
    """The best threshold of descending scores, the first of several."""
    ends = last_of_ties(ranked)
    best = int(np.argmax(np.concatenate([[0], gain.cumsum()[ends]])))
    return float(ranked[ends[best - 1]]) if best else np.inf
