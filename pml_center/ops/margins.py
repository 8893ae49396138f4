"""Margins: cosine in, cosine out, angles in radians."""

from typing import Literal

import torch
from torch import Tensor

BeyondPi = Literal["linear", "rotate", "easy"]
Gradient = Literal["full", "detached"]


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


def additive_angular(cosine: Tensor, margin: float | Tensor, beyond_pi: BeyondPi = "linear") -> Tensor:
    """``cos(θ + m)``: the margin of ArcFace.

    The slope with respect to the cosine, ``sin(θ + m) / sin θ``, grows without bound towards θ = 0; it is held finite
    there by the smallest sine that the floating-point type can tell from 0.

    Args:
        cosine: any shape, in [-1, 1].
        margin: radians in [0, π], or one per entry.
        beyond_pi: where ``θ + m`` passes π, at which the cosine would turn: ``"linear"`` continues by
            ``cos θ − m·sin m``; ``"rotate"`` lets it turn; ``"easy"`` applies the margin only where ``cos θ > 0``.

    Example:
        >>> import torch
        >>> additive_angular(torch.tensor([1.0, 0.0, -1.0]), torch.pi / 6)
        tensor([ 0.8660, -0.5000, -1.2618])
    """
    margin = torch.as_tensor(margin, dtype=cosine.dtype, device=cosine.device)
    rotated = cosine * margin.cos() - sine(cosine) * margin.sin()
    if beyond_pi == "rotate":
        return rotated
    if beyond_pi == "easy":
        return torch.where(cosine > 0, rotated, cosine)
    return torch.where(cosine >= -margin.cos(), rotated, cosine - margin * margin.sin())


def sine(cosine: Tensor) -> Tensor:
    """``sin θ`` of an angle in [0, π], with a finite slope at both ends and precision at small angles."""
    square = (1 - cosine) * (1 + cosine)  # not 1 − cos²: keeps the precision of small angles
    return square.clamp_min(torch.finfo(cosine.dtype).eps ** 2).sqrt()


def angle(cosine: Tensor) -> Tensor:
    """θ in [0, π] of a cosine, with a finite slope at both ends and precision at small angles."""
    return torch.atan2(sine(cosine), cosine)


def detached(cosine: Tensor, margined: Tensor, gradient: Gradient) -> Tensor:
    """The margined cosine with the gradient of the cosine itself, as if the margin were a constant (``"detached"``)."""
    return margined if gradient == "full" else cosine + (margined - cosine).detach()
