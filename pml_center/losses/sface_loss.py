"""SFaceLoss."""

from typing import ClassVar

import torch
from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import SCALE, Range
from pml_center.ops.margins import angle
from pml_center.ops.negative_logits import Elementwise, NegativeLogits, negative_sum


class SFaceLoss(BaseSoftmaxLoss):
    """SFace: cosines moved with a strength that fades where they are good enough.

    ``ℓ = −[r_y]·cos θ_y + Σ_{j≠y} [r_j]·cos θ_j`` with ``r_y = s / (1 + e^{−k(θ_y − a)})`` and
    ``r_j = s / (1 + e^{k(θ_j − b)})``, which are taken for constants. Pulling stops near the angle a and pushing beyond
    b, so that noisy samples are not fitted at any price. It is no cross entropy: a loss may be negative.

    Args:
        num_classes: C.
        embedding_size: D.
        scale: s > 0.
        slope: k > 0, how fast the strength changes with the angle.
        pull_until: a, radians in [0, π].
        push_until: b, radians in [0, π]; the paper has 1.2 with ``pull_until=0.87`` on CASIA-WebFace.
        kwargs: ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`; no ``label_smoothing``.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = SFaceLoss(2, 2, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> loss(torch.tensor([[0.6, 0.8]]), torch.tensor([0])).detach()  # 0.8 − 0.6
        tensor(0.2000)
        >>> loss(torch.tensor([[0.8, 0.6]]), torch.tensor([0])).detach()  # near enough: pulled no more
        tensor(0.6000)

    Source: Zhong et al., SFace, IEEE TIP 2021, arXiv:2205.12010.
    """

    default_gradient = None  # what multiplies the cosine is its gradient

    margin_unit = "cosine"
    tuned: ClassVar[dict[str, Range]] = {"scale": SCALE, "pull_until": Range("margin", 0.5, 1.1)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: float = 64,
        slope: float = 80,
        pull_until: float = 0.8,
        push_until: float = 1.23,
        **kwargs,
    ):
        check_between("positive", "The paper's is 80.", slope=slope)
        usual = "The paper has 0.8 and 1.23."
        check_between("in [0, π] radians", usual, pull_until=pull_until, push_until=push_until)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.slope, self.pull_until, self.push_until = slope, pull_until, push_until
        self.add_to_recordable_attributes(list_of_names=["slope", "pull_until", "push_until"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``[r_y/s]·cos θ``."""
        return torch.sigmoid(self.slope * (angle(batch.cosine.detach()) - self.pull_until)) * batch.cosine

    def negative_margin(self, target: Tensor) -> Elementwise:
        """``[r_j/s]·cos θ``."""
        slope, until = self.slope, self.push_until
        return lambda cosine: torch.sigmoid(slope * (until - angle(cosine.detach()))) * cosine

    def combine(self, target: Tensor, negatives: NegativeLogits) -> Tensor:
        """The others less one's own."""
        return negative_sum(negatives) - target
