"""SphereFace2Loss."""

import dataclasses
import math
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pml_center.checks import check_between, check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch, MarginUnit
from pml_center.ops.margins import Gradient, additive_angular, detached
from pml_center.ops.negative_logits import Elementwise, NegativeLogits, negative_sum

Variant = Literal["cosine", "angular", "angular_both"]


class SphereFace2Loss(BaseSoftmaxLoss):
    """SphereFace2: a binary classifier per class in place of the softmax.

    ``ℓ = w·( λ/r·log(1 + e^{−r(g(cos θ_y) − m) − b}) + (1 − λ)/r·Σ_{j≠y} log(1 + e^{r(g(cos θ_j) + m) + b}) )`` with
    ``g(z) = 2((z + 1)/2)^t − 1``, which spreads the cosines out, and b learned. Classes do not compete, which makes
    it steady under noisy labels.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m in [0, 1]; radians where ``variant`` is angular. Larger is stricter.
        scale: r > 0.
        positive_weight: λ in (0, 1), how much one's own class counts.
        exponent: t, at least 1; 1 leaves the cosines alone.
        factor: w > 0; the authors' code has 50, 1 is the formula of the paper.
        variant: ``"cosine"`` is above, SphereFace2-C; ``"angular"``, SphereFace2-A, has ``g(cos(min(π, θ_y + m)))`` and
            leaves the other classes alone; ``"angular_both"`` has ``g(cos(θ_y + m))``, continued beyond π by
            ``cos θ_y − 1 + cos m``, and ``g(cos(θ_j − m))``, the type A of Han et al. 2023 for speakers, with
            ``scale=32, positive_weight=0.7, exponent=3, margin=0.15``.
        kwargs: ``gradient``, ``"detached"`` by default as the authors have it, which takes g and margin for a constant
            that is added to the cosine; ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`; no
            ``label_smoothing``.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``threshold``, b, a parameter that starts where the two terms pull equally at right angles. Logits do not
        have it.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = SphereFace2Loss(2, 2, margin=0.4, scale=1, exponent=3, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss.get_logits(embeddings, labels).detach()  # 2 · 0.8³ − 1 − 0.4, 2 · 0.9³ − 1 + 0.4
        tensor([[-0.3760,  0.8580]])

    Source: Wen et al., SphereFace2, ICLR 2022, arXiv:2108.01513; Han et al., Exploring binary classification loss for
        speaker verification, ICASSP 2023, arXiv:2307.08205.

    Differs: wespeaker is ``gradient="full", factor=scale`` with b from 0; its type A is ``"angular_both"``, its type C
        ``"cosine"``.
    """

    margin_unit: MarginUnit = "cosine"
    default_gradient: ClassVar[Gradient | None] = "detached"

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.4,
        scale: float = 40,
        positive_weight: float = 0.7,
        exponent: float = 3,
        factor: float = 50,
        variant: Variant = "cosine",
        **kwargs,
    ):
        check_between("in [0, 1]", "The paper's margin is 0.4.", margin=margin)
        check_between("in (0, 1)", "The paper's is 0.7.", positive_weight=positive_weight)
        check_between("at least 1", "The paper's is 3.", exponent=exponent)
        check_between("positive", "Common values are 1 and 50.", factor=factor)
        check_choices(variant=(variant, Variant))
        if kwargs.pop("bias", False) is not False:
            raise ValueError(
                "bias must be False because SphereFace2Loss has one threshold for all classes, got True. Leave it out."
            )
        self.margin_unit = "cosine" if variant == "cosine" else "radians"
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin, self.exponent, self.variant = margin, exponent, variant
        self.positive_weight, self.factor = positive_weight, factor
        right = torch.zeros((), dtype=torch.double)  # cosine
        own = scale * float(_margined(right, margin, exponent, variant))
        other = scale * float(self.negative_margin(right)(right))
        others = max(1.0, self.class_weights.compared_classes - 1)
        ratio = positive_weight / (1 - positive_weight) / others
        self.threshold = nn.Parameter(torch.tensor(_balanced_threshold(own, other, ratio)))
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``g(cos θ) − m``, ``g(cos(min(π, θ + m)))``, or ``g(cos(θ + m))``, continued."""
        return _margined(batch.cosine, self.margin, self.exponent, self.variant)

    def negative_margin(self, target: Tensor) -> Elementwise:
        """``g(cos θ) + m``, ``g(cos θ)``, or ``g(cos(θ − m))``."""
        exponent, gradient = self.exponent, self.gradient
        if self.variant == "angular_both":
            turned = partial(additive_angular, margin=-self.margin, beyond_pi="rotate")
            return lambda cosine: detached(cosine, _spread(turned(cosine), exponent), gradient)
        margin = self.margin if self.variant == "cosine" else 0.0
        return lambda cosine: detached(cosine, _spread(cosine, exponent) + margin, gradient)

    def combine(self, target: Tensor, negatives: NegativeLogits) -> Tensor:
        """One weighted binary cross entropy per class."""
        threshold = self.threshold.to(target)
        classes = len(negatives.weight) // negatives.sub_centers
        others = negative_sum(dataclasses.replace(negatives, bias=threshold.expand(classes)), of=_softplus)
        own = _softplus(-target - threshold)
        share = self.positive_weight
        return self.factor / self.scale * (share * own + (1 - share) * others)


def _margined(cosine: Tensor, margin: float, exponent: float, variant: Variant) -> Tensor:
    """``g(cos θ) − m``, ``g(cos(min(π, θ + m)))``, or ``g(cos(θ + m))``, continued."""
    if variant == "cosine":
        return _spread(cosine, exponent) - margin
    rotated = additive_angular(cosine, margin, "rotate")
    beyond = -1.0 if variant == "angular" else cosine - (1 - math.cos(margin))
    return _spread(torch.where(cosine >= -math.cos(margin), rotated, beyond), exponent)


def _balanced_threshold(own: float, other: float, ratio: float) -> float:
    """The b at which ``ratio·σ(−own − b) = σ(other + b)``."""
    gap = math.log(abs(1 - ratio)) if ratio != 1 else -math.inf
    root = _log_of_sum(2 * gap, math.log(4 * ratio) + own - other) / 2  # in logarithms nothing overflows
    larger = _log_of_sum(gap, root)
    if ratio > 1:  # the other form of the same root would cancel
        return larger - math.log(2) - own
    return math.log(2 * ratio) - other - larger


def _log_of_sum(*logarithms: float) -> float:
    return float(torch.tensor(logarithms, dtype=torch.double).logsumexp(0))


def _spread(cosine: Tensor, exponent: float) -> Tensor:
    """``g(z) = 2((z + 1)/2)^t − 1``."""
    half = (cosine + 1) / 2
    if exponent != int(exponent):
        half = half.clamp_min(0)  # a cosine may round below −1, or be continued there
    return 2 * half.pow(exponent) - 1


def _softplus(logits: Tensor) -> Tensor:
    return F.softplus(logits, threshold=40)
