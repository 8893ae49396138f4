"""Run: the folder that a training run leaves."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from pml_center.backbones import Embedder, create_embedder
from pml_center.data import LabeledImages
from pml_center.evaluation import Report
from pml_center.training.config import TrainConfig

PACKAGES = ("pml-center", "torch", "pytorch-metric-learning", "faiss-cpu", "timm", "numpy")


@dataclass(frozen=True)
class Run:
    """A training run on disk.

    ``config.yaml`` what was asked for, ``env.json`` command, versions and machine, ``labels.json`` the classes trained
    on, ``held_out.json`` the images kept for measuring, ``metrics.jsonl`` an object per event, ``checkpoints/last/``
    the weights of model and losses, ``eval/`` reports.
    """

    folder: Path

    @classmethod
    def create(cls, config: TrainConfig, train: LabeledImages, held_out: LabeledImages | None) -> "Run":
        """Make the folder and write down what is known before training.

        Raises:
            FileExistsError: the folder holds anything but a run that ended before it had weights.
        """
        run = cls(Path(config.out or default_folder(config)))
        unfinished = (run.folder / "config.yaml").is_file() and not any(run._weights.glob("*.safetensors"))
        if run.folder.exists() and any(run.folder.iterdir()) and not unfinished:
            raise FileExistsError(
                f"out must be a new folder, got {run.folder}, which exists. Choose another with --out."
            )
        run._weights.mkdir(parents=True, exist_ok=True)
        (run.folder / "metrics.jsonl").unlink(missing_ok=True)  # of the run that ended early
        names = [] if held_out is None else [image_name(held_out, i, config.data) for i in range(len(held_out))]
        run._write("config.yaml", yaml.safe_dump(asdict(config) | {"out": str(run.folder)}, sort_keys=False))
        run._write("labels.json", json.dumps(train.classes, ensure_ascii=False, indent=0))
        run._write("held_out.json", json.dumps(names, ensure_ascii=False, indent=0))
        run._write("env.json", json.dumps(environment(), indent=2))
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """An existing run.

        Raises:
            FileNotFoundError: no such folder, or no run in it.
        """
        folder = Path(folder)
        if not (folder / "config.yaml").is_file():
            raise FileNotFoundError(
                f"run must be a folder written by `pml-center train`, got {folder}, which has no config.yaml. "
                "Give the path that training printed."
            )
        return cls(folder)

    @property
    def config(self) -> TrainConfig:
        """What was asked for."""
        path = self.folder / "config.yaml"
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} must be YAML, got: {error}. Train again, or restore the file.") from error
        return TrainConfig(**{field.name: values[field.name] for field in fields(TrainConfig) if field.name in values})

    @property
    def classes(self) -> list[str]:
        """The names of the classes trained on."""
        return json.loads((self.folder / "labels.json").read_text(encoding="utf-8"))

    def held_out(self, images: LabeledImages) -> LabeledImages:
        """Those of the images that the run kept for measuring.

        Raises:
            ValueError: none were kept, or some are no longer there.
        """
        names = json.loads((self.folder / "held_out.json").read_text(encoding="utf-8"))
        if not names:
            raise ValueError(
                f"data must be given because {self.folder} was trained with held_out=0, got none. Name a folder."
            )
        index = {image_name(images, i, self.config.data): i for i in range(len(images))}
        missing = [name for name in names if name not in index]
        if missing:
            raise ValueError(
                f"{self.config.data} must still hold the {len(names)} images that {self.folder} held out, "
                f"got {len(missing)} fewer, e.g. {missing[0]}. Restore them, or give data to measure on."
            )
        return images.subset([index[name] for name in names], renumber=self.config.split == "classes")

    def log(self, **event: object) -> None:
        """Append one event to ``metrics.jsonl``."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def save(self, model: nn.Module, loss: nn.Module) -> None:
        """Write the weights of the model and the state of the losses."""
        for name, module in (("model", model), ("loss", loss)):
            path = self._weights / f"{name}.safetensors"
            save_file({key: value.contiguous() for key, value in module.state_dict().items()}, f"{path}.tmp")
            os.replace(f"{path}.tmp", path)

    def load_model(self) -> Embedder:
        """The trained model, in evaluation mode, on the CPU."""
        model = embedder(self.config, from_scratch=True)
        model.load_state_dict(load_file(self._weights / "model.safetensors"))
        return model.eval()

    @property
    def epochs(self) -> list[dict[str, float]]:
        """What was logged of each epoch: ``epoch``, ``lr``, ``seconds``, ``loss`` and its parts."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        events = [json.loads(line) for line in lines]
        return [event for event in events if event.pop("event") == "epoch"]

    def write_reports(self, reports: Mapping[str, Report], data: str | None = None) -> Path:
        """Write reports, and log the metrics of the first.

        Args:
            reports: by the name of their file: ``report`` is that of the model, ``pixels`` that of raw pixels.
            data: what was measured, which names the folder below ``eval``; None is what was held out.

        Returns:
            The path of the first.
        """
        where = str(Path(data).resolve()) if data and data != "digits" else data
        name = "held-out" if where is None else f"{Path(where).name}-{sha256(where.encode()).hexdigest()[:6]}"
        folder = self.folder / "eval" / name
        folder.mkdir(parents=True, exist_ok=True)
        for kind, report in reports.items():
            content = json.loads(report.to_json()) | {"data": where or "held out"}
            (folder / f"{kind}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        first = next(iter(reports))
        self.log(event="eval", name=name, **reports[first].metrics)
        return folder / f"{first}.json"

    @property
    def _weights(self) -> Path:
        return self.folder / "checkpoints" / "last"

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text + "\n", encoding="utf-8")


def default_folder(config: TrainConfig) -> Path:
    """``runs/DATE_TIME_MODEL_LOSS``."""
    words = "-".join("".join(c if c.isalnum() else " " for c in config.loss).split())[:60]
    return Path("runs") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{config.model.replace('/', '-')}_{words}"


def image_name(images: LabeledImages, i: int, data: str) -> str:
    """The name of an image that does not depend on where the data lie."""
    return images.name(i).removeprefix(f"{data}{os.sep}")


def embedder(config: TrainConfig, from_scratch: bool = False) -> Embedder:
    """The model that a configuration asks for; from scratch without its pretrained weights."""
    return create_embedder(
        config.model,
        embedding_size=config.embedding_size or None,
        neck=config.neck,
        pretrained=config.pretrained and not from_scratch,
        weights=None if from_scratch else config.weights,
        image_size=config.image_size,
        **({} if config.channels is None else {"in_chans": config.channels}),
    )


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
