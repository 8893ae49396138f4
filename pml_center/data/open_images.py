"""open_images and open_splits: a data set by name or path."""

from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pml_center.data.digits import digits
from pml_center.data.image_folder import images_of, say_passed_over
from pml_center.data.image_table import Table, read_table, sound
from pml_center.data.labeled_images import LabeledImages
from pml_center.data.published import Parts, is_published, published
from pml_center.data.split_folders import SPLITS, scan_splits, split_named
from pml_center.data.vectors import is_vectors, open_vectors


@dataclass(frozen=True)
class ImageSplits:
    """The images to train on, to choose by and to measure on.

    A class has one number everywhere: ``train`` numbers its own classes from 0, as a loss with a weight per class
    needs, and ``val`` and ``test`` use these numbers and go on with the classes that only they have.

    Attributes:
        train: images of C classes, numbered 0..C-1.
        val: images to choose by; None where there are none.
        test: images to measure on at the end; None where there are none.
    """

    train: LabeledImages
    val: LabeledImages | None = None
    test: LabeledImages | None = None


def open_images(source: str | Path, root: str | Path | None = None, labels: str | None = None) -> LabeledImages:
    """The data set that a name or a path stands for, all its splits together or one of them.

    Args:
        source: one of these; a path that exists comes before a name.

            - ``"digits"``: the digits that come with scikit-learn;
            - a folder with one sub-folder of images per class, or a zip file of one, or a folder in a zip file;
            - a folder or a zip file that holds ``train/`` and ``val/`` or ``test/``, each such a folder;
            - a CSV file with columns path and label, and group and split if wanted: see
              :func:`~pml_center.data.image_table`;
            - ``"torchvision/CIFAR10"``, ``"pml/CUB"``: a data set of torchvision or of PML;
            - ``"torch/cifar10"``, ``"hfds/mnist"``, ``"wds/…"``, ``"tfds/…"``: a data set as timm names it;
            - vectors in the place of images: see :func:`~pml_center.data.vectors.open_vectors`.

            One of its splits is ``photos/test``, ``photos.zip/test``, ``images.csv/test`` or
            ``torchvision/CIFAR10/test``.
        root: where data sets by name lie, or are downloaded to if their package does that. By default ``data`` in
            ``PML_CENTER_CACHE``, or in ``~/.cache/pml-center``.
        labels: of vectors in an ``.npy`` file: theirs.

    Returns:
        The images. With several splits, train comes first, then val and test, and classes are numbered as by
        :func:`open_splits`.

    Raises:
        ValueError: a folder without classes, or with a class that has no images; a wrong line in a table; no such name.
        FileNotFoundError: no such folder or file, or a data set that cannot be downloaded.
        ImportError: a package that timm needs to read the data set is missing.

    Example:
        >>> len(open_images("digits"))
        1797
    """
    parts, split = _open(str(source), root, labels)
    if split is not None:
        return parts[split]
    return _joined(_numbered_alike(parts))


def open_splits(source: str | Path, root: str | Path | None = None, labels: str | None = None) -> ImageSplits:
    """The splits that a data set brings along; all of it in ``train`` where it brings none.

    Args:
        source: see :func:`open_images`. Of one split, such as ``photos/train``, all images are in ``train``.
        root: likewise.
        labels: likewise.

    Raises:
        ValueError: as for :func:`open_images`, or splits without ``train``.
        FileNotFoundError: as for :func:`open_images`.
        ImportError: as for :func:`open_images`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as photos:
        ...     for name in ["train/bee/1.png", "train/cat/1.png", "test/ant/1.png", "test/bee/2.png"]:
        ...         Path(photos, name).parent.mkdir(parents=True, exist_ok=True)
        ...         Image.new("L", (8, 8)).save(Path(photos, name))
        ...     splits = open_splits(photos)
        >>> splits.train.classes, splits.test.classes, splits.test.labels.tolist(), splits.val
        (['bee', 'cat'], ['bee', 'cat', 'ant'], [2, 0], None)
    """
    parts, split = _open(str(source), root, labels)
    if split is not None:
        return ImageSplits(parts[split])
    if "train" not in parts:
        raise ValueError(
            f"splits must have train, got {' and '.join(parts)} in {str(source)!r}. Name what to train on 'train', or "
            f"give one split: {f'{source}/{next(iter(parts))}'!r}."
        )
    return ImageSplits(**_numbered_alike(parts))


def full_source(source: str) -> str:
    """The same data set, to be opened from any folder: paths become absolute, names stay as they are.

    Example:
        >>> full_source("digits"), full_source("torchvision/CIFAR10/test"), full_source("/photos/../faces")
        ('digits', 'torchvision/CIFAR10/test', '/faces')
    """
    return source if is_name(source) else str(Path(source).expanduser().resolve())


def split_apart(source: str) -> tuple[str, str | None]:
    """The data set and the split that are meant; None for all of it, and for a path that is there, e.g. a folder.

    Example:
        >>> split_apart("images.csv/test"), split_apart("pml/CUB")
        (('images.csv', 'test'), ('pml/CUB', None))
    """
    whole, _, last = source.rstrip("/").rpartition("/")
    split = split_named(last)
    is_part = split is not None and not Path(source).expanduser().exists()
    return (
        (whole, split) if is_part and (is_table(whole) or is_published(whole) or is_vectors(whole)) else (source, None)
    )


def parts_of_table(table: Table) -> Parts:
    """The images of a table by split; all of them in ``train`` where it has no such column."""
    images = table.images
    if table.splits is None:
        return {"train": images}
    splits = np.asarray(table.splits)
    return {split: images.subset(splits == split, renumber=True) for split in SPLITS if (splits == split).any()}


def one_part(parts: Parts, split: str | None, source: str) -> Parts:
    """The part that is meant, or all of them for None.

    Raises:
        ValueError: no such part.
    """
    if split is None:
        return parts
    if split not in parts:
        raise ValueError(f"split must be one of {' and '.join(parts)}, got {split!r} in {source!r}. Choose another.")
    return {split: parts[split]}


def is_name(source: str) -> bool:
    """Whether a data set is meant by its name; a path that exists comes before, but for the digits."""
    return source == "digits" or (is_published(source) and not Path(source).expanduser().exists())


def parts_by_name(name: str, root: str | Path | None) -> Parts:
    """The splits of the digits, or of what :func:`~pml_center.data.published.published` knows."""
    return {"train": digits()} if name == "digits" else published(name, root)


def is_table(source: str) -> bool:
    """Whether a path is that of a CSV file."""
    return source.lower().endswith(".csv")


def _open(source: str, root: str | Path | None, labels: str | None) -> tuple[Parts, str | None]:
    """The parts of the data set, and the one that is meant, None for all."""
    whole, split = split_apart(source)
    path = Path(whole).expanduser()
    if is_name(whole):
        return one_part(parts_by_name(whole, root), split, source), split
    if is_vectors(whole):
        return one_part(open_vectors(whole, labels), split, source), split
    if labels is not None:
        raise ValueError(f"labels must come with an .npy file of features, got {source!r}. Leave --labels out.")
    if is_table(whole):
        return one_part(parts_of_table(sound(path, read_table(path))), split, source), split
    found, kinds = scan_splits(path)
    say_passed_over(path, kinds)
    return {name: images_of(*part) for name, part in found.items()}, None


def _numbered_alike(parts: Parts) -> Parts:
    """The parts with one number for a class: first those of the first part, then the others as they come."""
    first = next(iter(parts))
    own = [name for name, count in zip(parts[first].classes, parts[first].counts, strict=True) if count]
    names = dict.fromkeys([*own, *(name for part in parts.values() for name in part.classes)])
    number = {name: i for i, name in enumerate(names)}
    numbered = {}
    for split, part in parts.items():
        labels = np.array([number[name] for name in part.classes])[part.labels]
        classes = own if split == first else list(names)
        numbered[split] = LabeledImages(
            part.images, labels, classes, part.transform, part.source, part.indices, part.groups
        )
    return numbered


def _joined(parts: Parts) -> LabeledImages:
    """The images of all parts, which number their classes alike."""
    every = list(parts.values())
    splits = None if [*parts] == ["train"] else np.repeat(list(parts), [len(part) for part in every])
    if len(every) == 1:
        whole = copy(every[0])
        whole.splits = splits
        return whole
    images = [image for part in every for image in part.images]
    labels, indices = (np.concatenate(arrays) for arrays in zip(*((p.labels, p.indices) for p in every), strict=True))
    groups = [part.groups for part in every if part.groups is not None]
    together = np.concatenate(groups) if len(groups) == len(every) else None
    return LabeledImages(images, labels, every[-1].classes, None, every[0].source, indices, together, splits)
