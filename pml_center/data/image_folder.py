"""Folders of images, on disk or in a zip file: one class for every folder that directly holds images."""

import os
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

from pml_center.data.archives import files_in, split_archive
from pml_center.data.labeled_images import LabeledImages, natural_key


def image_folder(root: str | Path) -> LabeledImages:
    """The images below a folder, one class for every folder that directly holds images.

    A class is named by its path below ``root``, so both ``root/class/image.png`` and Omniglot's
    ``root/alphabet/character/image.png`` work. Classes and images come in natural order, regardless of case, which is
    the same on every machine. Hidden files and folders (``.name``, ``__MACOSX``) do not count.

    Args:
        root: folder with one folder of images per class, at any depth; or a zip file of such folders, or a folder in
            one (``photos.zip/train``), which is read in place. Images are the files whose suffix is in
            ``torchvision.datasets.folder.IMG_EXTENSIONS``.

    Returns:
        The images, which are opened only when they are asked for.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: a file in its place that is no zip file.
        ValueError: a damaged zip file, images directly in ``root``, a class folder without an image, or fewer than 2
            classes.

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
    return images_of(root, scan(root))


@dataclass(frozen=True)
class Folder:
    """One folder of a tree, the root too."""

    name: str  # path below the root with '/', empty for the root itself
    images: list[str]
    is_leaf: bool


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
    return as_classes(root, folders)


def as_classes(root: Path, folders: list[Folder]) -> LabeledImages:
    """One class for every folder that directly holds images, whatever else is there."""
    classes = sorted((folder for folder in folders if folder.images), key=lambda folder: natural_key(folder.name))
    images = [image for folder in classes for image in sorted(folder.images, key=natural_key)]
    labels = [label for label, folder in enumerate(classes) for _ in folder.images]
    return LabeledImages(images, labels, [folder.name for folder in classes], source=str(root))


def empty_classes(folders: list[Folder]) -> list[str]:
    """The names of the folders that hold neither images nor folders, in natural order."""
    return sorted((folder.name for folder in folders[1:] if folder.is_leaf and not folder.images), key=natural_key)


def _scan(root: Path) -> list[Folder]:
    suffixes = _suffixes()
    found, waiting = [], [(str(root), "")]
    while waiting:
        path, name = waiting.pop()
        inner, images = [], []
        with os.scandir(path) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    inner.append((entry.path, f"{name}/{entry.name}" if name else entry.name))
                elif entry.name.lower().endswith(suffixes):
                    images.append(entry.path)
        found.append(Folder(name, images, is_leaf=not inner))
        waiting += inner
    return found


def _scan_archive(archive: Path, inner: str) -> list[Folder]:
    """The folders that hold a file; a zip file need not list any others."""
    try:
        files = files_in(archive, inner)
    except BadZipFile as error:
        raise ValueError(f"root must be a whole zip file, got {str(archive)!r} ({error}). Copy it again.") from error
    images: dict[str, list[str]] = {"": []}
    for file in files:
        if not any(map(_is_hidden, file.parts)):
            name = "" if len(file.parts) == 1 else file.parent.as_posix()
            own = images.setdefault(name, [])
            if file.name.lower().endswith(_suffixes()):
                own.append(str(archive / inner / file))
    outer = {parent.as_posix() for name in images for parent in Path(name).parents}
    return [Folder(name, own, is_leaf=name not in outer) for name, own in images.items()]


def _suffixes() -> tuple[str, ...]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return tuple(IMG_EXTENSIONS)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


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
