"""From images to the batches of a training step."""

import signal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pml_center.backbones import Embedder
from pml_center.checks import check_workers
from pml_center.data import EpochBatches, LabeledImages, UnreadableImageError, train_transform
from pml_center.training.config import TrainConfig
from pml_center.training.seeding import seed_everything

KEPT_BYTES = 2**29  # of the images of all batches, up to which they are kept in memory
Batch = tuple[Tensor, Tensor, list[str]]
"""Images (B, C, H, W), labels (B,), and the names of those that could not be read."""


def training_loader(images: LabeledImages, model: Embedder, config: TrainConfig, rank: int, parts: int) -> DataLoader:
    """Batches for one epoch after the other: set ``loader.batch_sampler.epoch``, and ``start`` within it."""
    check_workers(config.workers)
    workers = config.workers
    seed = config.seed if config.order_seed is None else config.order_seed
    if images.width is None and model.image_size is not None:
        images = images.with_transform(
            train_transform(
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
        )
    else:
        workers = 0  # which are in memory
    batch_size = config.batch_size if config.per_class else min(config.batch_size, len(images))
    return DataLoader(
        SeededImages(images, is_random=config.augments),
        batch_sampler=EpochBatches(images.labels, batch_size, config.per_class, seed, rank, parts),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=leave_signals_to_main,
        pin_memory=torch.cuda.is_available(),
    )


def leave_signals_to_main(worker: int) -> None:
    """Ctrl-C and the SIGTERM of a queue reach all processes: workers go on until the main one has its checkpoint.

    A second SIGTERM ends a worker: torch sends it to one that does not come to its end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


class SeededImages(Dataset):
    """Images by (index, seed): what a random transform draws follows from the seed alone, in whatever process.

    Images whose transform draws nothing are the same in every epoch: they are read once, if all fit into
    ``KEPT_BYTES``. A process that reads for another one keeps none, because each of them would.
    """

    def __init__(self, images: LabeledImages, is_random: bool):
        self.images, self.is_random = images, is_random
        self.kept: dict[int, tuple[Tensor, int]] = {}

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int] | str:
        index, seed = place
        if index in self.kept:
            return self.kept[index]
        if self.is_random:
            seed_everything(seed)
        try:
            image, label = self.images[index]
        except UnreadableImageError:
            return self.images.name(index)
        if self._keeps(image):
            self.kept[index] = image, label
        return image, label

    def _keeps(self, image: Tensor) -> bool:
        return not self.is_random and get_worker_info() is None and image.nbytes * len(self.images) <= KEPT_BYTES


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
