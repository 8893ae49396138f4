"""What is done otherwise while torch compiles."""

from collections.abc import Callable
from functools import wraps
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


def untraced(function: Callable) -> Callable:
    """Decorate what the compiler is to leave alone: it calls it between two graphs.

    That is what ``torch.compiler.disable`` does, which would load the compiler wherever this package is imported.
    """
    left_alone = torch._disable_dynamo(function)

    @wraps(function)
    def called(*args: Any) -> Any:
        return left_alone(*args) if torch.compiler.is_compiling() else function(*args)

    return called
