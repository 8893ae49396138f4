"""From an image as decoded to the tensor that a model takes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pml_center.checks import check_between
from pml_center.decoding import convert
from pml_center.names import one_line


@dataclass(frozen=True)
class Squash:
    """Any image in grey or RGB, see :func:`~pml_center.decoding.convert`, squashed to a size.

    Args:
        size: pixels. (Height, width).
        channels: 1 for grey, 3 for RGB.

    Example:
        >>> Squash((2, 3), channels=1)(Image.new("RGB", (10, 10))).size
        (3, 2)
    """

    size: tuple[int, int]
    channels: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """A smaller image."""
        return convert(image, self.channels).resize(self.size[::-1], Image.Resampling.BICUBIC)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels, (H, W) or (H, W, 3)."""
        return self.size if self.channels == 1 else (*self.size, self.channels)


@dataclass(frozen=True)
class Standardise:
    """Pixels of 8 bits as the numbers that a model takes: in [0, 1], less a mean, over a deviation.

    Args:
        mean: one per channel.
        std: one per channel.

    Example:
        >>> Standardise((0.5,), (0.5,))(Image.new("L", (1, 1), 255))
        tensor([[[1.]]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> Tensor:
        """Of one image: (channels, H, W) float32."""
        return self.batch(np.asarray(image)[None])[0]

    def batch(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Of several images at once, (B, H, W) or (B, H, W, 3), to the same bits: (B, channels, H, W) float32."""
        rows = pixels.reshape(*pixels.shape[:3], -1).transpose(0, 3, 1, 2)
        values = np.divide(rows, np.float32(255), order="C")  # by numpy: small work that needs no second thread
        values -= np.array(self.mean, np.float32)[:, None, None]
        values /= np.array(self.std, np.float32)[:, None, None]
        return torch.from_numpy(values)


@dataclass(frozen=True)
class Transform:
    """From an image as decoded to the tensor that a model takes: what may be random comes last.

    Args:
        squash: makes the image small, the same each time.
        finish: makes a float32 (channels, height, width) of that.
    """

    squash: Squash
    finish: Callable[[Image.Image], Tensor]

    def __call__(self, image: Image.Image) -> Tensor:
        """The tensor."""
        return self.finish(self.squash(image))


def eval_transform(
    image_size: int | tuple[int, int], channels: int, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """The whole image, squashed to the model's input size and standardised. Nothing is cropped, nothing is random.

    Args:
        image_size: pixels. The side, or (height, width).
        channels: 1 for grey, 3 for RGB. Any PIL image is converted, see :func:`~pml_center.decoding.convert`: turned
            upright, 16 bits or floats brought to 8; transparent pixels become white.
        mean: one per channel, for pixels in [0, 1].
        std: one per channel, for pixels in [0, 1].

    Returns:
        A function of a PIL image, which can be pickled for ``DataLoader`` workers.

    Shape: PIL image of any size -> float32 (channels, height, width).

    Raises:
        ValueError: channels other than 1 or 3, or another number of means or deviations than of channels.

    Example:
        >>> transform = eval_transform(32, channels=1, mean=(0.5,), std=(0.5,))
        >>> transform(Image.new("1", (105, 105), 1)).shape
        torch.Size([1, 32, 32])
    """
    _check_channels(channels, mean, std)
    return Transform(Squash(_height_width(image_size), channels), Standardise(tuple(mean), tuple(std)))


def train_transform(
    image_size: int | tuple[int, int],
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop_scale: float = 1.0,
    hflip: float = 0.0,
    auto_augment: str | None = None,
    color_jitter: float = 0.0,
    random_erasing: float = 0.0,
) -> Transform:
    """``eval_transform`` with random changes of the image, all of them off by default.

    The image is squashed before it is cropped, so that an object has the same proportions in training and in
    evaluation whatever the shape of its image.

    Args:
        image_size: pixels. The side, or (height, width).
        channels: 1 for grey, 3 for RGB; converts as ``eval_transform`` does.
        mean: one per channel, for pixels in [0, 1].
        std: one per channel, for pixels in [0, 1].
        crop_scale: least fraction of the area that a crop keeps, in (0, 1]; sides differ by 10 % at most. 1 is no crop.
        hflip: probability of the mirror image, in [0, 1]. Leave it 0 for text and digits.
        auto_augment: what timm is to do to images, in its own words: ``"rand-m9-mstd0.5"`` (RandAugment),
            ``"augmix-m3-w3"``, ``"3a"``, ``"original"``, ``"v0"``.
        color_jitter: how far brightness, contrast and saturation may change, as timm takes it, such as 0.4; not with
            ``auto_augment``.
        random_erasing: probability that a rectangle of the image is replaced by noise, in [0, 1].

    Returns:
        A function of a PIL image, which can be pickled for ``DataLoader`` workers.

    Shape: PIL image of any size -> float32 (channels, height, width).

    Raises:
        ValueError: channels other than 1 or 3, crop_scale outside (0, 1], hflip or random_erasing outside [0, 1], what
            timm does not know.

    Example:
        >>> transform = train_transform((64, 32), 3, mean=(0.5,) * 3, std=(0.5,) * 3, crop_scale=0.8, hflip=0.5)
        >>> transform(Image.new("RGB", (100, 200))).shape
        torch.Size([3, 64, 32])
    """
    from torchvision.transforms import Compose, RandomHorizontalFlip

    _check_channels(channels, mean, std)
    if not 0 < crop_scale <= 1:
        raise ValueError(
            f"crop_scale must be in (0, 1], got {crop_scale}. It is the least fraction of the area that a crop keeps."
        )
    if not 0 <= hflip <= 1:
        raise ValueError(f"hflip must be in [0, 1], got {hflip}. It is the probability of the mirror image.")
    check_between("in [0, 1]", "It is the probability that a part is erased.", random_erasing=random_erasing)
    check_between("at least 0", "0 leaves colours alone.", color_jitter=color_jitter)
    if crop_scale == 1 and not (auto_augment or color_jitter or random_erasing):
        whole = eval_transform(image_size, channels, mean, std)
        return Transform(whole.squash, Compose([RandomHorizontalFlip(hflip), whole.finish])) if hflip else whole
    size = _height_width(image_size)
    height, width = (math.ceil(side / math.sqrt(crop_scale)) for side in size)  # the least crop is not enlarged
    slack = 1.0 if crop_scale == 1 else 1.1
    ratio = size[1] / size[0] / slack, size[1] / size[0] * slack
    steps: dict[str, Any] = {"scale": (crop_scale, 1.0), "ratio": ratio, "hflip": hflip}
    steps |= {"color_jitter": color_jitter or None, "re_prob": random_erasing, "re_mode": "pixel"}
    of_timm: Callable[..., Any] = partial(_of_timm, size, is_training=True, separate=True, **steps)
    in_colour = ((sum(each) / len(each),) * 3 for each in (mean, std))  # whatever the model takes: timm needs it
    try:
        cropped, changed, _ = of_timm(*in_colour, auto_augment=auto_augment)
        if auto_augment and size[0] != size[1]:
            changed(Image.new("RGB", size[::-1]))  # augmix of an older timm takes squares alone
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"auto_augment must be what timm knows, got {auto_augment!r} ({one_line(error)}). "
            "Use 'rand-m9-mstd0.5', 'augmix-m3-w3', '3a', 'original' or 'v0'."
        ) from error
    _, _, finished = of_timm(mean, std)
    seen = 3 if auto_augment or color_jitter else channels
    in_channels = partial(convert, channels=channels)
    return Transform(Squash((height, width), seen), Compose([cropped, changed, in_channels, finished]))


def _of_timm(size: tuple[int, int], mean: Sequence[float], std: Sequence[float], **options: Any) -> Any:
    from timm.data import create_transform

    return create_transform(size, interpolation="bicubic", mean=tuple(mean), std=tuple(std), **options)


def _height_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise ValueError(
            f"image_size must be positive, got {image_size}. Use the model's: create_embedder(...).image_size."
        )
    return height, width


def _check_channels(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}. Use the model's in_chans.")
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"mean and std must have {channels} values because channels={channels}, "
            f"got {len(mean)} and {len(std)}. Use the model's: create_embedder(...).mean and .std."
        )
