"""ArcFaceLoss."""

import math
from abc import ABCMeta
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from pml_center.checks import check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.large_margin_softmax_loss import LargeMarginSoftmaxLoss
from pml_center.losses.pml_names import check_degrees
from pml_center.losses.tuning import SCALE, Range
from pml_center.ops.margins import BeyondPi, additive_angular


@LargeMarginSoftmaxLoss.register  # isinstance says what it says of PML's
class ArcFaceLoss(BaseSoftmaxLoss, metaclass=ABCMeta):
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
        beyond_pi: ``"linear"`` as above; ``"rotate"`` lets the cosine turn, as insightface does since 2022;
            ``"easy"`` applies the margin only where ``cos θ_y > 0``.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); margin outside [0, 180]; scale not positive.

    Example:
        >>> import torch
        >>> loss = ArcFaceLoss(2, 2, margin=30, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> embeddings = torch.tensor([[0.6, 0.8], [-0.96, 0.28]])  # 53.1° and 163.7° from class 0
        >>> loss.get_logits(embeddings, torch.tensor([0, 0])).detach()  # cos 83.1°, −0.96 − π/6 · sin 30°
        tensor([[ 0.1196,  0.8000],
                [-1.2218,  0.2800]])

    Source: Deng et al., ArcFace, CVPR 2019, arXiv:1801.07698 (equation 3).

    Differs: the authors' insightface code is ``gradient="detached", beyond_pi="rotate"`` since 2022, and was
        ``beyond_pi="linear"`` before; the default here is PML's. Codes that clamp the cosine to ±(1 − ε) have no
        gradient beyond it.
    """

    margin_unit = "degrees"
    from_pml_units: ClassVar[dict[str, Callable]] = {"margin": math.degrees}

    tuned: ClassVar[dict[str, Range]] = {"scale": SCALE, "margin": Range("margin", 0, 40)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 28.6,
        scale: float = 64,
        beyond_pi: BeyondPi = "linear",
        **kwargs,
    ):
        self.margin = margin
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        check_choices(beyond_pi=(beyond_pi, BeyondPi))
        self.beyond_pi = beyond_pi
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "margin":
            check_degrees(self, value)
        super().__setattr__(name, value)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        return additive_angular(batch.cosine, math.radians(self.margin), self.beyond_pi)
