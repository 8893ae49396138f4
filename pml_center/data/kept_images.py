"""KeptImages: images that are decoded and squashed once, in a file that epochs, workers and runs share."""

import logging
import mmap
import os
import platform
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from pml_center.data.archives import file_stamp
from pml_center.data.data_folder import cache_folder
from pml_center.data.transforms import Squash
from pml_center.decoding import READING

LOG = logging.getLogger("pml_center")


class KeptImages:
    """Images as they are before anything of a transform is random: of one size, 8 bits a channel.

    An image is kept when it is asked for the first time, by whichever process needs it, beside a sum over its bytes by
    which all others know that it is there and whole. A file in the folder of caches holds what is made of files: its
    name says which (by path, size and times), and what is made of them. Images that are no files are kept in memory,
    which processes that are forked share, and others do without.

    Args:
        squash: what makes a picture small.
        images: N paths, or images of other kinds.

    Example:
        >>> squash = Squash((2, 2), channels=1)
        >>> image = Image.new("L", (8, 8), 7)
        >>> kept = KeptImages(squash, [image])
        >>> kept.get(0, lambda: squash(image)), kept.get(0, lambda: None).dtype
        (array([[7, 7],
               [7, 7]], dtype=uint8), dtype('uint8'))
    """

    def __init__(self, squash: Squash, images: Sequence[Any]):
        self.squash, self.count = squash, len(images)
        name = _name(squash, images)
        self.path = None if name is None else folder_of_kept() / name
        self._map(_memory(bytes_of(self.squash, self.count), self.path) if self.count else None)

    def get(self, row: int, read: Callable[[], Image.Image]) -> NDArray[np.uint8]:
        """The pixels of image ``row``, (H, W) or (H, W, 3); where it is not there yet, those of what ``read`` gives."""
        if self._pixels is not None:
            pixels = self._pixels[row].copy()  # once: what is checked is what is used
            if self._sums[row] == _sum_of(pixels):
                return pixels
        pixels = np.asarray(read())
        if self._pixels is not None:
            self._pixels[row] = pixels
            self._sums[row] = _sum_of(pixels)
        return pixels

    def _map(self, memory: mmap.mmap | None) -> None:
        records = None if memory is None else np.ndarray(self.count, _record(self.squash), memory)
        self._pixels = None if records is None else records["pixels"]
        self._sums: Any = None if records is None else records["sum"]

    def __getstate__(self) -> dict[str, Any]:
        return {"squash": self.squash, "count": self.count, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map(None if self.path is None else _memory(bytes_of(self.squash, self.count), self.path))


def folder_of_kept() -> Path:
    """Where images are kept."""
    return cache_folder() / "images"


def bytes_of(squash: Squash, count: int) -> int:
    """What so many images would take."""
    return count * _record(squash).itemsize


def let_go(folder: Path, most_bytes: float) -> None:
    """Delete the files that were not used for longest, as long as all take more than so many bytes."""
    size = 0
    with suppress(OSError):  # of another user, or deleted meanwhile
        for file in sorted(folder.glob("*.pixels"), key=lambda file: file.stat().st_mtime, reverse=True):
            size += file.stat().st_size
            if size > most_bytes:
                file.unlink()  # who reads it goes on with it


def _name(squash: Squash, images: Sequence[Any]) -> str | None:
    """Of the file; None where some image is no file, or not there."""
    if not all(isinstance(image, (str, os.PathLike)) for image in images):
        return None
    made = squash, READING, PIL.__version__, platform.machine(), _record(squash)
    digest = blake2b(repr(made).encode(), digest_size=16)
    try:
        for image in images:
            digest.update(file_stamp(image))
    except OSError:
        return None
    return f"{digest.hexdigest()}.pixels"


def _record(squash: Squash) -> np.dtype:
    return np.dtype([("sum", "<u8"), ("pixels", "u1", squash.shape)])


def _sum_of(pixels: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data) + 1  # 0 is what nobody has written


def _memory(size: int, path: Path | None) -> mmap.mmap:
    if path is not None:
        try:
            return _file(size, path)
        except OSError as error:  # a full or read-only disk must not end a run
            LOG.warning("decoded images are kept in memory, not in %s: %s", path.parent, error)
    return mmap.mmap(-1, size)


def _file(size: int, path: Path) -> mmap.mmap:
    if not path.is_file() or path.stat().st_size != size:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with unfinished.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full later would kill the process
                else:
                    file.truncate(size)
            unfinished.replace(path)  # whole, or not at all: others may make the same
        finally:
            unfinished.unlink(missing_ok=True)
    os.utime(path)  # it was used; `touch` would make an empty one where another process has just deleted it
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), size)
