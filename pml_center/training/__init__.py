"""Training: configuration, parameter groups, loss formulas, and the loop."""

from importlib import import_module
from typing import Any

from pml_center.training.config import TrainConfig

# Loaded on first use: the command line reads TrainConfig for its help and must not wait for torch.
_HOMES = {
    "CheckpointError": "pml_center.training.checkpoint",
    "LossFormula": "pml_center.training.loss_formula",
    "Run": "pml_center.training.run_folder",
    "export_onnx": "pml_center.training.export",
    "export_timm": "pml_center.training.export",
    "fit": "pml_center.training.loop",
    "param_groups": "pml_center.training.parameter_groups",
    "parse_loss": "pml_center.training.loss_formula",
    "resume": "pml_center.training.loop",
}

__all__ = [
    "CheckpointError",
    "LossFormula",
    "Run",
    "TrainConfig",
    "export_onnx",
    "export_timm",
    "fit",
    "param_groups",
    "parse_loss",
    "resume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
