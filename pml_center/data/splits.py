"""Splits by class and within classes, as indices."""

import math

import numpy as np
from numpy.typing import ArrayLike


def split_classes(labels: ArrayLike, held_out: float = 0.25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split by class: no class is on both sides, as unseen-class retrieval needs.

    The choice depends on the set of classes, ``held_out`` and ``seed`` alone, not on how many images a class has or
    in which order they come.

    Args:
        labels: (N,) integers or strings.
        held_out: fraction of the classes to hold out, in (0, 1); the number of classes is rounded, halves up.
        seed: chooses the classes.

    Returns:
        Indices of the training images and of the held-out images, both sorted int64.

    Raises:
        ValueError: ``held_out`` outside (0, 1), or fewer than 2 classes on a side.

    Example:
        >>> train, test = split_classes([0, 0, 1, 1, 2, 2, 3, 3], held_out=0.5)
        >>> train.tolist(), test.tolist()
        ([2, 3, 6, 7], [0, 1, 4, 5])
    """
    _check_fraction(held_out)
    classes = np.unique(np.asarray(labels))
    chosen = _half_up(len(classes) * held_out)
    if min(chosen, len(classes) - chosen) < 2:
        raise ValueError(
            f"held_out must leave at least 2 classes on each side, got {held_out} × {len(classes)} classes = "
            f"{chosen} held out and {len(classes) - chosen} for training. "
            + ("Use held_out=0.5 or add classes." if len(classes) >= 4 else "Add classes: 4 is the least.")
        )
    out = np.random.default_rng(seed).permutation(classes)[:chosen]
    return _sides(np.isin(labels, out))


def split_images(labels: ArrayLike, held_out: float = 0.25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split within each class: every class keeps training images, as closed-set evaluation needs.

    Args:
        labels: (N,) integers or strings.
        held_out: fraction of each class's images to hold out, in (0, 1); the number of images is rounded, halves up,
            but one image of the class stays for training. So the only image of a class is never held out.
        seed: chooses the images.

    Returns:
        Indices of the training images and of the held-out images, both sorted int64.

    Raises:
        ValueError: ``held_out`` outside (0, 1), or too small to hold out any image.

    Example:
        >>> train, test = split_images(["a", "a", "a", "a", "b", "b", "b", "b", "c"], held_out=0.25)
        >>> len(train), len(test), 8 in train
        (7, 2, True)
    """
    _check_fraction(held_out)
    _, codes, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    chosen = np.minimum([_half_up(count * held_out) for count in counts], counts - 1)
    if not chosen.sum():
        raise ValueError(
            f"held_out must hold out at least 1 image, got {held_out} × {max(counts, default=0)} images in the "
            "largest class. Use a larger held_out, or split_classes to hold out whole classes."
        )
    order = np.random.default_rng(seed).permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]  # by class, at random within each
    rank = np.arange(len(codes)) - np.repeat(counts.cumsum() - counts, counts)
    is_out = np.empty(len(codes), dtype=bool)
    is_out[order] = rank < np.repeat(chosen, counts)
    return _sides(is_out)


def _sides(is_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(~is_out), np.flatnonzero(is_out)


def _half_up(count: float) -> int:
    return math.floor(count + 0.5)


def _check_fraction(held_out: float) -> None:
    if not 0 < held_out < 1:
        raise ValueError(
            f"held_out must be a fraction in (0, 1), got {held_out}. Use e.g. held_out=0.25 for a quarter."
        )
