"""Images that lie in zip files, read in place: ``photos.zip/cat/1.png`` is a path like any other."""

import os
import stat
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from zipfile import ZipFile, ZipInfo

MOST_BYTES = 2**29  # of a file in a zip file, which is unpacked in memory: more than any image that PIL opens unasked


def open_file(path: str | os.PathLike) -> BinaryIO:
    """A file to read, on disk or in a zip file.

    Raises:
        OSError: no such file, or a pipe, a socket or a device, which might be waited for without end.
        ValueError: a file in a zip file that would fill the memory.
        zipfile.BadZipFile: a damaged archive.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("a folder, pipe, socket or device, no regular file")
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        archive, inner = split_archive(path)
        if archive is None:
            raise
    opened, members = _opened(archive, archive.stat().st_mtime_ns, os.getpid())
    if inner not in members:
        raise FileNotFoundError("no such file in the zip file")
    size = members[inner].file_size  # nothing more is unpacked than the directory of the archive says
    if size > MOST_BYTES:
        raise ValueError(f"a file in a zip file must have at most {MOST_BYTES >> 20} MiB, got {size >> 20} MiB")
    return BytesIO(opened.read(members[inner]))


def split_archive(path: str | os.PathLike) -> tuple[Path | None, str]:
    """The zip file that a path leads through, None if there is none, and the path inside it, ``""`` for the whole.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "photos.zip")
        ...     ZipFile(path, "w").close()
        ...     archive, inner = split_archive(path / "cat" / "1.png")
        >>> archive.name, inner
        ('photos.zip', 'cat/1.png')
    """
    path = Path(path)
    for outer in (path, *path.parents):
        if outer.suffix.lower() == ".zip" and outer.is_file():
            inner = path.relative_to(outer)
            return outer, "" if inner == Path() else inner.as_posix()
    return None, ""


def file_stamp(path: str | os.PathLike) -> bytes:
    """What tells a file, or the zip file that it is in, from what it was before: its path, size, times and inode.

    Of the two times one is that of the last change, which no program sets: a file that is replaced by one of its size
    and age is another.

    Raises:
        OSError: no such file.
    """
    where = os.path.abspath(path)
    try:
        status = os.stat(where)
    except (FileNotFoundError, NotADirectoryError):
        archive, _ = split_archive(where)
        if archive is None:
            raise
        status = archive.stat()
    stamp = f"{where} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return stamp.encode("utf-8", "surrogateescape")


def files_in(archive: Path, inner: str = "") -> list[PurePosixPath]:
    """The files of a zip file below one of its folders, relative to that, by the names that :func:`open_file` takes.

    A name comes as often as the archive has it, and names that lead out of it (``../1.png``) are as they are.
    """
    with ZipFile(archive) as opened:
        files = [PurePosixPath(name) for name, _ in _files(opened)]
    return [file.relative_to(inner) for file in files if file.is_relative_to(inner)]


def _files(archive: ZipFile) -> list[tuple[str, ZipInfo]]:
    """The files by plain names: ``./cat//1.png``, ``/cat/1.png`` and ``cat\\1.png`` are ``cat/1.png``."""
    files = [info for info in archive.infolist() if not info.is_dir()]
    return [(PurePosixPath(info.filename.replace("\\", "/")).as_posix().lstrip("/"), info) for info in files]


@lru_cache(maxsize=16)
def _opened(archive: Path, written: int, process: int) -> tuple[ZipFile, dict[str, ZipInfo]]:
    """An open archive. A process must not read through the file handle of the one that it was forked from."""
    opened = ZipFile(archive)
    return opened, dict(_files(opened))  # of two entries with one name the later, as where they are unpacked
