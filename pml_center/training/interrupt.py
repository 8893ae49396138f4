"""Interrupt: SIGINT and SIGTERM as a question that training asks between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from pml_center.names import one_line

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether someone asked the process to stop. Who asks twice does not want to wait.

    Outside the main thread signals cannot be had, and it stays False. A signal that is ignored stays ignored, as nohup
    and a shell's ``&`` want it.

    Example:
        >>> with Interrupt() as interrupt:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     bool(interrupt)
        True
    """

    def __init__(self) -> None:
        self._received = False
        self._handlers: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self._received

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._handlers = {number: signal.signal(number, self._receive) for number in heard}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True


class WorkerError(RuntimeError):
    """A process that reads images for the main process has died."""


def is_dead_worker(error: BaseException) -> bool:
    """Whether an error is torch's word that a process of a DataLoader has died, which may come from any line of code.

    Example:
        >>> is_dead_worker(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))
        True
    """
    is_torchs = isinstance(error, RuntimeError) and not isinstance(error, WorkerError)
    return is_torchs and "DataLoader worker (pid" in str(error)


def describe_death(error: BaseException) -> str:
    """A sentence on the death of a worker.

    Example:
        >>> describe_death(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
        'workers must live until all images are read, got: DataLoader worker (pid 7) is killed by signal: Killed.
        Perhaps memory ran out: use fewer --workers.'
    """
    return (
        f"workers must live until all images are read, got: {one_line(error).rstrip('.')}. "
        "Perhaps memory ran out: use fewer --workers."
    )


@contextmanager
def explain_interrupt(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Let an interrupt, or the death of a worker, end in a sentence on how to go on, wherever it came.

    Example:
        >>> try:
        ...     with explain_interrupt(lambda: "start again"):
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt as interrupt:
        ...     print(interrupt)
        interrupted; start again
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"interrupted; {how_to_go_on()}") from interrupt
    except RuntimeError as error:
        if not is_dead_worker(error):
            raise
        how = how_to_go_on()
        raise WorkerError(f"{describe_death(error)} {how[0].upper()}{how[1:]}") from error
