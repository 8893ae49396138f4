"""Folders that hold ``train/``, ``val/`` and ``test/``, each with a folder of images per class."""

from pathlib import Path

from pml_center.data.image_folder import Folder, scan

SPLITS = ("train", "val", "test")
SYNONYMS = {name: name for name in SPLITS} | {"valid": "val", "validation": "val"}


def split_named(name: str) -> str | None:
    """The split that a name stands for, None if it is no name of one.

    Example:
        >>> split_named("Validation"), split_named("cat")
        ('val', None)
    """
    return SYNONYMS.get(name.lower())


def scan_splits(root: Path) -> dict[str, tuple[Path, list[Folder]]]:
    """Path and folders of each split; all folders are in ``train`` where there are no splits.

    Raises:
        ValueError: as for :func:`split_folders`, or a damaged zip file.
        FileNotFoundError: no such folder.
        NotADirectoryError: a file in its place that is no zip file.
    """
    folders = scan(root)
    return split_folders(root, folders) or {"train": (root, folders)}


def split_folders(root: Path, folders: list[Folder]) -> dict[str, tuple[Path, list[Folder]]]:
    """The folders of each split, by its name, as :func:`~pml_center.data.image_folder.scan` would find them.

    A folder is one of splits if all its images are below folders named as splits, or if these are ``train`` and one
    more. So a class may be called ``train`` where other classes stand beside it.

    Args:
        root: that was scanned.
        folders: what was found there.

    Returns:
        Path and folders of each split, in the order of ``SPLITS``; nothing for a folder without splits.

    Raises:
        ValueError: a split that is there twice, images outside the splits, or splits one folder further down.
    """
    parts = _by_first_folder(folders)
    found = {name: split for name in parts if (split := split_named(name))}
    holders = [name for name, part in parts.items() if any(folder.images for folder in part)]
    outside = [name for name in holders if name not in found]
    if outside or not found:
        if "train" in found.values() and len(found) > 1:
            raise ValueError(
                f"root must hold its images in {' and '.join(sorted(found))} because it has these folders, got images "
                f"in {outside[0]!r} in {str(root)!r}. Move them, or give one folder: {str(root / sorted(found)[0])!r}."
            )
        _check_not_further_down(root, parts, holders)
        return {}
    if len(set(found.values())) < len(found):
        raise ValueError(
            f"root must hold each split once, got {' and '.join(map(repr, sorted(found)))} in {str(root)!r}. "
            "Keep one of them."
        )
    return {split: (root / name, parts[name]) for split in SPLITS for name in found if found[name] == split}


def _by_first_folder(folders: list[Folder]) -> dict[str, list[Folder]]:
    """What lies below each folder of the root, the folder itself first and with the name of a root."""
    parts: dict[str, list[Folder]] = {}
    for folder in folders[1:]:
        first, _, rest = folder.name.partition("/")
        part = parts.setdefault(first, [Folder("", [], is_leaf=False)])
        if rest:
            part.append(Folder(rest, folder.images, folder.is_leaf))
        else:
            part[0] = Folder("", folder.images, folder.is_leaf)
    return parts


def _check_not_further_down(root: Path, parts: dict[str, list[Folder]], holders: list[str]) -> None:
    if len(holders) == 1:
        inner = split_folders(root / holders[0], parts[holders[0]])
        if len(inner) > 1:
            raise ValueError(
                f"root must hold {' and '.join(inner)} directly, got {str(root)!r} with the one folder {holders[0]!r} "
                f"that does. Give {str(root / holders[0])!r}."
            )
