"""The events of a run, for TensorBoard."""

from collections.abc import Mapping
from typing import Any


def show_event(writer: Any, event: Mapping[str, Any], step: int) -> None:
    """Write the numbers of an event, at once, as scalars: ``epoch/loss``, ``val/recall_at_1``, ``eval/r_precision``.

    Args:
        writer: a :func:`summary_writer`.
        event: its kind, as ``event``, and what belongs to it.
        step: the epoch.
    """
    for name, value in event.items():
        if name != "epoch" and isinstance(value, (int, float)):
            writer.add_scalar(f"{event['event']}/{name}", value, step)
    writer.flush()


def summary_writer() -> Any:
    """The class of torch that writes for TensorBoard.

    Raises:
        ImportError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard must be installed to write for it. "
            'Install it with: pip install "pml-center[tensorboard]", or leave out --tensorboard.'
        ) from error
    return SummaryWriter
