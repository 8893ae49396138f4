"""From a model and images to embeddings."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from pml_center.evaluation.inputs import as_array


def embed(
    model: nn.Module,
    loader: Iterable,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embed all images of a loader, in evaluation mode and without gradients.

    Every part of the model gets its training or evaluation mode back afterwards.

    Args:
        model: images (B, ...) -> embeddings (B, D).
        loader: a DataLoader, or any iterable, of batches (images, labels, ...); whatever follows is ignored.
        device: where to compute; the model is moved there. None means where the model's first parameter is.
        progress: show a progress bar on stderr when that is a terminal.

    Returns:
        embeddings, (N, D) float32, and labels, (N,) int64, in the order of the loader.

    Raises:
        TypeError: labels that are not integers.
        ValueError: a loader without batches, a model whose output is not (B, D), another number of labels.

    Example:
        >>> batches = [(torch.ones(2, 3), torch.tensor([7, 8])), (torch.zeros(1, 3), torch.tensor([9]))]
        >>> embeddings, labels = embed(nn.Identity(), batches)
        >>> embeddings.shape, labels
        ((3, 3), array([7, 8, 9]))
    """
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    else:
        model.to(device)
    embeddings, labels = [], []
    with _evaluating(model), torch.no_grad():
        for images, batch_labels, *_ in tqdm(loader, desc="embed", unit="batch", disable=None if progress else True):
            output, numbers = model(images.to(device, non_blocking=True)), as_array(batch_labels)
            _check_batch(output, numbers)
            embeddings.append(output.float().cpu().numpy())
            labels.append(numbers.astype(np.int64))
    if not embeddings:
        raise ValueError("loader must have at least one batch, got none. Check the data set, or drop_last=True.")
    return np.concatenate(embeddings), np.concatenate(labels)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and outside again the mode of each module: some may be frozen in a training model."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_batch(output: Tensor, labels: NDArray) -> None:
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"model must return embeddings of shape (batch, embedding_size), got {got}. "
            "Pool and flatten feature maps; timm models do both with num_classes=0."
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"labels must be integers, got dtype {labels.dtype}. Let the data set return class numbers and map them to "
            "names afterwards."
        )
    if labels.shape != output.shape[:1]:
        raise ValueError(
            f"labels must have shape (batch,), got shape {labels.shape} for {len(output)} embeddings. "
            "Use labels.argmax(1) for one-hot labels."
        )
