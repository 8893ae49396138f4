"""What a model is worth: retrieval among images that it was not trained on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from pml_center.backbones import Embedder
from pml_center.data import LabeledImages, eval_transform
from pml_center.evaluation import Report, RetrievalEvaluator, embed
from pml_center.evaluation.embedding_cache import cached_embeddings
from pml_center.training.config import TrainConfig

PIXEL_SIDE = 32  # of the grey thumbnails that the raw-pixel base line compares


@dataclass(frozen=True)
class Measurement:
    """Retrieval by a model's embeddings, and by raw pixels, which any model has to beat."""

    model: Report
    pixels: Report


def measure(model: Embedder, images: LabeledImages, config: TrainConfig) -> Measurement:
    """Search each image among all others, by embeddings and by pixels."""
    transform = eval_transform(model.image_size, model.in_chans, model.mean, model.std)
    loader = DataLoader(images.with_transform(transform), config.batch_size, num_workers=config.workers)
    labels = [images.classes[label] for label in images.labels]
    pixels = pixel_rows(images, config.batch_size, config.workers)
    # Thumbnails have length 1, so that distances rank as cosines do; unlike a cosine, they take a plain image.
    return Measurement(
        RetrievalEvaluator()(embed(model, loader)[0], labels),
        RetrievalEvaluator(similarity="euclidean", ci=None)(pixels, labels),
    )


def pixel_rows(images: LabeledImages, batch_size: int, workers: int, cache: Path | None = None) -> NDArray[np.float32]:
    """Images as rows of pixels: a 32 × 32 grey thumbnail, its mean subtracted, of length 1.

    Args:
        images: N of them.
        batch_size: how many at a time.
        workers: processes that read images.
        cache: the folder where rows are kept, None for nowhere.
    """
    recipe = ("grey thumbnail", PIXEL_SIDE)
    thumbnails = images.with_transform(_thumbnail)
    return cached_embeddings(torch.nn.Identity(), thumbnails, recipe, torch.device("cpu"), batch_size, workers, cache)


def _thumbnail(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image.convert("L").resize((PIXEL_SIDE, PIXEL_SIDE)), dtype=np.float32).ravel()
    pixels = pixels - pixels.mean()
    return pixels / max(np.linalg.norm(pixels), np.finfo(np.float32).eps)
