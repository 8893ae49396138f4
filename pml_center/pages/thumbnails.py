"""Small pictures that stand in a page itself."""

import os
from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from pml_center.decoding import convert

SIDE = 96  # pixels at most
MOST = 500  # in a page, so that it stays below 10 MB


class Thumbnails:
    """Pictures as data URIs, until there are enough for a page.

    Args:
        most: how many to give.

    Example:
        >>> thumbnails = Thumbnails(most=1)
        >>> image = np.zeros((200, 100), dtype=np.uint8)
        >>> thumbnails.uri([image], 0)[:23], thumbnails.uri([image], 0)
        ('data:image/jpeg;base64,', None)
    """

    def __init__(self, most: int = MOST):
        self.left = most

    def uri(self, images: Sequence[Any] | None, row: int) -> str | None:
        """The picture of one image, None where there are no images or enough of them were given.

        Args:
            images: paths, PIL images, uint8 arrays, or a data set of (PIL image, label).
            row: which of them.

        Raises:
            ValueError: an image that cannot be read, or of another kind.
        """
        if images is None or not self.left:
            return None
        self.left -= 1
        picture = _opened(images, row)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


def _opened(images: Sequence[Any], row: int) -> Image.Image:
    """The image in RGB, as its data set decodes it, without the transform that is made for a model."""
    from pml_center.data import LabeledImages

    if isinstance(images, LabeledImages):
        image = images.with_transform(None)[row][0]
    else:
        image = images[row]
        image = image[0] if isinstance(image, tuple) else image
    if isinstance(image, (str, os.PathLike, np.ndarray)):
        image = LabeledImages([image], [0], ["image"])[0][0]
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"images must be paths, PIL images or uint8 arrays, got {type(image).__name__} in row {row}. "
            "Pass the images as they were before the transform of the model."
        )
    return convert(image, channels=3).copy()
