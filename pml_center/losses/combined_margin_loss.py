"""CombinedMarginLoss."""

import math

from torch import Tensor

from pml_center.checks import check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.cross_entropy import Elementwise
from pml_center.ops.margins import BeyondPi, Gradient, additive_cosine, combined_angular, detached


class CombinedMarginLoss(BaseSoftmaxLoss):
    """Combined margin: the margins of SphereFace, ArcFace and CosFace in one.

    ``ℓ = −log( e^{s·ψ} / (e^{s·ψ} + Σ_{j≠y} e^{s·cos θ_j}) )`` with ``ψ = cos(m₁θ_y + m₂) − m₃``. The paper's
    combinations are (1, 0.3, 0.2) and (0.9, 0.4, 0.15), which it finds a little better than one margin alone.

    Args:
        num_classes: C.
        embedding_size: D.
        m1: the factor of the angle, above 0; 1 leaves it alone.
        m2: radians in [0, π], added to the angle.
        m3: a cosine of at least 0, subtracted.
        scale: s > 0, the factor of all cosines.
        gradient: ``"full"`` differentiates ψ; ``"detached"`` takes ``ψ − cos θ`` for a constant.
        beyond_pi: where ``m₁θ + m₂ > π``: ``"linear"`` continues by ``cos θ − a·sin a``, where a is what the angle has
            gained there (m₂ if m₁ = 1); ``"rotate"`` lets the cosine turn; ``"easy"`` applies m₁ and m₂ only where
            ``cos θ_y > 0``.
        filter_threshold: cosines to other classes above it count as 0 and get no gradient: likely the same person
            under two labels. None filters nothing.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); a margin outside its range; scale not positive.

    Example:
        >>> import torch
        >>> loss = CombinedMarginLoss(num_classes=10, embedding_size=64)
        >>> loss(torch.randn(8, 64), torch.arange(8)).shape
        torch.Size([])

    Source: Deng et al., ArcFace, CVPR 2019, arXiv:1801.07698 (equation 4).

    Differs: insightface's PyTorch class of this name applies only m₃ where m₃ > 0, only m₂ else, and refuses other
        m₁; its gradient is ``"detached"`` and its ``beyond_pi`` ``"rotate"``.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        m1: float = 1.0,
        m2: float = 0.3,
        m3: float = 0.2,
        scale: float = 64,
        gradient: Gradient = "full",
        beyond_pi: BeyondPi = "linear",
        filter_threshold: float | None = None,
        **kwargs,
    ):
        if not m1 > 0:
            raise ValueError(f"m1 must be positive, got {m1}. 1 leaves the angle alone.")
        if not 0 <= m2 <= math.pi:
            raise ValueError(f"m2 must be in [0, π] radians, got {m2}. The paper's are 0.3 and 0.4.")
        if not m3 >= 0:
            raise ValueError(f"m3 must be at least 0, got {m3}. The paper's are 0.2 and 0.15.")
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        check_choices(gradient=(gradient, Gradient), beyond_pi=(beyond_pi, BeyondPi))
        self.m1, self.m2, self.m3 = m1, m2, m3
        self.gradient, self.beyond_pi, self.filter_threshold = gradient, beyond_pi, filter_threshold
        self.add_to_recordable_attributes(list_of_names=["m1", "m2", "m3"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(m₁θ + m₂) − m₃``."""
        margined = additive_cosine(combined_angular(batch.cosine, self.m1, self.m2, self.beyond_pi), self.m3)
        return detached(batch.cosine, margined, self.gradient)

    def negative_margin(self, target: Tensor) -> Elementwise | None:
        """0 above the threshold."""
        threshold = self.filter_threshold
        return None if threshold is None else lambda cosine: cosine.masked_fill(cosine > threshold, 0)
