"""Images that lie in zip files, read in place: ``photos.zip/cat/1.png`` is a path like any other."""

import os
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from zipfile import ZipFile


def open_file(path: str | os.PathLike) -> BinaryIO:
    """A file to read, on disk or in a zip file.

    Raises:
        OSError: no such file.
        KeyError: no such file in the zip file.
        zipfile.BadZipFile: a damaged archive.
    """
    try:
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        archive, inner = split_archive(path)
        if archive is None:
            raise
    return BytesIO(_opened(archive, archive.stat().st_mtime_ns, os.getpid()).read(inner))


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


def files_in(archive: Path, inner: str = "") -> list[PurePosixPath]:
    """The files of a zip file below one of its folders, relative to that."""
    with ZipFile(archive) as opened:
        files = [PurePosixPath(info.filename) for info in opened.infolist() if not info.is_dir()]
    return [file.relative_to(inner) for file in files if file.is_relative_to(inner)]


@lru_cache(maxsize=16)
def _opened(archive: Path, written: int, process: int) -> ZipFile:
    """An open archive. A process must not read through the file handle of the one that it was forked from."""
    return ZipFile(archive)
