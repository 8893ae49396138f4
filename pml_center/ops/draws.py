"""Random numbers that a seed says."""

from collections.abc import Callable

import torch
from torch import Tensor


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
