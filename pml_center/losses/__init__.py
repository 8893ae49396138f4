"""Losses, one file a paper, each a first-class loss of pytorch-metric-learning."""

from pml_center.losses.arcface_loss import ArcFaceLoss
from pml_center.losses.base_center_loss import BaseCenterLoss
from pml_center.losses.center_loss import CenterLoss
from pml_center.losses.cosface_loss import CosFaceLoss
from pml_center.losses.margin_softmax_loss import MarginSoftmaxLoss
from pml_center.losses.normalized_softmax_loss import NormalizedSoftmaxLoss
from pml_center.losses.softmax_loss import SoftmaxLoss

__all__ = [
    "ArcFaceLoss",
    "BaseCenterLoss",
    "CenterLoss",
    "CosFaceLoss",
    "MarginSoftmaxLoss",
    "NormalizedSoftmaxLoss",
    "SoftmaxLoss",
]
