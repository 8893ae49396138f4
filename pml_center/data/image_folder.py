import os
from dataclasses import dataclass
from pathlib import Path

from pml_center.data.labeled_images import LabeledImages, natural_key


def image_folder(root: str | Path) -> LabeledImages:
    """The images below a folder, one class for every folder that directly holds images.

    A class is named by its path below ``root``, so both ``root/class/image.png`` and Omniglot's
    ``root/alphabet/character/image.png`` work. Classes and images come in natural order, regardless of case, which is
    the same on every machine. Hidden files and folders (``.name``, ``__MACOSX``) do not count.

    Args:
        root: folder with one folder of images per class, at any depth. Images are the files whose suffix is in
            ``torchvision.datasets.folder.IMG_EXTENSIONS``.

    Returns:
        The images, which are opened only when they are asked for.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: a file in its place.
        ValueError: images directly in ``root``, a class folder without an image, or fewer than 2 classes.

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
    _check_folder(root)
    folders = _scan(root)
    _check_layout(root, folders)
    classes = sorted((folder for folder in folders if folder.images), key=lambda folder: natural_key(folder.name))
    images = [image for folder in classes for image in sorted(folder.images, key=natural_key)]
    labels = [label for label, folder in enumerate(classes) for _ in folder.images]
    return LabeledImages(images, labels, [folder.name for folder in classes], source=str(root))


@dataclass(frozen=True)
class _Folder:
    name: str  # path below the root with '/', empty for the root itself
    images: list[str]
    is_leaf: bool


def _scan(root: Path) -> list[_Folder]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    suffixes = tuple(IMG_EXTENSIONS)
    found, waiting = [], [(str(root), "")]
    while waiting:
        path, name = waiting.pop()
        inner, images = [], []
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir():
                    inner.append((entry.path, f"{name}/{entry.name}" if name else entry.name))
                elif entry.name.lower().endswith(suffixes):
                    images.append(entry.path)
        found.append(_Folder(name, images, is_leaf=not inner))
        waiting += inner
    return found


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise FileNotFoundError(
            f"root must be an existing folder, got {str(root)!r} (from {str(Path.cwd())!r}). "
            "Give the folder that holds one folder of images per class."
        )
    if not root.is_dir():
        raise NotADirectoryError(
            f"root must be a folder, got the file {str(root)!r}. "
            "Give the folder that holds one folder of images per class; unpack an archive first."
        )


def _check_layout(root: Path, folders: list[_Folder]) -> None:
    layout = "one folder of images per class (root/class/image)"
    top, below = folders[0], folders[1:]
    if top.images:
        raise ValueError(
            f"root must hold {layout}, got {len(top.images)} images directly in {str(root)!r}, "
            f"e.g. {os.path.basename(min(top.images, key=natural_key))!r}. Move each into the folder of its class."
        )
    empty = sorted((folder.name for folder in below if folder.is_leaf and not folder.images), key=natural_key)
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
