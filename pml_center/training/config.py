"""TrainConfig: the help, the flags, the file and the record of a run."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pml_center.names import unknown_name

SEE_HELP = "See pml-center train --help."
AT_LEAST_0 = (
    "color_jitter",
    "decoded_gib",
    "embedding_size",
    "workers",
    "per_class",
    "weight_decay",
    "mixup",
    "cutmix",
    "warmup_epochs",
    "patience",
    "checkpoint_every",
)
AT_LEAST_1 = ("epochs", "batch_size", "micro_batch", "accumulate", "eval_every")
SEEDS = ("seed", "init_seed", "order_seed", "split_seed")
POSITIVE = ("lr", "trunk_lr", "neck_lr", "layer_decay", "loss_lr", "center_lr", "clip_grad")
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}
SHARES = ("held_out", "val", "hflip", "random_erasing", "ema", "momentum", "layer_decay", "mlp_dropout")


@dataclass(frozen=True)
class DataConfig:
    """The images.

    Attributes:
        data: 'digits', a folder with one sub-folder of images per class, perhaps in train/, val/ and test/, or any
            other form that `pml-center data check --help` lists. Or features in the place of images: a folder that
            `pml-center embed` wrote, an .npz file with arrays embeddings and labels, or an .npy file.
        labels: of features in an .npy file: another one, a line each, or a CSV file with a column label and, if wanted,
            path, group and split.
        data_root: the folder of data sets by name.
        held_out: share of the data that is measured once, at the end, and never trained on. Not for data that come
            with a test split.
        val: share of the rest that is measured during training, to choose the best epoch. Not for data that come with
            a validation split.
        split: hold out whole classes, or some images of each class.
        split_seed: chooses what is held out. Not the seed of the run: runs that differ in that one are measured on the
            same images.
        crop_scale: smallest share of the area that a random crop keeps in training; 1 never crops.
        hflip: probability of a horizontal flip in training.
        auto_augment: what timm does to images in training, in its own words: 'rand-m9-mstd0.5' for RandAugment,
            'augmix-m3-w3', '3a', 'original' or 'v0'.
        color_jitter: how far colours may change in training, as timm takes it, such as 0.4.
        random_erasing: probability that a rectangle is erased in training.
        mixup: α of mixup: images of a batch are averaged two by two, by a share from Beta(α, α), and are of both
            classes; usual is 0.2. For losses with a row for each class.
        cutmix: α of cutmix: a rectangle of another image takes the place of one's own; usual is 1. With mixup, one of
            the two each time.
        workers: processes that read images; 0 reads in the main process. The result does not depend on it.
        decoded_gib: GiB of images that are kept as they are decoded and squashed, once for all epochs and runs; 0 keeps
            none. The result does not depend on it.
    """

    data: str = "digits"
    _: KW_ONLY
    labels: str | None = None
    data_root: str | None = None
    held_out: float = 0.2
    val: float = 0.0
    split: Literal["classes", "images"] = "classes"
    split_seed: int = 0
    crop_scale: float = 1.0
    hflip: float = 0.0
    auto_augment: str | None = None
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    workers: int = 2
    decoded_gib: float = 2.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Attributes:
        model: 'convnet' for small grey images, or any timm model; for features 'linear' or 'mlp'. By default 'convnet',
            and 'linear' for features.
        mlp_widths: of the hidden layers of 'mlp', such as 512x256 for two.
        mlp_norm: behind each hidden layer of 'mlp'.
        mlp_dropout: share of the numbers that training sets to 0 behind each hidden layer of 'mlp'.
        embedding_size: numbers in an embedding; 0 keeps the width of the model; by default 64, or 256 of pretrained
            weights or features.
        neck: between the model's features and the embedding.
        neck_init: how a linear neck starts: at the principal components of the features of the training images, so that
            the first embeddings tell images apart as the features do, or at random; by default the first behind
            pretrained weights and for the model 'linear'.
        pretrained: start from timm's pretrained weights.
        weights: a file of weights for the model, safetensors or pth.
        init_from: a run folder to take the weights of model and neck from; training starts anew.
        features: numbers in a vector, where the data are features; by default those that there are.
        freeze: what of the model stays as it is: 'trunk', all but the neck; 'batchnorm', the statistics of the trunk's
            BatchNorm layers; or a number of blocks, from the first on, as timm counts them.
        unfreeze_at: the epoch from which what was frozen is trained, too.
        channels: 1 for grey, 3 for colour; by default what the model takes.
        image_size: side of the square that images are resized to, in pixels, or height and width, such as 256x128; by
            default what the model takes.
    """

    model: str | None = None
    mlp_widths: int | str = "512"
    mlp_norm: Literal["batch", "layer", "none"] = "batch"
    mlp_dropout: float = 0.0
    embedding_size: int | None = None
    neck: Literal["linear", "bnneck", "none"] = "linear"
    neck_init: Literal["pca", "random"] | None = None
    pretrained: bool = False
    weights: str | None = None
    init_from: str | None = None
    features: int | None = None
    freeze: Literal["trunk", "batchnorm"] | int | None = None
    unfreeze_at: int | None = None
    channels: Literal[1, 3] | None = None
    image_size: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss, and the batches that it sees.

    Attributes:
        loss: a sum of losses of pml_center or PML by name, each with a weight, arguments and a miner if it takes one:
            'SoftmaxLoss + 0.01 * CenterLoss(alpha=0.5) + TripletMarginLoss @ MultiSimilarityMiner'.
        widths: to how many of its first numbers an embedding may be cut, such as 64x128: the formula is trained on each
            of these, too. By default on the whole alone.
        batch_size: images in a batch, of all processes together; fewer where there are not as many, or not as many
            classes for per_class.
        micro_batch: images that a process takes through the model at a time, for batches beyond its memory; the loss
            sees the whole batch, a step takes one more forward pass. By default all at once.
        per_class: images of each class in a batch; 0 draws images regardless of class.
        accumulate: batches that make one step of the optimizer.
        shard_classes: each of several processes keeps a part of the classes, of their weights and centers.
    """

    loss: str = "SoftmaxLoss + 0.01 * CenterLoss"
    widths: int | str | None = None
    batch_size: int = 128
    micro_batch: int | None = None
    per_class: int = 0
    accumulate: int = 1
    shard_classes: bool = False


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule.

    Attributes:
        epochs: passes over the training images.
        optimizer: any optimizer of timm.
        lr: peak learning rate of the model; by default 0.002, but for what knows something already: 0.0001 for a trunk
            with pretrained weights, 0.001 for a neck from principal components.
        trunk_lr: peak learning rate of the model without its neck; by default that of lr.
        neck_lr: peak learning rate of the neck; by default that of lr.
        layer_decay: factor by which the rate of a block of the trunk is below that of the one behind it, as timm counts
            blocks; 1 is none.
        loss_lr: peak learning rate of the losses' parameters, such as class weights; by default lr.
        center_lr: peak learning rate of centers with update='gradient'; by default loss_lr.
        weight_decay: on the model's weight matrices.
        momentum: of optimizers that have one, such as sgd.
        schedule: of all learning rates, after the warm-up: down to 0 along a cosine or a line, or not at all.
        warmup_epochs: epochs, also fractions of one, in which learning rates rise from 0; by default one, and at most a
            quarter of all.
        clip_grad: longest gradient of model and losses together; by default gradients are not clipped.
        amp: compute the model in half precision; losses stay in fp32, but for the products with all classes of losses
            that have a product_precision.
        ema: decay of the moving average of the model's weights, which then is what is measured; 0 keeps none.
    """

    epochs: int = 20
    optimizer: str = "adamw"
    lr: float | None = None
    trunk_lr: float | None = None
    neck_lr: float | None = None
    layer_decay: float = 1.0
    loss_lr: float | None = None
    center_lr: float | None = None
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_epochs: float | None = None
    clip_grad: float | None = None
    amp: Literal["none", "bf16", "fp16"] = "none"
    ema: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MeasuringConfig:
    """What is measured during training.

    Attributes:
        metric: the retrieval metric that chooses the best epoch on the validation images.
        similarity: how embeddings are compared.
        eval_every: epochs between two looks at the validation images.
        patience: looks without a better metric after which training stops; 0 never stops early.
    """

    metric: str = "mean_average_precision_at_r"
    similarity: Literal["cosine", "dot", "euclidean"] = "cosine"
    eval_every: int = 1
    patience: int = 0


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run.

    Attributes:
        seed: of everything random but the split.
        init_seed: of the weights before the first step; by default seed.
        order_seed: of which images make which batch, and of what their transforms draw; by default seed.
        deterministic: refuse operations whose result may change from run to run on one machine.
        device: 'cpu', 'cuda', or 'auto' for CUDA where it exists.
        checkpoint_every: steps between two checkpoints within an epoch; 0 writes one at the end of each epoch only.
        tensorboard: also write what metrics.jsonl holds for TensorBoard, into the folder tb of the run.
        out: the run folder; by default runs/DATE_MODEL_LOSS.
        overwrite: delete the run that is in this folder already.
    """

    seed: int = 0
    init_seed: int | None = None
    order_seed: int | None = None
    deterministic: bool = False
    device: str = "auto"
    checkpoint_every: int = 0
    tensorboard: bool = False
    out: str | None = None
    overwrite: bool = False


# The last base comes first in the fields.
@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig, MeasuringConfig, OptimizerConfig, LossConfig, ModelConfig, DataConfig):
    """What one training run does: the fields of all sections, in one level.

    Raises:
        TypeError: a value of another type, such as a text for a number.
        ValueError: a number outside its range, or an unknown choice.

    Example:
        >>> TrainConfig("digits", loss="ArcFaceLoss", epochs=5).batch_size
        128
    """

    def __post_init__(self) -> None:
        for name in ("image_size", "mlp_widths", "widths"):  # one value each on the command line, in files and in JSON
            if isinstance(numbers := getattr(self, name), (list, tuple)):
                object.__setattr__(self, name, "x".join(map(str, numbers)))
        if type(self.mlp_widths) is int:
            object.__setattr__(self, "mlp_widths", str(self.mlp_widths))
        for name, kind in get_type_hints(TrainConfig).items():
            if name != "_" and not (name == "data" and isinstance(self.data, tuple)):  # arrays, which `fit` writes down
                _check_type(name, getattr(self, name), kind)
        if self.auto_augment and self.color_jitter and "3a" not in self.auto_augment:
            raise ValueError(
                f"color_jitter must be 0 with auto_augment, got {self.color_jitter}. Choose one: timm takes no more."
            )
        if self.shard_classes and self.amp == "fp16":
            raise ValueError("amp must be 'none' or 'bf16' with shard_classes, got 'fp16'. Use --amp bf16.")
        numbers_of("mlp_widths", self.mlp_widths)
        numbers_of("widths", self.widths)
        sides_of(self.image_size)
        for least, names in ((0, AT_LEAST_0 + SEEDS), (1, AT_LEAST_1)):
            check_at_least(least, SEE_HELP, **{name: getattr(self, name) for name in names})
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value}. {SEE_HELP}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share in [0, 1], got {getattr(self, name)}. 0.2 is a fifth.")
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(
                f"micro_batch must be at most the batch_size of {self.batch_size}, got {self.micro_batch}. "
                "Leave it out, or use a larger --batch-size."
            )
        if self.unfreeze_at is not None and (self.freeze is None or self.unfreeze_at < 2):
            rule = "be at least 2" if self.freeze else "come with freeze"
            raise ValueError(f"unfreeze_at must {rule}, got {self.unfreeze_at}. Say what to --freeze before.")
        if self.neck_init == "pca" and (self.neck != "linear" or self.embedding_size == 0):
            neck = f"neck={self.neck!r}" if self.neck != "linear" else "embedding_size=0, which has none"
            raise ValueError(f"neck_init must be 'random' but for a linear neck, got 'pca' with {neck}. Use 'random'.")
        if self.neck_init == "pca" and self.init_from:
            raise ValueError(
                "neck_init must be 'random' with init_from, whose neck comes along, got 'pca'. Use 'random'."
            )
        if self.init_from and (self.weights or self.pretrained):
            other = "weights" if self.weights else "pretrained"
            raise ValueError(f"{other} must be left out with init_from, got both. Choose one source of weights.")

    @property
    def augments(self) -> bool:
        """Whether an image is another one in every epoch."""
        chances = self.hflip, self.color_jitter, self.random_erasing, self.mixup, self.cutmix
        return self.crop_scale < 1 or self.auto_augment is not None or any(chances)

    @property
    def rate(self) -> float:
        """The peak learning rate of what has none of its own."""
        return 2e-3 if self.lr is None else self.lr

    @property
    def has_fixed_features(self) -> bool:
        """Whether the trunk gives the same features of an image in every epoch."""
        return self.freeze == "trunk" and self.unfreeze_at is None and not self.augments

    @property
    def command(self) -> str:
        """The line that trains it again, for a shell: all that is not left to the defaults, but for its folder.

        Example:
            >>> TrainConfig("my photos", loss="ArcFaceLoss", pretrained=True, out="runs/first").command
            "pml-center train 'my photos' --pretrained --loss ArcFaceLoss"
        """
        words, defaults = ["pml-center", "train", self.data], TrainConfig()
        left_out = "data", "out", "overwrite", "features"  # a new run needs a new folder, and features tell their width
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in left_out and value != getattr(defaults, option.name):
                flag = f"--{option.name.replace('_', '-')}"
                words += [flag] if value is True else [flag, str(value)]
        return shlex.join(words)

    @classmethod
    def of_sections(cls, *sections: Any, **others: Any) -> "TrainConfig":
        """A configuration from its sections, such as a :class:`DataConfig`; what is named here goes before them."""
        values = {name: value for section in sections for name, value in vars(section).items()}
        return cls(**values | others)

    @classmethod
    def recorded(cls, values: Mapping[str, Any], source: str) -> "TrainConfig":
        """As :meth:`of`, of what a run or a comparison wrote down, perhaps of an earlier version."""
        return cls.of({"neck_init": "random", **values} if isinstance(values, Mapping) else values, source)

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str) -> "TrainConfig":
        """A configuration from a mapping, such as a file; ``source`` names it in an error.

        Raises:
            TypeError, ValueError: no mapping, a key that there is not, or a value that its option does not take.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"{source} must map options to values, got {values!r}. Restore the file, or train again.")
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(unknown_name(f"key in {source}", name, known, SEE_HELP))
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{source}: {error}") from None


def sides_of(image_size: int | str | None) -> int | tuple[int, int] | None:
    """The size of images in pixels, of which a text has height and width.

    Raises:
        ValueError: another text, a number below 1.

    Example:
        >>> sides_of("256x128")
        (256, 128)
    """
    if image_size is None:
        return None
    first, *others = numbers_of("image_size", image_size)
    if len(others) > 1:
        raise ValueError(f"image_size must be a number or two, such as 256x128, got {image_size!r}. {SEE_HELP}")
    return (first, others[0]) if others else first


def numbers_of(name: str, value: int | str | None) -> tuple[int, ...]:
    """Whole numbers from 1 on, which a text has with x between them; none of None.

    Raises:
        ValueError: others.

    Example:
        >>> numbers_of("mlp_widths", "512x256"), numbers_of("image_size", 64)
        ((512, 256), (64,))
    """
    if value is None:
        return ()
    if isinstance(value, int):
        check_at_least(1, SEE_HELP, **{name: value})
    elif not re.fullmatch("[1-9][0-9]*(x[1-9][0-9]*)*", value):
        raise ValueError(
            f"{name} must be whole numbers with x between them, such as 256x128, got {value!r}. {SEE_HELP}"
        )
    return tuple(map(int, str(value).split("x")))


def check_at_least(least: int, remedy: str, **values: float | None) -> None:
    """Numbers must be finite and not too small; None stands for a default.

    Raises:
        ValueError: another value.
    """
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}. {remedy}")
        if value == float("inf"):
            raise ValueError(f"{name} must be finite, got {value}. {remedy}")


def _check_type(name: str, value: object, kind: Any) -> None:
    """The command line has looked at its flags; Python and files may say anything."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    choices = [choice for each in kinds if get_origin(each) is Literal for choice in get_args(each)]
    others = [each for each in kinds if each is not NoneType and get_origin(each) is not Literal]
    if (value is None and NoneType in kinds) or value in choices:
        return
    allowed = tuple({int, float} if float in others else others)
    if isinstance(value, allowed) and (not isinstance(value, bool) or bool in others):
        return
    known = " or ".join([*map(repr, choices), *(NAMES[other] for other in others)])
    kind_of_error = ValueError if choices else TypeError
    raise kind_of_error(f"{name} must be {known}, got {value!r}. {SEE_HELP}")
