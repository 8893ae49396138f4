"""AdaFaceLoss."""

import math

import torch
from torch import Tensor

from pml_center.checks import check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import BeyondPi, Gradient, additive_angular, additive_cosine, detached

SMALLEST_NORM, LARGEST_NORM = 1e-3, 100.0  # of an embedding, for the statistics
LEAST_STD = 1e-3  # added to the standard deviation


class AdaFaceLoss(BaseSoftmaxLoss):
    """AdaFace: a margin that asks much of hard samples of good quality and little of those of poor quality.

    The length of an embedding stands for the quality of its image: ``z = clip(h·(‖x‖ − μ) / σ, −1, 1)`` with running
    mean μ and standard deviation σ of the lengths. The target is ``cos(θ_y − m·z) − m·(1 + z)``: CosFace at z = 0,
    ArcFace at z = −1, and a negative angle beyond that at z = 1. For images of mixed quality. No gradient goes through
    z, so the lengths are free.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, radians and cosine, in [0, π/2]. Larger is stricter.
        scale: s > 0, the factor of all cosines.
        concentration: h ≥ 0, how soon z reaches its ends; 0 is :class:`CosFaceLoss`.
        momentum: in [0, 1], the weight of the newest batch in μ and σ.
        gradient: ``"full"`` differentiates the target; ``"detached"`` takes the margin for a constant.
        beyond_pi: where ``θ_y − m·z > π``, see :class:`ArcFaceLoss`.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), not normalised; labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``batch_mean`` and ``batch_std``, μ and σ, from 20 and 100; they move before use, and only in training mode.
        A batch of one leaves σ alone.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = AdaFaceLoss(num_classes=10, embedding_size=64)
        >>> loss(torch.randn(8, 64), torch.arange(8)).shape
        torch.Size([])

    Source: Kim et al., AdaFace, CVPR 2022, arXiv:2204.00964 (section 3.3).

    Differs: the authors' code clamps all cosines to ±(1 − 1e-3) and all angles to [1e-3, π − 1e-3], beyond which a
        sample has no gradient; follows the paper, which has no clamps. It also moves the statistics in evaluation, and
        σ is NaN after a batch of one.
    """

    batch_mean: Tensor
    batch_std: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.4,
        scale: float = 64,
        concentration: float = 0.333,
        momentum: float = 0.01,
        gradient: Gradient = "full",
        beyond_pi: BeyondPi = "linear",
        **kwargs,
    ):
        if not 0 <= margin <= math.pi / 2:
            raise ValueError(f"margin must be in [0, π/2] radians, got {margin}. The paper's margin is 0.4.")
        if not concentration >= 0:
            raise ValueError(f"concentration must be at least 0, got {concentration}. The paper's is 0.333.")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}. The paper's is 0.01.")
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        check_choices(gradient=(gradient, Gradient), beyond_pi=(beyond_pi, BeyondPi))
        self.margin, self.concentration, self.momentum = margin, concentration, momentum
        self.gradient, self.beyond_pi = gradient, beyond_pi
        self.register_buffer("batch_mean", torch.tensor(20.0))
        self.register_buffer("batch_std", torch.tensor(100.0))
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def observe(self, batch: Batch) -> None:
        """μ and σ move towards those of the batch."""
        norm = batch.norm.clamp(SMALLEST_NORM, LARGEST_NORM).to(self.batch_mean)
        self.batch_mean = self.batch_mean.lerp(norm.mean(), self.momentum)
        if len(norm) > 1:
            self.batch_std = self.batch_std.lerp(norm.std(), self.momentum)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ − m·z) − m·(1 + z)``."""
        # A constant: else embeddings would grow or shrink to choose their margin.
        norm = batch.norm.detach().clamp(SMALLEST_NORM, LARGEST_NORM)
        quality = (norm - self.batch_mean) / (self.batch_std + LEAST_STD)
        shift = self.margin * (self.concentration * quality).clamp(-1, 1).to(batch.cosine)
        margined = additive_cosine(additive_angular(batch.cosine, -shift, self.beyond_pi), self.margin + shift)
        return detached(batch.cosine, margined, self.gradient)
