"""Squared distances from differences, without a tensor of batch by rows by width."""

from typing import Any

import torch
from torch import Tensor

from pml_center.ops.first_order import first_order
from pml_center.ops.in_place import in_place


def squared_distances(embeddings: Tensor, rows: Tensor) -> Tensor:
    """``‖x − c‖²`` of each embedding to each row, (B, D) and (U, D) to (B, U).

    Equals ``(embeddings.unsqueeze(1) - rows).square().sum(2)`` and holds nothing larger than its result. The faster
    ``‖x‖² + ‖c‖² − 2x·c`` loses the digits of points that are far from 0 and near to each other.

    Args:
        embeddings: (B, D).
        rows: (U, D).

    Example:
        >>> import torch
        >>> squared_distances(torch.tensor([[1e4, 1.0]]), torch.tensor([[1e4, 3.0], [1e4, 1.0]]))
        tensor([[4., 0.]])
    """
    return _SquaredDistances.apply(embeddings, rows)


class _SquaredDistances(torch.autograd.Function):
    """``cdist`` looks at differences too, but its own backward holds a (B, U, D) tensor on CUDA."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings, rows)
        return in_place("square", torch.cdist(embeddings, rows, compute_mode="donot_use_mm_for_euclid_dist"))

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        embeddings, rows = ctx.saved_tensors
        origin = embeddings.mean(0)  # products of differences lose nothing that matters around a point among them
        embeddings, rows, gradient = embeddings - origin, rows - origin, 2 * gradient
        of_rows = None
        if ctx.needs_input_grad[1]:
            of_rows = torch.addmm(rows * gradient.sum(0).unsqueeze(1), gradient.t(), embeddings, alpha=-1)
        return torch.addmm(embeddings * gradient.sum(1, keepdim=True), gradient, rows, alpha=-1), of_rows


PAIR_ELEMENTS = 2**20  # entries of the differences that are looked at together: 4 MiB in fp32


@torch.no_grad()
def farthest_pairs(embeddings: Tensor, classes: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k pairs of each class that are farthest apart, or all that it has. O(B² + B·D) of memory.

    On the CPU the pairs of each class are looked at, a block at a time. Elsewhere nobody waits to know how many there
    are: the k farthest partners of each embedding are looked at, among which they are.

    Args:
        embeddings: (B, D).
        classes: (B,) of each embedding.
        k: at least 1.

    Returns:
        The rows of both ends, (P,) and (P,), class by class, the farthest first, and whether they are such a pair.

    Example:
        >>> import torch
        >>> farthest_pairs(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), torch.tensor([0, 0, 0, 1]), k=2)
        (tensor([0, 1]), tensor([2, 2]), tensor([True, True]))
    """
    pairs = (classes.unsqueeze(1) == classes).triu(1)  # each once
    if embeddings.device.type == "cpu":
        first, second = pairs.nonzero(as_tuple=True)
        size = max(1, PAIR_ELEMENTS // max(1, embeddings.shape[1]))
        blocks = zip(first.split(size), second.split(size), strict=True)
        squares = torch.cat([(embeddings[i] - embeddings[j]).square().sum(1) for i, j in blocks])
    else:
        squares = squared_distances(embeddings, embeddings).masked_fill(~pairs, -1)
        squares, second = squares.topk(min(k, len(classes)), dim=1)
        first = torch.arange(len(classes), device=classes.device).repeat_interleave(second.shape[1])
        squares, second = squares.flatten(), second.flatten()
    order = squares.argsort(descending=True, stable=True)
    order = order[classes[first[order]].argsort(stable=True)]  # class by class
    first, second = first[order], second[order]
    of_pair = classes[first]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(of_pair, of_pair)
    is_pair = (rank < k) & (squares[order] >= 0)
    if embeddings.device.type == "cpu":
        return first[is_pair], second[is_pair], is_pair[is_pair]
    return first, second, is_pair
