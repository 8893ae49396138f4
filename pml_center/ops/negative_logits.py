"""Sums over the logits of all classes but one's own, a chunk of classes at a time.

Blocks of (batch, classes) exist here and in :mod:`pml_center.ops.centers`, and nowhere else.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pml_center.ops.first_order import first_order
from pml_center.ops.in_place import filled, in_place

BLOCK_ELEMENTS = 2**18  # of a block whose size nobody chose: 1 MiB in fp32, which stays in the cache
KEPT_ELEMENTS = 13 * 2**20  # of all blocks that forward keeps for backward: 52 MiB in fp32; others are computed again
LOG2_E = math.log2(math.e)
SHORTEST = 1e-12  # length that a row is taken to have at least, as in F.normalize

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NegativeLogits:
    """The logits of every class but one's own, described and never held.

    They stand for ``scale * margin(embeddings @ F.normalize(weight).T) + bias``, (B, C), without the column ``own``.
    With several rows to a class, its similarity is that of its nearest row.

    Args:
        embeddings: (B, D), of length 1 where cosines are meant.
        weight: (C · sub_centers, D); the rows of a class follow each other.
        own: (B,) each embedding's own class, which takes no part.
        scale: one for all embeddings, or (B,).
        margin: (B, K) similarities to as many, entry by entry; None leaves them alone. Called again in ``backward``: it
            must depend on tensors that nobody changes in place, and passes no gradient to them.
        bias: (C,), added to the logits.
        normalize: divide each row of ``weight`` by its length.
        sub_centers: rows to a class.
        chunk_size: classes in a block, and nothing is kept from forward to backward: memory is O(B · chunk_size). None
            chooses the size, and keeps blocks of up to 52 MiB in all, which saves computing them twice.
    """

    embeddings: Tensor
    weight: Tensor
    own: Tensor
    scale: float | Tensor = 1.0
    margin: Elementwise | None = None
    bias: Tensor | None = None
    normalize: bool = True
    sub_centers: int = 1
    chunk_size: int | None = None


def negative_logsumexp(logits: NegativeLogits) -> Tensor:
    """``logsumexp`` over every class but one's own, (B,); for C = 1 the lowest finite number.

    Equals ``(scale * margin(embeddings @ F.normalize(weight).T) + bias).scatter(1, own, -inf).logsumexp(1)``, but
    holds one (B, chunk_size) block at a time.
    """
    return _reduce(logits, _LOGSUMEXP)


def negative_sum(logits: NegativeLogits, of: Elementwise | None = None) -> Tensor:
    """Sum over every class but one's own, (B,), of the logits or of a function of them.

    Equals ``of(scale * margin(embeddings @ F.normalize(weight).T) + bias).scatter(1, own, 0).sum(1)``, a block at a
    time. The logits themselves are what label smoothing needs; their softplus is the loss of many binary classifiers.
    """
    return _reduce(logits, of)


def directions(embeddings: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
    """Each row divided by its length, (B, D), or as it is, and that length, (B,).

    Equals ``F.normalize(embeddings)`` and ``embeddings.norm(dim=1)``.
    """
    return _Directions.apply(embeddings) if normalize else (embeddings, embeddings.norm(dim=1))


class Own(NamedTuple):
    """What each sample has to do with its own class."""

    similarity: Tensor
    """(B,) to the nearest of its rows."""
    row_norm: Tensor
    """(B,) length of that row."""


def own_similarity(
    embeddings: Tensor, weight: Tensor, own: Tensor, normalize: bool = True, sub_centers: int = 1
) -> tuple[Own, Tensor]:
    """The similarity of each sample to its own class, and the weights again, for everything else that reads them.

    Equals ``(embeddings * F.normalize(weight[own])).sum(1)`` and ``weight``, but the gradient of the rows is added into
    that of the weights, where indexing would make a second (C, D) tensor for it. Arguments as in
    :class:`NegativeLogits`.
    """
    similarity, row_norm, weight = _OwnSimilarity.apply(embeddings, weight, own, normalize, sub_centers)
    return Own(similarity, row_norm), weight


def scaled(similarity: Tensor, scale: float | Tensor) -> Tensor:
    """(B, K) similarities times one scale, or times the (B,) scale of each row."""
    return similarity * (scale.unsqueeze(1) if isinstance(scale, Tensor) and scale.ndim else scale)


def nearest_row(similarity: Tensor, sub_centers: int) -> Tensor:
    """(B, C · sub_centers) similarities to rows -> (B, C) to classes, each that of its nearest row."""
    return similarity if sub_centers == 1 else similarity.unflatten(1, (-1, sub_centers)).amax(2)


def blocks(
    own: Tensor, classes: int, entries: int, chunk_size: int | None
) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
    """The classes of each block, and where in it a sample meets its own: index of the sample, and of the column.

    Args:
        own: (B,) in [0, C).
        classes: C.
        entries: that a block has for each class.
        chunk_size: classes in a block; None makes small ones.
    """
    size = chunk_size or max(1, BLOCK_ELEMENTS // max(1, entries))
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        if stop - start == classes:
            yield slice(start, stop), (torch.arange(len(own), device=own.device), own)
        else:
            samples = ((own >= start) & (own < stop)).nonzero().squeeze(1)
            yield slice(start, stop), (samples, own[samples] - start)


_LOGSUMEXP = object()  # instead of a function to sum


def _reduce(logits: NegativeLogits, of) -> Tensor:
    scale = torch.as_tensor(logits.scale, dtype=logits.embeddings.dtype, device=logits.embeddings.device)
    return _Reduction.apply(logits.embeddings, logits.weight, scale, logits.bias, logits, of)


class _Directions(torch.autograd.Function):
    """Two results of one norm, with half of the operations that autograd would make of them."""

    @staticmethod
    def forward(ctx, embeddings):
        norm = torch.linalg.vector_norm(embeddings, dim=1)
        length = norm.clamp_min(SHORTEST).unsqueeze(1)
        result = embeddings / length
        ctx.save_for_backward(result, length)
        return result, norm

    @staticmethod
    @first_order
    def backward(ctx, grad, grad_norm):
        result, length = ctx.saved_tensors
        radial = grad_norm.unsqueeze(1) - torch.linalg.vecdot(grad, result).unsqueeze(1) / length
        return torch.addcmul(grad / length, radial, result)


class _OwnSimilarity(torch.autograd.Function):
    """A product of pairs of rows; the weights pass through, so that all their gradients meet in one tensor."""

    @staticmethod
    def forward(ctx, embeddings, weight, own, normalize, sub_centers):
        rows = weight[own] if sub_centers == 1 else weight.view(-1, sub_centers, weight.shape[1])[own]
        similarity = torch.linalg.vecdot(embeddings if sub_centers == 1 else embeddings.unsqueeze(1), rows)
        norm = rows.norm(dim=-1)
        if normalize:
            similarity = similarity / norm.clamp_min(SHORTEST)
        if sub_centers > 1:
            similarity, nearest = similarity.max(1)
            own = own * sub_centers + nearest
            rows, norm = weight[own], norm.gather(1, nearest.unsqueeze(1)).squeeze(1)
        ctx.save_for_backward(embeddings, rows, norm, similarity, own)
        ctx.normalize = normalize
        return similarity, norm, weight.view_as(weight)

    @staticmethod
    @first_order
    def backward(ctx, grad, grad_norm, grad_weight):
        embeddings, rows, norm, similarity, own = ctx.saved_tensors
        inverse = norm.clamp_min(SHORTEST).reciprocal()
        radial = grad_norm * inverse  # along the row
        if ctx.normalize:
            grad = grad * inverse
            radial = radial - grad * similarity * inverse
        grad = grad.unsqueeze(1)
        of_rows = torch.addcmul(grad * embeddings, radial.unsqueeze(1), rows)
        grad_weight = in_place("index_add", grad_weight, 0, own, of_rows)
        return grad * rows, grad_weight, None, None, None


class _Block(NamedTuple):
    """The logits of a chunk of K classes."""

    logits: Tensor  # (B, K)
    similarity: Tensor | None  # (B, K) before margin and scale; None where scale and lengths are one factor of a column
    nearest: Tensor | None  # (B, K) which row of each class is its nearest, where there are several
    inverse: Tensor | None  # (K · sub_centers,) 1 / length of each row


class _Reduction(torch.autograd.Function):
    """``logsumexp`` or a sum over the negative logits; backward walks over the chunks once more."""

    @staticmethod
    def forward(ctx, embeddings, weight, scale, bias, logits, of):
        parts: list[Tensor] = []
        kept: list[Tensor | None] = []
        room = KEPT_ELEMENTS if logits.chunk_size is None else 0
        for place, own in _blocks(logits):
            block = _block(logits, scale, place)
            if of is _LOGSUMEXP:
                least = torch.finfo(block.logits.dtype).min  # not -inf, whose gradient is NaN
                block = block._replace(logits=filled(block.logits, own, least))
                parts.append(logsumexp(block.logits))
            else:
                values = block.logits.clone() if of is None else of(block.logits)
                parts.append(filled(values, own, 0).sum(1))
            for tensor in block:
                room -= 0 if tensor is None else tensor.numel()
            kept.extend(block if room >= 0 else ())
        result = parts[0]
        if len(parts) > 1:
            stacked = torch.stack(parts, dim=1)
            result = logsumexp(stacked) if of is _LOGSUMEXP else stacked.sum(1)
        ctx.logits, ctx.of = logits, of
        ctx.of_embeddings_alone = not any(ctx.needs_input_grad[1:])
        if ctx.of_embeddings_alone and ctx.needs_input_grad[0]:  # taken now: backward may find the rows moved
            saved = embeddings, weight, scale, bias, result, *kept
            ctx.save_for_backward(_gradients(ctx, saved, torch.ones_like(result))[0])
        else:
            ctx.save_for_backward(embeddings, weight, scale, bias, result, *kept)
        return result

    @staticmethod
    @first_order
    def backward(ctx, upstream):
        if ctx.of_embeddings_alone:
            return ctx.saved_tensors[0] * upstream.unsqueeze(1), None, None, None, None, None
        return *_gradients(ctx, ctx.saved_tensors, upstream), None, None


def _gradients(ctx, saved, upstream) -> tuple[Tensor | None, ...]:
    """Of embeddings, weight, scale and bias."""
    embeddings, weight, scale, bias, result, *kept = saved
    _, needs_weight, needs_scale, needs_bias, *_ = ctx.needs_input_grad
    logits = ctx.logits
    grads = torch.zeros_like(embeddings), torch.empty_like(weight) if needs_weight else None
    grad_scale = torch.zeros_like(upstream) if needs_scale else None
    grad_bias = torch.empty_like(bias) if needs_bias else None
    width = len(_Block._fields)
    for number, (place, own) in enumerate(_blocks(logits)):
        of_block = kept[number * width : (number + 1) * width]
        block = _Block(*of_block) if of_block else _block(logits, scale, place)
        if ctx.of is _LOGSUMEXP:
            grad = in_place("mul", exponential(block.logits - result.unsqueeze(1)), upstream.unsqueeze(1))
        else:
            grad = _pulled_back(ctx.of, block.logits, upstream.unsqueeze(1).expand_as(block.logits)).clone()
        grad = filled(grad, own, 0)
        if grad_bias is not None:
            grad_bias[place] = grad.sum(0)
        grad = _before_margin_and_scale(logits, scale, block, grad, grad_scale)
        if block.nearest is not None:
            grad = _spread(grad, block.nearest, logits.sub_centers)
        _add_products(grad, block.inverse, embeddings, weight, _rows(place, logits), *grads)
    if grad_scale is not None and not scale.ndim:
        grad_scale = grad_scale.sum()
    return *grads, grad_scale, grad_bias


def logsumexp(block: Tensor) -> Tensor:
    """``block.logsumexp(1)`` of finite entries, with fewer passes."""
    largest = block.amax(1, keepdim=True)
    return exponential(block - largest).sum(1).log() + largest.squeeze(1)


def exponential(block: Tensor) -> Tensor:
    """``in_place("exp", block)``, which on a CPU takes many times as long where the result is below 1e-38."""
    return in_place("exp2", in_place("mul", block, LOG2_E))


def _blocks(logits: NegativeLogits) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
    classes, entries = len(logits.weight) // logits.sub_centers, len(logits.embeddings) * logits.sub_centers
    return blocks(logits.own, classes, entries, logits.chunk_size)


def _rows(place: slice, logits: NegativeLogits) -> slice:
    """The rows of some classes."""
    return slice(place.start * logits.sub_centers, place.stop * logits.sub_centers)


def _block(logits: NegativeLogits, scale: Tensor, place: slice) -> _Block:
    rows = logits.weight[_rows(place, logits)]
    inverse = rows.norm(dim=1).clamp_min(SHORTEST).reciprocal() if logits.normalize else None
    block = logits.embeddings @ rows.t()
    similarity = nearest = None
    if logits.margin is None and logits.sub_centers == 1 and not scale.ndim and not scale.requires_grad:
        block = in_place("mul", block, scale if inverse is None else inverse * scale)
    else:
        similarity = block if inverse is None else in_place("mul", block, inverse)
        if logits.sub_centers > 1:
            similarity, nearest = similarity.unflatten(1, (-1, logits.sub_centers)).max(2)
        block = scaled(similarity if logits.margin is None else logits.margin(similarity), scale)
    if logits.bias is not None:
        block = in_place("add", block, logits.bias[place])
    return _Block(block, similarity, nearest, inverse)


def _before_margin_and_scale(logits, scale, block, grad, grad_scale) -> Tensor:
    """The gradient of the similarities from that of the logits; adds to that of the scale."""
    if block.similarity is None:
        return in_place("mul", grad, scale)
    if grad_scale is not None:
        after = block.similarity if logits.margin is None else logits.margin(block.similarity)
        grad_scale += (grad * after).sum(1)
    return _pulled_back(logits.margin, block.similarity, scaled(grad, scale))


def _pulled_back(function: Elementwise | None, at: Tensor, grad: Tensor) -> Tensor:
    """The gradient before an elementwise function, from the gradient after it."""
    if function is None:
        return grad
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        return torch.autograd.grad(function(at), at, grad)[0]


def _spread(grad: Tensor, nearest: Tensor, sub_centers: int) -> Tensor:
    """(B, K) gradients of classes to (B, K · sub_centers) of their rows: all goes to the nearest."""
    rows = grad.new_zeros(*grad.shape, sub_centers)
    return in_place("scatter", rows, 2, nearest.unsqueeze(2), grad.unsqueeze(2)).flatten(1)


def _add_products(grad, inverse, embeddings, weight, place, grad_embeddings, grad_weight) -> None:
    """The two matrix products: to the gradient of the embeddings, and the chunk's part of that of the weights."""
    rows = weight[place]
    if inverse is not None:
        grad = grad * inverse
    grad_embeddings.addmm_(grad, rows)
    if grad_weight is None:
        return
    part = torch.mm(grad.t(), embeddings, out=grad_weight[place])
    if inverse is not None:  # onto the tangent of the sphere: the length of a row changes nothing
        radial = (part * rows).sum(1) * inverse.square()
        part.addcmul_(rows, radial.unsqueeze(1), value=-1)
