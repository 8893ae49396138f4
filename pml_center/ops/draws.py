"""Random numbers that a seed says."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import wrap_torch_function

from pml_center.ops.in_place import untraced


def drawn(kind: Callable[..., Tensor], size: int, seed: int, device: torch.device) -> Tensor:
    """Random numbers on a device, (size,) of fp32, the same for the same seed there.

    Args:
        kind: ``torch.rand`` or ``torch.randn``.
        size: how many.
        seed: says which.
        device: where they are drawn, if it can draw; else on the CPU, and sent there.

    Example:
        >>> import torch
        >>> torch.equal(drawn(torch.rand, 3, 7, torch.device("cpu")), drawn(torch.rand, 3, 7, torch.device("cpu")))
        True
    """
    try:
        generator = torch.Generator(device).manual_seed(seed)
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        generator = torch.Generator().manual_seed(seed)
    numbers = kind(size, generator=generator, device=generator.device)
    return numbers.to(device, non_blocking=True)


def size_of_draw(samples: int, classes: int, rate: float) -> int:
    """How many of so many classes :func:`drawn_classes` draws."""
    return max(min(samples, classes), round(rate * classes))


@wrap_torch_function(lambda weight, *_, **__: (weight,))
def drawn_classes(weight: Tensor, labels: Tensor, classes: int, rate: float, seed: int, draws: Tensor) -> Tensor:
    """The classes of a batch and a random choice of the others, (R,) in order.

    Args:
        weight: (C · sub_centers, D) what stands for the classes.
        labels: (B,)
        classes: C.
        rate: the share of the classes that is drawn, with those of the batch; there are at least as many as samples.
        seed: of the choice, with
        draws: 0-d on the CPU, how many were drawn before.

    Example:
        >>> import torch
        >>> drawn_classes(torch.zeros(7, 2), torch.tensor([3]), 7, rate=0.3, seed=0, draws=torch.tensor(0))
        tensor([1, 3])
    """
    order = _order(classes, seed, draws, labels.device).index_fill(0, labels, 2)  # above all others
    return order.topk(size_of_draw(len(labels), classes, rate), sorted=False).indices.sort().values


@wrap_torch_function(lambda classes, *_: (classes,))
def drawn_probability(classes: Tensor, own: Tensor, num_classes: int) -> Tensor:
    """The probability of each class that was drawn to be there, (R,): 1 for those of the batch, even for the others.

    Args:
        classes: (R,) what :func:`drawn_classes` drew.
        own: (B,) which of them each sample's own is.
        num_classes: C.

    Example:
        >>> import torch
        >>> drawn_probability(torch.tensor([3, 6]), torch.tensor([0, 0]), 7)
        tensor([1.0000, 0.1667])
    """
    is_present = torch.zeros_like(classes, dtype=torch.bool).index_fill(0, own, True)
    present = is_present.sum()
    return torch.where(is_present, 1.0, (len(classes) - present) / (num_classes - present).clamp_min(1))


@untraced
def _order(classes: int, seed: int, draws: Tensor, device: torch.device) -> Tensor:
    """A random number in [0, 1) for each class."""
    return drawn(torch.rand, classes, seed + int(draws), device)
