"""Collectives: what several processes bring, on each of them."""

import torch
import torch.distributed as dist
from torch import Tensor


def processes(group: dist.ProcessGroup | None = None) -> int:
    """How many processes train together; 1 where torch.distributed is not in use."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """The rows of every process, in the order of their ranks; the same on each.

    Args:
        rows: (R, ...) of this process; R may differ between processes, and be 0.
        group: the processes; None is all of them.
    """
    size = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group=group)
    lengths = [int(each) for each in sizes]
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])  # collectives want equal shapes
    padded[: len(rows)] = rows
    received = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(received, padded, group=group)
    return [each[:length] for each, length in zip(received, lengths, strict=True)]
