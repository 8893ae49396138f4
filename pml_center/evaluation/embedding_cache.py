"""Embeddings that are kept, so that measuring the same images with the same model again need not embed them again."""

import io
import logging
import os
import platform
import zlib
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from pml_center.checks import check_workers
from pml_center.data import LabeledImages
from pml_center.data.archives import file_stamp
from pml_center.decoding import READING, convert
from pml_center.evaluation.embed import embed
from pml_center.names import one_line

LOG = logging.getLogger("pml_center")
SUM = 4  # bytes of the CRC-32 behind what is kept
MOST_BYTES = 2**31  # of all that is kept; the oldest go first


def cached_embeddings(
    model: nn.Module,
    images: LabeledImages,
    recipe: object,
    device: torch.device,
    batch_size: int,
    workers: int,
    folder: Path | None,
) -> NDArray[np.float32]:
    """Embed images, or read what the same model made of the same images before.

    What makes them the same: every weight of the model and its structure, the recipe, how images are read, the kind of
    device, the versions of torch and timm, and path, size and times of every file, or the pixels of images that are no
    files. Of the two times one is that of the last change, which no program sets: a file that is replaced by one of its
    size and age is another.

    Args:
        model: images (B, ...) -> embeddings (B, D).
        images: with the transform that the model needs.
        recipe: what the transform does, in values that print the same every time.
        device: where to compute; the model is moved there.
        batch_size: images at a time.
        workers: processes that read images.
        folder: where embeddings are kept; None keeps nothing and looks for nothing.

    Returns:
        embeddings, (N, D) float32.

    Raises:
        ValueError: an image that cannot be read, a model that does not return embeddings.

    Example:
        >>> import tempfile
        >>> from torchvision.transforms.functional import pil_to_tensor
        >>> from pml_center.data import digits
        >>> images = digits().subset(range(5)).with_transform(pil_to_tensor)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     arguments = nn.Flatten(), images, "pixels", torch.device("cpu"), 4, 0, Path(folder)
        ...     first, second = cached_embeddings(*arguments), cached_embeddings(*arguments)
        ...     len(list(Path(folder).iterdir())), np.array_equal(first, second)
        (1, True)
    """
    check_workers(workers)
    path = None if folder is None else folder / f"{_fingerprint(model, images, recipe, device)}.npy"
    kept = None if path is None else _kept(path, len(images))
    if kept is not None:
        return kept
    embeddings, _ = embed(model, DataLoader(images, batch_size, num_workers=workers), device)
    if path is not None:
        _keep(embeddings, path)
    return embeddings


def model_fingerprint(model: nn.Module) -> str:
    """A text that differs where the structure or any weight of a model differs.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> before = model_fingerprint(model)
        >>> with torch.no_grad():
        ...     _ = model.weight[0, 0].add_(1)
        >>> model_fingerprint(model) == before
        False
    """
    digest = blake2b(repr(model).encode(), digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _fingerprint(model: nn.Module, images: LabeledImages, recipe: object, device: torch.device) -> str:
    versions = (torch.__version__, version("timm"))
    parts = (model_fingerprint(model), recipe, READING, device.type, platform.machine(), *versions, SUM)
    digest = blake2b(repr(parts).encode(), digest_size=16)
    for i, image in enumerate(images.images):
        digest.update(file_stamp(image) if isinstance(image, (str, os.PathLike)) else _of_pixels(images.stored(i)))
    return digest.hexdigest()


def _of_pixels(image: Image.Image) -> bytes:
    pixels = convert(image, channels=3)  # as a model sees them: upright, and a palette by its colours
    return f"{pixels.size}".encode() + pixels.tobytes()


def _kept(path: Path, rows: int) -> NDArray[np.float32] | None:
    """What was kept, if it is there and whole."""
    if not path.is_file():
        return None
    try:
        content = path.read_bytes()  # once: what is checked is what is used
        if zlib.crc32(content[:-SUM]) != int.from_bytes(content[-SUM:], "big"):
            raise ValueError(f"other {len(content):,} bytes than were written")
        embeddings = np.load(io.BytesIO(content))
        if embeddings.dtype != np.float32 or embeddings.ndim != 2 or len(embeddings) != rows:
            raise ValueError(f"got {embeddings.dtype} of shape {embeddings.shape}")
        path.touch()
    except (ValueError, EOFError, OSError) as error:
        LOG.warning("embeddings are made anew: %s is damaged (%s)", path, one_line(error))
        return None
    LOG.info("embeddings of %s images are in the cache: %s", f"{rows:,}", path)
    return embeddings


def _keep(embeddings: NDArray[np.float32], path: Path) -> None:
    """Write embeddings, whole or not at all, and let go of the oldest where there are too many."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with unfinished.open("wb") as stream:
            written = io.BytesIO()
            np.save(written, embeddings)
            stream.write(written.getbuffer())
            stream.write(zlib.crc32(written.getbuffer()).to_bytes(SUM, "big"))
        unfinished.replace(path)
        kept, size = sorted(path.parent.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True), 0
        for file in kept:
            size += file.stat().st_size
            if size > MOST_BYTES and file != path:
                file.unlink()
    except OSError as error:  # a full or read-only disk must not lose what was computed
        LOG.warning("embeddings are not kept: %s", error)
