"""Folders of images, on disk or in a zip file: one class for every folder that directly holds images."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile

from pml_center.data.archives import files_in, split_archive
from pml_center.data.labeled_images import LabeledImages, natural_key

LOG = logging.getLogger("pml_center")
# Folders that systems, NAS boxes and tools leave among the data, beside all that start with a dot; in lower case.
SERVICE = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
}

# Those of torchvision, which is not asked: it takes seconds to load, and a folder is looked at without it.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def image_folder(root: str | Path) -> LabeledImages:
    """The images below a folder, one class for every folder that directly holds images.

    A class is named by its path below ``root``, so both ``root/class/image.png`` and Omniglot's
    ``root/alphabet/character/image.png`` work. Classes and images come in natural order, regardless of case, which is
    the same on every machine. Hidden files and folders (``.name``) and those that systems leave (``__MACOSX``,
    ``@eaDir``, ``$RECYCLE.BIN``) do not count; what was passed over is logged.

    Args:
        root: folder with one folder of images per class, at any depth; or a zip file of such folders, or a folder in
            one (``photos.zip/train``), which is read in place. Images are the files whose suffix is in
            ``torchvision.datasets.folder.IMG_EXTENSIONS``.

    Returns:
        The images, which are opened only when they are asked for.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: a file in its place that is no zip file.
        ValueError: a damaged zip file, images directly in ``root``, a class folder without an image, fewer than 2
            classes, or names that are no UTF-8.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ["cat/1.png", "cat/2.png", "dog/1.png"]:
        ...         Path(root, name).parent.mkdir(exist_ok=True)
        ...         Image.new("L", (8, 8)).save(Path(root, name))
        ...     data = image_folder(root)
        >>> data.classes, data.labels.tolist()
        (['cat', 'dog'], [0, 0, 1])
    """
    root = Path(root).expanduser()
    folders = scan(root)
    say_passed_over(root, passed_over(folders))
    return images_of(root, folders)


@dataclass(frozen=True)
class Folder:
    """One folder of a tree, the root too."""

    name: str  # path below the root with '/', empty for the root itself
    images: list[str]
    is_leaf: bool
    passed_over: list[str] = field(default_factory=list)  # the kind of each file and folder that was not taken


def scan(root: Path) -> list[Folder]:
    """The folders of a tree, first the root. Those of a zip file are the ones that hold a file, and the root.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: a file in its place that is no zip file.
        ValueError: a damaged zip file.
    """
    archive, inner = split_archive(root)
    if archive is not None:
        return _scan_archive(archive, inner)
    _check_folder(root)
    return _scan(root)


def images_of(root: Path, folders: list[Folder]) -> LabeledImages:
    """The images of folders that were scanned, see :func:`image_folder`.

    Raises:
        ValueError: another layout than one folder of images per class.
    """
    _check_layout(root, folders)
    images = as_classes(root, folders)
    check_names(images.images)
    return images


def as_classes(root: Path, folders: list[Folder]) -> LabeledImages:
    """One class for every folder that directly holds images, whatever else is there."""
    classes = sorted((folder for folder in folders if folder.images), key=lambda folder: natural_key(folder.name))
    images = [image for folder in classes for image in sorted(folder.images, key=natural_key)]
    labels = [label for label, folder in enumerate(classes) for _ in folder.images]
    return LabeledImages(images, labels, [folder.name for folder in classes], source=str(root))


def empty_classes(folders: list[Folder]) -> list[str]:
    """The names of the folders that hold neither images nor folders, in natural order."""
    return sorted((folder.name for folder in folders[1:] if folder.is_leaf and not folder.images), key=natural_key)


def nested_classes(folders: list[Folder]) -> list[str]:
    """The names of the folders of images inside a folder of images, in natural order: each is a class of its own."""
    holders = {folder.name for folder in folders[1:] if folder.images}
    inside = (name for name in holders if any(parent.as_posix() in holders for parent in PurePosixPath(name).parents))
    return sorted(inside, key=natural_key)


def passed_over(folders: list[Folder]) -> dict[str, int]:
    """How many files and folders of each kind were not taken, most frequent first."""
    return dict(Counter(kind for folder in folders for kind in folder.passed_over).most_common())


def say_passed_over(root: Path, kinds: dict[str, int]) -> None:
    """Log what was not taken, in one line."""
    if kinds:
        found = ", ".join(f"{kind} ({count:,})" for kind, count in kinds.items())
        LOG.info("%s: passed over %s", readable_name(str(root)), found)


def misnamed(paths: Sequence[str]) -> list[str]:
    """The paths that are no UTF-8, which no report and no list of a run could hold."""
    return [path for path in paths if not path.isascii() and path != readable_name(path)]


def check_names(paths: Sequence[str]) -> None:
    """Paths must be UTF-8.

    Raises:
        ValueError: one that is not.
    """
    if bad := misnamed(paths):
        more = f" and {len(bad) - 1:,} more" if len(bad) > 1 else ""
        raise ValueError(
            f"names must be in UTF-8, got {readable_name(bad[0])}{more}. "
            "Rename them, e.g. with `convmv -f latin1 -t utf8 -r --notest FOLDER`."
        )


def readable_name(path: str) -> str:
    r"""A path as text, with the bytes that are no UTF-8 as numbers.

    Example:
        >>> readable_name("H\udcf6he.png")
        'H\\xf6he.png'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _scan(root: Path) -> list[Folder]:
    found: list[Folder] = []
    waiting: list[tuple[str, str, tuple]] = [(str(root), "", ())]
    while waiting:
        path, name, above = waiting.pop()
        status = os.stat(path)
        identity = status.st_dev, status.st_ino
        if identity in above:  # a link that leads back up, below which everything would come again without end
            found[0].passed_over.append("link to a folder above")
            continue
        inner, images, others = [], [], []
        with os.scandir(path) as entries:
            for entry in entries:
                is_folder = _is_folder(entry)
                if _is_service(entry.name):
                    others.append(_kind(entry.name, is_folder))
                elif is_folder:
                    inner.append((entry.path, f"{name}/{entry.name}" if name else entry.name, (*above, identity)))
                elif entry.name.lower().endswith(SUFFIXES):
                    images.append(entry.path)
                else:
                    others.append(_kind(entry.name))
        found.append(Folder(name, images, not inner, others))
        waiting += inner
    return found


def _scan_archive(archive: Path, inner: str) -> list[Folder]:
    """The folders that hold a file; a zip file need not list any others."""
    try:
        files = files_in(archive, inner)
    except BadZipFile as error:
        raise ValueError(f"root must be a whole zip file, got {str(archive)!r} ({error}). Copy it again.") from error
    top = Folder("", [], is_leaf=True)
    folders = {"": top}
    for file, times in Counter(files).items():
        service = next((part for part in file.parts if _is_service(part)), None)
        if service is not None:
            leads_out = service == ".."
            kind = "entry that leads out of the zip file" if leads_out else _kind(service, service != file.name)
            top.passed_over.append(kind)
            continue
        name = "" if len(file.parts) == 1 else file.parent.as_posix()
        own = folders.setdefault(name, Folder(name, [], is_leaf=True))
        own.passed_over.extend(["entry that comes again"] * (times - 1))
        if file.name.lower().endswith(SUFFIXES):
            own.images.append(str(archive / inner / file))
        else:
            own.passed_over.append(_kind(file.name))
    outer = {parent.as_posix() for name in folders for parent in Path(name).parents}
    return [replace(folder, is_leaf=folder.name not in outer) for folder in folders.values()]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_service(name: str) -> bool:
    """Whether a file or folder is there for the system, a NAS or an editor, and not for the data."""
    return name.startswith(".") or name.lower() in SERVICE


def _kind(name: str, is_folder: bool = False) -> str:
    """What to count a file or folder as that was not taken."""
    if is_folder:
        return f"{readable_name(name)}/"
    return "hidden file" if name.startswith(".") else readable_name(Path(name).suffix.lower()) or "no suffix"


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise FileNotFoundError(
            f"root must be an existing folder, got {str(root)!r} (from {str(Path.cwd())!r}). "
            "Give the folder that holds one folder of images per class."
        )
    if not root.is_dir():
        raise NotADirectoryError(
            f"root must be a folder, got the file {str(root)!r}. "
            "Give the folder that holds one folder of images per class, or a zip file of it."
        )


def _check_layout(root: Path, folders: list[Folder]) -> None:
    layout = "one folder of images per class (root/class/image)"
    top, below = folders[0], folders[1:]
    if top.images:
        raise ValueError(
            f"root must hold {layout}, got {len(top.images)} images directly in {str(root)!r}, "
            f"e.g. {os.path.basename(min(top.images, key=natural_key))!r}. "
            "Move each into the folder of its class, or give the folder above if this is one class of several."
        )
    empty = empty_classes(folders)
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise ValueError(
            f"root must hold {layout}, got {len(empty)} folders without an image in {str(root)!r}: "
            f"{', '.join(map(repr, empty[:5]))}{more}. Remove them or put their images back."
        )
    classes = [folder.name for folder in below if folder.images]
    if len(classes) < 2:
        raise ValueError(
            f"root must hold {layout} and at least 2 classes, got {len(classes)} in {str(root)!r}"
            f"{f' ({classes[0]!r})' if classes else ''}. Check that this is the folder above the class folders."
        )
