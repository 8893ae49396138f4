"""From images to the batches of a training step."""

import logging
import signal
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pml_center.backbones import Embedder
from pml_center.checks import check_workers
from pml_center.data import EpochBatches, ImageSplits, LabeledImages, UnreadableImageError, train_transform
from pml_center.data.kept_images import bytes_of, folder_of_kept, let_go
from pml_center.data.split_folders import SPLITS
from pml_center.data.transforms import Transform
from pml_center.evaluation.embed import transform_of
from pml_center.training.config import TrainConfig
from pml_center.training.seeding import seed_everything

LOG = logging.getLogger("pml_center")
Batch = tuple[Tensor, Tensor, list[str]]
"""Images (B, C, H, W), labels (B,), and the names of those that could not be read."""


def training_loader(images: LabeledImages, model: Embedder, config: TrainConfig, rank: int, parts: int) -> DataLoader:
    """Batches for one epoch after the other: set ``loader.batch_sampler.epoch``, and ``start`` within it."""
    check_workers(config.workers)
    workers = config.workers
    seed = config.seed if config.order_seed is None else config.order_seed
    if images.width is None and model.image_size is not None:
        images = images.with_transform(_training_transform(model, config))
    else:
        workers = 0  # which are in memory
    most = config.per_class * len(np.unique(images.labels)) or len(images)
    batch_size = min(config.batch_size, most)
    return DataLoader(
        SeededImages(images, is_random=config.augments),
        batch_sampler=EpochBatches(images.labels, batch_size, config.per_class, seed, rank, parts),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=leave_signals_to_main,
        pin_memory=torch.cuda.is_available(),
    )


def decoded_once(images: ImageSplits, model: Embedder, config: TrainConfig) -> ImageSplits:
    """The same, of which as many splits are kept decoded as fit, those of training first.

    Where a frozen trunk computes features once, they take the place of the images to train on and choose by.
    """
    left = config.decoded_gib * 2**30
    if images.train.width is not None or model.image_size is None:
        return images
    parts = {split: part for split in SPLITS if (part := getattr(images, split)) is not None}
    wanted = ("test",) if config.has_fixed_features else tuple(parts)
    for split in wanted if left else ():
        transform = _training_transform(model, config) if split == "train" else transform_of(model)
        size = bytes_of(transform.squash, len(parts[split]))
        if size > left:
            room = size / 2**30, left / 2**30
            LOG.info("images  of %s are decoded in every epoch: they would take %.3g GiB, %.3g are left", split, *room)
            continue
        left -= size
        parts[split] = parts[split].decoded_once(transform.squash)
    let_go(folder_of_kept(), config.decoded_gib * 2**30)
    return ImageSplits(**parts)


def _training_transform(model: Embedder, config: TrainConfig) -> Transform:
    assert model.image_size is not None
    return train_transform(
        model.image_size,
        model.in_chans,
        model.mean,
        model.std,
        crop_scale=config.crop_scale,
        hflip=config.hflip,
        auto_augment=config.auto_augment,
        color_jitter=config.color_jitter,
        random_erasing=config.random_erasing,
    )


def leave_signals_to_main(worker: int) -> None:
    """Ctrl-C and the SIGTERM of a queue reach all processes: workers go on until the main one has its checkpoint.

    A second SIGTERM ends a worker: torch sends it to one that does not come to its end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


class SeededImages(Dataset):
    """Images by (index, seed): what a random transform draws follows from the seed alone, in whatever process."""

    def __init__(self, images: LabeledImages, is_random: bool):
        self.images, self.is_random = images, is_random

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int] | str:
        index, seed = place
        if self.is_random:
            seed_everything(seed)
        try:
            return self.images[index]
        except UnreadableImageError:
            return self.images.name(index)

    def __getitems__(self, places: list[tuple[int, int]]) -> Sequence[tuple[Tensor, int] | str]:
        """Several at once."""
        if not self.is_random:
            with suppress(UnreadableImageError):
                return self.images.__getitems__([index for index, _ in places])
        return [self[place] for place in places]


def collate(items: list[tuple[Tensor, int] | str]) -> Batch:
    """One batch of what could be read.

    Raises:
        ValueError: nothing could.
    """
    skipped = [item for item in items if isinstance(item, str)]
    read = [item for item in items if not isinstance(item, str)]
    if not read:
        raise ValueError(
            f"a batch must have an image that can be read, got {len(skipped)} that cannot, e.g. {skipped[0]}. "
            "See `pml-center data check`."
        )
    return torch.stack([image for image, _ in read]), torch.tensor([label for _, label in read]), skipped
