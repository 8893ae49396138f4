"""owned: one process at a time that writes to a folder."""

import errno
import json
import logging
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pml_center import distributed

LOG = logging.getLogger("pml_center")
LOCK, OWNER = "owner.lock", "owner.json"
FILES = {LOCK, OWNER}
GRACE = 30.0  # seconds in which what a dead owner started comes to its end
LOOK = 0.1  # seconds between two looks meanwhile
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks answer


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Be the one that writes to a folder, which is made where it is not there. Of several processes, the first is.

    The operating system holds the lock, and lets it go when the process ends, however that comes. So a dead owner does
    not stand in the way; only processes that it started may, and they are waited for.

    Raises:
        BlockingIOError: another process is the owner; the message says which, and where.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, owned(Path(folder)):
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['owner.json', 'owner.lock']
    """
    lock = FileLock(folder / LOCK)
    distributed.from_main(lambda: _take(lock, folder))
    try:
        yield
    finally:
        if lock.is_locked:
            if _is_me(_owner(folder)):  # the folder may have been deleted, and be another's by now
                (folder / OWNER).unlink(missing_ok=True)
            lock.release()


def wait_until_free(folder: Path) -> None:
    """Give an owner that is about to stop, as what a killed process leaves behind, the time that it takes."""
    end = time.monotonic() + GRACE
    while (folder / LOCK).is_file() and time.monotonic() < end:
        lock = FileLock(folder / LOCK)
        if _try(lock):
            return lock.release()
        time.sleep(LOOK)


def clear(folder: Path) -> None:
    """Delete all that is in a folder but what says whose it is."""
    for path in folder.iterdir():
        if path.name not in FILES:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _take(lock: FileLock, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + GRACE
    while not _try(lock):
        owner = _owner(folder)
        if time.monotonic() > end or not _is_dead(owner):
            raise BlockingIOError(_refusal(folder, owner))
        time.sleep(LOOK)
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": shlex.join(sys.argv)}
    (folder / OWNER).write_text(json.dumps(owner) + "\n", encoding="utf-8")


def _try(lock: FileLock) -> bool:
    """Whether the lock was to be had; True as well where there are no locks, which is said."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        LOG.warning("the file system of %s has no locks: see that nothing else writes there", lock.lock_file)
    return True


def _owner(folder: Path) -> dict[str, Any]:
    """What an owner wrote of itself, nothing where it did not come to that."""
    try:
        return json.loads((folder / OWNER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _is_me(owner: dict[str, Any]) -> bool:
    return (owner.get("pid"), owner.get("host")) == (os.getpid(), socket.gethostname())


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether it was a process of this machine that is no more; one that wrote nothing yet is about to."""
    if not owner:
        return True
    if owner["host"] != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, and alive
        return False
    return False


def _refusal(folder: Path, owner: dict[str, Any]) -> str:
    who = "one that left no name"
    if owner:
        who = f"process {owner['pid']} on {owner['host']}, since {owner['since']} ({owner['command']})"
    return (
        f"folder must be written by one process at a time, got {folder}, which is in use by {who}. Wait until that one "
        "ends, stop it there, or choose another folder."
    )
