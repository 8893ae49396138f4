"""Sums over the logits of all classes but one's own, a chunk of classes at a time.

The only place where a block of (batch, classes) exists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_ELEMENTS = 2**18  # of a block whose size nobody chose: 1 MiB in fp32, which stays in the cache
KEPT_ELEMENTS = 13 * 2**20  # of all blocks that forward keeps for backward: 52 MiB in fp32; others are computed again
SHORTEST = 1e-12  # length that a row is taken to have at least, as in F.normalize


@dataclass(frozen=True)
class NegativeLogits:
    """The logits of every class but one's own, described and never held.

    They stand for ``scale * margin(embeddings @ F.normalize(weight).T) + bias``, (B, C), without the column ``own``.

    Args:
        embeddings: (B, D), of length 1 where cosines are meant.
        weight: (C, D), a row per class.
        own: (B,) the row of each embedding's own class, which takes no part.
        scale: one for all embeddings, or (B,).
        margin: (B, K) similarities to as many, entry by entry; None leaves them alone. Called again in ``backward``: it
            must depend on tensors that nobody changes in place, and gets no gradient for them.
        bias: (C,), added to the logits.
        normalize: divide each row of ``weight`` by its length.
        chunk_size: classes in a block, and nothing is kept from forward to backward: memory is O(B · chunk_size). None
            chooses the size, and keeps blocks up to 52 MiB, which saves computing them twice.
    """

    embeddings: Tensor
    weight: Tensor
    own: Tensor
    scale: float | Tensor = 1.0
    margin: Callable[[Tensor], Tensor] | None = None
    bias: Tensor | None = None
    normalize: bool = True
    chunk_size: int | None = None


def negative_logsumexp(logits: NegativeLogits) -> Tensor:
    """``logsumexp`` over every class but one's own, (B,); for C = 1 the lowest finite number.

    Equals ``(scale * margin(embeddings @ F.normalize(weight).T) + bias).scatter(1, own, -inf).logsumexp(1)``, but
    holds one (B, chunk_size) block at a time.
    """
    return _reduce(logits, is_sum=False)


def negative_sum(logits: NegativeLogits) -> Tensor:
    """Sum over every class but one's own, (B,): what label smoothing needs.

    Equals ``(scale * margin(embeddings @ F.normalize(weight).T) + bias).scatter(1, own, 0).sum(1)``, a block at a time.
    """
    return _reduce(logits, is_sum=True)


def gather_rows(weight: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """The row of each sample's own class, (B, D), and the weights again, (C, D), for everything else that reads them.

    Equals ``weight[own], weight``, but the gradient of the rows is added into that of the weights, where indexing
    would make a second (C, D) tensor for it.
    """
    return _Gather.apply(weight, own)


def scaled(similarity: Tensor, scale: float | Tensor) -> Tensor:
    """(B, K) similarities times one scale, or times the (B,) scale of each row."""
    return similarity * (scale.unsqueeze(1) if isinstance(scale, Tensor) and scale.ndim else scale)


def _reduce(logits: NegativeLogits, is_sum: bool) -> Tensor:
    scale = torch.as_tensor(logits.scale, dtype=logits.embeddings.dtype, device=logits.embeddings.device)
    return _Reduction.apply(logits.embeddings, logits.weight, scale, logits.bias, logits, is_sum)


class _Gather(torch.autograd.Function):
    """Rows by index; the weights pass through, so that both gradients meet in one tensor."""

    @staticmethod
    def forward(ctx, weight, own):
        ctx.save_for_backward(own)
        return weight[own], weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_rows, grad_weight):
        (own,) = ctx.saved_tensors
        return grad_weight.index_add_(0, own, grad_rows), None


class _Block(NamedTuple):
    """The logits of a chunk of K classes."""

    logits: Tensor  # (B, K)
    similarity: Tensor | None  # (B, K) before margin and scale, where they can be told apart
    inverse: Tensor | None  # (K,) 1 / length of each row


class _Reduction(torch.autograd.Function):
    """``logsumexp`` or sum of the negative logits; backward walks over the chunks once more."""

    @staticmethod
    def forward(ctx, embeddings, weight, scale, bias, logits, is_sum):
        parts: list[Tensor] = []
        kept: list[_Block | None] = []
        room = KEPT_ELEMENTS if logits.chunk_size is None else 0
        for place in _places(logits):
            block = _block(logits, scale, place)
            own = _own_entries(logits, place)
            if is_sum:
                block.logits[own] = 0
                parts.append(block.logits.sum(1))
            else:
                block.logits[own] = torch.finfo(block.logits.dtype).min  # not -inf, whose gradient is NaN
                parts.append(block.logits.logsumexp(1))
            room -= sum(tensor.numel() for tensor in block[:2] if tensor is not None)
            kept.append(block if room >= 0 else None)
        result = torch.stack(parts).sum(0) if is_sum else torch.stack(parts).logsumexp(0)
        ctx.save_for_backward(embeddings, weight, scale, bias, result)
        ctx.logits, ctx.is_sum, ctx.kept = logits, is_sum, kept
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        embeddings, weight, scale, bias, result = ctx.saved_tensors
        _, needs_weight, needs_scale, needs_bias, *_ = ctx.needs_input_grad
        grads = torch.zeros_like(embeddings), torch.empty_like(weight) if needs_weight else None
        grad_scale = torch.zeros_like(upstream) if needs_scale else None
        grad_bias = torch.empty_like(bias) if needs_bias else None
        for place, kept in zip(_places(ctx.logits), ctx.kept, strict=True):
            block = kept or _block(ctx.logits, scale, place)
            if ctx.is_sum:
                grad = upstream.unsqueeze(1).expand_as(block.logits).clone()
            else:
                grad = (block.logits - result.unsqueeze(1)).exp_().mul_(upstream.unsqueeze(1))
            grad[_own_entries(ctx.logits, place)] = 0
            if grad_bias is not None:
                grad_bias[place] = grad.sum(0)
            grad = _before_margin_and_scale(ctx.logits, scale, block, grad, grad_scale)
            _add_products(grad, weight[place], block.inverse, embeddings, place, *grads)
        if grad_scale is not None and not scale.ndim:
            grad_scale = grad_scale.sum()
        return *grads, grad_scale, grad_bias, None, None


def _places(logits: NegativeLogits) -> Iterator[slice]:
    size = logits.chunk_size or max(1, BLOCK_ELEMENTS // len(logits.embeddings))
    return (slice(start, min(start + size, len(logits.weight))) for start in range(0, len(logits.weight), size))


def _own_entries(logits: NegativeLogits, place: slice) -> tuple[Tensor, Tensor]:
    """Where in the block of a chunk a sample meets its own class."""
    samples = ((logits.own >= place.start) & (logits.own < place.stop)).nonzero().squeeze(1)
    return samples, logits.own[samples] - place.start


def _folds(logits: NegativeLogits, scale: Tensor) -> bool:
    """Whether scale and lengths are one factor of each column, and the similarity is not needed by itself."""
    return logits.margin is None and not scale.ndim and not scale.requires_grad


def _block(logits: NegativeLogits, scale: Tensor, place: slice) -> _Block:
    rows = logits.weight[place]
    inverse = rows.norm(dim=1).clamp_min_(SHORTEST).reciprocal_() if logits.normalize else None
    block = logits.embeddings @ rows.t()
    similarity = None
    if _folds(logits, scale):
        block *= scale if inverse is None else inverse * scale
    else:
        similarity = block if inverse is None else block.mul_(inverse)
        block = scaled(similarity if logits.margin is None else logits.margin(similarity), scale)
    return _Block(block if logits.bias is None else block.add_(logits.bias[place]), similarity, inverse)


def _before_margin_and_scale(logits, scale, block, grad, grad_scale) -> Tensor:
    """The gradient of the similarities from that of the logits; adds to that of the scale."""
    if _folds(logits, scale):
        return grad.mul_(scale)
    similarity, after = block.similarity, block.similarity
    if logits.margin is not None:
        with torch.enable_grad():
            similarity = block.similarity.requires_grad_()
            after = logits.margin(similarity)
    if grad_scale is not None:
        grad_scale += (grad * after.detach()).sum(1)
    grad = scaled(grad, scale)
    return grad if logits.margin is None else torch.autograd.grad(after, similarity, grad)[0]


def _add_products(grad, rows, inverse, embeddings, place, grad_embeddings, grad_weight) -> None:
    """The two matrix products: to the gradient of the embeddings, and the chunk's part of that of the weights."""
    if inverse is not None:
        grad = grad.mul_(inverse)
    grad_embeddings.addmm_(grad, rows)
    if grad_weight is None:
        return
    part = torch.mm(grad.t(), embeddings, out=grad_weight[place])
    if inverse is not None:  # onto the tangent of the sphere: the length of a row changes nothing
        radial = (part * rows).sum(1).mul_(inverse.square())
        part.addcmul_(rows, radial.unsqueeze(1), value=-1)
