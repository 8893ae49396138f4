"""What users hand to an evaluation, checked once and turned into plain arrays."""

import os
import zlib
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from pml_center.checks import check_between
from pml_center.names import one_line

Names = Sequence[str] | None

BLOCK = 1 << 22  # bytes of a file that are read at a time
ENTRIES = 2**20  # numbers in the largest temporary array, so that work on large arrays takes about 50 MiB beside them


def row_name(row: int, names: Names) -> str:
    """A row in an error: its number, and what it is called.

    Example:
        >>> row_name(1, ["a.png", "b.png"])
        'row 1 (b.png)'
    """
    return f"row {row}" if names is None else f"row {row} ({names[row]})"


def as_array(values: Any, name: str = "values") -> NDArray:
    """A numpy array of the same values: a view where numpy can share the memory, a copy from another device.

    Raises:
        TypeError: a tensor without values or with zeros left out, and what makes no array.
        ValueError: lists of different lengths; values that are masked, which numpy would unmask without a word.

    Example:
        >>> as_array(np.ma.masked_equal([1, 2], 2), "labels")
        Traceback (most recent call last):
        ...
        ValueError: labels must not be missing, got a masked value at position 1 (1 of 2). Drop these rows, or fill ...
    """
    if isinstance(values, torch.Tensor):
        return _of_tensor(values, name)
    if np.ma.is_masked(values):
        bad = np.argwhere(np.ma.getmaskarray(values))
        raise ValueError(
            f"{name} must not be missing, got a masked value at position {', '.join(map(str, bad[0]))} "
            f"({len(bad)} of {np.size(values)}). Drop these rows, or fill them in."
        )
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # lists: ragged, or of tensors with gradients
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must make one array, got {type(values).__name__} ({one_line(error)}). "
            "Give all rows the same length, and detach tensors or stack them."
        ) from error


def _of_tensor(tensor: torch.Tensor, name: str) -> NDArray:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        got = "one on the meta device" if tensor.is_meta else f"layout {tensor.layout}, dtype {tensor.dtype}"
        raise TypeError(
            f"{name} must be a dense tensor that holds values, got {got}. Use .to_dense() or .dequantize()."
        )
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    known = (torch.float16, torch.float32, torch.float64)
    return (tensor if not tensor.is_floating_point() or tensor.dtype in known else tensor.float()).numpy()


def as_list(values: Iterable[Hashable], name: str = "values") -> list[Any]:
    """Labels, names or ids as Python's own scalars, which hash by value.

    Raises:
        TypeError: what has no order, and what does not hash.
        ValueError: None, NaN, NaT, pandas' NA or a masked value among them.

    Example:
        >>> as_list(torch.tensor([2, 1])), as_list("ab"), as_list([torch.tensor(3), np.int64(4)])
        ([2, 1], ['a', 'b'], [3, 4])
    """
    array = as_array(values, name) if isinstance(values, (np.ndarray, torch.Tensor)) else None
    listed: Any = values.tolist() if array is None and hasattr(values, "tolist") else values
    if array is not None and array.ndim:
        if array.ndim == 1 and array.dtype.kind in "iubUS":  # of these none can be missing
            return array.tolist()
        listed = array.tolist()
    if not isinstance(listed, Iterable) or isinstance(listed, (Set, Mapping, bytes)) or getattr(listed, "ndim", 1) == 0:
        raise TypeError(
            f"{name} must be one for each row, in order, got {type(values).__name__}. Pass a list or an array."
        )
    return [_scalar(each, position, name) for position, each in enumerate(listed)]


def _scalar(value: Any, position: int, name: str) -> Any:
    """A label that hashes by its value."""
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        value = as_array(value, name).tolist()
    if _is_missing(value):
        raise ValueError(
            f"{name} must not be {'NaN' if isinstance(value, float) else 'missing'}, got {value!r} at position "
            f"{position}. Drop the rows that have no label."
        )
    try:
        hash(value)
    except TypeError as error:
        is_column = isinstance(value, list) and len(value) == 1
        remedy = "labels.argmax(1) for one-hot labels, or tuple(label) for lists"
        raise TypeError(
            f"{name} must be hashable, got {value!r} at position {position}. "
            f"Use {'labels.flatten() for a column' if is_column else remedy}."
        ) from error
    return value


def _is_missing(value: Any) -> bool:
    """Whether a label stands for none: None, NaN, NaT, pandas' NA, or a tuple that holds one."""
    if isinstance(value, tuple):
        return any(map(_is_missing, value))
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # whether pandas' NA differs from itself is NA, which is neither true nor false
        return True


def as_path(value: Any, name: str) -> Path:
    """A path that a user gave.

    Raises:
        TypeError: something else.

    Example:
        >>> as_path(3, "folder")
        Traceback (most recent call last):
        ...
        TypeError: folder must be a path, got 3. Pass a text or a Path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {value!r}. Pass a text or a Path.")
    return Path(value)


def as_numbers(values: Any, name: str) -> NDArray[np.float64]:
    """Real numbers, NaN among them, as float64 of the same shape; booleans are 0 and 1.

    Raises:
        TypeError: values that are not real numbers.
        ValueError: as for :func:`as_array`.

    Example:
        >>> as_numbers([True, False], "hits")
        array([1., 0.])
    """
    array = as_array(values, name)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}. Convert them to float64.")
    return array.astype(np.float64, copy=False)


def read_array(path: str | Path, mapped: bool = False) -> NDArray:
    """The array of an ``.npy`` file of numbers or texts.

    Args:
        path: the file.
        mapped: leave it on disk until it is looked at.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an archive, an empty or damaged file, or one of Python's objects, which would have to be executed.
    """
    path, rule = as_path(path, "array"), "array must be an .npy file of numbers or texts"
    if not path.is_file():
        raise FileNotFoundError(f"array must be an existing file, got {str(path)!r}. Check the path.")
    try:
        array = np.load(path, mmap_mode="r" if mapped and path.stat().st_size else None)
    except OSError:
        raise
    except Exception as error:  # whatever numpy makes of a file that is none of its own
        raise ValueError(f"{rule}, got {str(path)!r} ({one_line(error)}). Write it again with np.save.") from error
    if not isinstance(array, np.ndarray):
        inside = ", ".join(array.files)
        array.close()
        raise ValueError(f"{rule}, got an archive of {inside} in {str(path)!r}. Save one of them with np.save.")
    return array


def parts_of(values: Any, name: str = "embeddings") -> list[NDArray]:
    """The arrays that embeddings come in: several where they are a list or tuple of matrices, else one.

    Example:
        >>> [part.shape for part in parts_of([np.ones((2, 3)), np.ones((5, 3))])]
        [(2, 3), (5, 3)]
        >>> [part.shape for part in parts_of([[1, 2, 3], [4, 5, 6]])]
        [(2, 3)]
    """
    if not isinstance(values, (list, tuple)) or not values:
        return [as_array(values, name)]
    first = values[0] if hasattr(values[0], "ndim") else as_array(values[0], name)
    if first.ndim != 2:
        return [as_array(values, name)]
    return [as_array(part, f"{name}[{number}]") for number, part in enumerate(values)]


def joined(values: Any, name: str = "embeddings") -> NDArray:
    """The rows of all parts in one array.

    Raises:
        ValueError: parts of different widths.

    Example:
        >>> joined([np.zeros((1, 2)), np.ones((2, 2))])
        array([[0., 0.],
               [1., 1.],
               [1., 1.]])
    """
    parts = parts_of(values, name)
    for number, part in enumerate(parts):
        check_width(parts[0], part, f"{name}[0]", f"{name}[{number}]")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def check_width(one: NDArray, other: NDArray, name: str, other_name: str) -> None:
    """Two matrices must have as many columns.

    Raises:
        ValueError: they do not.
    """
    if one.ndim == 2 and other.ndim != 2:
        raise ValueError(
            f"{other_name} must have shape (rows, embedding_size), got shape {other.shape}. "
            "Flatten or pool them to one row per image."
        )
    if one.ndim == 2 and one.shape[1] != other.shape[1]:
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
    array = as_array(values, name)
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
        TypeError: labels that are not hashable, or that have no order.
        ValueError: another number of labels; None, NaN, NaT, pandas' NA or a masked value among them.

    Example:
        >>> class_codes(["cat", "dog", "cat"], rows=3)
        array([0, 1, 0])
    """
    array = as_array(labels, name) if isinstance(labels, (np.ndarray, torch.Tensor)) else None
    values = as_list(labels if array is None else array, name)
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
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


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
        is_number = getattr(value, "ndim", 1) == 0  # an array of one number has no length, though its type has
        if is_number or isinstance(value, (str, bytes, Mapping, Set)) or not isinstance(value, Collection):
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


def sum_of_file(path: Path) -> str:
    """Bytes and CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return f"{path.stat().st_size}-{value:08x}"
