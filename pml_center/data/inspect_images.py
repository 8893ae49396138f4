"""inspect_images: which images decode, and what they look like."""

from dataclasses import dataclass
from hashlib import blake2b

from PIL import UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from pml_center.checks import check_workers
from pml_center.data.labeled_images import LabeledImages
from pml_center.decoding import convert
from pml_center.notebooks import progress_bar


@dataclass(frozen=True)
class ImageFacts:
    """What one image is.

    Attributes:
        size: pixels. Width and height once it is upright; None for an image that cannot be read.
        mode: of PIL, such as ``L`` or ``RGB``, as the file holds it; empty for an image that cannot be read.
        digest: equal for images with equal pixels once they are converted to RGB with 8 bits; empty likewise.
        error: why it cannot be read; empty for one that can.
    """

    size: tuple[int, int] | None
    mode: str
    digest: str
    error: str = ""


def inspect_images(images: LabeledImages, workers: int = 0) -> list[ImageFacts]:
    """Decode each image to its end and say what it is; a progress bar on stderr shows how far it is.

    Args:
        images: N of them; their transform does not count.
        workers: processes that read images; 0 reads in this one.

    Returns:
        N facts, in the order of the images.

    Example:
        >>> import numpy as np
        >>> pixels = np.zeros((8, 8), np.uint8)
        >>> first, second, gone = inspect_images(LabeledImages([pixels, pixels, "gone.png"], [0, 1, 1], ["ant", "bee"]))
        >>> first.size, first.mode, first.digest == second.digest, gone.error
        ((8, 8), 'L', True, "FileNotFoundError: [Errno 2] No such file or directory: 'gone.png'")
    """
    check_workers(workers)
    loader = DataLoader(_Inspected(images), batch_size=64, num_workers=workers, collate_fn=list)
    facts: list[ImageFacts] = []
    with progress_bar(total=len(images), desc="read", unit="image") as bar:
        for batch in loader:
            facts += batch
            bar.update(len(batch))
    return facts


def readable(images: LabeledImages, workers: int = 0) -> tuple[LabeledImages, list[str]]:
    """The images that decode, those classes alone that keep one, and the names of all others.

    Args:
        images: see :func:`inspect_images`.
        workers: likewise.

    Raises:
        ValueError: no image can be read.
    """
    facts = inspect_images(images, workers)
    bad = [i for i, fact in enumerate(facts) if fact.error]
    if not bad:
        return images, []
    if len(bad) == len(images):
        raise ValueError(
            f"images must have one that can be read, got {len(bad)} that cannot, e.g. {images.name(0)} "
            f"({facts[0].error}). Check the data set with `pml-center data check`."
        )
    kept = images.subset([not fact.error for fact in facts], renumber=True)
    return kept, [images.name(i) for i in bad]


class _Inspected(Dataset):
    """The facts of each image, in the place of the image."""

    def __init__(self, images: LabeledImages):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> ImageFacts:
        try:
            image = self.images.stored(i)
            pixels = convert(image, channels=3)
        except ValueError as error:
            return ImageFacts(None, "", "", _reason(error))
        content = blake2b(f"{pixels.size}".encode() + pixels.tobytes(), digest_size=16)
        return ImageFacts(pixels.size, image.mode, content.hexdigest())


def _reason(error: ValueError) -> str:
    """The cause, without the sentence around it."""
    cause = error.__cause__
    if isinstance(cause, UnidentifiedImageError):
        return "no image format that is known"  # PIL names the stream, by its address
    return str(error) if cause is None else f"{type(cause).__name__}: {cause}"
