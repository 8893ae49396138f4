"""Margins: cosine in, cosine out, angles in radians."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from pml_center.ops.first_order import first_order

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
        margin: radians in [0, π], or one per entry in [-π, π].
        beyond_pi: where ``θ + m`` passes π, at which the cosine would turn: ``"linear"`` continues by
            ``cos θ − m·sin m``, and takes 1 where a negative margin passes 0; ``"rotate"`` lets it turn; ``"easy"``
            applies the margin only where ``cos θ > 0``.

    Example:
        >>> import torch
        >>> additive_angular(torch.tensor([1.0, 0.0, -1.0]), torch.pi / 6)
        tensor([ 0.8660, -0.5000, -1.2618])
    """
    if not isinstance(margin, Tensor):
        return _AdditiveAngular.apply(cosine, margin, beyond_pi)
    cos, sin = margin.cos(), margin.sin()
    rotated = cosine * cos - sine(cosine) * sin
    if beyond_pi == "rotate":
        return rotated
    if beyond_pi == "easy":
        return torch.where(cosine > 0, rotated, cosine)
    # A negative margin never leads beyond π, and stops at 0, where the cosine would turn.
    rotated = torch.where((margin < 0) & (cosine > cos), 1.0, rotated)
    return torch.where((cosine >= -cos) | (margin < 0), rotated, cosine - margin * sin)


class _AdditiveAngular(torch.autograd.Function):
    """With a margin that is the same for all, whose slope takes a third of the operations that autograd would make."""

    @staticmethod
    def forward(ctx: Any, cosine: Tensor, margin: float, beyond_pi: BeyondPi) -> Tensor:
        cos, sin = math.cos(margin), math.sin(margin)
        height = sine(cosine)
        rotated = torch.sub(cosine * cos, height, alpha=sin)
        if beyond_pi == "rotate":
            is_rotated, result = None, rotated
        elif beyond_pi == "easy":
            is_rotated = cosine > 0
            result = torch.where(is_rotated, rotated, cosine)
        else:
            is_rotated = cosine >= -cos
            result = torch.where(is_rotated, rotated, cosine - margin * sin)
        ctx.cos, ctx.sin = cos, sin
        ctx.save_for_backward(cosine, height, is_rotated)
        return result

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, height, is_rotated = ctx.saved_tensors
        steep = torch.where(height > torch.finfo(height.dtype).eps, cosine / height, 0.0)  # none at θ = 0 and π
        slope = ctx.cos + ctx.sin * steep
        if is_rotated is not None:
            slope = torch.where(is_rotated, slope, 1.0)
        return gradient * slope, None, None


def approached(cosine: Tensor, margin: float) -> Tensor:
    """``cos(θ − m)``: another class that comes nearer.

    Where ``θ < m``, at which the cosine would turn, it goes on by ``cos θ + 1 − cos m``: the nearest keep their push.

    Args:
        cosine: any shape, in [-1, 1].
        margin: radians in [0, π].

    Example:
        >>> import torch
        >>> approached(torch.tensor([1.0, 0.5, -1.0]), torch.pi / 3)
        tensor([ 1.5000,  1.0000, -0.5000])
    """
    cos, sin = math.cos(margin), math.sin(margin)
    return torch.where(cosine > cos, cosine + (1 - cos), cosine * cos + sine(cosine) * sin)


def multiplied_angular(cosine: Tensor, margin: float) -> Tensor:
    """``(−1)^k·cos(mθ) − 2k`` with ``k = ⌊mθ/π⌋``: the margin of L-Softmax and SphereFace, which falls all the way.

    Args:
        cosine: any shape, in [-1, 1].
        margin: m ≥ 1, the factor of the angle; need not be whole.

    Example:
        >>> import torch
        >>> multiplied_angular(torch.tensor([1.0, 0.0, -1.0]), 2)
        tensor([ 1., -1., -3.])
    """
    multiplied = margin * angle(cosine)
    # At θ = π a whole m would start a piece of its own, of which rounding makes a wrong slope.
    piece = (multiplied.detach() / math.pi).floor().clamp_max(math.ceil(margin) - 1)
    return torch.where(piece % 2 == 0, 1, -1) * multiplied.cos() - 2 * piece


def combined_angular(cosine: Tensor, factor: float, margin: float, beyond_pi: BeyondPi = "linear") -> Tensor:
    """``cos(m₁θ + m₂)``: the angle both multiplied and added to.

    Args:
        cosine: any shape, in [-1, 1].
        factor: m₁ ≥ 1.
        margin: m₂, radians in [0, π].
        beyond_pi: where ``m₁θ + m₂`` passes π: ``"linear"`` continues by ``cos θ − a·sin a``, a being what the angle
            has gained there, as :func:`additive_angular` does for m₁ = 1; ``"rotate"`` lets the cosine turn; ``"easy"``
            applies the margin only where ``cos θ > 0``.

    Example:
        >>> import torch
        >>> combined_angular(torch.tensor([1.0, 0.0, -1.0]), 1.0, torch.pi / 6)
        tensor([ 0.8660, -0.5000, -1.2618])
    """
    reached = factor * angle(cosine) + margin
    margined = reached.cos()
    if beyond_pi == "rotate":
        return margined
    if beyond_pi == "easy":
        return torch.where(cosine > 0, margined, cosine)
    gained = max(0.0, math.pi - (math.pi - margin) / factor)  # 0: π is never passed
    return torch.where(cosine >= -math.cos(gained), margined, cosine - gained * math.sin(gained))


def hard_shifted(cosine: Tensor, threshold: Tensor, hardness: float) -> Tensor:
    """``(t + 1)·cos θ + t`` where ``cos θ`` is above a threshold: the hard negatives of MV-Softmax.

    Args:
        cosine: (B, K) to other classes.
        threshold: (B,)
        hardness: t ≥ 0.

    Example:
        >>> import torch
        >>> hard_shifted(torch.tensor([[0.5, 0.0]]), torch.tensor([0.25]), 1.0)
        tensor([[2., 0.]])
    """
    return torch.where(cosine > threshold.unsqueeze(1), (hardness + 1) * cosine + hardness, cosine)


def hard_curricular(cosine: Tensor, threshold: Tensor, difficulty: Tensor) -> Tensor:
    """``cos θ·(t + cos θ)`` where ``cos θ`` is above a threshold: the hard negatives of CurricularFace.

    Args:
        cosine: (B, K) to other classes.
        threshold: (B,)
        difficulty: t, one for all.

    Example:
        >>> import torch
        >>> hard_curricular(torch.tensor([[0.5, 0.0]]), torch.tensor([0.25]), torch.tensor(1.0))
        tensor([[0.7500, 0.0000]])
    """
    return torch.where(cosine > threshold.unsqueeze(1), cosine * (difficulty + cosine), cosine)


def linear_angular(cosine: Tensor, margin: float) -> Tensor:
    """``(π − 2(θ + m)) / π``: linear in the angle, the similarity of Li-ArcFace.

    Args:
        cosine: any shape, in [-1, 1].
        margin: radians; 0 for the other classes.

    Example:
        >>> import torch
        >>> linear_angular(torch.tensor([1.0, 0.0, -1.0]), torch.pi / 4)
        tensor([ 0.5000, -0.5000, -1.5000])
    """
    beyond = (cosine - 1).clamp_min(0)  # of a class that has come nearer than its own direction
    return 1 - 2 / math.pi * (angle(cosine) + margin - beyond)


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
