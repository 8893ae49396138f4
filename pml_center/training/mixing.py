"""Mixup and cutmix: each image of a batch with another one in it."""

import numpy as np
import torch
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor


def mixed(images: Tensor, labels: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch mixed with itself in reverse order, as timm's ``Mixup`` does it by the batch.

    λ is drawn from Beta(α, α) by numpy's global generator. ``mixup`` (Zhang et al. 2018) takes ``λ·x + (1 − λ)·x'``,
    ``cutmix`` (Yun et al. 2019) a rectangle of about 1 − λ of x'; with both, one of them by the toss of a coin.

    Args:
        images: (B, C, H, W), or (B, D) features for mixup.
        labels: (B,).
        mixup: α; 0 is none.
        cutmix: α; 0 is none.

    Returns:
        The images, and what a loss takes beside the labels: ``other_labels`` (B,) and ``share`` (B,); nothing where
        nothing was mixed.

    Example:
        >>> images, labels = torch.eye(2), torch.tensor([3, 5])
        >>> np.random.seed(0)
        >>> rows, mixture = mixed(images, labels, mixup=1, cutmix=0)
        >>> rows, mixture["other_labels"]
        (tensor([[0.4491, 0.5509],
                [0.5509, 0.4491]]), tensor([5, 3]))
    """
    if not (mixup or cutmix):
        return images, {}
    if cutmix and images.ndim != 4:
        raise ValueError(f"cutmix must be 0 for features, got {cutmix} and shape {tuple(images.shape)}. Use mixup.")
    cuts = cutmix > 0 and (mixup == 0 or np.random.rand() < 0.5)  # noqa: NPY002 (the one that a step seeds)
    alpha = cutmix if cuts else mixup
    share = float(np.random.beta(alpha, alpha))  # noqa: NPY002
    others = images.flip(0)
    if cuts:
        (top, bottom, left, right), share = cutmix_bbox_and_lam(images.shape, share)
        images = images.clone()
        images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    else:
        images = torch.lerp(others, images, share)
    return images, {"other_labels": labels.flip(0), "share": torch.full(labels.shape, share, device=labels.device)}
