"""What users hand to an evaluation, checked once and turned into plain arrays."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from pml_center.checks import check_between

Names = Sequence[str] | None

ENTRIES = 2**20  # numbers in the largest temporary array, so that work on large arrays takes about 50 MiB beside them


def row_name(row: int, names: Names) -> str:
    """A row in an error: its number, and what it is called.

    Example:
        >>> row_name(1, ["a.png", "b.png"])
        'row 1 (b.png)'
    """
    return f"row {row}" if names is None else f"row {row} ({names[row]})"


def as_array(values: Any) -> NDArray:
    """A numpy array of the same values: a view where numpy can share the memory, a copy from another device."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # numpy knows no bfloat16
    return np.asarray(values)


def as_list(values: Iterable[Hashable]) -> list[Hashable]:
    """Python's own scalars, which hash by value."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def parts_of(values: Any) -> list[NDArray]:
    """The arrays that embeddings come in: several where they are a list or tuple of matrices, else one.

    Example:
        >>> [part.shape for part in parts_of([np.ones((2, 3)), np.ones((5, 3))])]
        [(2, 3), (5, 3)]
        >>> [part.shape for part in parts_of([[1, 2, 3], [4, 5, 6]])]
        [(2, 3)]
    """
    several = isinstance(values, (list, tuple)) and len(values) > 0 and np.ndim(values[0]) == 2
    return [as_array(part) for part in values] if several else [as_array(values)]


def joined(values: Any) -> NDArray:
    """The rows of all parts in one array.

    Raises:
        ValueError: parts of different widths.

    Example:
        >>> joined([np.zeros((1, 2)), np.ones((2, 2))])
        array([[0., 0.],
               [1., 1.],
               [1., 1.]])
    """
    parts = parts_of(values)
    for number, part in enumerate(parts):
        check_width(parts[0], part, "embeddings[0]", f"embeddings[{number}]")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def check_width(one: NDArray, other: NDArray, name: str, other_name: str) -> None:
    """Two matrices must have as many columns.

    Raises:
        ValueError: they do not.
    """
    if one.ndim == other.ndim == 2 and one.shape[1] != other.shape[1]:
        raise ValueError(
            f"{name} and {other_name} must have the same width, got {one.shape[1]} and {other.shape[1]} columns. "
            "Embed both with the same model."
        )


def as_matrix(values: Any, name: str, dtype: DTypeLike = np.float32, names: Names = None) -> NDArray:
    """Embeddings as a finite, C-contiguous (N, D) array, copied only where that is needed.

    Args:
        values: (N, D) real numbers: a numpy array or memmap of any layout, a tensor on any device, nested lists.
        name: what to call them in an error.
        dtype: floating-point type of the result.
        names: (N,) what to call the rows in an error, e.g. their paths.

    Raises:
        TypeError: values that are not real numbers.
        ValueError: another shape, no rows or no columns, NaN or infinity, values too large for ``dtype``.

    Example:
        >>> as_matrix([[1, 2], [3, float("nan")]], "embeddings")
        Traceback (most recent call last):
        ...
        ValueError: embeddings must be finite, got nan in row 1 (1 of 2 rows). Look for overflow in half precision ...
    """
    array = as_array(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}. Convert them to float32.")
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"{name} must have shape (rows, embedding_size) with at least one of each, got shape {array.shape}. "
            "Flatten or pool them to one row per image."
        )
    with np.errstate(over="ignore"):  # a value too large becomes infinite, and is reported below
        matrix = np.ascontiguousarray(array, dtype=dtype)
    step = max(1, ENTRIES // matrix.shape[1])
    finite = [np.isfinite(matrix[start : start + step]).all(axis=1) for start in range(0, len(matrix), step)]
    bad = np.flatnonzero(~np.concatenate(finite))
    if len(bad):
        row = matrix[bad[0]]
        raise ValueError(
            f"{name} must be finite, got {row[~np.isfinite(row)][0]} in {row_name(bad[0], names)} "
            f"({len(bad)} of {len(matrix)} rows). Look for overflow in half precision or for a training that diverged."
        )
    return matrix


def class_codes(
    labels: Iterable[Hashable], rows: int, name: str = "labels", known: dict[Hashable, int] | None = None
) -> NDArray[np.int64]:
    """Number the classes from 0 in order of appearance, shape (rows,).

    Labels may be of any hashable kind and never pass through floating point, so integers above 2**24 stay apart.

    Args:
        labels: one hashable value per row: integers, strings, tuples; a list, a numpy array or a tensor of them.
        rows: how many labels there must be.
        name: what to call them in an error.
        known: classes that have a number already, extended in place: one dict numbers two sets of labels alike.

    Raises:
        TypeError: labels that are not hashable.
        ValueError: another number of labels, or NaN among them.

    Example:
        >>> class_codes(["cat", "dog", "cat"], rows=3)
        array([0, 1, 0])
    """
    array = as_array(labels) if isinstance(labels, (np.ndarray, torch.Tensor)) else None
    values = list(labels if array is None else array.tolist())
    if len(values) != rows:
        raise ValueError(
            f"{name} must be one per row ({rows}), got {len(values)}. Pass labels in the order of the rows."
        )
    known = {} if known is None else known
    if array is not None and array.ndim == 1 and array.dtype.kind in "iu":  # the same, but for a step per class
        _, first, which = np.unique(array, return_index=True, return_inverse=True)
        order = np.argsort(first)
        numbers = np.empty(len(first), dtype=np.int64)
        numbers[order] = [known.setdefault(values[position], len(known)) for position in first[order].tolist()]
        return numbers[which]
    codes = np.empty(rows, dtype=np.int64)
    for position, value in enumerate(values):
        if not isinstance(value, Hashable):
            raise TypeError(
                f"{name} must be hashable, got {value!r} at position {position}. "
                "Use labels.argmax(1) for one-hot labels, or tuple(label) for lists."
            )
        if value != value:  # only NaN differs from itself
            raise ValueError(
                f"{name} must not be NaN, got {value!r} at position {position}. Drop the rows that have no label."
            )
        codes[position] = known.setdefault(value, len(known))
    return codes


def check_several(**values: Any) -> None:
    """Options that are lists must be lists, even of one.

    Raises:
        TypeError: anything else.

    Example:
        >>> check_several(recall_at=5)
        Traceback (most recent call last):
        ...
        TypeError: recall_at must be a list or tuple, got 5. Write (5,) for one.
    """
    for name, value in values.items():
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError(f"{name} must be a list or tuple, got {value!r}. Write ({value!r},) for one.")


def check_count(name: str, value: int) -> int:
    """A count must be a positive integer.

    Raises:
        ValueError: anything else.

    Example:
        >>> check_count("k", 0)
        Traceback (most recent call last):
        ...
        ValueError: k must be a positive integer, got 0. Use 1 or more.
    """
    check_between("a positive integer", "Use 1 or more.", **{name: value})
    return int(value)
