"""ModelOptions: how a model is made and run, the same flags for every command that embeds."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

LEAST = {"image_size": 1, "batch_size": 1, "workers": 0}


@dataclass(frozen=True)
class ModelOptions:
    """How images become embeddings.

    Attributes:
        pretrained: load the weights that timm names, for a timm model without --weights.
        weights: a file of weights for a timm model, safetensors or pth.
        image_size: side of the square that images are resized to, in pixels; by default what the model takes.
        channels: 1 for grey, 3 for colour; by default what the model takes.
        flip_test: add the embedding of the mirror image.
        batch_size: images at a time.
        device: 'cpu', 'cuda', or 'auto' for CUDA where it exists.
        workers: processes that read images; 0 reads in the main process.
        cache: keep embeddings, and use those that the same model made of the same files before.
        data_root: where data sets by name lie, or are downloaded to; by default data in ~/.cache/pml-center.
        skip_bad: leave out images that cannot be read, and list them; without it, the first one ends the command.
    """

    pretrained: bool = True
    weights: str | None = None
    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    flip_test: Annotated[bool, Parameter(negative=())] = False
    batch_size: int = 128
    device: str = "auto"
    workers: int = 2
    cache: bool = True
    data_root: str | None = None
    skip_bad: Annotated[bool, Parameter(negative=())] = False

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}. See --help.")
