"""What a model is worth: retrieval among images that it was not trained on."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pml_center.backbones import Embedder
from pml_center.data import LabeledImages, eval_transform
from pml_center.evaluation import Report, RetrievalEvaluator, embed
from pml_center.training.config import TrainConfig

PIXEL_SIDE = 32  # of the grey thumbnails that the raw-pixel base line compares


@dataclass(frozen=True)
class Measurement:
    """Retrieval by a model's embeddings, and by raw pixels, which any model has to beat."""

    model: Report
    pixels: Report


def measure(model: Embedder, images: LabeledImages, config: TrainConfig) -> Measurement:
    """Search each image among all others, by embeddings and by pixels.

    Pixels are those of a 32 × 32 grey thumbnail, its mean subtracted, compared by cosine.
    """
    transform = eval_transform(model.image_size, model.in_chans, model.mean, model.std)
    loader = DataLoader(images.with_transform(transform), config.batch_size, num_workers=config.workers)
    thumbnails = DataLoader(images.with_transform(_thumbnail), config.batch_size, num_workers=config.workers)
    # Thumbnails have length 1, so that distances rank as cosines do; unlike a cosine, they take a plain image.
    pixels = RetrievalEvaluator(similarity="euclidean")(*embed(torch.nn.Identity(), thumbnails))
    return Measurement(RetrievalEvaluator()(*embed(model, loader)), pixels)


def _thumbnail(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image.convert("L").resize((PIXEL_SIDE, PIXEL_SIDE)), dtype=np.float32).ravel()
    pixels = pixels - pixels.mean()
    return pixels / max(np.linalg.norm(pixels), np.finfo(np.float32).eps)
