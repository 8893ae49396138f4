"""TrainState: everything that a training step touches, built from a configuration, saved and loaded as one."""

import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pml_center import distributed
from pml_center.backbones import HEADS, Embedder, Trunk
from pml_center.data import ImageSplits, LabeledImages
from pml_center.data.inspect_images import readable
from pml_center.names import one_line
from pml_center.training.batches import Batch, decoded_once, training_loader
from pml_center.training.checkpoint import CheckpointError, facts_of, read_checkpoint, write_checkpoint
from pml_center.training.config import TrainConfig, numbers_of
from pml_center.training.data_record import DataRecord, listing, parts_of
from pml_center.training.loss_formula import LossFormula, parse_loss
from pml_center.training.measurement import check_measurable, embeddings_of, validator
from pml_center.training.micro_batches import InParts
from pml_center.training.optimization import create_optimizer, create_schedule
from pml_center.training.origin import seen_before
from pml_center.training.parameter_groups import param_groups
from pml_center.training.run_folder import Run, check_input, embedder, input_of, starting_model
from pml_center.training.seeding import seed_everything
from pml_center.training.splitting import recorded_data, split_data
from pml_center.training.tensorboard import summary_writer

ENOUGH = 2048  # images, to find the directions in which features vary


@dataclass
class Progress:
    """How far a run has come. Plain numbers and tensors, which a checkpoint keeps."""

    updates: int  # steps in an epoch
    epoch: int = 1  # under way
    step: int = 0  # of this epoch, done
    seconds: float = 0.0  # spent in this epoch
    batches: int = 0  # that the sums are of
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the loss and its parts
    skipped: dict[str, int] = field(default_factory=dict)  # images that could not be read, and how often
    best: float | None = None  # the metric
    best_epoch: int = 0
    waited: int = 0  # looks since the best one
    is_over: bool = False  # nothing got better for too long

    @property
    def update(self) -> int:
        """Steps of the optimizer since the start."""
        return (self.epoch - 1) * self.updates + self.step

    def see(self, values: dict[str, Tensor], skipped: list[str]) -> None:
        """Add a batch. Nothing waits for the device here.

        Sums grow in place: new ones in every step would lie among the freed activations, which the C library then gives
        back to the system, and gets again page by page (3,000 page faults a step, for a small network).
        """
        for name, value in values.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(value, dtype=torch.float64)
            self.sums[name] += value
        self.batches += 1
        for name in skipped:
            self.skipped[name] = self.skipped.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Of the loss and its parts, over the batches of this epoch so far."""
        return {name: value.item() / self.batches for name, value in self.sums.items()}

    def judge(self, metric: float, patience: int) -> bool:
        """Whether this epoch is the best so far; remembers it, and when to give up."""
        is_best = self.best is None or metric > self.best
        if is_best:
            self.best, self.best_epoch, self.waited = metric, self.epoch, 0
        else:
            self.waited += 1
            self.is_over = bool(patience) and self.waited >= patience
        return is_best

    def renew_patience(self) -> None:
        """Go on although nothing got better."""
        self.is_over, self.waited = False, 0

    def forget_best(self) -> None:
        """Choose among the epochs from here on."""
        self.best, self.best_epoch, self.waited = None, 0, 0

    def next_epoch(self) -> None:
        """Start the next one."""
        self.epoch, self.step, self.seconds, self.batches, self.sums, self.skipped = self.epoch + 1, 0, 0.0, 0, {}, {}


@dataclass
class TrainState:
    """The parts of a run.

    ``network`` and ``criterion`` are what a step calls: ``model`` and ``loss``, prepared for several processes.
    """

    config: TrainConfig
    device: torch.device
    images: ImageSplits
    record: DataRecord
    model: Embedder
    loss: LossFormula
    network: nn.Module
    criterion: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Scheduler
    scaler: torch.amp.GradScaler
    average: ModelEmaV3 | None
    loader: DataLoader
    progress: Progress
    accepted: str  # changes of the data since the run began

    @classmethod
    def build(
        cls, config: TrainConfig, device: torch.device, run: Run | None = None, accept_changes: bool = False
    ) -> "TrainState":
        """All parts, as they are before the first step.

        Args:
            config: what to build.
            device: where.
            run: that goes on: its record decides about the images, and pretrained weights are left out, because others
                will be loaded.
            accept_changes: of the data, see :func:`~pml_center.training.splitting.recorded_data`.

        Raises:
            ValueError: a configuration that cannot be run; data that have changed, or differ between processes.
            ImportError: it asks for tensorboard, which is not installed.
        """
        validator(config)  # an unknown metric must not wait for the first epoch to end
        if config.tensorboard:
            summary_writer()
        seed_everything(config.seed if config.init_seed is None else config.init_seed)
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, CUDA's products refuse
            torch.use_deterministic_algorithms(True)
        images, record, accepted = distributed.of_each(lambda: _data(config, run, accept_changes))
        _check_processes(config, images, record, accepted)
        config = for_data(config, images.train.width)
        model = (starting_model(config) if run is None else embedder(config, from_scratch=True)).to(device)
        if config.unfreeze_at is None:
            model.freeze(config.freeze)  # what stays frozen is none of the optimizer's
        counts = images.train.counts.tolist()
        widths = numbers_of("widths", config.widths)
        loss = parse_loss(config.loss, len(counts), model.embedding_size, config.accumulate, counts, widths).to(device)
        if config.mixup or config.cutmix:
            loss.check_mixable()
        _, criterion = distributed.prepare(nn.Identity(), loss, shard_classes=config.shard_classes)
        groups = param_groups(
            model,
            loss,
            lr=config.rate,
            loss_lr=config.loss_lr,
            center_lr=config.center_lr,
            weight_decay=config.weight_decay,
            trunk_lr=config.trunk_lr,
            neck_lr=config.neck_lr,
            layer_decay=config.layer_decay,
        )
        if config.unfreeze_at is not None:
            model.freeze(config.freeze)
        images = decoded_once(images, model, config)
        loader = training_loader(images.train, model, config, distributed.rank(), distributed.world_size())
        updates = len(loader) // config.accumulate
        if not updates:
            raise ValueError(
                f"accumulate must be at most the {len(loader)} batches of an epoch, got {config.accumulate}. "
                "Use a smaller --accumulate or --batch-size."
            )
        optimizer = create_optimizer(groups, config)
        (network,) = distributed.prepare(in_parts(model, config))
        return cls(
            config,
            device,
            images,
            record,
            model,
            loss,
            network,
            criterion,
            optimizer,
            create_schedule(optimizer, config, updates),
            torch.amp.GradScaler(device.type, enabled=config.amp == "fp16"),
            ModelEmaV3(model, config.ema, use_warmup=True) if config.ema else None,
            loader,
            Progress(updates),
            accepted,
        )

    @property
    def updates(self) -> int:
        """Steps of the optimizer in an epoch."""
        return self.progress.updates

    @property
    def batch_size(self) -> int:
        """Images in a batch, of all processes together."""
        return self.loader.batch_sampler.batch_size  # type: ignore[union-attr]

    @property
    def measured(self) -> Embedder:
        """The model that counts: the moving average of the weights, if there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def has_fixed_features(self) -> bool:
        """Whether features can stand in the place of images in every epoch."""
        return self.config.has_fixed_features and self.images.train.width is None

    def start_neck(self) -> None:
        """Start the neck at the principal components of the features, where the configuration says so.

        Raises:
            ValueError: an image that cannot be read, where features of all stand in the place of images.
        """
        if self.config.neck_init != "pca":
            return
        train = self.images.train
        if not self.has_fixed_features:  # else all will be needed
            some = train.subset(np.linspace(0, len(train) - 1, min(len(train), ENOUGH)).astype(int))
            train = some if some.width is not None else readable(some, self.config.workers)[0]
        self.model.start_neck(torch.from_numpy(self._features(train)))
        self.model.neck.load_state_dict(distributed.from_main(self.model.neck.state_dict))  # one CPU may differ
        if self.average is not None:
            self.average.set(self.model)

    def compute_features(self) -> None:
        """Put features of the frozen trunk in the place of the images to train on and choose by, once for all epochs.

        Raises:
            ValueError: an image that cannot be read.
        """
        parts = {split: part for split in ("train", "val") if (part := getattr(self.images, split)) is not None}
        self._take({split: self._features(part) for split, part in parts.items()})

    def sketch_features(self, images: int) -> float:
        """The same of a few images, repeated for all that are trained on; the seconds that it takes for all."""
        train = self.images.train
        some = train.subset(range(min(images, len(train))))
        started = time.perf_counter()
        rows = embeddings_of(Trunk(self.model), some, self.config)
        seconds = time.perf_counter() - started
        self._take({"train": np.resize(rows, (len(train), rows.shape[1]))})
        return seconds / len(some) * (len(train) + len(self.images.val or ()))

    def _features(self, images: LabeledImages) -> NDArray[np.float32]:
        return embeddings_of(Trunk(self.model), images, self.config, is_kept=True)

    def _take(self, features: Mapping[str, NDArray[np.float32]]) -> None:
        vectors = {split: getattr(self.images, split).as_vectors(rows) for split, rows in features.items()}
        self.images = replace(self.images, **vectors)
        where = distributed.rank(), distributed.world_size()
        self.loader = training_loader(self.images.train, self.model, self.config, *where)

    def batches(self) -> Iterator[Batch]:
        """Those of this epoch that are not done yet."""
        at = self.config.unfreeze_at
        if at is not None and self.progress.epoch >= at and self.model.is_frozen:
            self.model.freeze(None)
            (self.network,) = distributed.prepare(in_parts(self.model, self.config))
        sampler: Any = self.loader.batch_sampler
        sampler.epoch, sampler.start = self.progress.epoch, self.progress.step * self.config.accumulate
        return iter(self.loader)

    @property
    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Those of each module, with its buffers."""
        parts = {"model": self.model, "loss": self.loss} | ({} if self.average is None else {"ema": self.measured})
        return {part: distributed.own_state(module) for part, module in parts.items()}

    def save(self, run: Run, name: str = "last") -> None:
        """Write a checkpoint, from the first process alone; from each its part of the classes, where they are split."""
        tables = None
        if self.config.shard_classes:
            run.check_own()
            from pml_center.training.split_checkpoint import write_tables

            tables = write_tables(run.checkpoints / name, self.loss, self.optimizer)
        distributed.from_main(lambda: self._save(run, name, tables))

    def _save(self, run: Run, name: str, tables: tuple[Path, dict] | None) -> None:
        weights, optimizer = self.weights, self.optimizer.state_dict()
        if tables is not None:
            from pml_center.training.split_checkpoint import rest_of, rest_of_optimizer

            weights["loss"] = rest_of(self.loss)
            optimizer = rest_of_optimizer(self.optimizer, self.model, self.loss)
        state = {
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
            "progress": vars(self.progress),
            "log_size": run.log_size,
        }
        facts = {"data": self.record.digest, "best_epoch": self.progress.best_epoch, "input": input_of(self.model)}
        run.check_own()
        try:
            write_checkpoint(run.checkpoints / name, weights, state, run.identity, name == "last", facts, tables)
        except CheckpointError:
            run.check_own()  # else the disk is blamed for a folder that was deleted
            raise
        run.forget_reports()  # of the weights that were there before

    def load(self, run: Run, folder: Path) -> None:
        """Take everything from a checkpoint.

        Raises:
            CheckpointError: one that is damaged, or does not fit.
        """
        checkpoint = read_checkpoint(folder, run.identity)
        check_input(self.model, folder)
        state, updates = checkpoint.state, self.updates
        try:
            self.model.load_state_dict(checkpoint.weights["model"])
            if self.average is not None:
                self.average.module.load_state_dict(checkpoint.weights["ema"])
            if self.config.shard_classes:
                from pml_center.training.split_checkpoint import load_optimizer, load_split

                moments = load_split(folder, run.identity, self.loss, checkpoint.weights["loss"])
                load_optimizer(self.optimizer, self.model, self.loss, state["optimizer"], moments)
            else:
                self.loss.load_state_dict(checkpoint.weights["loss"])
                self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint must fit the configuration and the data of the run, got {folder} "
                f"({one_line(error)}). Restore the data as they were."
            ) from error
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.progress.sums = {name: value.to(self.device) for name, value in self.progress.sums.items()}
        if self.progress.updates != updates:
            raise CheckpointError(
                f"data must be those of the run, got {updates} steps an epoch where {folder} has "
                f"{self.progress.updates}. Restore the images as they were."
            )
        if facts_of(run.checkpoints / "best").get("best_epoch", self.progress.best_epoch) != self.progress.best_epoch:
            self.progress.forget_best()  # its weights gave way to those of an epoch that is forgotten now
        run.forget_after(state["log_size"])


def in_parts(model: Embedder, config: TrainConfig) -> nn.Module:
    """The model as it takes a batch: part by part, or all at once."""
    return model if config.micro_batch is None else InParts(model, config.micro_batch)


def for_data(config: TrainConfig, width: int | None) -> TrainConfig:
    """The configuration with what the data decide.

    Args:
        config: as it was asked for.
        width: of the features in the place of images, None for images.

    Raises:
        ValueError: a model of images for features, or the reverse; options of images for features.
    """
    model = config.model
    if (model in HEADS) != (width is not None):
        kind, remedy = (
            ("images", "Use 'convnet' or a timm model") if width is None else ("features", "Use 'linear' or 'mlp'")
        )
        raise ValueError(f"model must take {kind}, which the data are, got {model!r}. {remedy}.")
    if width is None:
        wrong = ["features"] if config.features is not None else []
    else:
        usual = TrainConfig()
        of_images = ("crop_scale", "hflip", "auto_augment", "color_jitter", "random_erasing", "cutmix")
        names = (*of_images, "channels", "image_size", "pretrained", "weights", "freeze")
        wrong = [name for name in names if getattr(config, name) != getattr(usual, name)]
        if config.features not in (None, width):
            raise ValueError(
                f"features must be {width}, as many numbers as each has, got {config.features}. Leave it out."
            )
    if wrong:
        kind = "images" if wrong == ["features"] else "features"
        raise ValueError(f"{' and '.join(wrong)} must be left out, got {kind} as data. Take the options away.")
    return replace(config, features=width)


def _data(config: TrainConfig, run: Run | None, accept_changes: bool) -> tuple[ImageSplits, DataRecord, str]:
    """The images, their record, and what of it has changed; those to be measured can be."""
    if run is None:
        images = split_data(config)
        found = images, replace(DataRecord.of(images, config.data), seen=seen_before(config)), ""
    else:
        found = recorded_data(run, config, accept_changes)
    for split in ("val", "test"):
        part = getattr(found[0], split)
        if part is not None:
            check_measurable(split, part, config)
    return found


def _check_processes(config: TrainConfig, images: ImageSplits, record: DataRecord, accepted: str) -> None:
    """Every process must see the same images: else they would wait for one another for ever."""
    if accepted:  # what is there is not what was recorded
        record = DataRecord(record.classes, list(listing(parts_of(images), config.data, lambda _: False).values()))
    if len(set(distributed.gather_objects((record.digest, accepted)))) == 1:
        return
    first = distributed.from_main(lambda: record)
    said = distributed.gather_objects(first.found_in(record.by_path).said())
    others = [f"in process {rank} {changes}" for rank, changes in enumerate(said) if changes]
    where = others[0] if others else "in contents or order"
    raise ValueError(
        f"data must be the same in every process, got other data {where}, beside process 0. Give all the same copy."
    )


def peak_memory(device: torch.device) -> float:
    """The most that was in use, in GiB: on the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
