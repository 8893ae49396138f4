"""The checks that every public boundary shares. Each says the rule, the value received, the place and the remedy."""

import math
import operator
import os
import re
from collections.abc import Hashable
from typing import Any, get_args

import torch
from torch import Tensor

from pml_center.names import unknown_name

INTERVAL = re.compile(r"in ([\[(])([^,]+), ([^\])]+)([\])])")
LEAST = re.compile(r"at least ([^\s,]+)")
BOUND = re.compile(r"below ([^\s,]+)")
ABOVE, BELOW = {"[": operator.ge, "(": operator.gt}, {"]": operator.le, ")": operator.lt}
PARTS_OF_PI = {"π": math.pi, "π/2": math.pi / 2}


def check_embeddings(embeddings: Tensor, embedding_size: int | None = None, name: str = "embeddings") -> None:
    """Embeddings must be a finite floating-point matrix of the expected width.

    Finiteness is looked at on the CPU only: on CUDA the look would force a synchronisation at every step.

    Args:
        embeddings: (B, D) floating point.
        embedding_size: the width D that a loss was built with; None accepts any.
        name: what they are called, for the message.

    Raises:
        TypeError: embeddings that are not floating point.
        ValueError: another shape or width, NaN or infinity.

    Example:
        >>> import torch
        >>> check_embeddings(torch.zeros(4, 8), embedding_size=16)
        Traceback (most recent call last):
        ...
        ValueError: embeddings must have 16 columns because embedding_size=16, got shape (4, 8). Build the
            loss ...
    """
    if not isinstance(embeddings, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(embeddings).__name__}. Convert them with torch.as_tensor.")
    if not embeddings.is_floating_point():
        raise TypeError(f"{name} must be floating point, got dtype {embeddings.dtype}. Convert them with .float().")
    if embeddings.ndim != 2:
        raise ValueError(
            f"{name} must have shape (batch, embedding_size), got shape {tuple(embeddings.shape)}. "
            "Flatten or pool them to one row per image."
        )
    if embedding_size is not None and embeddings.shape[1] != embedding_size:
        raise ValueError(
            f"{name} must have {embedding_size} columns because embedding_size={embedding_size}, "
            f"got shape {tuple(embeddings.shape)}. Build the loss with embedding_size={embeddings.shape[1]}, "
            f"or the model with create_embedder(..., embedding_size={embedding_size})."
        )
    # The sum of finite numbers is finite, but for an overflow, which the second look finds to be none.
    if embeddings.is_cuda or math.isfinite(embeddings.detach().sum()) or embeddings.detach().isfinite().all():
        return
    rows = (~embeddings.detach().isfinite().all(1)).nonzero().flatten().tolist()
    value = embeddings[rows[0]][~embeddings[rows[0]].isfinite()][0].item()
    raise ValueError(
        f"{name} must be finite, got {value} in row {rows[0]} ({len(rows)} of {len(embeddings)} rows are not "
        "finite). Lower the learning rate, clip the gradients, or use bf16 instead of fp16 in mixed precision."
    )


def check_labels(
    labels: object, num_classes: int | None, batch_size: int, ignore_index: int | None = None, name: str = "labels"
) -> Tensor:
    """Labels must be integers that index the classes, one for each embedding.

    On CUDA values are looked at without a synchronisation: the process stops a little later, with the rule alone.

    Args:
        labels: (B,) integers in [0, num_classes).
        num_classes: how many classes the loss was built with; None accepts any integers.
        batch_size: B, how many embeddings there are.
        ignore_index: a label that is allowed beside them.
        name: what they are called, for the message.

    Returns:
        The labels as int64.

    Raises:
        TypeError: no labels, or labels of another type.
        ValueError: another shape, or labels outside [0, num_classes).

    Example:
        >>> import torch
        >>> check_labels(torch.tensor([0, 3]), num_classes=3, batch_size=2)
        Traceback (most recent call last):
        ...
        ValueError: labels must be in [0, 3) because num_classes=3, got 3 at position 1. Renumber them from 0,
            ...
    """
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"{name} must be a tensor of integers, got {type(labels).__name__}. Pass one label per embedding."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"{name} must be integers, got dtype {labels.dtype}. Convert them with .long() if they hold class numbers."
        )
    if labels.shape != (batch_size,):
        raise ValueError(
            f"{name} must have shape ({batch_size},), one per embedding, got shape {tuple(labels.shape)}. "
            "Use labels.flatten() for a column, labels.argmax(1) for one-hot labels."
        )
    labels = labels.long().contiguous()  # every other one of a batch is not, and torch warns
    if num_classes is None or not len(labels):
        return labels
    if labels.is_cuda:  # looked at by the device itself, which stops with this message
        inside = (labels >= 0) & (labels < num_classes) | (labels == (0 if ignore_index is None else ignore_index))
        torch._assert_async(inside.all(), f"{name} must be in [0, {num_classes}) because num_classes={num_classes}")
        return labels
    low, high = labels.aminmax()
    if low >= 0 and high < num_classes:
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
    counts = torch.as_tensor(class_counts)
    fits = counts.shape in ((), (num_classes,)) and not counts.is_floating_point() and bool((counts > 0).all())
    if not fits:
        raise ValueError(
            f"class_counts must be positive integers, one for each of the {num_classes} classes, "
            f"got {counts.tolist() if counts.numel() < 10 else f'shape {tuple(counts.shape)}'}. "
            "Count them with torch.bincount(labels, minlength=num_classes)."
        )
    return counts.long().expand(num_classes).clone()


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
    return operator.index(value)


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
            only integers pass, of Python or of numpy.
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


def _is_inside(value: Any, rule: str) -> bool:
    """Whether a number is in the interval of a rule, see :func:`check_between`."""
    if interval := INTERVAL.search(rule):
        left, low, high, right = interval.groups()
        return ABOVE[left](value, _end(low)) and BELOW[right](value, _end(high))
    least, bound = LEAST.search(rule), BOUND.search(rule)
    if not (least or "positive" in rule):
        raise AssertionError(f"no interval in the rule {rule!r}")
    is_above = value >= _end(least[1]) if least else value > 0
    return is_above and (bound is None or value < _end(bound[1]))


def _end(text: str) -> float:
    """The number that an end of an interval stands for."""
    number = text.rpartition("=")[2]
    return PARTS_OF_PI[number] if number in PARTS_OF_PI else float(number)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is a tensor's of several numbers
        return False


def _is_integer(value: Any) -> bool:
    try:
        is_array = hasattr(value, "__array_interface__") and hasattr(value, "__len__")  # of one number, in numpy
        return operator.index(value) is not None and not isinstance(value, bool) and not is_array
    except TypeError:
        return False


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
