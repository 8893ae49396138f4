"""fit and resume: one training run, from top to bottom."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm.std import tqdm as Bar

from pml_center import distributed
from pml_center.arrays import as_list, as_matrix
from pml_center.backbones import HEADS, full_name
from pml_center.data.data_folder import cache_folder
from pml_center.data.open_images import full_source, split_apart
from pml_center.data.vectors import is_vectors
from pml_center.evaluation import Samples, load_samples, save_samples
from pml_center.notebooks import progress_bar
from pml_center.training.batches import Batch
from pml_center.training.checkpoint import check_finite, go_on_slower, newest
from pml_center.training.config import TrainConfig
from pml_center.training.interrupt import Interrupt, explain_interrupt
from pml_center.training.measurement import Measurement, measure, of_known_classes, validate
from pml_center.training.mixing import mixed
from pml_center.training.origin import doubts
from pml_center.training.owner import LOCK, owned
from pml_center.training.run_folder import Run, check_new, default_folder, untouched
from pml_center.training.seeding import seed_everything
from pml_center.training.train_state import TrainState, peak_memory

LOG = logging.getLogger("pml_center")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # what the model computes in, where not in what its weights are
Tracker = Callable[[Mapping[str, float]], object]
LOOK = 10  # steps between two looks at the numbers: each look waits for a GPU


def fit(
    config: TrainConfig, test: bool = True, *, verbose: bool = True, on_epoch: Tracker | None = None
) -> tuple[Run, Measurement | None]:
    """Train one model with one sum of losses, then measure retrieval on what was held out.

    Args:
        config: what to do; every random choice follows from its seed, but the split, which has a seed of its own.
        test: False leaves the images held out alone, as those must who only try settings.
        verbose: say what happens, warnings included: where the program has no logging of its own, on stderr.
        on_epoch: called after each epoch, in the first process, with ``epoch``, ``lr``, ``loss`` and its parts, and the
            metrics of the validation images as ``val_...``: what a tracker of experiments takes.

    Returns:
        The run folder, and what the best model is worth on the images held out, None where there are none: the one
        that was best on the validation images, or the last where there are none either.

    Raises:
        ValueError: a configuration that cannot be run.
        ImportError: it asks for tensorboard, which is not installed.
        FileExistsError: the folder of the run exists.
        BlockingIOError: another process writes to it, or put another run in its place.
        FloatingPointError: a loss, or weights, that are not finite.
        CheckpointError: a checkpoint that could not be written.
        KeyboardInterrupt: SIGINT or SIGTERM; a checkpoint was written.
    """
    config = completed(config)
    with spoken(verbose), distributed.initialize(choose_device(config.device)) as device:
        state = TrainState.build(config, device)
        run = Run(distributed.from_main(lambda: _free_folder(config)), distributed.is_main())
        with owned(run.folder), explain_interrupt(run.how_to_go_on):
            distributed.from_main(lambda: Run.create(replace(state.config, out=str(run.folder)), state.record))
            run = run.as_owner()
            for doubt in distributed.from_main(lambda: doubts(state.config, state.record)):
                run.log(event="doubt", what=doubt)
            _announce(describe(state, run))
            state.start_neck()
            return run, _finish(run, state, test, on_epoch)


def resume(
    folder: str | Path,
    epochs: int | None = None,
    checkpoint: str = "last",
    device: str | None = None,
    test: bool = True,
    workers: int | None = None,
    accept_changes: bool = False,
    *,
    verbose: bool = True,
    on_epoch: Tracker | None = None,
) -> tuple[Run, Measurement | None]:
    """Go on with a run as if it had never stopped; on a CPU, to the last bit.

    Args:
        folder: of the run.
        epochs: train for more of them than was planned. The schedule is then the longer one from here on, and a run
            that had stopped early goes on with its patience renewed.
        checkpoint: the folder below ``checkpoints`` to start from.
        device: where to compute, by default as before.
        test: as of :func:`fit`.
        workers: processes that read images, by default as before.
        accept_changes: go on although the data have changed, with those of the recorded images that are still there, in
            the classes that they had. Every report then says so.
        verbose: as of :func:`fit`.
        on_epoch: likewise.

    Returns:
        As :func:`fit`.

    Raises:
        FileNotFoundError: no run, or none with a checkpoint.
        ValueError: fewer epochs than planned; data that are not those that the run began with.
        CheckpointError: a checkpoint that is damaged or of another run.
        BlockingIOError: another process writes to the run, or put another one in its place.
    """
    config = Run.open(folder).config
    if epochs is not None and epochs < config.epochs:
        raise ValueError(f"epochs must be at least the {config.epochs} of the run, got {epochs}. Leave them out.")
    asked: dict[str, Any] = {"epochs": epochs, "device": device, "workers": workers}
    config = replace(config, **{name: value for name, value in asked.items() if value is not None})
    with (
        spoken(verbose),
        distributed.initialize(choose_device(config.device)) as where,
        owned(Path(folder)),
        explain_interrupt(Run.open(folder).how_to_go_on),
    ):
        run = Run.open(folder, writes=distributed.is_main()).as_owner()
        state = TrainState.build(config, where, run, accept_changes)
        state.load(run, newest(run.checkpoints / checkpoint))
        if state.accepted:
            run.log(event="data", what=state.accepted)
        if not run.has_data_record:
            run.record_data(state.record)
        if state.progress.epoch <= config.epochs and epochs is not None:
            state.progress.renew_patience()
        run.record(config)
        _announce(f"{describe(state, run)}\n{_where(state)}")
        return run, _finish(run, state, test, on_epoch)


def _free_folder(config: TrainConfig) -> Path:
    """Where a new run goes. What holds other things is refused before there is a lock in it."""
    folder = Path(config.out or default_folder(config))
    if not (folder / LOCK).exists():  # else whoever owns it is to be named
        check_new(Run(folder), config.overwrite)
    return folder


@contextmanager
def spoken(verbose: bool) -> Iterator[None]:
    """Sentences on stderr, for a program that has no logging of its own; none at all where they are not wanted."""
    level, handler = LOG.level, logging.StreamHandler()
    if not verbose:
        LOG.setLevel(logging.CRITICAL)
    elif not LOG.hasHandlers():
        LOG.setLevel(logging.INFO)
        LOG.addHandler(handler)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


def _finish(run: Run, state: TrainState, test: bool, on_epoch: Tracker | None) -> Measurement | None:
    """Train to the end, then measure, if that is wanted."""
    with run.with_board(state.progress.epoch) as logged:
        _train(logged, state, on_epoch)
        return _measure(logged, state) if test else None


def _train(run: Run, state: TrainState, on_epoch: Tracker | None) -> None:
    config, progress = state.config, state.progress
    if state.has_fixed_features and progress.epoch <= config.epochs and not progress.is_over:
        state.compute_features()
    bar = progress_bar(
        is_shown=distributed.is_main(),
        total=config.epochs * state.updates,
        initial=(progress.epoch - 1) * state.updates + progress.step,
        unit="step",
    )
    with Interrupt() as interrupt, bar:
        while progress.epoch <= config.epochs and not progress.is_over:
            bar.set_description(f"epoch {progress.epoch}/{config.epochs}", refresh=False)
            _epoch(run, state, bar, interrupt)
            epoch, rate, seen = progress.epoch, state.optimizer.param_groups[0]["lr"], _end_of_epoch(run, state)
            if on_epoch is not None and distributed.is_main():
                on_epoch({"epoch": epoch, "lr": rate} | seen)
            if bar.disable:  # no terminal: a line an epoch stands for the bar
                numbers = "  ".join(f"{name.removeprefix('val_')} {value:.4g}" for name, value in seen.items())
                _announce(f"epoch {epoch}/{config.epochs}  {numbers}")
            if _is_asked(interrupt):
                raise KeyboardInterrupt


def _epoch(run: Run, state: TrainState, bar: Bar, interrupt: Interrupt) -> None:
    """The steps of an epoch that are not done yet."""
    config, progress = state.config, state.progress
    state.model.train()
    state.loss.train()
    batches = state.batches()
    started = time.perf_counter()
    while progress.step < state.updates:
        try:
            images = step(state, batches)
        except ValueError:  # such as that of a loss that gets NaN
            check_finite(run.checkpoints / "last", state.weights)
            raise
        progress.step += 1
        progress.seconds += time.perf_counter() - started
        started = time.perf_counter()
        bar.update()
        if progress.step % LOOK == 0 or progress.step == state.updates:
            means = progress.means()
            _check_finite(means, run, state)
            rate = images * bar.format_dict["rate"] if bar.format_dict["rate"] else 0
            bar.set_postfix_str(_postfix(means, rate, state), refresh=False)
        stop = _is_asked(interrupt)
        if stop or (config.checkpoint_every and progress.step % config.checkpoint_every == 0):
            _check_finite(progress.means(), run, state)
            state.save(run)
        if stop:
            raise KeyboardInterrupt


def _is_asked(interrupt: Interrupt) -> bool:
    """Whether any process was asked to stop: all stop after the same step."""
    return bool(distributed.gather_rows(np.array([bool(interrupt)])).any())


def step(state: TrainState, batches: Iterator[Batch]) -> int:
    """One step of the optimizer; the number of its images."""
    config, progress, count = state.config, state.progress, 0
    state.schedule.step_update(progress.update + 0.5)
    for part in range(config.accumulate):
        images, labels, skipped = next(batches)
        images, labels = images.to(state.device, non_blocking=True), labels.to(state.device, non_blocking=True)
        seed_everything(config.seed, progress.update, part, distributed.rank())
        images, mixture = mixed(images, labels, config.mixup, config.cutmix)
        with torch.autocast(state.device.type, HALF[config.amp]) if config.amp in HALF else nullcontext():
            embeddings = state.network(images)
            seed_everything(config.seed, progress.update, part)  # miners must find the same in every process
            total, parts = state.criterion(embeddings.float(), labels, **mixture)
        state.scaler.scale(total / config.accumulate).backward()
        progress.see({"loss": total.detach(), **parts}, skipped)
        count += len(images) * distributed.world_size()
    if config.clip_grad is not None:
        state.scaler.unscale_(state.optimizer)
        parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        distributed.clip_gradients(parameters, config.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update(state.model, progress.update)
    return count


def _end_of_epoch(run: Run, state: TrainState) -> dict[str, float]:
    """What an epoch came to: means of the losses, and metrics of the validation images if they were looked at."""
    config, progress = state.config, state.progress
    means = progress.means()
    _check_finite(means, run, state)
    distributed.of_each(lambda: check_finite(run.checkpoints / "last", state.weights))  # of the last step, too
    rate = state.optimizer.param_groups[0]["lr"]
    run.log(event="epoch", epoch=progress.epoch, lr=rate, seconds=round(progress.seconds, 3), **means)
    skipped = sorted({name for names in distributed.gather_objects(progress.skipped) for name in names})
    if skipped:
        _announce("\n".join(f"skipped {name}, which cannot be read" for name in skipped), logging.WARNING)
        run.log(event="skipped", epoch=progress.epoch, images=skipped)
    is_best, metrics = False, {}
    if state.images.val is not None and (progress.epoch % config.eval_every == 0 or progress.epoch == config.epochs):
        metrics = validate(state.measured, state.images.val, config)
        run.log(event="val", epoch=progress.epoch, **metrics)
        is_best = progress.judge(metrics[config.metric], config.patience)
    progress.next_epoch()
    if is_best:
        state.save(run, "best")
    state.save(run)
    return means | {f"val_{name}": value for name, value in metrics.items()}


def _measure(run: Run, state: TrainState) -> Measurement | None:
    """What the best model is worth."""
    images, config = state.images.test, state.config
    if images is None:
        return None
    model = state.measured
    if state.images.val is not None:
        model.load_state_dict(run.weights("model", "best"))
        if not config.shard_classes:
            state.loss.load_state_dict(run.weights("loss", "best"))
    known = of_known_classes(images, state.images.train.classes)
    loss = run.load_loss(model.embedding_size).to(state.device) if config.shard_classes and known else state.loss
    classify = loss.eval().classifier if known else None
    came, gone = untouched(config, run.start)
    if any(distributed.gather_objects(came is None)):
        came = None
    gone = [doubt for doubts in distributed.gather_objects(gone) for doubt in doubts][:1]
    measurement = measure(model, images, config, known, classify, came).with_warnings(run.accepted + gone)
    if run.writes:
        run.write_reports(measurement.reports)
    return measurement


def _check_finite(means: dict[str, float], run: Run, state: TrainState) -> None:
    if not np.isfinite(means["loss"]):
        parts = ", ".join(f"{name} {value:.4g}" for name, value in means.items() if name != "loss")
        progress = state.progress
        raise FloatingPointError(
            f"loss must be finite, got {means['loss']} in epoch {progress.epoch} by step {progress.step} ({parts}). "
            f"{go_on_slower(run.checkpoints / 'last')}"
        )


def _postfix(means: dict[str, float], rate: float, state: TrainState) -> str:
    losses = "  ".join(f"{name.removesuffix('Loss')} {value:.3f}" for name, value in means.items())
    memory = peak_memory(state.device)
    return f"{losses}  {rate:,.0f} images/s  lr {state.optimizer.param_groups[0]['lr']:.2g}  {memory:.1f} GiB"


def _announce(text: str, level: int = logging.INFO) -> None:
    """Log, from the first process. Names of files are any bytes; a log takes characters."""
    if distributed.is_main():
        LOG.log(level, "%s", text.encode("utf-8", "backslashreplace").decode())


def _where(state: TrainState) -> str:
    """Where a run goes on."""
    progress, config = state.progress, state.config
    if progress.is_over:
        return f"stopped early after epoch {progress.epoch - 1}; to train on, ask for more epochs with --epochs"
    if progress.epoch > config.epochs:
        return f"all {config.epochs} epochs are done; to train on, ask for more with --epochs"
    return f"resumed in epoch {progress.epoch}, after step {progress.step}"


def completed(config: TrainConfig) -> TrainConfig:
    """The same, to be read from any folder, with what follows from the rest. Arrays are written down, once for all."""
    full: dict[str, Any] = {
        name: str(Path(value).expanduser().resolve())
        for name in ("weights", "init_from", "data_root", "labels")
        if (value := getattr(config, name)) is not None
    }
    data: Any = config.data
    full["data"] = keep_samples(data) if isinstance(data, tuple) else full_source(data)
    model = config.model or ("linear" if is_vectors(split_apart(full["data"])[0]) else "convnet")
    full["model"] = full_name(model)
    config = replace(config, **full)
    is_pretrained = config.pretrained or config.weights is not None
    knows = is_pretrained or model in HEADS
    if config.embedding_size is None:
        usual = 0 if config.neck == "none" else 256 if knows else 64
        width = Run.open(config.init_from).config.embedding_size if config.init_from else usual
        config = replace(config, embedding_size=width)
    if config.neck_init is None:
        starts = knows and model != "mlp" and config.neck == "linear" and config.embedding_size and not config.init_from
        config = replace(config, neck_init="pca" if starts else "random")
    if config.lr is None:
        trunk_lr = config.rate / 20 if config.trunk_lr is None and is_pretrained else config.trunk_lr
        neck_lr = config.rate / 2 if config.neck_lr is None and config.neck_init == "pca" else config.neck_lr
        config = replace(config, lr=config.rate, trunk_lr=trunk_lr, neck_lr=neck_lr)
    return config


def keep_samples(arrays: Sequence[Any]) -> str:
    """The folder of the cache that holds these features, their labels and, if they are given, groups and names.

    Raises:
        ValueError: something else.
    """
    if not 2 <= len(arrays) <= len(Samples._fields):
        raise ValueError(
            f"data must be features and their labels, and groups and names if wanted, got {len(arrays)} arrays. "
            "Give data=(features, labels)."
        )
    samples = Samples(*arrays)
    matrix = as_matrix(samples.embeddings, "features")
    others = {
        name: as_list(values, name)
        for name, values in samples._asdict().items()
        if name != "embeddings" and values is not None
    }
    blank = next((text for values in others.values() for text in map(str, values) if text != text.strip()), None)
    if blank is not None:
        raise ValueError(f"labels, groups and names must have no white space around them, got {blank!r}. Strip them.")
    digest = blake2b(matrix.tobytes() + repr((matrix.shape, others)).encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "features" / digest
    if folder.is_dir() and not _holds(folder, samples._replace(embeddings=matrix)):
        shutil.rmtree(folder)  # damaged, or edited
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as draft:
            save_samples(f"{draft}/rows", Samples(matrix, **others))
            with suppress(OSError):  # another process has written the same
                Path(draft, "rows").rename(folder)
    return str(folder)


def _holds(folder: Path, samples: Samples) -> bool:
    """Whether a folder has these rows, and what is known of them as it would be read back."""
    try:
        kept = load_samples(folder)
        same = np.array_equal(kept.embeddings, samples.embeddings)
        return same and all(
            (one is None) == (other is None) and (one is None or list(map(str, one)) == other)
            for one, other in zip(samples[1:], kept[1:], strict=True)
        )
    except (OSError, ValueError):
        return False


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


def describe(state: TrainState, run: Run) -> str:
    """What is about to happen, line by line."""
    config, images = state.config, state.images
    counts = images.train.counts
    weights, learned = (sum(p.numel() for p in part.parameters()) for part in (state.model, state.loss))
    singletons = int((counts == 1).sum())
    others = [
        f"{len(part):,} images of {len(np.unique(part.labels)):,} classes to {purpose}"
        for purpose, part in (("validate", images.val), ("measure", images.test))
        if part is not None
    ]
    still = sum(p.numel() for p in state.model.parameters() if not p.requires_grad)
    frozen = "" if config.freeze is None else f", {still / 1e6:.2f} M of them frozen ({config.freeze})"
    size = "" if state.model.image_size is None else state.model.image_size
    amp = "" if config.amp == "none" else f", {config.amp}"
    together = "" if config.accumulate == 1 else f" × {config.accumulate}"
    processes = distributed.world_size()
    together_with = "" if processes == 1 else f", {processes} processes"
    by_class = f" ({state.batch_size // config.per_class} classes × {config.per_class})" if config.per_class else ""
    by_class += "" if config.micro_batch is None else f", {config.micro_batch} images at a time"
    return "\n".join(
        [
            f"data    {len(images.train):,} images of {images.train.num_classes:,} classes for training, "
            f"{counts.min()}/{int(np.median(counts))}/{counts.max()} a class (least/median/most)"
            + (f", {singletons:,} classes of one image" if singletons else ""),
            *(f"        {line}" for line in others),
            f"model   {config.model}, {weights / 1e6:.2f} M weights{frozen}, input {state.model.in_chans}"
            f"{size and f'×{size}'}, embedding {state.model.embedding_size}",
            f"loss    {config.loss}, {learned:,} weights",
            f"steps   {config.epochs} epochs of {state.updates} batches of {state.batch_size}{together}{by_class}",
            f"device  {state.device}{amp}{together_with}, {torch.get_num_threads()} threads, seed {config.seed}",
            f"run     {run.folder}",
        ]
    )
