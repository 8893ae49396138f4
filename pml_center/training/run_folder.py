"""Run: the folder that a training run leaves."""

import json
import logging
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4
from zlib import crc32

import torch
import yaml
from torch import Tensor

from pml_center.backbones import Embedder, Trunk, create_embedder
from pml_center.data import LabeledImages
from pml_center.data.open_images import full_source, split_apart
from pml_center.data.seen_images import FILE as SEEN
from pml_center.data.seen_images import SeenImages, without_place
from pml_center.data.vectors import is_vectors, maker_of
from pml_center.evaluation import Report, RetrievalReport
from pml_center.names import one_line
from pml_center.notebooks import html_table
from pml_center.training import owner
from pml_center.training.checkpoint import facts_of, found, read_weights
from pml_center.training.config import TrainConfig, numbers_of, sides_of
from pml_center.training.data_record import DataRecord, Recorded, listing, taken
from pml_center.training.event_log import EventLog
from pml_center.training.loss_formula import LossFormula, parse_loss
from pml_center.training.seeding import seed_everything

LOG = logging.getLogger("pml_center")
DATA = "data.csv"  # every image of a run
# What a run folder may hold: nothing else is ever deleted.
OWN = {"env.json", "config.yaml", "labels.json", "held_out.json", DATA, SEEN, "metrics.jsonl"}
OWN |= {"checkpoints", "eval", "export", "export.tmp", "tb"}
WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt")  # of which timm takes one, from a folder
PARTIAL = ".partial"  # ends the name of a file that is being written
OF_OTHERS = "the data have changed since training, the images held out have not: "  # begins a doubt of all else
PACKAGES = ("pml-center", "torch", "pytorch-metric-learning", "faiss-cpu", "timm", "numpy")


class Run(EventLog):
    """A training run on disk.

    ``config.yaml`` what was asked for, ``env.json`` command, versions and machine, ``labels.json`` the classes trained
    on, ``held_out.json`` the images kept for measuring, ``data.csv`` all images, ``metrics.jsonl`` an object per event,
    ``checkpoints/last/`` and ``checkpoints/best/`` what training needs to go on, ``eval/`` reports, ``tb/`` the events
    for TensorBoard.
    """

    @classmethod
    def create(cls, config: TrainConfig, data: DataRecord) -> "Run":
        """Make the folder and write down what is known before training.

        Raises:
            FileExistsError: the folder holds anything but a run that ended before it had weights; or any run that is
                not to be overwritten; or a run and something else.
        """
        run = cls(Path(config.out or default_folder(config)))
        check_new(run, config.overwrite)
        run.folder.mkdir(parents=True, exist_ok=True)
        owner.clear(run.folder)
        start = {} if (weights := start_of(config)) is None else {"start": weights}
        run._write(
            "env.json", json.dumps({"run": uuid4().hex} | start | environment() | _maker(config.data), indent=2)
        )  # first: it marks a run
        run.checkpoints.mkdir(exist_ok=True)
        run.record_data(data)
        run.record(config)
        return run

    @classmethod
    def open(cls, folder: str | Path, writes: bool = True) -> "Run":
        """An existing run.

        Args:
            folder: that training wrote.
            writes: whether this process writes to it.

        Raises:
            FileNotFoundError: no such folder, or no run in it.
        """
        folder = Path(folder)
        if not (folder / "config.yaml").is_file():
            raise FileNotFoundError(
                f"run must be a folder written by `pml-center train`, got {folder}, which has no config.yaml. "
                "Give the path that training printed."
            )
        return cls(folder, writes)

    def record(self, config: TrainConfig) -> None:
        """Write down what was asked for."""
        values = asdict(config) | {"out": str(self.folder), "overwrite": False}
        self._write("config.yaml", yaml.safe_dump(values, sort_keys=False))

    def record_data(self, data: DataRecord) -> None:
        """Write down what is trained on and held out."""
        self._write("labels.json", json.dumps(data.classes, ensure_ascii=False, indent=0))
        self._write("held_out.json", json.dumps(data.names("test"), ensure_ascii=False, indent=0))
        self._write(DATA, data.text.rstrip("\n"))
        if data.seen:
            self._write(SEEN, data.seen.text.rstrip("\n"))

    @property
    def config(self) -> TrainConfig:
        """What was asked for."""
        path = self.folder / "config.yaml"
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} must be YAML, got: {error}. Train again, or restore the file.") from error
        return TrainConfig.recorded(values, str(path))

    @property
    def identity(self) -> str:
        """A number that no other run has."""
        return self.own or self._read("env.json")["run"]

    def as_owner(self) -> "Run":
        """The same, to which nothing is written once another run is in its folder."""
        return replace(self, own=self.identity)

    def check_own(self) -> None:
        """The folder must hold the run that it held.

        Raises:
            BlockingIOError: it was deleted, or begun anew.
        """
        if self.own is None:
            return
        is_there = (self.folder / "env.json").is_file()
        if not is_there or self._read("env.json").get("run") != self.own:
            what = "in which another run began meanwhile" if is_there else "which was deleted meanwhile"
            raise BlockingIOError(
                f"folder must stay that of the run which writes to it, got {self.folder}, {what}. Nothing more is "
                "written there: train again with another --out."
            )

    @property
    def environment(self) -> dict[str, Any]:
        """The command that began it, versions and machine."""
        return {name: value for name, value in self._read("env.json").items() if name != "run"}

    @property
    def start(self) -> str | None:
        """Which weights it started from, see :func:`start_of`; None where it says nothing."""
        return self._read("env.json").get("start") if (self.folder / "env.json").is_file() else None

    @property
    def classes(self) -> list[str]:
        """The names of the classes trained on."""
        return self._read("labels.json")

    def knows(self, labels: Iterable[Hashable]) -> bool:
        """Whether all of these are names of classes trained on, so that only their images are new."""
        return set(labels) <= set(self.classes)

    @property
    def held_out_names(self) -> list[str]:
        """The names of the images kept for measuring, without where the data lie."""
        return self._held_out_names(self.config.data)

    @property
    def has_data_record(self) -> bool:
        """Whether all images are recorded; earlier versions wrote down those held out, and the classes, alone."""
        return (self.folder / DATA).is_file()

    @property
    def data(self) -> DataRecord:
        """What the run trains on and holds out.

        Raises:
            ValueError: files that contradict each other.
        """
        return self._data_record(self.config.data)

    def _held_out_names(self, data: str) -> list[str]:
        return [without_place(name, data) for name in self._read("held_out.json")]

    def _data_record(self, data: str) -> DataRecord:
        names = self._held_out_names(data)
        record = DataRecord([], [Recorded("test", "", name) for name in names])
        if self.has_data_record:
            record = DataRecord.read(self.folder / DATA, self.classes, SeenImages.read(self.folder))
            if record.names("test") != names:
                raise ValueError(
                    f"held_out.json must name the images that {DATA} has for testing, got others in {self.folder}. "
                    "Restore both files."
                )
        if facts_of(self.checkpoints / "last").get("data", record.digest) != record.digest:
            raise ValueError(
                f"{DATA}, held_out.json and labels.json must be as training wrote them, got "
                f"{'others' if self.has_data_record else f'no {DATA}'} in {self.folder}. Restore these files."
            )
        return record

    def held_out(self, images: LabeledImages, accept_changes: bool = False) -> LabeledImages:
        """Those of the images that the run kept for measuring; see :meth:`find_held_out`."""
        return self.find_held_out(images, accept_changes)[0]

    def find_held_out(self, images: LabeledImages, accept_changes: bool = False) -> tuple[LabeledImages, list[str]]:
        """Those of the images that the run kept for measuring, by name and content.

        Args:
            images: of the data of the run.
            accept_changes: take what is still there, with the labels that it had.

        Returns:
            The images in the order of the record, and sentences on changes that were accepted, now or in training.

        Raises:
            ValueError: none were kept; some are no longer there, or are no longer what they were.
        """
        return _find_held_out(self, images, accept_changes)

    @property
    def wants_board(self) -> bool:
        """Whether TensorBoard was asked for."""
        return self.config.tensorboard

    @property
    def accepted(self) -> list[str]:
        """Sentences on what training went on with although it makes results doubtful, such as changes of the data."""
        changes = [accepted(what) for what in dict.fromkeys(event["what"] for event in self.events("data"))]
        return changes + [event["what"] for event in self.events("doubt")]

    def load_model(self, checkpoint: str | None = None) -> Embedder:
        """The trained model, in evaluation mode, on the CPU.

        Args:
            checkpoint: ``"best"``, ``"last"`` or another below ``checkpoints``; by default the best, or the last where
                no validation images chose one. The moving average of the weights, if there is one.
        """
        model = embedder(self.config, from_scratch=True)
        check_input(model, self.checkpoints / (checkpoint or self._best))
        model.load_state_dict(self.weights("model", checkpoint))
        return model.eval()

    def load_loss(self, embedding_size: int, checkpoint: str | None = None) -> LossFormula:
        """The losses that go with :meth:`load_model`, in evaluation mode, on the CPU.

        Args:
            embedding_size: of the model.
            checkpoint: as of :meth:`load_model`.
        """
        config = self.config
        widths = numbers_of("widths", config.widths)
        loss = parse_loss(config.loss, len(self.classes), embedding_size, config.accumulate, 1, widths)  # 1 for now
        loss.load_state_dict(self.weights("loss", checkpoint))
        return loss.eval()

    def weights(self, part: Literal["model", "loss"], checkpoint: str | None = None) -> dict[str, Tensor]:
        """The weights of the model, or of the losses, as :meth:`load_model` takes them.

        Raises:
            FileNotFoundError: training wrote none.
            CheckpointError: files that are damaged or of another run.
        """
        parts = ("ema", "model") if part == "model" else (part,)
        return read_weights(self.checkpoints / (checkpoint or self._best), parts, self.identity)

    @property
    def weights_digest(self) -> str | None:
        """Bytes and CRC-32 of the weights that :meth:`load_model` takes; None where there are none."""
        files = facts_of(self.checkpoints / self._best).get("files", {})
        file = files.get("ema.safetensors", files.get("model.safetensors"))
        return file and "{bytes}-{crc32:08x}".format(**file)

    @property
    def _best(self) -> str:
        """The checkpoint that counts."""
        return "best" if found(self.checkpoints / "best") else "last"

    @property
    def can_resume(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return found(self.checkpoints / "last") is not None

    def how_to_go_on(self) -> str:
        """What to do with a run that was stopped."""
        if self.can_resume:
            return f"go on with: pml-center resume {shlex.quote(str(self.folder))}"
        return f"there was no checkpoint yet, start again; {self.folder} will be replaced"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose validation images were found best, None where none were looked at."""
        if (kept := facts_of(self.checkpoints / "best").get("best_epoch")) is not None:
            return kept
        events, metric = self.events("val"), self.config.metric
        return max(events, key=lambda event: event[metric])["epoch"] if events else None

    def write_reports(
        self,
        reports: Mapping[str, Report],
        data: str | None = None,
        options: Mapping[str, Any] | None = None,
        weights: str | None = None,
    ) -> Path:
        """Write reports, and log the metrics of the first.

        Args:
            reports: by the name of their file: ``report`` is that of the model, ``pixels`` that of raw pixels.
            data: what was measured, which names the folder below ``eval``; None is what was held out.
            options: in which it was measured otherwise than at the end of training.
            weights: that were measured, as :attr:`weights_digest` has them; by default those of now.

        Returns:
            The path of the first.
        """
        self.check_own()
        folder = self.report_folder(data, options)
        folder.mkdir(parents=True, exist_ok=True)
        made_by: dict[str, Any] = {
            "data": full_source(data) if data else "held out",
            "weights": weights or self.weights_digest,
        }
        made_by |= {"options": options} if options else {}
        for kind, report in reports.items():
            if report.per_unit:
                _whole(folder / f"{kind}.csv", report.to_csv)
            if kind == "report" and data is None and isinstance(report, RetrievalReport) and report.absence:
                _whole(folder / "absence.csv", report.absence_to_csv)
            # Last, because it says of which weights all are.
            write_whole(folder / f"{kind}.json", json.dumps(report.content() | made_by, indent=2) + "\n")
        first = next(iter(reports))
        self.log(event="eval", name=folder.name, **reports[first].metrics)
        return folder / f"{first}.json"

    def report_folder(self, data: str | None = None, options: Mapping[str, Any] | None = None) -> Path:
        """Where reports are: of what was held out, as training measures it, or of anything else."""
        where = full_source(data) if data else None
        name = "held-out" if where is None else Path(where).name
        key = (where or "") + (json.dumps(options, sort_keys=True) if options else "")
        return self.folder / "eval" / (f"{name}-{sha256(os.fsencode(key)).hexdigest()[:6]}" if key else name)

    @property
    def report(self) -> dict[str, Any] | None:
        """What the model is worth on the images held out; None where that was not measured, or of other weights."""
        path = self.report_folder() / "report.json"
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return None if report is None or self.is_outdated(report) else report

    def is_outdated(self, report: Mapping[str, Any]) -> bool:
        """Whether what :meth:`write_reports` wrote is of weights that have given way to others."""
        return report.get("weights", self.weights_digest) != self.weights_digest

    def _repr_html_(self) -> str:
        epochs = self.epochs
        rows = [[f"{value:.4g}" for value in epoch.values()] for epoch in epochs]
        return html_table(list(epochs[0]) if epochs else [], rows, above=f"run {self.folder}: {self.config.loss}")

    def forget_reports(self) -> None:
        """Delete what was measured on the images held out: it is of weights that have given way to others."""
        if self.writes:
            shutil.rmtree(self.report_folder(), ignore_errors=True)

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8", errors="surrogateescape"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"run must be whole, got {self.folder} without {name}. Copy it again, or train again."
            ) from None
        except ValueError as error:
            raise ValueError(
                f"{self.folder / name} must be what training wrote, got no JSON ({one_line(error)}). "
                "Restore it from a copy, or train anew."
            ) from error

    def _write(self, name: str, text: str) -> None:
        if self.writes:
            self.check_own()
            write_whole(self.folder / name, text + "\n")


def check_new(run: Run, overwrite: bool = False) -> None:
    """A new run may have this folder.

    Raises:
        FileExistsError: see :meth:`Run.create`.
    """
    if run.folder.exists() and not run.folder.is_dir():
        raise FileExistsError(f"out must be a folder, got {run.folder}, which is a file. Choose another --out.")
    is_run, others = _contents(run.folder)
    if (is_run or others) and not (is_run and not others and (overwrite or not run.can_resume)):
        choices = [f"go on with `pml-center resume {run.folder}`"] if run.can_resume else []
        choices += [] if others else ["delete it with --overwrite"]
        choices += ["choose another with --out"]
        which = f"which holds {others[0]} beside a run" if is_run and others else "which exists"
        remedy = ", ".join(choices[:-1]) + ", or " * (len(choices) > 1) + choices[-1]
        raise FileExistsError(f"out must be a new folder, got {run.folder}, {which}. {remedy[0].upper()}{remedy[1:]}.")


def _contents(folder: Path) -> tuple[bool, list[str]]:
    """Whether the folder is that of a run, and what else is in it."""
    names = {path.name for path in folder.glob("*")} - owner.FILES - {f"env.json{PARTIAL}"}
    mark = folder / "env.json"
    is_run = mark.is_file() and '"run"' in mark.read_text(encoding="utf-8")
    return is_run, sorted({name.removesuffix(PARTIAL) for name in names} - OWN if is_run else names)


def _find_held_out(run: Run, images: LabeledImages, accept_changes: bool) -> tuple[LabeledImages, list[str]]:
    """See :meth:`Run.find_held_out`."""
    config = run.config
    record = run._data_record(config.data)
    names = record.names("test")
    if not names:
        raise ValueError(
            f"data must be given because {run.folder} was trained with held_out=0, got none. Name a folder."
        )
    parts, own, known = {"": images}, set(names), {row.path for row in record.rows}
    now = listing(parts, config.data, own.__contains__)
    if not now.keys() >= known:  # some may have other names
        now = listing(parts, config.data, lambda name: name in own or name not in known)
    found = record.found_in(now)
    said = found.said("test")
    pairs = found.of_split("test")
    gone = [row.path for row, path in pairs if path is None]
    if said and (not accept_changes or len(gone) == len(pairs)):
        fewer = f"{len(gone)} fewer, e.g. {gone[0]}; " if gone else ""
        raise ValueError(
            f"{config.data} must still hold the {len(names)} images that {run.folder} held out, got "
            f"{fewer}{said}. Restore them, measure what is still there with --accept-changes, or give other data."
        )
    held_out = taken(pairs, parts, config.data, record.classes or images.classes)
    doubts = run.accepted + ([accepted(said)] if said else [])
    if run.has_data_record and not said and found.changes:
        doubts.append(f"{OF_OTHERS}{found.said()}")
    are_new = config.split == "classes"
    if record.classes:  # of an earlier version not known
        are_new = held_out.labels.min() >= len(record.classes)  # else they are numbered as the loss numbers them
    return held_out.subset(range(len(held_out)), renumber=are_new), list(dict.fromkeys(doubts))


def accepted(changes: str) -> str:
    """A sentence for reports on changes of the data."""
    return f"the data have changed since training began, which was accepted: {changes}"


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or as it was before: a disk may be full, a process killed."""
    partial = path.with_name(f"{path.name}{PARTIAL}")
    partial.write_text(text, encoding="utf-8", errors="surrogateescape")  # names of files are any bytes
    partial.replace(path)


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    """As :func:`write_whole`, by a function that writes a path."""
    partial = path.with_name(f"{path.name}{PARTIAL}")
    write(partial)
    partial.replace(path)


def check_holds_only(own: set[str], folder: Path) -> None:
    """A folder to write must be new, or hold nothing but what would be written anew.

    Raises:
        FileExistsError: it holds other things.
    """
    names = {path.name for path in folder.iterdir()} - own - owner.FILES if folder.is_dir() else set()
    if any(not name.endswith(PARTIAL) for name in names) or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(
            f"out must be a new folder, got {folder}, which holds other things. Choose another --out."
        )


def default_folder(config: TrainConfig) -> Path:
    """``runs/DATE_TIME_MODEL_LOSS``."""
    words = "-".join("".join(c if c.isalnum() else " " for c in config.loss).split())[:60]
    return Path("runs") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{(config.model or 'model').replace('/', '-')}_{words}"


def embedder(config: TrainConfig, from_scratch: bool = False) -> Embedder:
    """The model that a configuration asks for; from scratch without its pretrained weights."""
    special: dict[str, Any] = {} if config.channels is None else {"in_chans": config.channels}
    if config.features is not None:
        special = {"in_chans": config.features}
    if config.model == "mlp":
        special |= {
            "widths": numbers_of("mlp_widths", config.mlp_widths),
            "norm": config.mlp_norm,
            "dropout": config.mlp_dropout,
        }
    return create_embedder(
        config.model or "convnet",
        embedding_size=config.embedding_size or None,
        neck=config.neck,
        pretrained=config.pretrained and not from_scratch,
        weights=None if from_scratch else config.weights,
        image_size=sides_of(config.image_size),
        **special,
    )


def timm_trunk(
    name: str, pretrained: bool, weights: str | None, image_size: int | str | None, channels: int | None
) -> Embedder:
    """A model of timm without a neck, as ``embed`` takes it by the options of its command."""
    special = {} if channels is None else {"in_chans": channels}
    size = sides_of(image_size)
    return create_embedder(name, neck="none", pretrained=pretrained, weights=weights, image_size=size, **special)


def starting_model(config: TrainConfig) -> Embedder:
    """The model before the first step, with the same random weights each time.

    Raises:
        ValueError: ``init_from`` is a run of another model.
        OSError: weights that are not there.
    """
    seed_everything(config.seed if config.init_seed is None else config.init_seed)
    model = embedder(config)
    if config.init_from is not None:
        before = Run.open(config.init_from)
        check_features(before, config.data)
        weights = before.weights("model")
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"init_from must be a run of the same model, got {config.init_from} ({one_line(error)}). Use the same "
                "--model, --embedding-size and --neck."
            ) from error
    return model


def untouched(config: TrainConfig, start: str | None = None) -> tuple[Embedder | Trunk | None, list[str]]:
    """The model as it came: its trunk, or all of the run that it goes on from; None, and a sentence, if it is gone.

    None, too, of a run that begins with features: they are themselves what there was before.

    Args:
        config: of a run.
        start: the digest of the weights that it started from, see :func:`start_of`; None where nobody knows.
    """
    if config.features is not None and config.init_from is None:
        return None, []
    try:
        if start is not None and start_of(config) != start:
            raise ValueError("the weights that the run started from are others now")
        model = starting_model(config)
    except (OSError, ValueError, RuntimeError) as error:  # a damaged checkpoint is one of the last
        return None, [f"before training is not measured: {one_line(error)}"]
    return (Trunk(model).eval() if config.init_from is None else model.eval()), []


def input_of(model: Embedder) -> dict[str, Any]:
    """What images are made into for a model, in values of JSON."""
    size, mean, std = (
        list(each) if isinstance(each, tuple) else each for each in (model.image_size, model.mean, model.std)
    )
    return {"channels": model.in_chans, "image_size": size, "mean": mean, "std": std}


def check_input(model: Embedder, checkpoint: Path) -> None:
    """A model must take images as it did in training; timm, or a folder of its models, may say otherwise by now.

    Raises:
        ValueError: it does not.
    """
    now = input_of(model)
    then = facts_of(checkpoint).get("input", now)
    changed = [f"{name} {now[name]} in place of {value}" for name, value in then.items() if now[name] != value]
    if changed:
        raise ValueError(
            f"model must take images as in training, got {' and '.join(changed)} for {model.name} in {checkpoint}. "
            "Restore its config.json, or install the version of timm that env.json names."
        )


def check_features(run: Run, data: str) -> None:
    """Features must be of the model that made those of training, where both are known.

    Raises:
        ValueError: they are of another.
    """
    then, now = run.environment.get("features"), _maker(data).get("features")
    if None not in (then, now) and then != now:
        raise ValueError(
            f"features must be of the model that made those that {run.folder} was trained on, got those of another in "
            f"{data}. Embed again, and train on that."
        )


def _maker(data: str) -> dict[str, Any]:
    """What tells the model that made features from others, where it is known."""
    known = maker_of(split_apart(data)[0]) if is_vectors(split_apart(data)[0]) else {}
    return {"features": known} if known else {}


def start_of(config: TrainConfig) -> str | None:
    """Which weights a run starts from, by their bytes and CRC-32; None where nothing on this machine has them."""
    if config.init_from is not None:
        return Run.open(config.init_from).weights_digest
    source, _, place = (config.model or "").partition(":")
    files = [Path(config.weights).expanduser()] if config.weights is not None else []
    if source.lower() == "local-dir" and config.pretrained and not files:
        files = sorted(path for path in Path(place).iterdir() if path.suffix in WEIGHT_FILES)
    if files:
        content = b"".join(path.read_bytes() for path in files)
        return f"{len(content)}-{crc32(content):08x}"
    return None


def environment() -> dict[str, object]:
    """Versions and machine, for the record."""
    machine: dict[str, object] = {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
    }
    return machine | {name: version(name) for name in PACKAGES}
