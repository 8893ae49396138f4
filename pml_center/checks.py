"""The checks that every public boundary shares. Each says the rule, the value received, the place and the remedy."""

import math
import operator
import os
import re
from collections.abc import Callable, Hashable
from contextlib import suppress
from numbers import Integral
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from pml_center.names import unknown_name

is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # since torch 2.7

INTERVAL = re.compile(r"in ([\[(])([^,]+), ([^\])]+)([\])])")
LEAST = re.compile(r"at least ([^\s,]+)")
BOUND = re.compile(r"below ([^\s,]+)")
ABOVE, BELOW = {"[": operator.ge, "(": operator.gt}, {"]": operator.le, ")": operator.lt}
PARTS_OF_PI = {"π": math.pi, "π/2": math.pi / 2}
LARGEST = 2**63  # of any number: torch computes with no larger integer
LARGEST_SIZE = 2**31  # of anything that is counted: beyond it no memory is large enough
FLOATS = torch.float16, torch.bfloat16, torch.float32, torch.float64  # that torch computes with


def check_embeddings(embeddings: Tensor, embedding_size: int | None = None, name: str = "embeddings") -> None:
    """Embeddings must be a floating-point matrix of the expected width, finite, with lengths that do not overflow.

    Values are looked at on the CPU only: on a GPU each look would wait for all that it has to do before.

    Args:
        embeddings: (B, D) floating point.
        embedding_size: the width D that a loss was built with; None accepts any.
        name: what they are called, for the message.

    Raises:
        TypeError: embeddings that are not floating point, or not dense.
        ValueError: another shape or width, NaN or infinity, lengths whose square is infinite.

    Example:
        >>> import torch
        >>> check_embeddings(torch.zeros(4, 8), embedding_size=16)
        Traceback (most recent call last):
        ...
        ValueError: embeddings must have 16 columns because embedding_size=16, got shape (4, 8). Build the
            loss ...
        >>> check_embeddings(torch.full((4, 8), 1e25))
        Traceback (most recent call last):
        ...
        ValueError: embeddings must have lengths whose square float32 can hold, got 2.83e+25 in row 0 (4 of 4 rows). ...
    """
    check_rows(embeddings, name)
    if embedding_size is not None and embeddings.shape[1] != embedding_size:
        raise ValueError(
            f"{name} must have {embedding_size} columns because embedding_size={embedding_size}, "
            f"got shape {tuple(embeddings.shape)}. Build the loss with embedding_size={embeddings.shape[1]}, "
            f"or the model with create_embedder(..., embedding_size={embedding_size})."
        )
    dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    if embeddings.device.type != "cpu" or is_exporting():
        return
    with torch.no_grad():
        # The length of all together is finite, but for an overflow, which the second look finds to be none of a row's.
        if math.isfinite(torch.linalg.vector_norm(embeddings, dtype=dtype)):
            return
    embeddings = embeddings.detach()
    rows = (~torch.linalg.vector_norm(embeddings, dim=1, dtype=dtype).isfinite()).nonzero().flatten().tolist()
    if not rows:
        return
    infinite = (~embeddings.isfinite().all(1)).nonzero().flatten().tolist()
    if infinite:
        value = embeddings[infinite[0]][~embeddings[infinite[0]].isfinite()][0].item()
        raise ValueError(
            f"{name} must be finite, got {value} in row {infinite[0]} ({len(infinite)} of {len(embeddings)} rows are "
            "not finite). Lower the learning rate, clip the gradients, or use bf16 instead of fp16 in mixed precision."
        )
    length = embeddings[rows[0]].double().abs().max().item()
    length *= (embeddings[rows[0]].double() / length).norm().item()
    raise ValueError(
        f"{name} must have lengths whose square {str(dtype).removeprefix('torch.')} can hold, got {length:.3g} in row "
        f"{rows[0]} ({len(rows)} of {len(embeddings)} rows). Lower the learning rate, clip the gradients, or end the "
        "model in a BatchNorm layer."
    )


def check_rows(rows: Tensor, name: str = "embeddings") -> None:
    """Rows must be a floating-point matrix: the half of :func:`check_embeddings` that looks at no value.

    Raises:
        TypeError: rows that are not floating point, or not dense.
        ValueError: another shape.
    """
    if not isinstance(rows, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(rows).__name__}. Convert them with torch.as_tensor.")
    if rows.layout is not torch.strided or rows.is_nested or rows.is_quantized:
        raise TypeError(_not_dense(rows, name))
    if rows.dtype not in FLOATS:
        raise TypeError(f"{name} must be floating point, got dtype {rows.dtype}. Convert them with .float().")
    if rows.ndim != 2:
        raise ValueError(
            f"{name} must have shape (batch, embedding_size), got shape {tuple(rows.shape)}. "
            "Flatten or pool them to one row per image."
        )


def _not_dense(tensor: Tensor, name: str) -> str:
    """The message for a tensor whose values are not there, one after the other."""
    kinds = {"nested": tensor.is_nested, "quantized": tensor.is_quantized}
    got = next((kind for kind, is_it in kinds.items() if is_it), str(tensor.layout))
    remedy = ".dequantize()" if tensor.is_quantized else ".to_dense(), or pad them"
    return f"{name} must be a dense tensor, got one that is {got}. Convert them with {remedy}."


def check_labels(
    labels: object, num_classes: int | None, batch_size: int, ignore_index: int | None = None, name: str = "labels"
) -> Tensor:
    """Labels must be integers that index the classes, one for each embedding.

    On a GPU values are looked at by the GPU itself: the process stops a little later, with the rule alone.

    Args:
        labels: (B,) integers in [0, num_classes).
        num_classes: how many classes the loss was built with; None accepts any integers.
        batch_size: B, how many embeddings there are.
        ignore_index: a label that is allowed beside them.
        name: what they are called, for the message.

    Returns:
        The labels as int64.

    Raises:
        TypeError: labels of another type.
        ValueError: no labels, another shape, or labels outside [0, num_classes).

    Example:
        >>> import torch
        >>> check_labels(torch.tensor([0, 3]), num_classes=3, batch_size=2)
        Traceback (most recent call last):
        ...
        ValueError: labels must be in [0, 3) because num_classes=3, got 3 at position 1. Renumber them from 0,
            ...
    """
    if labels is None:  # PML's contract is a ValueError
        raise ValueError(f"{name} must be a tensor of integers, got NoneType. Pass one label per embedding.")
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"{name} must be a tensor of integers, got {type(labels).__name__}. Pass one label per embedding."
        )
    if labels.layout is not torch.strided or labels.is_nested or labels.is_quantized:
        raise TypeError(_not_dense(labels, name))
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        is_one_hot = labels.ndim == 2 and labels.shape[1] > 1
        remedy = f"{name}.argmax(1) if they are one-hot" if is_one_hot else ".long() if they hold class numbers"
        raise TypeError(f"{name} must be integers, got dtype {labels.dtype}. Convert them with {remedy}.")
    if labels.shape != (batch_size,):
        remedy = "Pass one label per embedding."
        if labels.ndim == 2 and len(labels) == batch_size:
            remedy = f"Use {name}.{'flatten()' if labels.shape[1] == 1 else 'argmax(1) if they are one-hot'}."
        raise ValueError(
            f"{name} must have shape ({batch_size},), one per embedding, got shape {tuple(labels.shape)}. {remedy}"
        )
    labels = labels.long().contiguous()  # every other one of a batch is not, and torch warns
    if num_classes is None or not len(labels):
        return labels
    if labels.device.type != "cpu":  # looked at by the device itself, which stops with this message
        inside = (labels >= 0) & (labels < num_classes) | (labels == (0 if ignore_index is None else ignore_index))
        with suppress(NotImplementedError):  # devices beside CUDA may have no such look
            torch._assert_async(inside.all(), f"{name} must be in [0, {num_classes}) because num_classes={num_classes}")
        return labels
    if torch.equal(labels.clamp(0, num_classes - 1), labels):
        return labels
    outside = (labels < 0) | (labels >= num_classes)
    if ignore_index is not None:
        outside &= labels != ignore_index
    if outside.any():
        bad = int(outside.nonzero()[0])
        raise ValueError(
            f"{name} must be in [0, {num_classes}) because num_classes={num_classes}, "
            f"got {labels[bad].item()} at position {bad}. "
            "Renumber them from 0, e.g. with torch.unique(labels, return_inverse=True)."
        )
    return labels


def check_class_counts(class_counts: object, num_classes: int) -> Tensor:
    """How many samples each class has: positive integers, one per class or one for all.

    Args:
        class_counts: (C,), or one number.
        num_classes: C.

    Returns:
        The counts, (C,) of int64.

    Raises:
        ValueError: another shape, or counts that are not positive integers.

    Example:
        >>> import torch
        >>> check_class_counts([5, 0], num_classes=2)
        Traceback (most recent call last):
        ...
        ValueError: class_counts must be positive integers, one for each of the 2 classes, got [5, 0]. Count them with
            torch.bincount(labels, minlength=num_classes).
    """
    counts = as_numbers(class_counts)
    is_whole = counts is not None and not counts.is_floating_point() and counts.dtype != torch.bool
    if counts is None or not is_whole or counts.shape not in ((), (num_classes,)) or bool((counts <= 0).any()):
        got = f"shape {tuple(counts.shape)}" if counts is not None and counts.numel() >= 10 else repr(class_counts)
        raise ValueError(
            f"class_counts must be positive integers, one for each of the {num_classes} classes, got {got}. "
            "Count them with torch.bincount(labels, minlength=num_classes)."
        )
    return counts.long().expand(num_classes).clone()


def as_numbers(values: object, dtype: torch.dtype | None = None) -> Tensor | None:
    """A tensor of real numbers, or None where these are no such thing.

    Example:
        >>> as_numbers([1, 2]), as_numbers("two")
        (tensor([1, 2]), None)
    """
    try:
        found = torch.as_tensor(values, dtype=dtype)
        found.detach().cpu()  # which has values
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    is_dense = found.layout is torch.strided and not (found.is_nested or found.is_quantized)
    return found if is_dense and not found.is_complex() else None


def check_size(name: str, value: Any, remedy: str = "Count them in your data.") -> int:
    """A size must be an integer of at least 1, of Python or of numpy.

    Args:
        name: what it is called, for the message.
        value: the size.
        remedy: the last sentence of the message.

    Returns:
        The size as Python's int.

    Raises:
        ValueError: another value.
    """
    check_between("an integer of at least 1", remedy, **{name: value})
    check_between(f"an integer of at least 1 and below {LARGEST_SIZE}", remedy, **{name: value})
    return operator.index(value)


def check_seed(seed: Any) -> int:
    """A seed must be an integer that a generator of torch takes.

    Raises:
        ValueError: another value.
    """
    check_between("an integer of at least 0", "The default is 0.", seed=seed)
    return operator.index(seed)


def check_flags(**flags: Any) -> None:
    """Arguments must be True or False: a text such as "no" would count as True.

    Raises:
        TypeError: another value.

    Example:
        >>> check_flags(bias="no")
        Traceback (most recent call last):
        ...
        TypeError: bias must be True or False, got 'no'. Pass one of the two, without quotes.
    """
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}. Pass one of the two, without quotes.")


def check_modules(kind: type = nn.Module, /, **modules: object) -> None:
    """Distances, reducers and regularizers must be objects of such a class of PML's, or None.

    Raises:
        TypeError: another value, such as a class in place of an object.

    Example:
        >>> check_modules(reducer="MeanReducer")
        Traceback (most recent call last):
        ...
        TypeError: reducer must be an object like PML's, got 'MeanReducer'. Build it first: reducer=Name(...).
    """
    for name, module in modules.items():
        if not (module is None or isinstance(module, kind)):
            raise TypeError(f"{name} must be an object like PML's, got {module!r}. Build it first: {name}=Name(...).")


def check_functions(remedy: str, /, **functions: Callable | None) -> None:
    """Arguments must be something to call, or None.

    Raises:
        TypeError: another value.

    Example:
        >>> check_functions("Pass torch.nn.init.normal_.", weight_init_func="normal")
        Traceback (most recent call last):
        ...
        TypeError: weight_init_func must be a function, got 'normal'. Pass torch.nn.init.normal_.
    """
    for name, function in functions.items():
        if not (function is None or callable(function)):
            raise TypeError(f"{name} must be a function, got {function!r}. {remedy}")


def check_workers(workers: int) -> None:
    """Processes that read images must be at most eight for each processor core: each takes memory of its own.

    Raises:
        ValueError: more, or less than 0.

    Example:
        >>> check_workers(10**6)
        Traceback (most recent call last):
        ...
        ValueError: workers must be in [0, ...], eight for each processor core, got 1000000. Use --workers ...
    """
    cores = os.cpu_count() or 1
    rule = f"in [0, {8 * cores}], eight for each processor core"
    check_between(rule, f"Use --workers {cores}.", workers=workers)


def check_chunk_size(chunk_size: int | None) -> None:
    """Classes in a block must be an integer of at least 1, or None.

    Raises:
        ValueError: another value.
    """
    if chunk_size is not None:
        check_size("chunk_size", chunk_size, "Leave it out to have it chosen.")


def check_between(rule: str, remedy: str, /, **values: Any) -> None:
    """Numbers must be finite and inside the interval that a rule states in the words of the message.

    Args:
        rule: what follows "must be": ``"in [0, π] radians"``, ``"in (0, 1)"``, ``"at least 1"`` or ``"positive"``, the
            last two also with ``"and below 2"``, and words around them as you like. A bracket takes its end in, a
            parenthesis leaves it out; an end is a number, ``π``, ``π/2``, or ``name=number``. With the word ``integer``
            only integers pass, of Python or of numpy. ``"finite"`` alone is any number.
        remedy: the last sentence of the message.
        values: the numbers by the names of their arguments.

    Raises:
        ValueError: another value.

    Example:
        >>> check_between("in [0, π] radians", "The paper's margin is 0.5.", margin=4)
        Traceback (most recent call last):
        ...
        ValueError: margin must be in [0, π] radians, got 4. The paper's margin is 0.5.
        >>> check_between("finite and positive", "The paper's is 1.", delta="1")
        Traceback (most recent call last):
        ...
        ValueError: delta must be finite and positive, got '1'. The paper's is 1.
        >>> check_between("an integer of at least 1", "Leave it out to have it chosen.", chunk_size=2.0)
        Traceback (most recent call last):
        ...
        ValueError: chunk_size must be an integer of at least 1, got 2.0. Leave it out to have it chosen.
    """
    for name, value in values.items():
        is_number = _is_integer(value) if "integer" in rule else _is_finite(value)
        try:
            fits = is_number and bool(_is_inside(value, rule))
        except (TypeError, ValueError):  # dates and arrays of one number are finite and compare with none
            fits = False
        if not fits:
            raise ValueError(f"{name} must be {rule}, got {value!r}. {remedy}")
        if abs(value.item() if isinstance(value, Tensor) else value) >= LARGEST:
            raise ValueError(f"{name} must be {rule}, and below 2^63, got {value!r}. {remedy}")


def _is_inside(value: Any, rule: str) -> bool:
    """Whether a number is in the interval of a rule, see :func:`check_between`."""
    if interval := INTERVAL.search(rule):
        left, low, high, right = interval.groups()
        return ABOVE[left](value, _end(low)) and BELOW[right](value, _end(high))
    least, bound = LEAST.search(rule), BOUND.search(rule)
    if not (least or "positive" in rule):
        if "finite" in rule:
            return True
        raise AssertionError(f"no interval in the rule {rule!r}")
    is_above = value >= _end(least[1]) if least else value > 0
    return is_above and (bound is None or value < _end(bound[1]))


def _end(text: str) -> float:
    """The number that an end of an interval stands for."""
    number = text.rpartition("=")[2]
    return PARTS_OF_PI[number] if number in PARTS_OF_PI else float(number)


def _is_finite(value: Any) -> bool:
    """Whether it is a number to compute with: not True, not a Fraction, no tensor that learns."""
    if isinstance(value, Tensor):
        is_number = not (value.ndim or value.requires_grad or value.is_complex() or _is_flag(value))
        try:
            return is_number and bool(value.isfinite())
        except RuntimeError:  # of a tensor without values
            return False
    try:
        return isinstance(value, float | Integral | np.floating) and not _is_flag(value) and math.isfinite(value)
    except OverflowError:  # of an integer of hundreds of digits
        return False


def _is_integer(value: Any) -> bool:
    try:
        is_array = hasattr(value, "__array_interface__") and hasattr(value, "__len__")  # of one number, in numpy
        return operator.index(value) is not None and not _is_flag(value) and not is_array
    except (TypeError, RuntimeError):  # the latter is a meta tensor's
        return False


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool)


def check_choices(**choices: tuple[object, Any]) -> None:
    """Arguments must be among the values of a ``Literal``.

    Args:
        choices: (value received, Literal type) by the name of the argument.

    Raises:
        ValueError: another value.

    Example:
        >>> from typing import Literal
        >>> check_choices(gradient=("ful", Literal["full", "detached"]))
        Traceback (most recent call last):
        ...
        ValueError: gradient must be a known name, got 'ful'. Did you mean 'full'? Choose one of 'full', 'detached'.
    """
    for name, (value, literal) in choices.items():
        known = get_args(literal)
        if not isinstance(value, Hashable) or value not in known:
            raise ValueError(unknown_name(name, str(value), known, f"Choose one of {', '.join(map(repr, known))}."))
