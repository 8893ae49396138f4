"""MarginalLoss."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_element_loss import BaseElementLoss
from pml_center.losses.tuning import Range
from pml_center.ops.negative_logits import directions


class MarginalLoss(BaseElementLoss):
    """Marginal loss: one threshold that parts the distances within classes from those between them.

    ``L = 1 / (B² − B) · Σ_{i≠j} max(0, ξ − y_ij · (θ − ‖x_i/‖x_i‖ − x_j/‖x_j‖‖²))`` over all pairs of the batch, with
    y_ij = 1 within a class and −1 between two: squared distances of directions should be below θ − ξ within a class and
    above θ + ξ between classes. Add it to a softmax loss.

    Args:
        threshold: θ, in (0, 4), a squared distance of two points on the unit sphere; 2 is a right angle.
        margin: ξ, at least 0.
        kwargs: ``ignore_index``, ``miner_weighting`` and PML's arguments, see
            :class:`~pml_center.losses.base_element_loss.BaseElementLoss`.

    Shape: embeddings (B, D), labels (B,) any integers -> loss per sample (B,), reduced by ``reducer``; that of a sample
        is its mean over the other B − 1. Memory is O(B² + B·D).

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = MarginalLoss()
        >>> loss(torch.tensor([[5.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))  # 0.3 − (1.2 − 2)
        tensor(1.1000)

    Source: Deng, Zhou and Zafeiriou, Marginal loss for deep face recognition, CVPR Workshops 2017.

    Differs: the port in DongDem/RangeLoss_MarginalLoss_Tensorflow divides all embeddings by the norm of the whole
        batch instead of each by its own, halves the squared distance, and adds each pair once but divides by B² − B.
    """

    takes_any_distance = False

    tuned: ClassVar[dict[str, Range]] = {"threshold": Range("other", 0.8, 1.6), "margin": Range("margin", 0.05, 0.5)}

    def __init__(self, threshold: float = 1.2, margin: float = 0.3, **kwargs):
        super().__init__(**kwargs)
        check_between("in (0, 4)", "The paper has 1.2.", threshold=threshold)
        check_between("finite and at least 0", "The paper has 0.3.", margin=margin)
        self.threshold, self.margin = threshold, margin
        self.add_to_recordable_attributes(list_of_names=["threshold", "margin"], is_stat=False)

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean of each sample over its pairs, (B,)."""
        unit, _ = directions(embeddings)
        squares = 2 - 2 * unit @ unit.t()  # (B, B); of unit vectors nothing cancels that the margin could see
        same = labels.unsqueeze(1) == labels
        excess = torch.where(same, squares - self.threshold, self.threshold - squares)
        pairs = F.relu(self.margin + excess).masked_fill(
            torch.eye(len(labels), dtype=torch.bool, device=same.device), 0
        )
        return pairs.sum(1) / max(len(labels) - 1, 1)

    def get_default_distance(self):
        """PML's hook: the squared Euclidean distance of directions."""
        return LpDistance(normalize_embeddings=True, p=2, power=2)
