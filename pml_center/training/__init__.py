"""Training: configuration, parameter groups, loss formulas, the loop, and comparisons."""

from importlib import import_module
from typing import Any

from pml_center.training.config import TrainConfig

# Loaded on first use: the command line reads TrainConfig for its help and must not wait for torch.
_HOMES = {
    "Candidate": "pml_center.training.comparison",
    "CheckpointError": "pml_center.training.checkpoint",
    "Comparison": "pml_center.training.comparison",
    "LossFormula": "pml_center.training.loss_formula",
    "Run": "pml_center.training.run_folder",
    "compare": "pml_center.training.comparison_plan",
    "compare_runs": "pml_center.training.comparison_plan",
    "export_onnx": "pml_center.training.export",
    "export_timm": "pml_center.training.export",
    "fit": "pml_center.training.loop",
    "param_groups": "pml_center.training.parameter_groups",
    "parse_loss": "pml_center.training.loss_formula",
    "resume": "pml_center.training.loop",
}

__all__ = [
    "Candidate",
    "CheckpointError",
    "Comparison",
    "LossFormula",
    "Run",
    "TrainConfig",
    "compare",
    "compare_runs",
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
