"""LabeledImages: images of any kind with the class of each. Decoding, and numbering labels, stand here too."""

import copy
import os
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch.utils.data import Dataset

from pml_center.data.archives import open_file
from pml_center.data.kept_images import KeptImages
from pml_center.data.transforms import Squash, Standardise, Transform
from pml_center.decoding import decode, standard


class UnreadableImageError(ValueError):
    """An image file that no decoder can read."""


class LabeledImages(Dataset):
    """Images and the class of each: what training, evaluation and reports read.

    Files are decoded when they are asked for. An image that cannot be decoded stops the run and names its file: a
    data set that quietly skips or replaces images makes every number that follows wrong.

    A data set never changes: ``subset`` and ``with_transform`` return another one that shares the images.

    Args:
        images: N file paths, PIL images, :class:`StoredImage`, or uint8 arrays of shape (H, W) or (H, W, 3); or a
            :class:`Vector` for each, to which no transform applies.
        labels: (N,) integers in [0, C).
        classes: the C class names; the index is the label.
        transform: called with a PIL image that is upright and has 8 bits a channel, see
            :func:`~pml_center.decoding.standard`; None returns this image.
        source: the name of the data set, which names the images that are no files.
        indices: (N,) position of each image in the data set it was first part of; None is 0..N-1.
        groups: (N,) the camera, sequence or session of each image; None where there are none.
        splits: (N,) what the data set that all are from has each image for; None where it does not say.

    Shape: ``data[i]`` is ``(transform(image), label)`` with an int label; the image of a vector is a float32 (F,).

    Raises:
        ValueError: labels, classes, groups and images that do not fit together; at ``data[i]``, an unreadable image.
        TypeError: labels that are no integers.

    Example:
        >>> pixels = np.zeros((4, 8, 8), dtype=np.uint8)
        >>> data = LabeledImages(pixels, labels=[0, 0, 1, 2], classes=["ant", "bee", "cat"])
        >>> len(data), data.num_classes, data.counts.tolist()
        (4, 3, [2, 1, 1])
        >>> image, label = data[3]
        >>> image.size, label, data.name(3)
        ((8, 8), 2, 'images[3]')
    """

    def __init__(
        self,
        images: Sequence[Any],
        labels: ArrayLike,
        classes: Sequence[str],
        transform: Callable[[Image.Image], Any] | None = None,
        source: str = "images",
        indices: np.ndarray | None = None,
        groups: ArrayLike | None = None,
        splits: NDArray | None = None,
    ):
        self.images = images
        self.labels = _integer_labels(labels, len(images), len(classes))
        self.classes = list(classes)
        self.transform = transform
        self.source = source
        self.indices = np.arange(len(images)) if indices is None else indices
        if groups is not None:
            groups = _one_each("groups", groups, len(images), "Give each image one group, or none at all.")
        self.groups: np.ndarray | None = groups
        self.splits = splits
        self._kept: KeptImages | None = None
        self._places = np.arange(len(images))  # of each image in what is kept

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        if isinstance(vector := self.images[i], Vector):
            return torch.from_numpy(vector.values), int(self.labels[i])
        if (pixels := self._kept_pixels([i])) is not None:
            return self.transform.finish(Image.fromarray(pixels[0])), int(self.labels[i])  # type: ignore[union-attr]
        image = self._read(i)
        return (image if self.transform is None else self.transform(image)), int(self.labels[i])

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Any, int]]:
        """Several at once, as a ``DataLoader`` asks for them."""
        finish = getattr(self.transform, "finish", None)
        if isinstance(finish, Standardise) and (pixels := self._kept_pixels(rows)) is not None:
            return list(zip(finish.batch(np.stack(pixels)), self.labels[rows].tolist(), strict=True))
        return [self[i] for i in rows]

    def _kept_pixels(self, rows: Sequence[int]) -> list[NDArray[np.uint8]] | None:
        """Some images before anything random, None where none is kept behind this transform."""
        transform, kept = self.transform, self._kept
        if kept is None or not isinstance(transform, Transform) or transform.squash != kept.squash:
            return None
        return [kept.get(int(self._places[i]), partial(self._squashed, i)) for i in rows]

    def _squashed(self, i: int) -> Image.Image:
        assert self._kept is not None
        return self._kept.squash(self._read(i))

    @property
    def width(self) -> int | None:
        """The numbers F in a vector; None of images."""
        first = self.images[0] if len(self) else None
        return len(first.values) if isinstance(first, Vector) else None

    @property
    def num_classes(self) -> int:
        """The number C of classes, with those that have no image."""
        return len(self.classes)

    @property
    def counts(self) -> np.ndarray:
        """Images of each class, (C,) integers."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def name(self, i: int) -> str:
        """The file of image ``i``; for images that are no files, where in ``source`` it was before any subset."""
        image = self.images[i]
        if isinstance(image, Vector) and image.name:
            return image.name
        return os.fspath(image) if _is_path(image) else f"{self.source}[{self.indices[i]}]"

    def subset(self, indices: ArrayLike, renumber: bool = False) -> "LabeledImages":
        """Some of the images, in the order given.

        Args:
            indices: (M,) integers in [0, N), or an (N,) boolean mask.
            renumber: keep only the classes that have an image and number them from 0 in the same order, which is what
                a loss with one weight per class needs. False keeps labels and classes as they are.

        Example:
            >>> data = LabeledImages(np.zeros((3, 8, 8), np.uint8), [0, 1, 2], ["ant", "bee", "cat"])
            >>> part = data.subset([2, 0], renumber=True)
            >>> part.labels.tolist(), part.classes, part.name(0)
            ([1, 0], ['ant', 'cat'], 'images[2]')
        """
        chosen = np.asarray(indices, dtype=None if np.size(indices) else np.int64)  # numpy reads [] as floats
        rows = np.arange(len(self))[chosen]
        labels, classes = self.labels[rows], self.classes
        if renumber:
            present, labels = np.unique(labels, return_inverse=True)
            classes = [classes[label] for label in present]
        images = [self.images[row] for row in rows]
        groups = None if self.groups is None else self.groups[rows]
        splits = None if self.splits is None else self.splits[rows]
        part = LabeledImages(images, labels, classes, self.transform, self.source, self.indices[rows], groups, splits)
        part._kept, part._places = self._kept, self._places[rows]
        return part

    def with_transform(self, transform: Callable[[Image.Image], Any] | None) -> "LabeledImages":
        """The same images and labels behind another transform."""
        other = copy.copy(self)
        other.transform = transform
        return other

    def decoded_once(self, squash: Squash) -> "LabeledImages":
        """The same, of which an image is decoded and squashed once for all epochs, processes and runs.

        Nothing else changes, to the last bit: behind a transform that begins with ``squash`` an image is taken from
        what is kept, see :class:`~pml_center.data.kept_images.KeptImages`, behind any other it is decoded.
        """
        other = copy.copy(self)
        other._kept, other._places = KeptImages(squash, self.images), np.arange(len(self))
        return other

    def as_vectors(self, rows: NDArray[np.float32]) -> "LabeledImages":
        """The same with a vector in the place of each image.

        Args:
            rows: (N, F).
        """
        other = copy.copy(self)
        other.images, other._kept = [Vector(row, self.name(i)) for i, row in enumerate(rows)], None
        return other

    def stored(self, i: int) -> Image.Image:
        """Image ``i`` as its file holds it, before :func:`~pml_center.decoding.standard`.

        Raises:
            ValueError: an unreadable image.
        """
        return self._read(i, as_stored=True)

    def _read(self, i: int, as_stored: bool = False) -> Image.Image:
        image = self.images[i]
        image = image.name if isinstance(image, Vector) else image  # the image that it is of, if that is still there
        is_array = not isinstance(image, (Image.Image, StoredImage)) and not _is_path(image)
        image = self._pixels(i) if is_array else image
        try:
            found = _opened(image)
            return found if as_stored else standard(found)
        except Exception as error:  # decoders raise OSError, SyntaxError, EOFError, struct.error and their own
            reason = f"{type(error).__name__}: {error}".rstrip(".")
            raise UnreadableImageError(
                f"image must be a readable image file, got {self.name(i)} ({reason}). "
                "Repair the file or remove it from the data set."
            ) from error

    def _pixels(self, i: int) -> np.ndarray:
        pixels = np.asarray(self.images[i])
        if pixels.dtype != np.uint8:
            raise ValueError(
                f"image must be a path, a PIL image or a uint8 array, got dtype {pixels.dtype} in {self.name(i)}. "
                "Scale the pixels to 0..255 and convert them with .astype('uint8')."
            )
        return pixels


@dataclass(frozen=True)
class StoredImage:
    """An image that another data set holds, fetched and decoded when it is asked for.

    Args:
        data_set: one of (image, label, ...), e.g. torchvision's.
        position: of the image in it.
    """

    data_set: Any
    position: int

    def load(self) -> Image.Image:
        """The image.

        Raises:
            TypeError: another kind of object in its place.
        """
        image = self.data_set[self.position][0]
        if not isinstance(image, Image.Image):
            raise TypeError(f"image must be a PIL image, got {type(image).__name__}. Leave out the transform.")
        return image

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.load(), dtype)


@dataclass(frozen=True)
class Vector:
    """Numbers in the place of an image, such as an embedding of it.

    Args:
        values: (F,) float32.
        name: of the row, such as the path of the image; empty where nobody said.
    """

    values: NDArray[np.float32]
    name: str = ""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.values, dtype)


def _opened(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, StoredImage):
        return image.load()
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    with open_file(image) as file:
        return decode(file)


def encode_labels(labels: Iterable[Hashable]) -> tuple[np.ndarray, list]:
    """Number labels of any kind from 0, in natural order: ``'img2'`` before ``'img10'``, 9 before 10.

    Args:
        labels: N hashable values, e.g. strings or identity numbers of any size. No value passes through floating
            point, so identities above 2**24 stay apart.

    Returns:
        Codes, (N,) int64 in [0, C), and the list of the C labels, so that ``names[codes[i]] == labels[i]``.

    Raises:
        ValueError: a missing label (None or NaN), or labels with more than one dimension.

    Example:
        >>> codes, names = encode_labels(["dog10", "dog2", "Cat", "dog2"])
        >>> codes.tolist(), names
        ([2, 1, 0, 1], ['Cat', 'dog2', 'dog10'])
    """
    if getattr(labels, "ndim", 1) != 1:
        raise ValueError(
            f"labels must have shape (N,), got shape {tuple(labels.shape)}. "  # type: ignore[attr-defined]
            "Use labels.flatten(), or labels.argmax(1) for one-hot labels."
        )
    # Elements of arrays and tensors hash by identity or compare as arrays; Python's own scalars do neither.
    values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    missing = [i for i, value in enumerate(values) if value is None or value != value]
    if missing:
        raise ValueError(
            f"labels must be present for every image, got {values[missing[0]]} at position {missing[0]} "
            f"({len(missing)} of {len(values)} are missing). Remove these images or give them a class."
        )
    names = _in_natural_order(set(values))
    code = {name: i for i, name in enumerate(names)}
    return np.array([code[value] for value in values], dtype=np.int64), names


def natural_key(text: str) -> tuple:
    """Sort key: numbers inside the text count as numbers, case does not count unless all else is equal."""
    parts = re.split(r"(\d+)", text.casefold())  # odd positions hold the numbers, so keys always compare
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), text


def _in_natural_order(values: set) -> list:
    if all(isinstance(value, str) for value in values):
        return sorted(values, key=natural_key)
    try:
        return sorted(values)
    except TypeError:  # several types, which have no order between them
        return sorted(values, key=lambda value: (type(value).__name__, natural_key(str(value))))


def _is_path(image: Any) -> bool:
    return isinstance(image, (str, os.PathLike))


def _one_each(name: str, given: ArrayLike, num_images: int, remedy: str) -> np.ndarray:
    values = np.asarray(given)
    if values.shape != (num_images,):
        raise ValueError(
            f"{name} must have shape ({num_images},) because there are {num_images} images, got shape {values.shape}. "
            f"{remedy}"
        )
    return values


def _integer_labels(labels: ArrayLike, num_images: int, num_classes: int) -> np.ndarray:
    codes = _one_each("labels", labels, num_images, "Give one label per image.")
    if codes.size and codes.dtype.kind not in "iu":
        raise TypeError(
            f"labels must be integers, got dtype {codes.dtype}. Number them with pml_center.data.encode_labels."
        )
    outside = np.flatnonzero((codes < 0) | (codes >= num_classes))
    if outside.size:
        raise ValueError(
            f"labels must be in [0, {num_classes}) because there are {num_classes} classes, "
            f"got {codes[outside[0]]} at position {outside[0]}. "
            "Number them with pml_center.data.encode_labels, which also returns the classes."
        )
    return codes.astype(np.int64)
