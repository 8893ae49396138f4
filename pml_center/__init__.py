"""Center loss and the softmax family for pytorch-metric-learning, timm backbones, faiss retrieval."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Where each public name lives. Loaded on first use: importing the package must not import torch.
_HOMES = {
    "create_embedder": "pml_center.backbones",
    "param_groups": "pml_center.training",
    "data": "pml_center.data",
    "distributed": "pml_center.distributed",
    "evaluation": "pml_center.evaluation",
    "losses": "pml_center.losses",
    "regularizers": "pml_center.regularizers",
}

__all__ = [
    "__version__",
    "create_embedder",
    "data",
    "distributed",
    "evaluation",
    "losses",
    "param_groups",
    "regularizers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return home if _HOMES[name] == f"{__name__}.{name}" else getattr(home, name)


def __dir__() -> list[str]:
    return __all__
