"""In place, but not in code that is compiled."""

from typing import Any

import torch
from torch import Tensor


def in_place(operation: str, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``tensor.mul_(...)`` for ``"mul"``, and ``tensor.mul(...)`` while torch compiles: go on with what is returned.

    What a compiler makes of a change in place has been wrong before: torch 2.4 refuses one of an incoming gradient, and
    torch 2.11 hands backward the tensor as it was before, so that gradients are wrong and nothing says so.

    Example:
        >>> import torch
        >>> block = torch.tensor([1.0, 2.0])
        >>> in_place("mul", block, 3) is block
        True
    """
    return getattr(tensor, operation if torch.compiler.is_compiling() else f"{operation}_")(*args, **kwargs)
