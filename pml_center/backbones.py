"""Networks that turn images into embeddings: any timm model, or a small one of our own, behind one interface."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from pml_center.arrays import sum_of_file
from pml_center.checks import check_between
from pml_center.names import require, unknown_name

require(__name__, "timm")

__all__ = ["MLP", "ConvNet", "Embedder", "create_embedder"]

HEAD_EMBEDS = "pml-center: the classifier gives the embedding"  # a note in the config.json of an exported model
SUM = "weights_sum"  # likewise: bytes and CRC-32 of its model.safetensors
HEADS = ("linear", "mlp")  # models of vectors
_NECKS = ("none", "linear", "bnneck")


def create_embedder(
    name: str,
    embedding_size: int | None = None,
    neck: str = "linear",
    pretrained: bool = False,
    *,
    image_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    **timm_kwargs: Any,
) -> "Embedder":
    """An image model by name, ready to embed.

    ``"convnet"`` is this package's own small network for digits and characters (``ConvNet``: 1 channel, 32 × 32
    pixels, no pretrained weights). ``"linear"`` and ``"mlp"`` are heads for vectors, such as the features of a
    pretrained model: the neck alone, or behind hidden layers (``MLP``). Every other name is timm's: ``resnet50``,
    ``resnet50.a1_in1k`` (with the tag of its weights), ``hf-hub:owner/model`` or ``local-dir:path``.

    Args:
        name: ``"convnet"``, ``"linear"``, ``"mlp"`` or a timm model; ``timm.list_models("*resn*")`` lists timm's.
        embedding_size: D; None keeps the width F of the features.
        neck: ``"linear"``, ``"bnneck"`` or ``"none"``; see ``Embedder``.
        pretrained: load the weights that timm names, from the Hugging Face cache or the network.
        image_size: pixels. The side of the input, or (height, width); None is the model's own. Models with a fixed
            input size, such as ViTs, are built for it; convolutional ones take any size and only record it.
        weights: a safetensors or PyTorch file with every weight of the model, instead of ``pretrained``. The file's
            classifier is left out, half precision is cast up, an RGB stem is adapted to ``in_chans``. Position
            embeddings are not resized to ``image_size``: ``pretrained=True, pretrained_cfg_overlay={"file": path}``
            is timm's way, which resizes them and does not mind missing weights.
        timm_kwargs: for ``timm.create_model`` (``in_chans=1``, ``drop_path_rate=0.1``, ...), or for ``ConvNet``; for a
            head ``in_chans``, the numbers in a vector, and what else ``MLP`` takes.

    Returns:
        An embedder in training mode.

    Raises:
        ValueError: an unknown name or neck, an embedding size that the neck cannot give, a file of another model,
            ``pretrained`` where there is nothing to load.
        OSError: no such ``weights`` file; pretrained weights that are not on this machine while there is no network.

    Example:
        >>> embedder = create_embedder("test_vit", embedding_size=16, image_size=64, in_chans=1)
        >>> embedder(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 16])
        >>> create_embedder("resnt50")
        Traceback (most recent call last):
        ...
        ValueError: model must be a known name, got 'resnt50'. Did you mean 'resnet50' or ...
    """
    if pretrained and weights is not None:
        raise ValueError(
            f"weights must be None because pretrained=True, got {str(weights)!r}. Choose one source of weights."
        )
    if name in HEADS:
        trunk, inputs = _head(name, pretrained or weights is not None, image_size, timm_kwargs)
    elif name == "convnet":
        trunk, inputs = _convnet(pretrained, timm_kwargs)
    else:
        trunk, inputs = _timm_model(name, pretrained, image_size, timm_kwargs)
    if weights is not None:
        _load_weights(trunk, Path(weights).expanduser(), name, inputs["in_chans"])
    if image_size is not None:
        inputs["image_size"] = image_size
    return Embedder(trunk, embedding_size, neck, name=name, **inputs)


class Embedder(nn.Module):
    """A trunk that gives features and a neck that makes them embeddings, with what its input must look like.

    Embeddings are not normalised: the losses and the evaluation that need directions normalise them.

    Necks:

    * ``"none"``: the features are the embedding.
    * ``"linear"``: one linear layer with bias to ``embedding_size``; without an ``embedding_size`` there is nothing to
      project to and the features are the embedding.
    * ``"bnneck"``: a linear layer without bias to ``embedding_size`` (if given), then BatchNorm with its bias frozen
      at 0, which centers the classes of a softmax loss around the origin (Luo et al., Bag of Tricks, CVPR Workshops
      2019, arXiv:1903.07071).

    Args:
        trunk: images (B, C, H, W) -> pooled features (B, F), e.g. a timm model with ``num_classes=0``.
        embedding_size: D; None keeps F.
        neck: ``"none"``, ``"linear"`` or ``"bnneck"``.
        name: of the trunk; recorded.
        in_chans: channels C of the images, or numbers in a vector.
        image_size: pixels. The side of the images, or (height, width); None for a trunk of vectors (B, C).
        mean: of each channel, which the input transform subtracts; recorded.
        std: of each channel, by which the input transform divides; recorded.

    Shape: images (B, C, H, W), or vectors (B, C) -> embeddings (B, D).

    Raises:
        ValueError: unknown neck, an embedding size that it cannot give, a trunk that does not pool; in ``forward``
            images of another shape, and a batch of one in training if BatchNorm cannot take it.

    Example:
        >>> trunk = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
        >>> embedder = Embedder(trunk, 8, name="mine", in_chans=3, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> embedder(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 8])

    Differs: Luo et al. give triplet and center losses the features before BatchNorm; here all losses see its output.
    """

    def __init__(
        self,
        trunk: nn.Module,
        embedding_size: int | None = None,
        neck: str = "linear",
        *,
        name: str,
        in_chans: int,
        image_size: int | tuple[int, int] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        sides = (image_size, image_size) if isinstance(image_size, int) else image_size or ()
        features = _feature_width(trunk, (in_chans, *sides))
        self.trunk = trunk
        self.neck = _build_neck(neck, features, embedding_size)
        self.name = name
        self.num_features = features
        self.embedding_size = embedding_size or features
        self.in_chans = in_chans
        self.image_size: Any = (sides[0] if len(set(sides)) == 1 else sides) if sides else None
        self.mean = tuple(mean)
        self.std = tuple(std)
        self._channels_last = not any(map(_dies_in_channels_last, trunk.modules()))
        self._held: list[nn.Parameter] = []  # by freeze
        self._still: list[nn.Module] = []  # likewise: in evaluation mode whatever the rest is in

    def freeze(self, part: str | int | None) -> None:
        """Keep a part of the trunk as it is, and nothing else: what was frozen before moves again.

        Args:
            part: ``"trunk"``, all of it; ``"batchnorm"``, the statistics of its BatchNorm layers, whose weights go on
                learning; a number N, its stem and its first N blocks, as timm groups them; None, nothing. What is
                frozen stays in evaluation mode.

        Raises:
            ValueError: another part, more blocks than there are, a trunk of unknown blocks.

        Example:
            >>> embedder = create_embedder("convnet", embedding_size=4)
            >>> embedder.freeze(2)
            >>> sum(p.numel() for p in embedder.trunk.parameters() if not p.requires_grad)
            93120
            >>> embedder.freeze("trunk")
            >>> [name for name, p in embedder.named_parameters() if p.requires_grad], embedder.train().trunk.training
            (['neck.weight', 'neck.bias'], False)
        """
        held, still = self._to_freeze(part)
        for parameter in self._held:
            parameter.requires_grad_(True)
        is_training = self.training
        self._held, self._still = [p for p in held if p.requires_grad], still
        for parameter in self._held:
            parameter.requires_grad_(False)
        self.train(is_training)

    def start_neck(self, features: Tensor) -> None:
        """Start a linear neck at the principal components of features, the largest first.

        The embeddings are then the features along the D directions in which these vary most, with the mean at the
        origin: a random projection would lose more of what a pretrained trunk knows.

        Args:
            features: (N, F), of the images to train on.

        Raises:
            ValueError: another neck than one linear layer, features of another shape.

        Example:
            >>> embedder = create_embedder("linear", embedding_size=1, in_chans=2)
            >>> embedder.start_neck(torch.tensor([[1.0, 5.0], [3.0, 5.0], [8.0, 5.1]]))
            >>> embedder(torch.tensor([[4.0, 5.0], [5.0, 5.0]])).squeeze().round(decimals=2).tolist()
            [-0.0, 1.0]
        """
        neck = self.neck
        if not isinstance(neck, nn.Linear):
            raise ValueError("neck must be linear to start at principal components, got another. Use neck='linear'.")
        if features.ndim != 2 or features.shape[1] != neck.in_features or not len(features):
            raise ValueError(
                f"features must have shape (rows, {neck.in_features}), got {tuple(features.shape)}. Take the trunk's."
            )
        rows = features.double()
        center = rows.mean(0)
        _, directions = torch.linalg.eigh((rows - center).T @ (rows - center))  # the smallest first
        components = directions.flip(1).T[: neck.out_features]
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        components = components * largest.sign()  # which of both signs is found depends on the library
        with torch.no_grad():
            neck.weight.zero_()  # of numbers beyond the width of the features
            neck.weight[: len(components)] = components.to(neck.weight)
            neck.bias.copy_(-(neck.weight.double().cpu() @ center.cpu()))

    @property
    def is_frozen(self) -> bool:
        """Whether :meth:`freeze` holds a part."""
        return bool(self._held or self._still)

    @property
    def blocks(self) -> list[list[nn.Parameter]]:
        """The parameters of the trunk from its stem to its last block, as timm groups them.

        Raises:
            ValueError: a trunk that does not say.
        """
        from timm.models import group_parameters

        if not hasattr(self.trunk, "group_matcher"):
            raise ValueError(
                f"model must say which blocks it has, got {self.name!r}, which has no group_matcher. "
                "Freeze 'trunk' or 'batchnorm', and leave out layer_decay."
            )
        trunk: Any = self.trunk
        groups = group_parameters(trunk, trunk.group_matcher(coarse=False), return_values=True)
        return [groups[number] for number in sorted(groups)]

    def _to_freeze(self, part: str | int | None) -> tuple[list[nn.Parameter], list[nn.Module]]:
        if part is None:
            return [], []
        if part == "trunk":
            return list(self.trunk.parameters()), [self.trunk]
        if part == "batchnorm":
            return [], [layer for layer in self.trunk.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        if not isinstance(part, int) or part < 1:
            raise ValueError(
                f"freeze must be 'trunk', 'batchnorm' or a number of blocks from 1 on, got {part!r}. Choose one."
            )
        blocks = self.blocks
        if part >= len(blocks):
            raise ValueError(
                f"freeze must be at most the {len(blocks) - 1} blocks of {self.name!r}, got {part}. "
                "Use freeze='trunk' for all."
            )
        held = [parameter for block in blocks[: part + 1] for parameter in block]
        whole = {id(parameter) for parameter in held}
        layers = [(layer, [id(p) for p in layer.parameters()]) for layer in self.trunk.modules()]
        return held, [layer for layer, own in layers if own and whole.issuperset(own)]

    def train(self, mode: bool = True) -> "Embedder":
        """As of any module, but for what is frozen."""
        super().train(mode)
        for module in self._still:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, C, H, W), or of the features (B, F) of images."""
        are_features = images.ndim == 2 and self.image_size is not None
        try:
            return self.neck(images if are_features else self.features(images))
        except ValueError as error:
            if len(images) > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                "images must be at least 2 in training because BatchNorm has no variance over a batch of one, got 1. "
                "Use drop_last=True in the DataLoader or a larger batch; to embed one image, call .eval() first."
            ) from error

    def features(self, images: Tensor) -> Tensor:
        """Features (B, F) of images (B, C, H, W): what the trunk gives, before the neck."""
        if self.image_size is None:
            if images.ndim != 2 or images.shape[1] != self.in_chans:
                raise ValueError(
                    f"features must have shape (batch, {self.in_chans}) because in_chans={self.in_chans}, got shape "
                    f"{tuple(images.shape)}. Take them from the model that made those of training."
                )
            return self.trunk(images)
        if images.ndim != 4 or images.shape[1] != self.in_chans:
            raise ValueError(
                f"images must have shape (batch, {self.in_chans}, height, width) because in_chans={self.in_chans}, "
                f"got shape {tuple(images.shape)}. Convert them, or build the model with create_embedder(..., "
                "in_chans=...)."
            )
        if self._channels_last:
            images = images.to(memory_format=torch.channels_last)  # convolutions are up to twice as fast, ViTs the same
        return self.trunk(images)


class Trunk(nn.Module):
    """The features of an embedder as embeddings.

    Args:
        model: whose neck is left out.

    Shape: as of the model, but for the width of the features.
    """

    def __init__(self, model: Embedder):
        super().__init__()
        self.trunk = model.trunk
        self.features = model.features
        self.embedding_size = model.num_features
        self.image_size, self.in_chans, self.mean, self.std = model.image_size, model.in_chans, model.mean, model.std

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, F) of images."""
        return self.features(images)


class ConvNet(nn.Module):
    """A small convolutional network for digits and characters: four blocks of 3 × 3 convolution, BatchNorm and PReLU.

    The first three blocks halve the image; the last is averaged over what is left of it. 0.24 million weights at the
    default width.

    Args:
        in_chans: channels C of the images.
        width: channels of the first block; the features have ``4 · width``.

    Shape: images (B, C, H, W) of at least 8 × 8 pixels -> features (B, 4 · width).

    Raises:
        ValueError: smaller images.

    Example:
        >>> ConvNet(width=8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    def __init__(self, in_chans: int = 1, width: int = 32):
        super().__init__()
        self.in_chans = in_chans
        self.blocks = nn.Sequential(
            *_block(in_chans, width),
            nn.MaxPool2d(2),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
            nn.MaxPool2d(2),
            *_block(4 * width, 4 * width),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 4 · width) of images (B, C, H, W)."""
        if min(images.shape[-2:]) < 8:
            raise ValueError(
                f"images must have at least 8 × 8 pixels, got {images.shape[-2]} × {images.shape[-1]}. "
                "Enlarge them, e.g. with image_size=32."
            )
        return self.blocks(images).mean((-2, -1))

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The block of a parameter by its name, as timm's models say it; there is no coarser division."""
        return lambda name: int(name.split(".")[1]) // 4  # three layers, and a pooling that has no parameters


class MLP(nn.Sequential):
    """Hidden layers for vectors: for each width a linear layer, a normalisation, ReLU and dropout.

    Args:
        in_chans: numbers in a vector.
        widths: of the hidden layers; none leaves the vector as it is.
        norm: ``"batch"``, ``"layer"`` or ``"none"``.
        dropout: share of the numbers that training sets to 0 behind each layer, in [0, 1).

    Shape: (B, in_chans) -> features (B, last width).

    Raises:
        ValueError: a width below 1, an unknown norm, a share outside [0, 1).

    Example:
        >>> MLP(8, widths=(16, 4))(torch.zeros(2, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, in_chans: int, widths: Sequence[int] = (512,), norm: str = "batch", dropout: float = 0.0):
        for width in (in_chans, *widths):
            check_between("an integer of at least 1", "It is the numbers in a vector.", width=width)
        check_between("in [0, 1)", "0 is none.", dropout=dropout)
        norms: dict[str, Callable[[int], nn.Module]] = {
            "batch": nn.BatchNorm1d,
            "layer": nn.LayerNorm,
            "none": lambda width: nn.Identity(),
        }
        if norm not in norms:
            raise ValueError(unknown_name("norm", norm, list(norms), "Use 'batch', 'layer' or 'none'."))
        layers = [
            nn.Sequential(nn.Linear(before, width), norms[norm](width), nn.ReLU(), nn.Dropout(dropout))
            for before, width in pairwise((in_chans, *widths))
        ]
        super().__init__(*layers)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The layer of a parameter by its name, as timm's models say it; there is no coarser division."""
        return lambda name: int(name.split(".")[0])


def _block(in_chans: int, out_chans: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_chans, out_chans, 3, padding=1, bias=False)  # BatchNorm subtracts any bias again
    return [convolution, nn.BatchNorm2d(out_chans), nn.PReLU(out_chans)]


def _build_neck(neck: str, features: int, embedding_size: int | None) -> nn.Module:
    if neck not in _NECKS:
        raise ValueError(unknown_name("neck", neck, _NECKS, f"Necks are {', '.join(map(repr, _NECKS))}."))
    if embedding_size is not None and embedding_size < 1:
        raise ValueError(
            f"embedding_size must be at least 1, got {embedding_size}. Use None for the model's own {features}."
        )
    if neck == "none" and embedding_size not in (None, features):
        raise ValueError(
            f"embedding_size must be {features} or None because neck='none' keeps the model's {features} features, "
            f"got {embedding_size}. Use neck='linear' to project them."
        )
    if neck == "none" or embedding_size is None:
        projection: nn.Module = nn.Identity()
    else:
        projection = nn.Linear(features, embedding_size, bias=neck == "linear")
    if neck != "bnneck":
        return projection
    norm = nn.BatchNorm1d(embedding_size or features)
    norm.bias.requires_grad_(False)
    return nn.Sequential(projection, norm)


def _dies_in_channels_last(layer: nn.Module) -> bool:
    """Whether backward through a layer may end the process: a fault of torch's kernels for CPUs with AVX2.

    They write beyond their memory for 1 × 1 convolutions with a stride on up to 4 channels (pytorch issue 136348).
    Stems that are merged for inference have them: RepVGG, MobileOne, FastViT.
    """
    return (
        isinstance(layer, nn.Conv2d)
        and layer.in_channels <= 4
        and set(layer.kernel_size) == {1}
        and max(layer.stride) > 1
    )


def _feature_width(trunk: nn.Module, input_size: tuple[int, ...]) -> int:
    """F by trying one image: what models say of themselves (``num_features``) is wrong for some."""
    like = next(trunk.parameters(), torch.empty(0))
    was_training = trunk.training
    try:
        with torch.no_grad():
            features = trunk.eval()(like.new_zeros(1, *input_size))
    except AssertionError as error:  # timm's word for an image size that does not fit
        raise ValueError(
            f"image_size must fit the model, got {input_size[1]} × {input_size[2]} ({error}). Use another image_size."
        ) from error
    trunk.train(was_training)
    if features.ndim != 2:
        raise ValueError(
            f"trunk must give pooled features of shape (batch, features), got shape {tuple(features.shape)}. "
            "Leave out global_pool='' and features_only, or add a pooling layer."
        )
    return features.shape[1]


def _head(name: str, pretrained: bool, image_size: Any, kwargs: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    if pretrained or image_size is not None:
        what = "weights" if pretrained else f"image_size={image_size}"
        raise ValueError(f"{name!r} must start from nothing and takes vectors, got {what}. Leave it out.")
    if "in_chans" not in kwargs:
        raise ValueError(f"in_chans must say how many numbers are in a vector for {name!r}, got none. Give it.")
    if name == "linear" and len(kwargs) > 1:
        raise TypeError(
            f"'linear' must have no hidden layers, got {', '.join(kwargs.keys() - {'in_chans'})}. Use 'mlp'."
        )
    trunk = nn.Identity() if name == "linear" else MLP(**kwargs)
    return trunk, {"in_chans": kwargs["in_chans"], "image_size": None, "mean": (), "std": ()}


def _convnet(pretrained: bool, kwargs: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    if pretrained:
        raise ValueError(
            "pretrained must be False because 'convnet' has no pretrained weights, got True. "
            "Train it, or choose a timm model."
        )
    trunk = ConvNet(**kwargs)
    half = (0.5,) * trunk.in_chans
    return trunk, {"in_chans": trunk.in_chans, "image_size": 32, "mean": half, "std": half}


def _timm_model(
    name: str, pretrained: bool, image_size: int | tuple[int, int] | None, timm_kwargs: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
    from timm.data import resolve_model_data_config

    _check_timm_name(name)
    if "img_size" in timm_kwargs:
        raise TypeError(
            f"img_size must be given as image_size, got img_size={timm_kwargs['img_size']}. Rename the argument."
        )
    try:
        trunk = _create_sized(name, pretrained, image_size, timm_kwargs)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, URLError) as error:
        raise OSError(
            f"{name!r} must be in the Hugging Face cache or be downloaded, got no file in "
            f"{timm_kwargs.get('cache_dir', HF_HUB_CACHE)} and no network: this machine is offline. "
            "Connect once, or pass a timm name with pretrained=False (--no-pretrained) or weights=FILE (--weights)."
        ) from error
    data = resolve_model_data_config(trunk)
    in_chans = timm_kwargs.get("in_chans", data["input_size"][0])
    return trunk, {
        "in_chans": in_chans,
        "image_size": data["input_size"][1:],
        "mean": _per_channel(data["mean"], in_chans),
        "std": _per_channel(data["std"], in_chans),
    }


def _create_sized(
    name: str, pretrained: bool, image_size: int | tuple[int, int] | None, timm_kwargs: dict[str, Any]
) -> nn.Module:
    from timm import create_model

    if pretrained:
        _check_as_exported(name)
    head = _embedding_head(name, timm_kwargs.get("cache_dir"))
    overlay = safetensors_of(name) | (timm_kwargs.get("pretrained_cfg_overlay") or {})
    timm_kwargs = timm_kwargs | {"pretrained_cfg_overlay": overlay or None}
    create = partial(create_model, name, pretrained=pretrained, num_classes=head, **timm_kwargs)
    if image_size is not None:
        try:
            return create(img_size=image_size)
        except TypeError as error:
            if "img_size" not in str(error):
                raise  # else a convolutional model: it takes images of any size and no such argument
    return create()


def _check_as_exported(name: str) -> None:
    """Weights of a local folder must be as ``export_timm`` wrote them, where it wrote down their sum.

    Raises:
        ValueError: others.
    """
    source, _, place = name.partition(":")
    folder = Path(place).expanduser()
    files = [folder / "config.json", folder / "model.safetensors"]
    if source.lower() != "local-dir" or not all(file.is_file() for file in files):
        return
    known = json.loads(files[0].read_text(encoding="utf-8")).get(SUM)
    if known not in (None, sum_of_file(files[1])):
        raise ValueError(
            f"weights must be as `pml-center export` wrote them, got other bytes in {str(files[1])!r}: the file is "
            f"damaged, or another one. Export again, or take {SUM!r} out of config.json if they are to be others."
        )


def safetensors_of(name: str) -> dict[str, Any]:
    """What makes timm read the weights of a local folder; before 1.0.26 it takes safetensors there for a pickle."""
    source, _, place = name.partition(":")
    file = Path(place).expanduser() / "model.safetensors"
    if source.lower() != "local-dir" or not file.is_file():
        return {}
    return {"source": "", "file": str(file), "custom_load": False}


def full_name(name: str) -> str:
    """The same model, to be made from any folder: the path of a ``local-dir:`` becomes absolute.

    Example:
        >>> full_name("resnet18"), full_name("local-dir:/models/../mine")
        ('resnet18', 'local-dir:/mine')
    """
    source, _, place = name.partition(":")
    return f"{source}:{Path(place).expanduser().resolve()}" if source.lower() == "local-dir" else name


def _embedding_head(name: str, cache_dir: str | None) -> int:
    """The width of an embedding that the classifier of an exported model gives; 0 for a classifier of classes."""
    from timm.models import load_model_config_from_hf

    source, _, place = name.partition(":")
    if source.lower() in ("hf-hub", "hf_hub"):
        config = load_model_config_from_hf(place, cache_dir=cache_dir)[0]
    elif source.lower() == "local-dir" and (Path(place) / "config.json").is_file():
        saved = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))
        config = {"num_classes": saved.get("num_classes")} | saved.get("pretrained_cfg", {})
    else:
        return 0  # a name of timm's own, or what timm checks and explains
    return config["num_classes"] if HEAD_EMBEDS in config.get("notes", ()) else 0


def _check_timm_name(name: str) -> None:
    from timm import is_model, list_models

    if ":" in name or "/" in name:
        return  # a source and a path, which timm checks and explains
    known = ["convnet", *HEADS, *list_models(), *list_models(include_tags=True)]
    if name not in known and ("." in name or not is_model(name)):  # is_model also knows names that are no longer listed
        remedy = f"List the models with timm.list_models('*{name[:4]}*'), or `pml-center models '*{name[:4]}*'`."
        raise ValueError(unknown_name("model", name, known, remedy))


def _per_channel(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """The RGB values that timm gives, or their average for any other number of channels."""
    return tuple(values) if len(values) == in_chans else (sum(values) / len(values),) * in_chans


def _load_weights(trunk: nn.Module, path: Path, name: str, in_chans: int) -> None:
    from timm.models import adapt_input_conv

    state, expected = _read_weights(path), trunk.state_dict()
    config = getattr(trunk, "pretrained_cfg", {})
    classifiers = tuple(f"{layer}." for layer in _layers(config.get("classifier")))
    state = {key: value for key, value in state.items() if key in expected or not key.startswith(classifiers)}
    for key in (f"{layer}.weight" for layer in _layers(config.get("first_conv"))):
        if key in state and state[key].shape != expected[key].shape:
            state[key] = adapt_input_conv(in_chans, state[key].float())  # summed at full precision
    faults = {
        "missing": [key for key in expected if key not in state],
        "foreign": [key for key in state if key not in expected],
        "of another shape": [key for key in state if key in expected and state[key].shape != expected[key].shape],
    }
    if any(faults.values()):
        found = ", ".join(f"{len(keys)} {fault} (e.g. {keys[0]!r})" for fault, keys in faults.items() if keys)
        raise ValueError(
            f"weights must hold every weight of {name!r} and no other, got {str(path)!r} with {found}. "
            "Use a file that was saved from this model at this image_size."
        )
    trunk.load_state_dict(state)  # copies into the trunk's own dtype


def _read_weights(path: Path) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    if not path.is_file():
        raise FileNotFoundError(f"weights must be an existing file, got {str(path)!r}. Check the path.")
    try:
        return load_state_dict(str(path), weights_only=True)  # an older timm would run what a pickle holds
    except Exception as error:  # each format and each kind of damage raises its own
        raise ValueError(
            f"weights must be a safetensors or PyTorch file of tensors, got {str(path)!r} "
            f"({type(error).__name__}: {error}). Save the weights again, e.g. with safetensors.torch.save_file."
        ) from error


def _layers(names: str | Sequence[str] | None) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names or ()
