"""Board: the events of a run, for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class Board:
    """Writes events as scalars: ``epoch/loss``, ``val/recall_at_1``, ``eval/r_precision``.

    Args:
        folder: to write to, beside what earlier processes wrote.
        epoch: the one under way. What was written of it and of later ones no longer counts.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, epoch: int):
        self._writer = summary_writer()(str(folder), purge_step=epoch)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()

    def show(self, event: Mapping[str, Any], step: int) -> None:
        """Write the numbers of an event, at once.

        Args:
            event: its kind, as ``event``, and what belongs to it.
            step: the epoch.
        """
        for name, value in event.items():
            if name != "epoch" and isinstance(value, (int, float)):
                self._writer.add_scalar(f"{event['event']}/{name}", value, step)
        self._writer.flush()


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
