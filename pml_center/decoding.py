"""What an image is: how it is read, turned and brought to 8 bits. Nothing else in the package does so."""

from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

READING = 2  # a new number where the same file would become other pixels: what was made of the old ones is made anew
# Modes of PIL with 8 bits a channel or fewer, which it converts to grey and RGB by itself.
EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
SIXTEEN_BIT_FORMATS = {"PPM", "PNG"}  # whose mode I, 32 bits in PIL, holds 16 by the rule of the format
TURNS = {  # what EXIF calls an orientation: how a viewer turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(file: BinaryIO) -> Image.Image:
    """The whole of an image file, as it is stored; of several frames or pages the first.

    Raises:
        Exception: of many kinds, where it cannot be read to its end.
    """
    with Image.open(file) as opened:
        opened.load()  # Image.open reads the header only; a truncated file shows itself here
        return opened


def standard(image: Image.Image) -> Image.Image:
    """An image as viewers show it: upright by its EXIF orientation, with 8 bits a channel.

    16 bits are divided by 257, so that 65535 becomes 255. Floating-point pixels must be in [0, 1] and become 255 times
    as much. Where a format or a colour space does not tell the range, nothing is guessed.

    Raises:
        ValueError: pixels without a known range: 32-bit integers, other floating-point numbers, LAB.

    Example:
        >>> deep = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))
        >>> np.asarray(standard(deep)), standard(Image.new("F", (1, 1), 0.5)).getpixel((0, 0))
        (array([[  0,   1, 255]], dtype=uint8), 128)
        >>> standard(Image.new("I", (1, 1), 70000))
        Traceback (most recent call last):
        ...
        ValueError: pixels must have a known range: 8 or 16 bits, or floating point in [0, 1], got mode I (32-bit ...
    """
    orientation = _orientation(image)
    image = _with_8_bits(image)
    if orientation is None:
        return image
    turned = image.transpose(TURNS[orientation])
    # What was said of the picture on its side must not turn it again. Of the rest only the clear colour counts.
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned


def convert(image: Image.Image, channels: int) -> Image.Image:
    """Any image as :func:`standard` gives it, in grey (1 channel) or RGB (3 channels), over white where it is clear.

    Raises:
        ValueError: pixels without a known range.

    Example:
        >>> convert(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), channels=3).getpixel((0, 0))
        (255, 255, 255)
    """
    image = standard(image)
    if image.has_transparency_data:  # PIL's own conversion drops alpha and shows whatever colour lay below
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("L" if channels == 1 else "RGB")


def _with_8_bits(image: Image.Image) -> Image.Image:
    if image.mode in EIGHT_BITS:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BIT_FORMATS):
        deep = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
        if "transparency" not in image.info:
            return grey
        alpha = Image.fromarray(np.where(deep == image.info["transparency"], 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha))
    got = f"mode {image.mode}"
    if image.mode == "F":
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 1:  # which is false of NaN
            return Image.fromarray((values * 255 + 0.5).astype(np.uint8))
        got += f" (floating point) from {values.min():.6g} to {values.max():.6g}"
    elif image.mode == "I":
        got += " (32-bit integers)"
    raise ValueError(
        f"pixels must have a known range: 8 or 16 bits, or floating point in [0, 1], got {got}. "
        "Save the image in grey or RGB with 8 bits."
    )


def _orientation(image: Image.Image) -> int | None:
    """What the EXIF or XMP data ask for, None where that is nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged data raise errors of many kinds; viewers show the picture as it lies, and it is sound
        return None
    return orientation if orientation in TURNS else None
