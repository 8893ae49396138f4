"""What users hand to an evaluation, checked once and turned into plain arrays."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from torch import Tensor


def as_matrix(values: Any, name: str, dtype: DTypeLike = np.float32) -> NDArray:
    """Embeddings as a finite, C-contiguous (N, D) array; no copy is made where none is needed.

    Args:
        values: (N, D) numbers: a numpy array or memmap of any layout, a tensor on any device, nested lists.
        name: what to call them in an error.
        dtype: floating-point type of the result.

    Raises:
        TypeError: values that are not real numbers.
        ValueError: another shape, no rows or columns, NaN or infinity (also where ``dtype`` is too small for a value).

    Example:
        >>> as_matrix([[1, 2], [3, float("nan")]], "embeddings")
        Traceback (most recent call last):
        ...
        ValueError: embeddings must be finite, got nan in row 1 (1 of 2 rows is not finite). Find out why ...
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()  # numpy knows no bfloat16
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}. Convert them to float32.")
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"{name} must have shape (rows, embedding_size) with at least one row and one column, "
            f"got shape {array.shape}. Flatten or pool them to one row per image."
        )
    with np.errstate(over="ignore"):  # too large a value becomes infinite, which is reported below
        matrix = np.ascontiguousarray(array, dtype=dtype)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        row = matrix[bad[0]]
        raise ValueError(
            f"{name} must be finite, got {row[~np.isfinite(row)][0]} in row {bad[0]} "
            f"({len(bad)} of {len(matrix)} rows {'is' if len(bad) == 1 else 'are'} not finite). "
            "Find out why the model returns such values, e.g. overflow in half precision or a diverged training."
        )
    return matrix


def class_codes(
    labels: Iterable[Hashable], rows: int, name: str = "labels", known: dict[Hashable, int] | None = None
) -> NDArray[np.int64]:
    """Number the classes in order of appearance: labels of any hashable kind -> integers from 0, shape (rows,).

    Labels never pass through floating point, so integers above 2**24 stay apart.

    Args:
        labels: one hashable value per row: integers, strings, tuples, a numpy array or a tensor.
        rows: how many labels there must be.
        name: what to call them in an error.
        known: classes numbered before, extended in place; give one dict to number two sets of labels alike.

    Raises:
        TypeError: labels that are not hashable.
        ValueError: another number of labels, or NaN among them.

    Example:
        >>> class_codes(["cat", "dog", "cat"], rows=3)
        array([0, 1, 0])
    """
    values = labels.tolist() if isinstance(labels, (np.ndarray, Tensor)) else list(labels)
    if not isinstance(values, list) or len(values) != rows:
        got = len(values) if isinstance(values, list) else "a single value"
        raise ValueError(f"{name} must hold one label for each of the {rows} rows, got {got}. Give one label a row.")
    known = {} if known is None else known
    codes = np.empty(rows, dtype=np.int64)
    for position, value in enumerate(values):
        if not isinstance(value, Hashable) or value != value:  # only NaN differs from itself
            kind = ValueError if isinstance(value, Hashable) else TypeError
            raise kind(
                f"{name} must be hashable and not NaN, got {value!r} at position {position}. "
                "Use labels.argmax(1) for one-hot labels, and drop rows without a label."
            )
        codes[position] = known.setdefault(value, len(known))
    return codes
