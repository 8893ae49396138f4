"""ArcFaceLoss."""

import math
import warnings
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from pml_center.checks import check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import BeyondPi, Gradient, additive_angular, detached


class ArcFaceLoss(BaseSoftmaxLoss):
    """ArcFace: an angle added between an embedding and its class.

    ``ℓ = −log( e^{s·cos(θ_y + m)} / (e^{s·cos(θ_y + m)} + Σ_{j≠y} e^{s·cos θ_j}) )``; where ``θ_y + m > π``
    the cosine is continued by ``cos θ_y − m·sin m``, so that the loss keeps growing with the angle. The
    default choice of face recognition; pulls harder at small angles than CosFace does.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: degrees in [0, 180], as in PML; the paper's 0.5 rad is 28.6. Larger is stricter; 0 is
            :class:`NormalizedSoftmaxLoss`.
        scale: s > 0, the factor of all cosines.
        gradient: ``"full"`` differentiates ``cos(θ + m)``; ``"detached"`` takes the margin for a constant, as
            insightface does since 2022: steadier at small angles.
        beyond_pi: ``"linear"`` as above; ``"rotate"`` lets the cosine turn, as insightface does since 2022;
            ``"easy"`` applies the margin only where ``cos θ_y > 0``.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); margin outside [0, 180]; scale not positive.

    Example:
        >>> import torch
        >>> loss = ArcFaceLoss(num_classes=10, embedding_size=64)
        >>> loss(torch.randn(8, 64), torch.arange(8)).shape
        torch.Size([])

    Source: Deng et al., ArcFace, CVPR 2019, arXiv:1801.07698 (equation 3).

    Differs: the authors' insightface code is ``gradient="detached", beyond_pi="rotate"`` since 2022, and was
        ``beyond_pi="linear"`` before; the default here is PML's. Codes that clamp the cosine to ±(1 − ε) have no
        gradient beyond it.
    """

    from_pml_units: ClassVar[dict[str, Callable]] = {"margin": math.degrees}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 28.6,
        scale: float = 64,
        gradient: Gradient = "full",
        beyond_pi: BeyondPi = "linear",
        **kwargs,
    ):
        if not 0 <= margin <= 180:
            raise ValueError(f"margin must be in [0, 180] degrees, got {margin}. The paper's margin is 28.6.")
        if 0 < margin < 1:
            warnings.warn(
                f"ArcFaceLoss(margin={margin}) is {margin} degrees, almost no margin, because PML's margins are in "
                f"degrees. If you mean {margin} rad, write margin={math.degrees(margin):.1f}.",
                stacklevel=2,
            )
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        check_choices(gradient=(gradient, Gradient), beyond_pi=(beyond_pi, BeyondPi))
        self.margin, self.gradient, self.beyond_pi = margin, gradient, beyond_pi
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        margined = additive_angular(batch.cosine, math.radians(self.margin), self.beyond_pi)
        return detached(batch.cosine, margined, self.gradient)
