"""fit: one training run, from top to bottom."""

import logging
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.data import DataLoader
from tqdm import tqdm

from pml_center.data import LabeledImages, open_images, split_classes, split_images, train_transform
from pml_center.training.config import TrainConfig
from pml_center.training.loss_formula import parse_loss
from pml_center.training.measurement import Measurement, measure
from pml_center.training.parameter_groups import param_groups
from pml_center.training.run_folder import Run, embedder

LOG = logging.getLogger("pml_center")


def fit(config: TrainConfig) -> tuple[Run, Measurement | None]:
    """Train one model with one sum of losses, then measure retrieval on what was held out.

    Args:
        config: what to do; every random choice follows from its seed.

    Returns:
        The run folder, with the weights in ``checkpoints/last``, and what the model is worth on the images held out;
        None for ``held_out=0``.

    Raises:
        ValueError: a configuration that cannot be run.
        FloatingPointError: a loss that is not finite.
    """
    config = with_full_paths(config)
    seed_everything(config.seed)
    device = choose_device(config.device)
    train, held_out = split(open_images(config.data), config)
    model = embedder(config).to(device)
    loss = parse_loss(config.loss, train.num_classes, model.embedding_size).to(device)
    groups = param_groups(model, loss, lr=config.lr, loss_lr=config.loss_lr, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    loader = training_loader(train, model, config)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=config.epochs * len(loader) + 1
    )
    run = Run.create(config, train, held_out)
    LOG.info("%s", describe(train, model, config, device, run))

    bar = tqdm(total=config.epochs * len(loader), unit="batch", disable=None)
    for epoch in range(1, config.epochs + 1):
        model.train()
        loss.train()
        started, sums = time.perf_counter(), dict.fromkeys(["loss", *loss.names], 0.0)
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                embeddings = model(images)
            total, parts = loss(embeddings.float(), labels)
            if not total.isfinite():
                raise FloatingPointError(
                    f"loss must be finite, got {total.item()} in epoch {epoch} "
                    f"({', '.join(f'{name} {value:.4g}' for name, value in parts.items())}). Lower --lr."
                )
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            schedule.step()
            for name, value in {"loss": total.detach(), **parts}.items():
                sums[name] += value.item()
            bar.update()
            bar.set_postfix_str(f"epoch {epoch}  loss {total.item():.3f}  lr {schedule.get_last_lr()[0]:.2g}")
        means = {name: value / len(loader) for name, value in sums.items()}
        seconds = round(time.perf_counter() - started, 3)
        run.log(event="epoch", epoch=epoch, lr=schedule.get_last_lr()[0], seconds=seconds, **means)
    bar.close()

    run.save(model, loss)
    if held_out is None:
        return run, None
    measurement = measure(model, held_out, config)
    run.write_reports({"report": measurement.model, "pixels": measurement.pixels})
    return run, measurement


def split(images: LabeledImages, config: TrainConfig) -> tuple[LabeledImages, LabeledImages | None]:
    """The images to train on, with classes numbered from 0, and those held out, None for ``held_out=0``."""
    if config.held_out == 0:
        return images, None
    by_class = config.split == "classes"
    train, held_out = (split_classes if by_class else split_images)(images.labels, config.held_out, config.seed)
    test = images.subset(held_out, renumber=by_class)
    if test.counts.max() < 2:
        raise ValueError(
            f"held_out must leave two images of a class to find one by the other, got {config.held_out} of "
            f"{images.counts.max()} images in the largest class. Use a larger --held-out, or --split classes."
        )
    return images.subset(train, renumber=by_class), test


def with_full_paths(config: TrainConfig) -> TrainConfig:
    """The same, to be read from any folder."""
    data = config.data if config.data == "digits" else str(Path(config.data).resolve())
    return replace(config, data=data, weights=config.weights and str(Path(config.weights).resolve()))


def training_loader(images: LabeledImages, model, config: TrainConfig) -> DataLoader:
    """Batches of transformed images, by class if asked for; a last batch that is not full is left out."""
    transform = train_transform(
        model.image_size, model.in_chans, model.mean, model.std, crop_scale=config.crop_scale, hflip=config.hflip
    )
    batch_size = min(config.batch_size, len(images))
    sampler = None
    if config.per_class:
        if batch_size % config.per_class or batch_size > config.per_class * images.num_classes:
            raise ValueError(
                f"batch_size must be a multiple of per_class and at most per_class × classes, got {batch_size} with "
                f"per_class={config.per_class} and {images.num_classes} classes. Change --batch-size or --per-class."
            )
        sampler = MPerClassSampler(images.labels, config.per_class, batch_size, len(images))
    return DataLoader(
        images.with_transform(transform),
        batch_size,
        shuffle=sampler is None,
        sampler=sampler,
        drop_last=True,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        generator=torch.Generator().manual_seed(config.seed),
    )


def seed_everything(seed: int) -> None:
    """Python's, numpy's (which PML's samplers draw from) and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the global generator is the one that PML draws from)
    torch.manual_seed(seed)


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where it exists.

    Raises:
        ValueError: CUDA is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be 'cpu', 'cuda', 'cuda:1' or 'auto', got {name!r}. Use --device cpu.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must exist on this machine, got {name!r}, but torch sees no CUDA. Use --device cpu.")
    return device


def describe(images: LabeledImages, model, config: TrainConfig, device: torch.device, run: Run) -> str:
    """What is about to happen, in five lines."""
    counts = images.counts
    weights = sum(parameter.numel() for parameter in model.parameters())
    batch_size = min(config.batch_size, len(images))
    return (
        f"data    {len(images):,} images of {images.num_classes:,} classes for training, "
        f"{counts.min()}/{int(np.median(counts))}/{counts.max()} images a class (least/median/most)\n"
        f"model   {config.model}, {weights / 1e6:.2f} M weights, input {model.in_chans}×{model.image_size}, "
        f"embedding {model.embedding_size}\n"
        f"loss    {config.loss}\n"
        f"steps   {config.epochs} epochs of {len(images) // batch_size} batches of {batch_size}, {device}, "
        f"seed {config.seed}\n"
        f"run     {run.folder}"
    )
