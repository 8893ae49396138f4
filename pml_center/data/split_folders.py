"""Folders that hold ``train/``, ``val/`` and ``test/``, each with a folder of images per class."""

import re
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from pml_center.data.image_folder import Folder, passed_over, scan

SPLITS = ("train", "val", "test")
# What the field calls them, the names of the Hugging Face Hub among it.
SYNONYMS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
SEARCHED = {"query": 0, "probe": 0, "gallery": 1}  # the sides of one test, which no split stands for, in their order


def split_named(name: str) -> str | None:
    """The split that a name stands for, None if it is no name of one.

    Example:
        >>> split_named("Validation"), split_named("cat")
        ('val', None)
    """
    return SYNONYMS.get(name.lower())


def scan_splits(root: Path) -> tuple[dict[str, tuple[Path, list[Folder]]], dict[str, int]]:
    """Path and folders of each split, all folders in ``train`` where there are no splits; and what was passed over.

    Raises:
        ValueError: as for :func:`split_folders`, or a damaged zip file.
        FileNotFoundError: no such folder.
        NotADirectoryError: a file in its place that is no zip file.
    """
    folders = scan(root)
    return split_folders(root, folders) or {"train": (root, folders)}, passed_over(folders)


def split_folders(root: Path, folders: list[Folder]) -> dict[str, tuple[Path, list[Folder]]]:
    """The folders of each split, by its name, as :func:`~pml_center.data.image_folder.scan` would find them.

    A folder is one of splits if all its images are below folders named as splits, be it with the same words around
    (``seg_train`` and ``seg_test``), or if these are ``train`` and one more. So a class may be called ``train`` where
    other classes stand beside it.

    Args:
        root: that was scanned.
        folders: what was found there.

    Returns:
        Path and folders of each split, in the order of ``SPLITS``; nothing for a folder without splits.

    Raises:
        ValueError: a split that is there twice, images outside the splits, a folder that is nearly named as a split and
            holds the classes of another one, the two sides of a search, or splits one folder further down.
    """
    parts = _by_first_folder(folders)
    holders = [name for name, part in parts.items() if any(folder.images for folder in part)]
    found = _named_splits(list(parts), holders)
    outside = [name for name in holders if name not in found]
    _check_not_searched(root, holders)
    if outside or not found:
        if "train" in found.values() and len(found) > 1:
            raise ValueError(
                f"root must hold its images in {' and '.join(sorted(found))} because it has these folders, got images "
                f"in {outside[0]!r} in {str(root)!r}. Move them, or give one folder: {str(root / sorted(found)[0])!r}."
            )
        _check_not_misspelt(root, parts, holders)
        _check_not_further_down(root, parts, holders)
        return {}
    if len(set(found.values())) < len(found):
        raise ValueError(
            f"root must hold each split once, got {' and '.join(map(repr, sorted(found)))} in {str(root)!r}. "
            "Keep one of them."
        )
    return {split: _unwrapped(root, name, parts[name]) for split in SPLITS for name in found if found[name] == split}


def _named_splits(names: list[str], holders: list[str]) -> dict[str, str]:
    """The split of each folder that is named as one; where none is, of those with the same words around such names."""
    found = {name: split for name in names if (split := split_named(name))}
    if found or len(holders) < 2:
        return found
    worded = {name: _split_and_rest(name) for name in holders}
    if None in worded.values() or len({rest for _, rest in filter(None, worded.values())}) > 1:
        return {}
    return {name: each[0] for name, each in worded.items() if each is not None}


def _split_and_rest(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that one word of a name stands for, and the other words.

    Example:
        >>> _split_and_rest("seg_train"), _split_and_rest("Test Images 2017"), _split_and_rest("cat")
        (('train', ('seg', '')), ('test', ('', 'images2017')), None)
    """
    words = [word for word in re.split(r"[\W_]+|(?<=[a-z])(?=[0-9])", name.lower()) if word]
    splits = [i for i, word in enumerate(words) if word in SYNONYMS]
    if len(splits) != 1:
        return None
    return SYNONYMS[words[splits[0]]], ("".join(words[: splits[0]]), "".join(words[splits[0] + 1 :]))


def _unwrapped(root: Path, name: str, part: list[Folder]) -> tuple[Path, list[Folder]]:
    """Path and folders of a split; of ``train/train/cat`` those of the inner one, as some archives are made."""
    inner = _by_first_folder(part)
    if set(inner) == {name} and not part[0].images and not inner[name][0].images:
        return root / name / name, inner[name]
    return root / name, part


def _check_not_searched(root: Path, holders: list[str]) -> None:
    """What a search compares, such as ``query`` and ``gallery``, are two sides of one test and no classes."""
    sides = sorted((name for name in holders if name.lower() in SEARCHED), key=lambda name: SEARCHED[name.lower()])
    rest = [name for name in holders if name not in sides and _split_and_rest(name) is None]
    if sides and not rest and len(holders) > 1:
        query, gallery = (str(root / name) for name in (sides[0], sides[-1] if len(sides) > 1 else "GALLERY"))
        raise ValueError(
            f"root must hold classes, or splits named {', '.join(SPLITS)}, got {' and '.join(map(repr, holders))} in "
            f"{str(root)!r}. Give the folder to train on, then `pml-center eval RUN {query} --gallery {gallery}`."
        )


def _check_not_misspelt(root: Path, parts: dict[str, list[Folder]], holders: list[str]) -> None:
    for name in sorted(holders, key=lambda name: split_named(name) is not None):
        words = _split_and_rest(name)
        near = [words[0]] if words else [SYNONYMS[each] for each in get_close_matches(name.lower(), SYNONYMS, 1, 0.7)]
        if not near:  # thousands of classes would be compared with each other
            continue
        alike = next((other for other in holders if other != name and _same_classes([parts[name], parts[other]])), None)
        if alike:
            hint = "" if split_named(name) else f"Did you mean {near[0]!r}? "
            raise ValueError(
                f"root must hold classes alone, or splits named {', '.join(SPLITS)} alone, got {name!r} beside "
                f"{alike!r} with classes of the same names in {str(root)!r}. {hint}Rename the folders that are splits "
                f"and move the others, or give one folder: {str(root / name)!r}."
            )


def _same_classes(parts: list[list[Folder]]) -> set[str]:
    """The names of the classes that all parts hold."""
    return set.intersection(*({folder.name for folder in part if folder.name and folder.images} for part in parts))


def _by_first_folder(folders: list[Folder]) -> dict[str, list[Folder]]:
    """What lies below each folder of the root, the folder itself first and with the name of a root."""
    parts: dict[str, list[Folder]] = {}
    for folder in folders[1:]:
        first, _, rest = folder.name.partition("/")
        part = parts.setdefault(first, [Folder("", [], is_leaf=False)])
        if rest:
            part.append(replace(folder, name=rest))
        else:
            part[0] = replace(folder, name="")
    return parts


def _check_not_further_down(root: Path, parts: dict[str, list[Folder]], holders: list[str]) -> None:
    if len(holders) == 1:
        inner = split_folders(root / holders[0], parts[holders[0]])
        if len(inner) > 1:
            raise ValueError(
                f"root must hold {' and '.join(inner)} directly, got {str(root)!r} with the one folder {holders[0]!r} "
                f"that does. Give {str(root / holders[0])!r}."
            )
