"""Sums over the logits of all classes but one's own, a chunk of classes at a time.

Blocks of (batch, classes) exist here and in :mod:`pml_center.ops.centers`, and nowhere else.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import wrap_torch_function

from pml_center.ops.first_order import first_order
from pml_center.ops.in_place import in_place, untraced
from pml_center.ops.precision import product, rounded

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
        other: (B,) another class of each embedding that takes no part, or None.
        drawn: (C,) the probability with which each class came to be here; sums then estimate, without bias, those over
            all classes that could have been drawn. None: all are here.
        chunk_size: classes in a block, and nothing is kept from forward to backward: memory is O(B · chunk_size). None
            chooses the size, and keeps blocks of up to 52 MiB in all, which saves computing them twice.
        product_dtype: a half precision for the matrix products of fp32, forward and backward; all else stays fp32.
        is_part: whether these are some of the classes, and ``own`` is negative where it is none of them.
    """

    embeddings: Tensor
    weight: Tensor
    own: Tensor
    scale: float | Tensor = 1.0
    margin: Elementwise | None = None
    bias: Tensor | None = None
    normalize: bool = True
    sub_centers: int = 1
    other: Tensor | None = None
    drawn: Tensor | None = None
    chunk_size: int | None = None
    product_dtype: torch.dtype | None = None
    is_part: bool = False


@wrap_torch_function(lambda logits: (logits.weight,))
def negative_logsumexp(logits: NegativeLogits) -> Tensor:
    """``logsumexp`` over every class but one's own, (B,); for C = 1 the lowest finite number.

    Equals ``(scale * margin(embeddings @ F.normalize(weight).T) + bias).scatter(1, own, -inf).logsumexp(1)``, but
    holds one (B, chunk_size) block at a time.
    """
    return _reduce(logits, _LOGSUMEXP)


@wrap_torch_function(lambda logits, of=None: (logits.weight,))
def negative_sum(logits: NegativeLogits, of: Elementwise | None = None) -> Tensor:
    """Sum over every class but one's own, (B,), of the logits or of a function of them.

    Equals ``of(scale * margin(embeddings @ F.normalize(weight).T) + bias).scatter(1, own, 0).sum(1)``, a block at a
    time. The logits themselves are what label smoothing needs; their softplus is the loss of many binary classifiers.
    """
    return _reduce(logits, of)


@wrap_torch_function(lambda logits, count: (logits.weight,))
@torch.no_grad()
def hardest(logits: NegativeLogits, count: int) -> Tensor:
    """The count-th largest similarity to other classes, (B,), before any margin; the lowest number if there are fewer.

    To the bit what a margin is given later: ``similarity >= hardest(logits, k).unsqueeze(1)`` are the k hardest.
    """
    return nearest_others(logits, count)[:, -1]


@torch.no_grad()
def nearest_others(logits: NegativeLogits, count: int) -> Tensor:
    """The largest similarities to other classes, before any margin, in order, (B, count).

    A sample's own class counts as the lowest number, and so does what is not there.
    """
    described = replace(logits, margin=lambda similarity: similarity, bias=None)
    least = torch.finfo(logits.embeddings.dtype).min
    best = logits.embeddings.new_full((len(logits.embeddings), count), least)
    for chunk in _chunks(described):
        similarity = _block(described, 1.0, chunk).similarity
        assert similarity is not None
        similarity = chunk.fill_own(similarity, logits.own, least)
        best = torch.cat([best, similarity], dim=1).topk(count).values
    return best


def directions(embeddings: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
    """Each row divided by its length, (B, D), or as it is, and that length, (B,).

    Equals ``F.normalize(embeddings)`` and ``embeddings.norm(dim=1)``.
    """
    return _Directions.apply(embeddings) if normalize else (embeddings, embeddings.norm(dim=1))


class Comparison(NamedTuple):
    """What each sample has to do with its own class, and what it takes to compare it with others."""

    direction: Tensor
    """(B, D) each embedding divided by its length, or as it is."""
    norm: Tensor
    """(B,) that length."""
    similarity: Tensor
    """(B,) to the nearest row of its class."""
    row_norm: Tensor
    """(B,) length of that row."""
    weight: Tensor
    """(C · sub_centers, D) the weights again, for everything else that reads them."""


@wrap_torch_function(lambda embeddings, weight, *_, **__: (weight,))
def compare(
    embeddings: Tensor,
    weight: Tensor,
    own: Tensor,
    normalize_embeddings: bool = True,
    normalize: bool = True,
    sub_centers: int = 1,
) -> Comparison:
    """Each sample beside its own class.

    The similarity equals ``(F.normalize(embeddings) * F.normalize(weight[own])).sum(1)``, but the gradient of the rows
    is added into that of the weights, where indexing would make a second (C, D) tensor for it. Arguments as in
    :class:`NegativeLogits`; ``normalize_embeddings`` is whether embeddings are divided by their length.
    """
    return Comparison(*_Compare.apply(embeddings, weight, own, normalize_embeddings, normalize, sub_centers))


def scaled(similarity: Tensor, scale: float | Tensor) -> Tensor:
    """(B, K) similarities times one scale, or times the (B,) scale of each row."""
    return similarity * (scale.unsqueeze(1) if isinstance(scale, Tensor) and scale.ndim else scale)


def nearest_row(similarity: Tensor, sub_centers: int) -> Tensor:
    """(B, C · sub_centers) similarities to rows -> (B, C) to classes, each that of its nearest row."""
    return similarity if sub_centers == 1 else similarity.unflatten(1, (-1, sub_centers)).amax(2)


class Chunk(NamedTuple):
    """Classes that follow each other."""

    start: int
    stop: int
    is_all: bool
    """Whether they are all classes."""
    holds_own: bool
    """Whether each sample's own class is surely one of them."""

    def of(self, table: Tensor, per_class: int = 1) -> Tensor:
        """Their rows of a table with so many for each class."""
        return table if self.is_all else table[self.start * per_class : self.stop * per_class]

    def fill_own(self, block: Tensor, own: Tensor, value: float) -> Tensor:
        """Put a value where a sample meets its own class, by :func:`in_place`; nobody waits to know which do.

        Args:
            block: (B, K) of the K classes of this chunk.
            own: (B,) in [0, C), or negative where ``chunks`` was told of a part.
            value: the value.
        """
        column = own.unsqueeze(1)
        if self.holds_own:
            return in_place("scatter", block, 1, column, value)
        column = column - self.start
        nearest = column.clamp(0, self.stop - self.start - 1)
        values = torch.where(column == nearest, value, block.gather(1, nearest))  # elsewhere what is there already
        return in_place("scatter", block, 1, nearest, values)


def chunks(classes: int, entries: int, chunk_size: int | None, is_part: bool = False) -> Iterator[Chunk]:
    """All classes, a chunk at a time.

    Args:
        classes: C.
        entries: that a block has for each class.
        chunk_size: classes in a chunk; None makes small ones.
        is_part: whether a sample's own class may be none of them.
    """
    size = chunk_size or max(1, BLOCK_ELEMENTS // max(1, entries))
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        is_all = stop - start == classes
        yield Chunk(start, stop, is_all, is_all and not is_part)


def softmax_of(block: Tensor) -> tuple[Tensor, Tensor]:
    """``block.softmax(1)`` and ``block.logsumexp(1)`` of finite entries, in one pass for both."""
    share = block.softmax(1)
    return share, block.amax(1) - share.amax(1).log()  # at the largest entry nothing underflows


_LOGSUMEXP = object()  # instead of a function to sum


def _reduce(logits: NegativeLogits, of) -> Tensor:
    takes_slopes = logits.margin is not None or of not in (None, _LOGSUMEXP)
    apply = _apply_untraced if takes_slopes else _Reduction.apply
    if of is _LOGSUMEXP and logits.drawn is not None:  # a factor of 1 / drawn, in the exponent
        correction = logits.drawn.log().neg()
        logits = replace(logits, bias=correction if logits.bias is None else logits.bias + correction)
    return apply(logits.embeddings, logits.weight, logits.scale, logits.bias, logits, of)


@untraced  # its backward asks autograd for a slope: the compiler would try, and fail, at every step
def _apply_untraced(*args: Any) -> Tensor:
    return _Reduction.apply(*args)


class _Directions(torch.autograd.Function):
    """Two results of one norm, with half of the operations that autograd would make of them."""

    @staticmethod
    def forward(ctx, embeddings):
        ctx.set_materialize_grads(False)
        norm = torch.linalg.vector_norm(embeddings, dim=1)
        length = norm.clamp_min(SHORTEST).unsqueeze(1)
        result = embeddings / length
        ctx.normalize_embeddings = True
        ctx.save_for_backward(result, length)
        return result, norm

    @staticmethod
    @first_order
    def backward(ctx, grad, grad_norm):
        return _before_length(ctx, grad, grad_norm, *ctx.saved_tensors)


class _Compare(torch.autograd.Function):
    """Embeddings and weights pass through, so that all their gradients meet in one tensor."""

    @staticmethod
    def forward(ctx, embeddings, weight, own, normalize_embeddings, normalize, sub_centers):
        ctx.set_materialize_grads(False)
        norm = torch.linalg.vector_norm(embeddings, dim=1)
        length = norm.clamp_min(SHORTEST).unsqueeze(1)
        direction = embeddings / length if normalize_embeddings else embeddings.view_as(embeddings)
        rows = weight.index_select(0, own) if sub_centers == 1 else weight.view(-1, sub_centers, weight.shape[1])[own]
        similarity = torch.linalg.vecdot(direction if sub_centers == 1 else direction.unsqueeze(1), rows)
        row_norm = torch.linalg.vector_norm(rows, dim=-1)
        inverse = row_norm.clamp_min(SHORTEST).reciprocal()
        if normalize:
            similarity = in_place("mul", similarity, inverse)
        if sub_centers > 1:
            similarity, nearest = similarity.max(1)
            own, nearest = own * sub_centers + nearest, nearest.unsqueeze(1)
            rows = weight.index_select(0, own)
            row_norm, inverse = row_norm.gather(1, nearest).squeeze(1), inverse.gather(1, nearest).squeeze(1)
        ctx.normalize_embeddings, ctx.normalize, ctx.of_weight = normalize_embeddings, normalize, weight.shape
        ctx.save_for_backward(direction, length, rows, inverse, similarity, own)
        return direction, norm, similarity, row_norm, weight.view_as(weight)

    @staticmethod
    @first_order
    def backward(ctx, grad, grad_norm, grad_similarity, grad_row_norm, grad_weight):
        direction, length, rows, inverse, similarity, own = ctx.saved_tensors
        along = None if grad_row_norm is None else grad_row_norm * inverse  # the row
        of_rows = None
        if grad_similarity is not None:
            if ctx.normalize:
                grad_similarity = grad_similarity * inverse
                turned = grad_similarity * similarity * inverse
                along = -turned if along is None else along - turned
            of_pair = grad_similarity.unsqueeze(1)
            of_rows = of_pair * direction
            grad = of_pair * rows if grad is None else in_place("addcmul", grad, of_pair, rows)
        if along is not None:
            radial = along.unsqueeze(1)
            of_rows = radial * rows if of_rows is None else in_place("addcmul", of_rows, radial, rows)
        if ctx.needs_input_grad[1] and of_rows is not None:
            grad_weight = rows.new_zeros(ctx.of_weight) if grad_weight is None else grad_weight
            grad_weight = in_place("index_add", grad_weight, 0, own, of_rows)
        return _before_length(ctx, grad, grad_norm, direction, length), grad_weight, None, None, None, None


def _before_length(ctx, grad: Tensor | None, grad_norm: Tensor | None, direction: Tensor, length: Tensor):
    """The gradient of embeddings, from those of their directions, or of themselves, and of their lengths."""
    if ctx.normalize_embeddings and grad is not None:
        grad = grad / length
        radial = (grad * direction).sum(1, keepdim=True)
        radial = radial if grad_norm is None else radial - grad_norm.unsqueeze(1)
        return in_place("addcmul", grad, radial, direction, value=-1)
    if grad_norm is None:
        return grad
    of_length = grad_norm.unsqueeze(1) * (direction if ctx.normalize_embeddings else direction / length)
    return of_length if grad is None else grad + of_length


class _Block(NamedTuple):
    """What backward needs of the logits of a chunk of K classes."""

    logits: Tensor  # (B, K); for logsumexp their softmax
    similarity: Tensor | None  # (B, K) before margin and scale; None where scale and lengths are one factor of a column
    nearest: Tensor | None  # (B, K) which row of each class is its nearest, where there are several
    length: Tensor | None  # (K · sub_centers,) of each row


class _Reduction(torch.autograd.Function):
    """``logsumexp`` or a sum over the negative logits; backward walks over the chunks once more."""

    @staticmethod
    def forward(ctx, embeddings, weight, scale, bias, logits, of):
        parts: list[Tensor] = []
        kept: list[Tensor | None] = []
        room = KEPT_ELEMENTS if logits.chunk_size is None else 0
        for chunk in _chunks(logits):
            block, part = _reduced(_block(logits, scale, chunk), logits, chunk, of)
            parts.append(part)
            for tensor in block:
                room -= 0 if tensor is None else tensor.numel()
            kept.extend(block if room >= 0 else ())
        whole = of_kept = None
        result = parts[0]
        if len(parts) > 1:
            stacked = torch.stack(parts, dim=1)
            result = stacked.sum(1)
            if of is _LOGSUMEXP:
                whole = result = stacked.logsumexp(1)
                of_kept = stacked[:, : len(kept) // len(_Block._fields)]
        ctx.logits, ctx.of = logits, of
        ctx.scale = None if isinstance(scale, Tensor) else scale
        saved = embeddings, weight, scale if ctx.scale is None else None, bias, whole, of_kept, *kept
        ctx.of_embeddings_alone = not any(ctx.needs_input_grad[1:])
        if ctx.of_embeddings_alone and ctx.needs_input_grad[0]:  # taken now: backward may find the rows moved
            saved = _gradients(ctx, saved, torch.ones_like(result))[:1]
        ctx.save_for_backward(*saved)
        return result

    @staticmethod
    @first_order
    def backward(ctx, upstream):
        if ctx.of_embeddings_alone:
            return ctx.saved_tensors[0] * upstream.unsqueeze(1), None, None, None, None, None
        return *_gradients(ctx, ctx.saved_tensors, upstream), None, None


def _reduced(block: _Block, logits: NegativeLogits, chunk: Chunk, of) -> tuple[_Block, Tensor]:
    """The block for backward, and what a chunk adds to the result, (B,)."""
    if of is _LOGSUMEXP:
        least = torch.finfo(block.logits.dtype).min  # not -inf, whose gradient is NaN
        filled = chunk.fill_own(block.logits, logits.own, least)
        filled = filled if logits.other is None else chunk.fill_own(filled, logits.other, least)
        share, part = softmax_of(filled)
        return _Block(share, *block[1:]), part
    values = chunk.fill_own(block.logits.clone() if of is None else of(block.logits), logits.own, 0.0)
    return block, values.sum(1) if logits.drawn is None else values @ chunk.of(logits.drawn).reciprocal()


def _gradients(ctx, saved, upstream) -> tuple[Tensor | None, ...]:
    """Of embeddings, weight, scale and bias."""
    embeddings, weight, scale, _, whole, of_kept, *kept = saved
    scale = scale if ctx.scale is None else ctx.scale
    _, needs_weight, needs_scale, needs_bias, *_ = ctx.needs_input_grad
    logits = ctx.logits
    of_embeddings = of_weight = None
    of_scale = torch.zeros_like(upstream) if needs_scale else None
    of_bias = []
    width = len(_Block._fields)
    for number, chunk in enumerate(_chunks(logits)):
        of_block = kept[number * width : (number + 1) * width]
        block = _Block(*of_block) if of_block else _block(logits, scale, chunk)
        if ctx.of is _LOGSUMEXP:
            if not of_block:
                block, part = _reduced(block, logits, chunk, ctx.of)
            elif whole is not None:
                part = of_kept[:, number]
            of_part = upstream if whole is None else upstream * (part - whole).exp()
            grad = block.logits * of_part.unsqueeze(1)
        else:
            of_term = upstream.unsqueeze(1) if logits.drawn is None else upstream.unsqueeze(1) / chunk.of(logits.drawn)
            grad = _pulled_back(ctx.of, block.logits, of_term.expand_as(block.logits)).clone()
        if ctx.of is not _LOGSUMEXP or len(weight) <= (1 if logits.other is None else 2) * logits.sub_centers:
            grad = chunk.fill_own(grad, logits.own, 0.0)  # else it is 0 there
            grad = grad if logits.other is None else chunk.fill_own(grad, logits.other, 0.0)
        if needs_bias:
            of_bias.append(grad.sum(0))
        grad = _before_margin_and_scale(logits, scale, block, grad, of_scale)
        if block.nearest is not None:
            grad = _spread(grad, block.nearest, logits.sub_centers)
        if block.length is not None:
            grad = in_place("div", grad, block.length)
        rows, half = chunk.of(weight, logits.sub_centers), logits.product_dtype
        grad, unit = rounded(grad, half)
        if of_embeddings is None:
            of_embeddings = product(grad, rows, half, unit)
        elif half is None:
            of_embeddings = in_place("addmm", of_embeddings, grad, rows)
        else:
            of_embeddings = in_place("add", of_embeddings, product(grad, rows, half, unit))
        if needs_weight:
            of_weight = torch.empty_like(weight) if of_weight is None and not chunk.is_all else of_weight
            out = None if of_weight is None else chunk.of(of_weight, logits.sub_centers)
            of_rows = product(grad.t(), embeddings, half, unit, out)
            if block.length is not None:  # onto the tangent of the sphere: the length of a row changes nothing
                radial = (of_rows * rows).sum(1) / block.length.square()
                of_rows.addcmul_(rows, radial.unsqueeze(1), value=-1)
            of_weight = of_rows if chunk.is_all else of_weight
    if of_scale is not None and not scale.ndim:
        of_scale = of_scale.sum()
    return of_embeddings, of_weight, of_scale, torch.cat(of_bias) if len(of_bias) > 1 else (of_bias or [None])[0]


def exponential(block: Tensor) -> Tensor:
    """``in_place("exp", block)``, which on a CPU takes many times as long where the result is below 1e-38."""
    return in_place("exp2", in_place("mul", block, LOG2_E))


def _chunks(logits: NegativeLogits) -> Iterator[Chunk]:
    classes, entries = len(logits.weight) // logits.sub_centers, len(logits.embeddings) * logits.sub_centers
    return chunks(classes, entries, logits.chunk_size, logits.is_part)


def _block(logits: NegativeLogits, scale: float | Tensor, chunk: Chunk) -> _Block:
    rows = chunk.of(logits.weight, logits.sub_centers)
    length = torch.linalg.vector_norm(rows, dim=1).clamp_min(SHORTEST) if logits.normalize else None
    similarity = nearest = None
    bias = None if logits.bias is None else chunk.of(logits.bias)
    half = logits.product_dtype
    number = None if isinstance(scale, Tensor) or half is not None else scale  # that a product of fp32 takes along
    is_fixed = not (isinstance(scale, Tensor) and (scale.ndim or scale.requires_grad))
    is_factor = is_fixed and logits.margin is None and logits.sub_centers == 1
    if is_factor and number is not None and length is not None:  # beta=0: the first argument is not looked at
        block = in_place("div", torch.addmm(length, logits.embeddings, rows.t(), beta=0, alpha=number), length)
    elif is_factor and length is not None:
        block = in_place("mul", product(logits.embeddings, rows.t(), half), scale / length)
    elif is_factor and number == 1 and bias is not None:
        return _Block(torch.addmm(bias, logits.embeddings, rows.t()), None, None, None)
    else:
        similarity = product(logits.embeddings, rows.t(), half)
        similarity = similarity if length is None else in_place("div", similarity, length)
        if logits.sub_centers > 1:
            similarity, nearest = similarity.unflatten(1, (-1, logits.sub_centers)).max(2)
        block = scaled(similarity if logits.margin is None else logits.margin(similarity), scale)
        similarity = None if is_factor else similarity
    if bias is not None:
        block = in_place("add", block, bias)
    return _Block(block, similarity, nearest, length)


def _before_margin_and_scale(logits, scale, block, grad, of_scale) -> Tensor:
    """The gradient of the similarities from that of the logits; adds to that of the scale."""
    if block.similarity is None:
        return grad if not isinstance(scale, Tensor) and scale == 1 else in_place("mul", grad, scale)
    if of_scale is not None:
        after = block.similarity if logits.margin is None else logits.margin(block.similarity)
        of_scale += (grad * after).sum(1)
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
