"""open_images: a data set by name or path."""

from pathlib import Path

from pml_center.data.digits import digits
from pml_center.data.image_folder import image_folder
from pml_center.data.labeled_images import LabeledImages


def open_images(source: str | Path) -> LabeledImages:
    """The data set that a name or a path stands for.

    Args:
        source: ``"digits"`` for the embedded digits, or a folder with one sub-folder of images per class, or a zip
            file of one.

    Raises:
        ValueError: a folder without classes, or with a class that has no images.
        FileNotFoundError: no such folder.

    Example:
        >>> len(open_images("digits"))
        1797
    """
    return digits() if str(source) == "digits" else image_folder(source)


from dataclasses import dataclass
@dataclass(frozen=True)
class ImageSplits:
    train: LabeledImages
    val: LabeledImages | None = None
    test: LabeledImages | None = None
def open_splits(source, root=None):
    return ImageSplits(open_images(source))
