"""Run: the folder that a training run leaves."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, fields
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from pml_center.backbones import Embedder, create_embedder
from pml_center.training.config import TrainConfig
from pml_center.training.measurement import Measurement

PACKAGES = ("pml-center", "torch", "pytorch-metric-learning", "faiss-cpu", "timm", "numpy")


@dataclass(frozen=True)
class Run:
    """A training run on disk.

    ``config.yaml`` what was asked for, ``env.json`` versions and machine, ``labels.json`` the classes trained on,
    ``metrics.jsonl`` an object per event, ``checkpoints/last/`` the weights of model and losses, ``eval/`` reports.
    """

    folder: Path

    @classmethod
    def create(cls, config: TrainConfig, classes: list[str]) -> "Run":
        """Make the folder and write down what is known before training.

        Raises:
            FileExistsError: the folder exists: a run is never overwritten.
        """
        losses = "+".join(part for part in config.loss.replace("@", "*").split("+"))
        words = "-".join("".join(c if c.isalnum() else " " for c in losses).split())
        folder = Path(config.out or f"runs/{date.today()}_{config.model.replace('/', '-')}_{words}"[:100])
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"out must be a new folder, got {folder}, which exists. Choose another with --out.")
        (folder / "checkpoints" / "last").mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        run._write("config.yaml", yaml.safe_dump(asdict(config) | {"out": str(folder)}, sort_keys=False))
        run._write("labels.json", json.dumps(classes, ensure_ascii=False, indent=0))
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
        values = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        return TrainConfig(**{field.name: values[field.name] for field in fields(TrainConfig) if field.name in values})

    def log(self, **event: object) -> None:
        """Append one event to ``metrics.jsonl``."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def save(self, model: nn.Module, loss: nn.Module) -> None:
        """Write the weights of the model and the state of the losses."""
        for name, module in (("model", model), ("loss", loss)):
            path = self.folder / "checkpoints" / "last" / f"{name}.safetensors"
            save_file({key: value.contiguous() for key, value in module.state_dict().items()}, f"{path}.tmp")
            os.replace(f"{path}.tmp", path)

    def load_model(self) -> Embedder:
        """The trained model, in evaluation mode, on the CPU."""
        model = embedder(self.config, from_scratch=True)
        model.load_state_dict(load_file(self.folder / "checkpoints" / "last" / "model.safetensors"))
        return model.eval()

    def write_measurement(self, name: str, measurement: Measurement) -> Path:
        """Write ``eval/<name>/report.json``, and the report of raw pixels beside it; log the metrics."""
        folder = self.folder / "eval" / name
        folder.mkdir(parents=True, exist_ok=True)
        measurement.model.to_json(folder / "report.json")
        measurement.pixels.to_json(folder / "pixels.json")
        self.log(event="eval", name=name, **measurement.model.metrics)
        return folder / "report.json"

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text + "\n", encoding="utf-8")


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
