"""Center loss and the softmax family for pytorch-metric-learning, timm backbones, faiss retrieval."""

from pml_center.names import forwarded

__version__ = "0.2.0"

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

__getattr__ = forwarded(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
