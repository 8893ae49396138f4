"""ArcNegFaceLoss."""

import math

import torch
from torch import Tensor

from pml_center.checks import check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.cross_entropy import Elementwise
from pml_center.ops.margins import BeyondPi, Gradient, additive_angular, detached


class ArcNegFaceLoss(BaseSoftmaxLoss):
    """ArcNegFace: ArcFace in which other classes count more the nearer they are to one's own.

    The target is ArcFace's ``a = cos(θ_y + m)``; the cosine c to another class becomes ``t·c + t − 1`` with
    ``t = α·e^{−(c − a)²/σ}``, taken for a constant. Classes far beyond one's own on either side, such as those of
    wrong labels, count less.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, radians in [0, π]. Larger is stricter.
        scale: s > 0, the factor of all cosines.
        strength: α > 0, of a class that is as near as one's own.
        width: σ > 0, of the differences of cosines that count.
        gradient: ``"full"`` differentiates ``cos(θ + m)``; ``"detached"`` takes the margin for a constant.
        beyond_pi: where ``θ_y + m > π``, see :class:`ArcFaceLoss`.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = ArcNegFaceLoss(num_classes=10, embedding_size=64)
        >>> loss(torch.randn(8, 64), torch.arange(8)).shape
        torch.Size([])

    Source: Liu et al., Towards flops-constrained face recognition, ICCV workshops 2019, arXiv:1909.00632.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.5,
        scale: float = 64,
        strength: float = 1.2,
        width: float = 2.0,
        gradient: Gradient = "full",
        beyond_pi: BeyondPi = "linear",
        **kwargs,
    ):
        if not 0 <= margin <= math.pi:
            raise ValueError(f"margin must be in [0, π] radians, got {margin}. The paper's margin is 0.5.")
        for name, value, usual in (("strength", strength, 1.2), ("width", width, 2)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}. The paper's is {usual}.")
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        check_choices(gradient=(gradient, Gradient), beyond_pi=(beyond_pi, BeyondPi))
        self.margin, self.strength, self.width = margin, strength, width
        self.gradient, self.beyond_pi = gradient, beyond_pi
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        return detached(batch.cosine, additive_angular(batch.cosine, self.margin, self.beyond_pi), self.gradient)

    def negative_margin(self, target: Tensor) -> Elementwise:
        """``t·c + t − 1``."""
        center, strength, width = target.unsqueeze(1), self.strength, self.width

        def weighted(cosine: Tensor) -> Tensor:
            weight = strength * torch.exp(-(cosine.detach() - center).square() / width)
            return weight * (cosine + 1) - 1

        return weighted
