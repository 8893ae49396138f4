"""Training: configuration, parameter groups, loss formulas, the loop; comparisons, which live beside, by name."""

from pml_center.names import forwarded
from pml_center.training.config import TrainConfig

# Loaded on first use: the command line reads TrainConfig for its help and must not wait for torch.
_HOMES = {
    "Candidate": "pml_center.comparison.result",
    "CheckpointError": "pml_center.training.checkpoint",
    "Comparison": "pml_center.comparison.result",
    "LossFormula": "pml_center.training.loss_formula",
    "Run": "pml_center.training.run_folder",
    "compare": "pml_center.comparison.compare",
    "compare_runs": "pml_center.comparison.compare",
    "export_onnx": "pml_center.training.export",
    "export_timm": "pml_center.training.export",
    "fit": "pml_center.training.loop",
    "param_groups": "pml_center.training.parameter_groups",
    "parse_loss": "pml_center.training.loss_formula",
    "resume": "pml_center.training.loop",
}

__all__ = ["TrainConfig", *_HOMES]

__getattr__ = forwarded(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
