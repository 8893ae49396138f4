"""EventLog: what a run says of itself while it goes on."""

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pml_center.training.tensorboard import show_event, summary_writer


@dataclass(frozen=True)
class EventLog:
    """``metrics.jsonl`` in the folder of a run, an object per event, and the events for TensorBoard."""

    folder: Path
    writes: bool = True  # False in all processes but the first
    board: Any = field(default=None, repr=False, compare=False)  # TensorBoard's writer, where events go as well
    own: str | None = field(default=None, repr=False, compare=False)  # what the folder must be known by, if anything

    def log(self, **event: Any) -> None:
        """Append one event to ``metrics.jsonl``, and tell TensorBoard where it is asked for."""
        if not self.writes:
            return
        self.check_own()
        path = self.folder / "metrics.jsonl"
        size = path.stat().st_size if path.is_file() else 0  # looked at first: `eval` may log while the run is trained
        if self.log_size < size:
            self.forget_after(self.log_size)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        if self.board is not None:
            show_event(self.board, event, event.get("epoch", len(self.epochs)))

    def check_own(self) -> None:
        """The folder must still be what this process began or opened, before anything is written to it."""

    @property
    def wants_board(self) -> bool:
        """Whether events go to TensorBoard, too."""
        return False

    @contextmanager
    def with_board(self, epoch: int) -> Iterator[Self]:
        """This run, whose events also go to ``tb/`` if that was asked for.

        Args:
            epoch: the one under way. What TensorBoard knows of it and of later ones no longer counts.
        """
        if not (self.writes and self.wants_board):
            yield self
            return
        with closing(summary_writer()(str(self.folder / "tb"), purge_step=epoch)) as writer:
            yield replace(self, board=writer)

    @property
    def log_size(self) -> int:
        """How long ``metrics.jsonl`` is, in bytes."""
        return len(self._log)

    def forget_after(self, size: int) -> None:
        """Cut ``metrics.jsonl``: what was logged after a checkpoint will be logged again."""
        path = self.folder / "metrics.jsonl"
        if self.writes and path.is_file() and path.stat().st_size > size:
            os.truncate(path, size)

    @property
    def _log(self) -> bytes:
        """``metrics.jsonl`` but for a last line that a process did not live to finish."""
        path = self.folder / "metrics.jsonl"
        content = path.read_bytes() if path.is_file() else b""
        return content[: content.rfind(b"\n") + 1]

    @property
    def epochs(self) -> list[dict[str, float]]:
        """What was logged of each epoch: ``epoch``, ``lr``, ``seconds``, ``loss`` and its parts."""
        return [{name: value for name, value in event.items() if name != "event"} for event in self.events("epoch")]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What was logged of one kind: ``"epoch"``, ``"val"``, ``"skipped"``, ``"eval"``."""
        return [event for event in map(json.loads, self._log.splitlines()) if event["event"] == kind]
