"""EpochBatches: which images make which batch, as a function of seed and epoch alone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

Rows = NDArray[np.int64]


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of images, shuffled or by class, for a ``DataLoader``'s ``batch_sampler``.

    Which images make a batch, and the number from which each image's random transform is drawn, follow from ``seed``,
    ``epoch`` and the place of the batch alone. So a run that was interrupted in the middle of an epoch goes on with the
    batches that it would have had; and several processes share one sequence of batches, of which each takes its part.

    With ``per_class=K`` a batch has K images of each of ``batch_size / K`` classes. Classes come in random order, each
    once before any comes again (but for those that do not fill a batch); so do the images of a class. A class of fewer
    than K images repeats some in a batch. An epoch has as many images as the data set either way, without a last batch
    that is not full.

    Args:
        labels: (N,) integers.
        batch_size: images in a batch, of all processes together.
        per_class: K; 0 draws images regardless of class.
        seed: of all choices.
        rank: which part of each batch to take, of ``parts``.
        parts: of each batch, as equal as can be.

    Shape: yields lists of (index in [0, N), seed of the transform).

    Raises:
        ValueError: a batch that the images or the classes cannot fill.

    Example:
        >>> batches = EpochBatches([0, 0, 0, 1, 1, 1, 2, 2], batch_size=4, per_class=2)
        >>> len(batches), [len(batch) for batch in batches]
        (2, [4, 4])
        >>> batches.epoch, batches.start = 7, 1  # the second half of an epoch
        >>> [[index for index, _ in batch] for batch in batches] == [batches.rows(7)[1].tolist()]
        True
    """

    def __init__(
        self, labels: ArrayLike, batch_size: int, per_class: int = 0, seed: int = 0, rank: int = 0, parts: int = 1
    ):
        _, self._codes, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        self._members = np.split(np.argsort(self._codes, kind="stable"), counts.cumsum()[:-1])
        self.batch_size, self.per_class, self.seed, self.rank, self.parts = batch_size, per_class, seed, rank, parts
        self.epoch, self.start = 1, 0
        self._check(len(self._codes), len(counts))

    def __len__(self) -> int:
        return len(self._codes) // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rows, seeds = self.rows(self.epoch), self._generator(self.epoch, 1).integers(2**63, size=self._shape)
        for batch, own in zip(rows[self.start :], seeds[self.start :], strict=True):
            part = np.array_split(np.arange(self.batch_size), self.parts)[self.rank]
            yield list(zip(batch[part].tolist(), own[part].tolist(), strict=True))

    def rows(self, epoch: int) -> Rows:
        """The images of each batch of an epoch, (batches, batch_size)."""
        generator = self._generator(epoch, 0)
        if not self.per_class:
            return generator.permutation(len(self._codes))[: len(self) * self.batch_size].reshape(self._shape)
        classes = self._classes(generator)  # in the order of the batches
        chosen = np.empty((len(classes), self.per_class), dtype=np.int64)
        counts = np.bincount(classes, minlength=len(self._members))
        places = np.split(np.argsort(classes, kind="stable"), counts.cumsum()[:-1])
        for members, own in zip(self._members, places, strict=True):
            if len(own):
                chosen[own] = _cycle(members, len(own), self.per_class, generator)
        return chosen.reshape(self._shape)

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self), self.batch_size

    def _classes(self, generator: np.random.Generator) -> Rows:
        """The classes of all batches, one after the other, all different within a batch."""
        size, total = self.batch_size // self.per_class, len(self._members)
        rounds = -(-len(self) // (total // size))
        full = total // size * size  # the rest of a round would not fill a batch
        order = np.concatenate([generator.permutation(total)[:full] for _ in range(rounds)])
        return order[: len(self) * size]

    def _generator(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, purpose))

    def _check(self, images: int, classes: int) -> None:
        size, each = self.batch_size, self.per_class
        if size < self.parts:
            raise ValueError(f"batch_size must be at least the {self.parts} processes, got {size}. Use a larger one.")
        if size > images:
            raise ValueError(
                f"batch_size must be at most the {images} images for training, got {size}. Use a smaller batch_size."
            )
        if each and (size % each or size > each * classes):
            best = min(size // each, classes) * each or each
            raise ValueError(
                f"batch_size must be a multiple of per_class and at most per_class × classes, got {size} with "
                f"per_class={each} and {classes} classes, which is {size / each:g} classes of {each} images. "
                f"Use e.g. batch_size={best}."
            )


def _cycle(members: Rows, times: int, size: int, generator: np.random.Generator) -> Rows:
    """``times`` draws of ``size`` members, (times, size): all members in random order before any comes again."""
    rounds = -(-times * size // len(members))
    order = np.concatenate([generator.permutation(members) for _ in range(rounds)])
    return order[: times * size].reshape(times, size)
