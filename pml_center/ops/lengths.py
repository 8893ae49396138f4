"""Functions of the lengths of embeddings."""

from torch import Tensor


def magnitude_penalty(lengths: Tensor, upper: float) -> Tensor:
    """``g(a) = a / u² + 1 / a``, which falls for a < u: MagFace's reward for long embeddings.

    Args:
        lengths: a, positive.
        upper: u, where g is smallest.

    Example:
        >>> import torch
        >>> magnitude_penalty(torch.tensor([1.0, 2.0, 4.0]), upper=2)
        tensor([1.2500, 1.0000, 1.2500])
    """
    return lengths / upper**2 + 1 / lengths
