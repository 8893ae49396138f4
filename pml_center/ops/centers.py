"""Centers: moved in closed form, in time and memory that do not depend on how many classes there are."""

import torch
from torch import Tensor


@torch.no_grad()
def center_step(centers: Tensor, embeddings: Tensor, labels: Tensor, alpha: float) -> None:
    """Move the center of each class present, in place: ``c += α · Σ (x − c) / (1 + n)`` (Wen et al. 2016, eq. 4).

    O(B·D): classes without an embedding are not touched.

    Args:
        centers: (C, D), changed in place.
        embeddings: (B, D).
        labels: (B,) in [0, C).
        alpha: the rate. With 1 and a single embedding n of a class, its center moves half of the way.

    Example:
        >>> import torch
        >>> centers = torch.zeros(3, 2)
        >>> center_step(centers, torch.tensor([[4.0, 8.0]]), torch.tensor([1]), alpha=0.5)
        >>> centers
        tensor([[0., 0.],
                [1., 2.],
                [0., 0.]])
    """
    if embeddings.is_cuda:  # where nobody has looked: one overflow of half precision must not spoil a center for good
        finite = embeddings.isfinite().all(1)
        embeddings, labels = embeddings[finite], labels[finite]
    classes, index, counts = labels.unique(return_inverse=True, return_counts=True)
    difference = embeddings.to(centers.dtype) - centers[labels]  # (B, D)
    step = centers.new_zeros(len(classes), centers.shape[1]).index_add_(0, index, difference)
    centers.index_add_(0, classes, alpha * step / (1 + counts).to(step).unsqueeze(1))
