"""Data sets by name, of torchvision, of PML and of timm: ``torchvision/CIFAR10``, ``pml/CUB``, ``hfds/mnist``."""

import contextlib
import inspect
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tarfile import TarError
from typing import Any
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from pml_center.data.data_folder import data_folder
from pml_center.data.labeled_images import LabeledImages, StoredImage, encode_labels, natural_key
from pml_center.decoding import decode
from pml_center.names import one_line, unknown_name
from pml_center.notebooks import progress_bar

Parts = dict[str, LabeledImages]  # by split, in the order train, val, test

# What a package calls its splits, most usual name first.
TRIED = {"train": ("train", "trainval"), "val": ("val", "valid", "validation"), "test": ("test",)}
# Readers of timm, and the packages that they need beyond our own.
PML = "pytorch-metric-learning"
TIMM = {"torch": None, "hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow-datasets", "wds": "webdataset"}


def published(name: str, root: str | Path | None = None) -> Parts:
    """The splits of a data set by name. What is not there yet is downloaded, where its package does that.

    Args:
        name: ``torchvision/NAME`` or ``pml/NAME``, a class of ``torchvision.datasets`` or
            ``pytorch_metric_learning.datasets``; ``torch/…``, ``hfds/…``, ``hfids/…``, ``tfds/…``, ``wds/…`` as timm's
            ``create_dataset`` reads them. The last three can only be read in order, so their images are kept in memory.
        root: the folder to look in and to download to; see :func:`~pml_center.data.data_folder.data_folder`.

    Raises:
        ValueError: no such data set, or one that is not made of images with one class each.
        FileNotFoundError: files that are not there and cannot be downloaded.
        ImportError: a package that timm needs for it is missing.
    """
    package, _, rest = name.partition("/")
    where = data_folder(root)
    if package == "torchvision":
        return _of_torchvision(name, rest, where)
    if package == "pml":
        return _of_pml(name, rest, where)
    return _of_timm(name, package, rest, where)


def is_published(source: str) -> bool:
    """Whether a text is a name that :func:`published` takes.

    Example:
        >>> is_published("torchvision/CIFAR10"), is_published("photos/cats")
        (True, False)
    """
    package, _, rest = source.partition("/")
    return bool(rest) and package in ("torchvision", "pml", *TIMM)


def _of_torchvision(name: str, class_name: str, root: Path) -> Parts:
    from torchvision import datasets

    kind = _class_named(class_name, datasets)
    known = inspect.signature(kind).parameters
    required = [p.name for p in known.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if required != ["root"]:
        raise ValueError(
            f"data set must need no more than a root, got {name!r}, which needs {', '.join(required) or 'none'}. "
            "Build it in Python and pass a LabeledImages, or write its images to a folder."
        )
    wanted = {"root": str(root), "download": True, "loader": str}  # the loader leaves the path, which we open ourselves
    arguments: dict[str, Any] = {argument: value for argument, value in wanted.items() if argument in known}
    with _or_told(name, [root]):
        if flag := next((name for name in ("train", "background") if name in known), None):  # the latter of Omniglot
            found = {split: kind(**arguments, **{flag: split == "train"}) for split in ("train", "test")}
        elif "split" in known:
            found = _each_split(lambda split: kind(**arguments, split=split))
        else:
            found = {"train": kind(**arguments)}
        by_path = "loader" in known
        return _numbered_through(name, {split: _from_pairs(name, each, by_path) for split, each in found.items()})


def _of_pml(name: str, class_name: str, root: Path) -> Parts:
    try:
        from pytorch_metric_learning import datasets
    except ImportError as error:
        raise ValueError(
            f"{name!r} must be a data set that PML has, which has them from 2.8.1 on, got PML {version(PML)}. "
            "Run: python -m pip install 'pytorch-metric-learning>=2.8.1'"
        ) from error

    kind = _class_named(class_name, datasets)
    own = root / class_name
    with _or_told(name, [root, own]):
        try:
            found = {split: kind(str(root), split=split) for split in ("train", "test")}
        except (OSError, ValueError):  # not there: PML wants a folder of its own, which it fills if it is empty
            is_new = not own.is_dir() or not any(own.iterdir())
            try:
                found = {split: kind(str(own), split=split, download=True) for split in ("train", "test")}
            except BaseException:
                if is_new:  # half a download would be taken for a whole one the next time
                    shutil.rmtree(own, ignore_errors=True)
                raise
    labels = np.concatenate([each.labels for each in found.values()])
    classes = _folders_or_numbers([path for each in found.values() for path in each.paths], labels)
    return _numbered_through(name, {split: _labeled(each.paths, each.labels, classes) for split, each in found.items()})


def _of_timm(name: str, package: str, rest: str, root: Path) -> Parts:
    from timm.data import create_dataset

    needed = TIMM[package]
    spec = find_spec(needed.replace("-", "_")) if needed else None
    if needed and (spec is None or spec.origin is None):  # a folder that happens to have the name has no origin
        raise ImportError(f"{needed} is not installed, and timm needs it to read {name!r}: pip install {needed}")
    # A data set in shards has no name of its own in timm, only a folder.
    where = root / rest if package == "wds" and (root / rest).is_dir() else root

    def opened(split: str) -> Any:
        return create_dataset(name, str(where), split=split, download=True, input_img_mode=None)

    with _or_told(name, [where]):
        found = _of_timm_and_torchvision(name, where) if package == "torch" else _each_split(opened)
        return _numbered_through(name, {split: _from_timm(name, each) for split, each in found.items()})


def _of_timm_and_torchvision(name: str, root: Path) -> dict[str, Any]:
    from timm.data import create_dataset

    try:
        train, other = (create_dataset(name, str(root), split=split, download=True) for split in ("train", "val"))
    except AssertionError as error:
        raise ValueError(
            f"data set must be one that timm knows, got {name!r} ({error}). Try torchvision/NAME."
        ) from error
    return {"train": train, "test" if hasattr(other, "train") else "val": other}


def _each_split(opened: Callable[[str], Any]) -> dict[str, Any]:
    """The splits that are there. A name that is not known is told from other errors by the words of its message."""
    found: dict[str, Any] = {}
    for split, names in TRIED.items():
        errors = []
        for name in names:
            try:
                found[split] = opened(name)
                break
            except (ValueError, KeyError, RuntimeError) as error:
                if "split" not in str(error).lower():
                    raise
                errors.append(error)
        if split == "train" and split not in found:
            raise errors[0]
    return found


def _class_named(class_name: str, module: Any) -> Any:
    kinds = {key: kind for key, kind in vars(module).items() if inspect.isclass(kind) and not inspect.isabstract(kind)}
    if class_name not in kinds:
        raise ValueError(unknown_name("data set", class_name, list(kinds), f"See {module.__name__}."))
    return kinds[class_name]


@contextlib.contextmanager
def _or_told(name: str, folders: Sequence[Path]) -> Iterator[None]:
    """What goes wrong while files are looked for, in one sentence; what is printed meanwhile goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (OSError, RuntimeError, BadZipFile, TarError) as error:
        where = " or ".join(repr(str(folder)) for folder in folders)
        raise FileNotFoundError(
            f"{name} must be in {where} or be downloaded, got {type(error).__name__}: {_in_short(error)}. "
            "Go online, put its files there, or say with --data-root (root) where they are."
        ) from error


def _in_short(error: Exception) -> str:
    return one_line(error).rstrip(".")[:300]


def _from_pairs(name: str, data_set: Any, by_path: bool = False) -> LabeledImages:
    """A data set of (image, class number), or of (path, class number)."""
    label = data_set[0][1]
    if np.ndim(label) or np.asarray(label).dtype.kind not in "iu":
        raise ValueError(
            f"data set must give each image one class number, got an object of type {type(label).__name__} from "
            f"{name!r}. Write its images to a folder for each class."
        )
    images: list[Any] = [StoredImage(data_set, i) for i in range(len(data_set))]
    if by_path:
        pairs = [data_set[i] for i in range(len(data_set))]  # quick, for nothing is opened
        pairs.sort(key=lambda pair: natural_key(str(pair[0])))  # some come as the disk lists them
        images, labels = [path for path, _ in pairs], [label for _, label in pairs]
    else:
        labels = list(_labels_of(name, data_set))
    names = getattr(data_set, "classes", None) or getattr(data_set, "_characters", None)  # the latter of Omniglot
    numbers = np.asarray(labels, dtype=np.int64)
    classes = {number: str(number) for number in np.unique(numbers).tolist()}
    if names is not None and numbers.min() >= 0 and numbers.max() < len(names):
        classes = {number: str(each) for number, each in enumerate(names)}
    return _labeled(images, numbers, classes)


def _labels_of(name: str, data_set: Any) -> Sequence[Any]:
    """The labels, without a look at the images where the data set keeps them apart."""
    for attribute in ("targets", "labels", "_labels"):
        labels = getattr(data_set, attribute, None)
        if labels is not None and len(labels) == len(data_set):
            return labels.tolist() if hasattr(labels, "tolist") else list(labels)
    bar = progress_bar(range(len(data_set)), desc=f"labels of {name}", unit="image")
    return [data_set[i][1] for i in bar]


def _from_timm(name: str, data_set: Any) -> LabeledImages:
    """A data set of timm: of torchvision, of a reader with random access, or of one that streams."""
    reader = getattr(data_set, "reader", None)
    if reader is None:
        return _from_pairs(name, data_set)
    names = {number: str(text) for text, number in (getattr(reader, "class_to_idx", None) or {}).items()}
    if hasattr(type(reader), "__getitem__"):
        images: list[Any] = [StoredImage(_WholeImages(reader), i) for i in range(len(reader))]
        labels = list(reader.iter_targets())
    else:
        pairs = list(progress_bar(data_set, desc=name, unit="image"))
        images, labels = [image for image, _ in pairs], [label for _, label in pairs]
        if len(data_set) and len(pairs) != len(data_set):
            raise ValueError(
                f"data set must give the {len(data_set)} images that it says it has, got {len(pairs)} from {name!r}. "
                "timm skips what it cannot read: repair the data set."
            )
    numbers = np.asarray(labels, dtype=np.int64)
    return _labeled(images, numbers, {number: str(number) for number in np.unique(numbers).tolist()} | names)


class _WholeImages:
    """(image, label) of a reader of timm. timm's own data set gives the next image for one that it cannot read."""

    def __init__(self, reader: Any):
        self.reader = reader

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        file, label, *_ = self.reader[i]
        with file:
            return decode(file), label


def _labeled(images: list[Any], numbers: Any, classes: dict[int, str]) -> LabeledImages:
    """Images with the class numbers of their data set: those classes alone that have an image, in natural order."""
    times = Counter(classes.values())
    unique = {number: name if times[name] == 1 else f"{name} ({number})" for number, name in classes.items()}
    labels, names = encode_labels([unique[number] for number in np.asarray(numbers).tolist()])
    return LabeledImages(images, labels, names)


def _folders_or_numbers(paths: Sequence[str], numbers: np.ndarray) -> dict[int, str]:
    """The names of classes: those of their folders, where each class has one and no other class has it."""
    pairs = {(number, Path(path).parent.name) for number, path in zip(numbers.tolist(), paths, strict=True)}
    folders = {folder for _, folder in pairs}
    classes = {number for number, _ in pairs}
    if len(pairs) == len(folders) == len(classes):
        return dict(pairs)
    return {number: str(number) for number in classes}


def _numbered_through(name: str, parts: Parts) -> Parts:
    """The parts with the source that names their images, counted through all parts so that no two have one name."""
    start, named = 0, {}
    for split, part in parts.items():
        places = np.arange(start, start + len(part))
        named[split] = LabeledImages(part.images, part.labels, part.classes, source=name, indices=places)
        start += len(part)
    return named
