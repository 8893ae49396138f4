"""TrainConfig: the help, the flags and the record of a run."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

# The least value of a number.
LEAST = {
    "embedding_size": 0,
    "image_size": 1,
    "epochs": 1,
    "batch_size": 1,
    "per_class": 0,
    "weight_decay": 0,
    "workers": 0,
}


@dataclass(frozen=True)
class TrainConfig:
    """What one training run does.

    Attributes:
        data: 'digits', or a folder with one sub-folder of images per class.
        loss: a sum of losses of pml_center or PML by name, each with a weight, arguments and a miner if it takes one:
            'SoftmaxLoss + 0.01 * CenterLoss(alpha=0.5) + TripletMarginLoss @ MultiSimilarityMiner'.
        model: 'convnet' for small grey images, or any timm model.
        embedding_size: numbers in an embedding; 0 keeps the width of the model.
        neck: between the model's features and the embedding.
        pretrained: start from timm's pretrained weights.
        weights: a file of weights for the model, safetensors or pth.
        channels: 1 for grey, 3 for colour; by default what the model takes.
        image_size: side of the square that images are resized to, in pixels; by default what the model takes.
        crop_scale: smallest share of the area that a random crop keeps in training; 1 never crops.
        hflip: probability of a horizontal flip in training.
        held_out: share of the data that is measured at the end and never trained on.
        split: hold out whole classes, or some images of each class.
        epochs: passes over the training images.
        batch_size: images in a training step.
        per_class: images of each class in a batch; 0 draws images regardless of class.
        lr: peak learning rate.
        loss_lr: peak learning rate of the losses' parameters; by default lr.
        weight_decay: of AdamW, on the model's weight matrices.
        bf16: compute the model in bfloat16; losses stay in fp32.
        seed: of everything random.
        device: 'cpu', 'cuda', or 'auto' for CUDA where it exists.
        workers: processes that read images; 0 reads in the main process.
        out: the run folder, which must not exist; by default runs/DATE_MODEL_LOSS.
    """

    data: str = "digits"
    _: KW_ONLY
    loss: str = "SoftmaxLoss + 0.01 * CenterLoss"
    model: str = "convnet"
    embedding_size: int = 64
    neck: Literal["linear", "bnneck", "none"] = "linear"
    pretrained: bool = False
    weights: str | None = None
    channels: Literal[1, 3] | None = None
    image_size: int | None = None
    crop_scale: float = 1.0
    hflip: float = 0.0
    held_out: float = 0.2
    split: Literal["classes", "images"] = "classes"
    epochs: int = 20
    batch_size: int = 128
    per_class: int = 0
    lr: float = 2e-3
    loss_lr: float | None = None
    weight_decay: float = 0.01
    bf16: bool = False
    seed: int = 0
    device: str = "auto"
    workers: int = 2
    out: str | None = None

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}. See pml-center train --help.")
        for name in ("lr", "loss_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value}. Common values are 1e-4 to 1e-2.")
        for name in ("held_out", "hflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share in [0, 1], got {getattr(self, name)}. 0.2 is a fifth.")
