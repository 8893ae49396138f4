"""A score and a row as one integer, so that sorting integers ranks by score, largest first, and then by row."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

LOW, HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)  # halves of a 64-bit integer in memory


def order_keys(scores: NDArray[np.float32], ids: Any, out: Keys | None = None) -> Keys:
    """Keys (...) that ascend as the ranking does: the score, largest first, in the upper half; the row in the lower.

    Args:
        scores: (...) float32, no NaN; minus infinity comes last.
        ids: rows in [0, 2**32), broadcast to the scores.
        out: (...) uint64, C-contiguous, to write to.

    Example:
        >>> order_keys(np.array([0.5, 0.5, 2, -1], dtype=np.float32), np.arange(4)).argsort()
        array([2, 0, 1, 3])
    """
    keys = np.empty(scores.shape, dtype=np.uint64) if out is None else out
    halves = keys.view(np.uint32).reshape(*scores.shape, 2)
    halves[..., LOW] = ids
    halves[..., HIGH] = _flip((scores + np.float32(0)).view(np.uint32))  # -0 + 0 is 0
    return keys


def rows_of(keys: Keys) -> NDArray[np.int64]:
    """The rows (...) of some keys.

    Example:
        >>> rows_of(order_keys(np.array([0.5], dtype=np.float32), 7))
        array([7])
    """
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def scores_of(keys: Keys) -> NDArray[np.float32]:
    """The scores (...) of some keys.

    Example:
        >>> scores_of(order_keys(np.array([0.5, -np.inf], dtype=np.float32), 7))
        array([ 0.5, -inf], dtype=float32)
    """
    return _flip((keys >> np.uint64(32)).astype(np.uint32)).view(np.float32)


def _flip(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """From the bits of a float to an integer that descends where floats ascend, and back.

    Floats with a sign bit descend as integers already; the others do once all bits but the sign are inverted.
    """
    inverted = (~bits.view(np.int32) >> 31).view(np.uint32)  # all ones without a sign, zero with one
    inverted &= np.uint32(0x7FFFFFFF)
    inverted ^= bits
    return inverted
