"""Sums over the logits of all classes but one's own, a chunk of classes at a time.

The only place where a block of (batch, classes) exists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BLOCK_ELEMENTS = 2**22  # of a block whose size nobody chose: 16 MiB in fp32


@dataclass(frozen=True)
class NegativeLogits:
    """The logits of every class but one's own, described and never held.

    They stand for ``scale * margin(embeddings @ F.normalize(weight).T) + bias``, (B, C), without the column
    ``own``.

    Args:
        embeddings: (B, D), of length 1 where cosines are meant.
        weight: (C, D), a row per class.
        own: (B,) the row of each embedding's own class, which takes no part.
        scale: one for all embeddings, or (B,).
        margin: (B, K) similarities to as many; None leaves them alone. Called again in ``backward``: it must
            depend on tensors that nobody changes in place.
        bias: (C,), added to the logits.
        normalize: divide each row of ``weight`` by its length.
        chunk_size: classes in a block; None takes so many that a block has about four million elements.
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

    Equals ``(scale * margin(embeddings @ F.normalize(weight).T) + bias).scatter(1, own, -inf).logsumexp(1)``,
    but holds one (B, chunk_size) block at a time: backward computes each block again instead of keeping it.
    """
    return torch.stack(list(_over_chunks(_logsumexp, logits))).logsumexp(0)


def negative_sum(logits: NegativeLogits) -> Tensor:
    """Sum over every class but one's own, (B,): what label smoothing needs.

    Equals ``(scale * margin(embeddings @ F.normalize(weight).T) + bias).scatter(1, own, 0).sum(1)``, a block
    at a time.
    """
    return torch.stack(list(_over_chunks(_sum, logits))).sum(0)


def _logsumexp(logits: Tensor, is_own: Tensor) -> Tensor:
    # Not -inf: a block that holds nothing but one's own class must have a gradient of 0, not NaN.
    return logits.masked_fill(is_own, torch.finfo(logits.dtype).min).logsumexp(1)


def _sum(logits: Tensor, is_own: Tensor) -> Tensor:
    return logits.masked_fill(is_own, 0).sum(1)


def _over_chunks(reduce: Callable[[Tensor, Tensor], Tensor], logits: NegativeLogits) -> Iterator[Tensor]:
    """``reduce`` of each block, (B,) at a time."""
    size = logits.chunk_size or max(1, BLOCK_ELEMENTS // max(1, len(logits.embeddings)))
    chunks = logits.weight.split(size)  # split, not slices: its backward writes the gradient of the weights once
    biases = (None,) * len(chunks) if logits.bias is None else logits.bias.split(size)
    for number, (rows, bias) in enumerate(zip(chunks, biases, strict=True)):
        arguments = reduce, logits.embeddings, rows, logits.own - number * size, logits.scale, bias, logits
        if len(chunks) == 1:  # a single block may be kept: nothing is gained by computing it twice
            yield _block(*arguments)
        else:
            yield checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False)


def _block(reduce, embeddings, rows, own, scale, bias, logits) -> Tensor:
    similarity = F.linear(embeddings, F.normalize(rows, dim=1) if logits.normalize else rows)  # (B, K)
    if logits.margin is not None:
        similarity = logits.margin(similarity)
    block = scaled(similarity, scale)
    if bias is not None:
        block = block + bias
    return reduce(block, own.unsqueeze(1) == torch.arange(len(rows), device=own.device))


def scaled(similarity: Tensor, scale: float | Tensor) -> Tensor:
    """(B, K) similarities times one scale, or times the (B,) scale of each row."""
    return similarity * (scale.unsqueeze(1) if isinstance(scale, Tensor) and scale.ndim else scale)
