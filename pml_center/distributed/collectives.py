"""Collectives: what several processes bring, on each of them.

A *joined batch* is the rows of all processes, in the order of their ranks. Inside :func:`joined` every process holds
it, and behaves as if it were alone. Gradients follow one rule: their mean over the processes, which
``DistributedDataParallel`` takes, is that of one process with the joined batch.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor

from pml_center.ops.first_order import first_order

_is_joined = False
_shares_rows = True


def is_distributed() -> bool:
    """Whether torch.distributed is in use."""
    return dist.is_available() and dist.is_initialized()


def processes(group: dist.ProcessGroup | None = None) -> int:
    """How many processes hold a part of the batch each; 1 without torch.distributed, and inside :func:`joined`."""
    return dist.get_world_size(group) if is_distributed() and not _is_joined else 1


@contextmanager
def joined(shares_rows: bool = True) -> Iterator[None]:
    """Inside, each process holds the joined batch, and asks no other for its part.

    Args:
        shares_rows: whether :func:`own_rows` gives each a part of the samples; else it has a part of the classes.
    """
    global _is_joined, _shares_rows
    before = _is_joined, _shares_rows
    _is_joined, _shares_rows = True, shares_rows
    try:
        yield
    finally:
        _is_joined, _shares_rows = before


def is_joined() -> bool:
    """Whether this is inside :func:`joined`."""
    return _is_joined


def joined_by_wrapper() -> bool:
    """Whether PML's DistributedLossWrapper is calling: it hands the joined batch of all processes to each of them."""
    return called_by(DistributedLossWrapper)


def called_by(kind: type) -> bool:
    """Whether an object of this kind is calling: nobody says to a module that it is wrapped, so we look who called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), kind):
            return True
        frame = frame.f_back
    return False


def meeting_place(device: torch.device, group: dist.ProcessGroup | None = None) -> torch.device:
    """Where to exchange small numbers: the CPU where it can be, for a GPU would have to be waited for."""
    return torch.device("cpu") if "cpu:" in dist.get_backend_config(group) else device


def lengths_by_rank(
    lengths: Sequence[int], device: torch.device, group: dist.ProcessGroup | None = None
) -> list[list[int]]:
    """The numbers of rows that each process has, in the order of their ranks; ``device`` is where the rows are."""
    own = torch.tensor(lengths, device=meeting_place(device, group))
    received = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(received, own, group=group)
    return [each.tolist() for each in received]


def rows_by_rank(
    rows: Tensor, group: dist.ProcessGroup | None = None, lengths: Sequence[int] | None = None
) -> list[Tensor]:
    """The rows of every process, in the order of their ranks; the same on each.

    Args:
        rows: (R, ...) of this process; R may differ between processes, and be 0.
        group: the processes; None is all of them.
        lengths: R of each process, where it is known.
    """
    if lengths is None:
        lengths = [length for (length,) in lengths_by_rank([len(rows)], rows.device, group)]
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])  # collectives want equal shapes
    padded[: len(rows)] = rows
    received = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather([_bytes(each) for each in received], _bytes(padded), group=group)
    return [each[:length] for each, length in zip(received, lengths, strict=True)]


def join_rows(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """The joined batch, (ΣR, ...), with a gradient to the rows of this process.

    Args:
        rows: (R, ...) of this process.
        lengths: R of each process.
    """
    return _JoinRows.apply(rows, lengths)


def part_of(size: int, rank: int, world: int) -> slice:
    """The share of one process in so many rows: parts follow each other, and differ by one row at most."""
    return slice(size * rank // world, size * (rank + 1) // world)


def own_rows(rows: Tensor) -> Tensor:
    """The share of this process in rows that all hold; all of them outside :func:`joined`, or if nobody shares rows."""
    is_shared = _is_joined and _shares_rows
    return rows[part_of(len(rows), dist.get_rank(), dist.get_world_size())] if is_shared else rows


def join_parts(part: Tensor, size: int) -> Tensor:
    """What all have made of their :func:`own_rows`, (size, ...): each must go on with it in the same way."""
    return _JoinParts.apply(part, size) if _is_joined and _shares_rows else part


def average_gradient(parameter: Tensor) -> None:
    """Replace a gradient by its mean over the processes; that of class weights, sparse or not."""
    gradient = parameter.grad
    assert gradient is not None
    values = gradient._values() if gradient.is_sparse else gradient  # of the same rows on all of them
    mean = values.contiguous()
    dist.all_reduce(mean)
    values.copy_(mean.div_(dist.get_world_size()))


def mean_in_order(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Mean gradients of the processes, added in the order of their ranks: a hook of ``DistributedDataParallel``.

    An all-reduce adds in an order that depends on where in its bucket a gradient lies, and the buckets of the first
    step are not those of later ones: from three processes on, a run that is resumed would differ in its last digits.
    """
    total, *others = rows_by_rank(bucket.buffer(), lengths=[len(bucket.buffer())] * dist.get_world_size())
    for other in others:
        total += other
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(total.div_(dist.get_world_size()))
    return done


def take_from_first(tensor: Tensor) -> None:
    """Replace the values of a tensor by those that it has in the first process."""
    place = tensor.device if tensor.device.type != "cpu" else meeting_place(torch.device("cuda"))
    sent = tensor.detach().to(place).contiguous()
    dist.broadcast(_bytes(sent), 0)
    tensor.detach().copy_(sent)


def _bytes(rows: Tensor) -> Tensor:
    """A view that every backend can send."""
    return rows.flatten().view(torch.uint8)


class _JoinRows(torch.autograd.Function):
    """Each process has some of the gradient of every row: their sum is that of one process, times the processes."""

    @staticmethod
    def forward(ctx, rows, lengths):
        start = sum(lengths[: dist.get_rank()])
        ctx.own = slice(start, start + len(rows))
        return torch.cat(rows_by_rank(rows, lengths=lengths))

    @staticmethod
    @first_order
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[ctx.own], None


class _JoinParts(torch.autograd.Function):
    """All know the gradient of all rows; each follows that of its own, which so counts for all."""

    @staticmethod
    def forward(ctx, part, size):
        parts = [part_of(size, rank, dist.get_world_size()) for rank in range(dist.get_world_size())]
        ctx.own = parts[dist.get_rank()]
        return torch.cat(rows_by_rank(part, lengths=[each.stop - each.start for each in parts]))

    @staticmethod
    @first_order
    def backward(ctx, gradient):
        return gradient[ctx.own] * dist.get_world_size(), None
