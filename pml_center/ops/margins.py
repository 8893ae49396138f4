"""Margins: cosine in, cosine out, angles in radians."""

import torch
from torch import Tensor


def additive_cosine(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """``cos θ − m``: the margin of CosFace and AM-Softmax.

    Args:
        cosine: any shape, in [-1, 1].
        margin: a cosine, or one per entry.

    Example:
        >>> import torch
        >>> additive_cosine(torch.tensor([1.0, 0.5]), 0.25)
        tensor([0.7500, 0.2500])
    """
    return cosine - margin


def additive_angular(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """``cos(θ + m)``, continued by ``cos θ − m·sin m`` where ``θ + m > π``: the margin of ArcFace.

    The slope with respect to the cosine, ``sin(θ + m) / sin θ``, grows without bound towards θ = 0; it is
    held finite there by the smallest sine that the floating-point type can tell from 0.

    Args:
        cosine: any shape, in [-1, 1].
        margin: radians in [0, π], or one per entry.

    Example:
        >>> additive_angular(torch.tensor([1.0, 0.0, -1.0]), torch.pi / 6)
        tensor([ 0.8660, -0.5000, -1.2618])
    """
    margin = torch.as_tensor(margin, dtype=cosine.dtype, device=cosine.device)
    square = (1 - cosine) * (1 + cosine)  # not 1 − cos²: keeps the precision of small angles
    sine = square.clamp_min(torch.finfo(cosine.dtype).eps ** 2).sqrt()
    rotated = cosine * margin.cos() - sine * margin.sin()
    return torch.where(cosine >= -margin.cos(), rotated, cosine - margin * margin.sin())
