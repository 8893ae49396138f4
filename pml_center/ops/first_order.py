"""first_order: a backward written by hand says so where somebody differentiates it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_order(backward: Callable) -> Callable:
    """Decorate the backward of a ``torch.autograd.Function`` that has no derivative of its own.

    torch's ``once_differentiable`` raises only where the incoming gradient has a graph; behind a mean it has none, and
    second derivatives would be 0 in silence.

    Raises:
        RuntimeError: a backward pass with ``create_graph=True``.

    Example:
        >>> from pml_center.losses import CenterLoss
        >>> x, y = torch.ones(2, 3, requires_grad=True), torch.tensor([0, 1])
        >>> torch.autograd.grad(CenterLoss(2, 3)(x, y), x, create_graph=True)
        Traceback (most recent call last):
        ...
        RuntimeError: create_graph must be False for the losses of pml_center, whose backward is written by hand, got
            True. ...
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "create_graph must be False for the losses of pml_center, whose backward is written by hand, got True. "
                "Leave it out; a penalty on gradients needs a loss of torch or PML."
            )
        return backward(ctx, *gradients)

    return checked
