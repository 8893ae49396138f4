"""Centers: moved in closed form, and summed over without ever a (B, C) matrix."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Rule = Literal["paper", "mean"]


class ClassSums(NamedTuple):
    """Sums of rows, for each class that has any."""

    classes: Tensor
    """(U,) the classes, sorted."""
    sums: Tensor
    """(U, D)"""
    counts: Tensor
    """(U,) how many rows each sum has, as floating point."""


def class_sums(rows: Tensor, labels: Tensor) -> ClassSums:
    """Sum the rows of each class: O(B·D), classes without a row are not there.

    Args:
        rows: (B, D).
        labels: (B,).

    Example:
        >>> import torch
        >>> class_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([7, 3, 7]))
        ClassSums(classes=tensor([3, 7]), sums=tensor([[2.],
                [5.]]), counts=tensor([1., 2.]))
    """
    classes, index, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = rows.new_zeros(len(classes), rows.shape[1]).index_add_(0, index, rows)
    return ClassSums(classes, sums, counts.to(rows.dtype))


def merge_class_sums(parts: Sequence[ClassSums]) -> ClassSums:
    """One sum per class from the sums of several batches, added in their order."""
    if len(parts) == 1:
        return parts[0]
    classes, index = torch.cat([part.classes for part in parts]).unique(return_inverse=True)
    sums, counts = torch.cat([part.sums for part in parts]), torch.cat([part.counts for part in parts])
    return ClassSums(
        classes,
        sums.new_zeros(len(classes), sums.shape[1]).index_add_(0, index, sums),
        counts.new_zeros(len(classes)).index_add_(0, index, counts),
    )


@torch.no_grad()
def center_step(centers: Tensor, differences: ClassSums, alpha: float, rule: Rule = "paper") -> None:
    """Move the center of each class present, in place.

    ``"paper"`` is ``c += α · Σ (x − c) / (1 + n)`` (Wen et al. 2016, eq. 4), ``"mean"`` is ``c += α · Σ (x − c) / n``.
    O(B·D): classes without an embedding are not touched.

    Args:
        centers: (C, D), changed in place.
        differences: the sums of ``x − c`` of each class; used up.
        alpha: the rate. With 1 and a single embedding of a class, its center moves half of the way by the paper's
            rule, and all of it by the mean.
        rule: which.

    Example:
        >>> import torch
        >>> centers, x, y = torch.zeros(3, 2), torch.tensor([[4.0, 8.0]]), torch.tensor([1])
        >>> center_step(centers, class_sums(x - centers[y], y), alpha=0.5)
        >>> centers
        tensor([[0., 0.],
                [1., 2.],
                [0., 0.]])
    """
    rate = alpha / (differences.counts + (rule == "paper"))
    centers.index_add_(0, differences.classes, differences.sums.mul_(rate.unsqueeze(1)))


def half_squared_distance(embeddings: Tensor, own: Tensor) -> Tensor:
    """``½‖x − c‖²`` of each pair of rows, (B, D) and (B, D) to (B,).

    Equals ``(embeddings - own).square().sum(1) / 2`` with one pass less in each direction.
    """
    return _HalfSquaredDistance.apply(embeddings, own)


class _HalfSquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, own: Tensor) -> Tensor:
        difference = embeddings - own
        ctx.save_for_backward(difference)
        return torch.linalg.vecdot(difference, difference) / 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (difference,) = ctx.saved_tensors
        pull = difference * gradient.unsqueeze(1)
        return pull, -pull if ctx.needs_input_grad[1] else None


ROWS = 1024  # centers that are looked at together where all are


def pairwise_cosines(centers: Tensor) -> Tensor:
    """The sum of the cosines over ordered pairs of different centers, ``Σ_{j≠k} cos(c_j, c_k)``, 0-d.

    With u the centers at length 1 it is ``‖Σ u‖² − C``: O(C·D), where the (C, C) matrix of cosines takes O(C²·D). A
    center at 0 has no direction, and a cosine of 0 to all others.

    Args:
        centers: (C, D).

    Example:
        >>> import torch
        >>> pairwise_cosines(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
        tensor(-2.)
    """
    return _PairwiseCosines.apply(centers)


@torch.no_grad()
def repulsion_step(centers: Tensor, rate: float) -> None:
    """Turn each center away from all others, in place: ``c_j −= rate · Σ_{k≠j} ∂cos(c_j, c_k) / ∂c_j``.

    Args:
        centers: (C, D), changed in place.
        rate: the rate.
    """
    total, _ = _unit_sum(centers)
    for rows in centers.split(ROWS):
        rows -= rate * _turn(rows, total)


def _unit_sum(centers: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the centers at length 1, (D,), and how many have a direction, 0-d."""
    total, directed = centers.new_zeros(centers.shape[1]), centers.new_zeros((), dtype=torch.long)
    for rows in centers.split(ROWS):
        total += torch.nn.functional.normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny).sum(0)
        directed += rows.any(1).sum()
    return total, directed


def _turn(rows: Tensor, total: Tensor) -> Tensor:
    """The gradient of ``Σ_{k≠j} cos(c_j, c_k)`` at each row: what of the sum of all is across it, by its length."""
    length = rows.norm(dim=1, keepdim=True)
    unit = rows / length
    across = (total - (unit @ total).unsqueeze(1) * unit) / length
    return torch.where(length > 0, across, 0.0)


class _PairwiseCosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centers: Tensor) -> Tensor:
        total, directed = _unit_sum(centers)
        ctx.save_for_backward(centers, total)
        return total.square().sum() - directed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        centers, total = ctx.saved_tensors
        result = torch.empty_like(centers)
        for rows, out in zip(centers.split(ROWS), result.split(ROWS), strict=True):
            torch.mul(_turn(rows, total), 2 * gradient, out=out)
        return result
