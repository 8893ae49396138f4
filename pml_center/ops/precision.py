"""In which precision a loss computes, whatever arrives."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def working_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The widest type among floating-point tensors, at least fp32."""
    is_double = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if is_double else torch.float32


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """A context without autocast, on the device of a tensor; some devices have none.

    Example:
        >>> import torch
        >>> x = torch.ones(1, 1)
        >>> with torch.autocast("cpu", torch.bfloat16), full_precision(x):
        ...     (x @ x).dtype
        torch.float32
    """
    kind = tensor.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
