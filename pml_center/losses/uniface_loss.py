"""UniFaceLoss."""

import dataclasses
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pml_center.checks import check_between, check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import additive_cosine
from pml_center.ops.negative_logits import NegativeLogits, negative_sum

Thresholds = Literal["unified", "separate"]


class UniFaceLoss(BaseSoftmaxLoss):
    """UniFace: every cosine to one's own class above, every other below, one threshold for all samples.

    ``ℓ = log(1 + e^{−(s(cos θ_y − m) − b)}) + l·Σ_{j≠y} log(1 + e^{s·cos θ_j − b})`` with b learned. Softmax only asks
    that a sample's own cosine is above its others; here cosines of different samples can be compared with one
    number, as verification does.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, a cosine. Larger is stricter.
        scale: s > 0, the factor of all cosines.
        negative_weight: l > 0, how much the other classes count.
        thresholds: ``"unified"`` learns one b, the paper's UCE; ``"separate"`` one for each class, which is its BCE.
        kwargs: ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`; no ``label_smoothing``.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``threshold``, b, a parameter that starts from ``log(10·C)``, or ``log(10·C·sample_rate)`` without
        ``sample_correction``; with ``"separate"`` it is the negative of ``class_weights.bias``, (C,). Logits have only
        the latter.

    Raises:
        ValueError: labels outside [0, num_classes); scale or negative_weight not positive.

    Example:
        >>> import torch
        >>> loss = UniFaceLoss(2, 2, margin=0.4, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> loss.threshold.detach()  # b = log 20
        tensor(2.9957)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss(embeddings, labels).detach()  # log(1 + e^(b − 0.6 + 0.4)) + log(1 + e^(0.8 − b))
        tensor(2.9605)

    Source: Zhou et al., UniFace, ICCV 2023.

    Differs: the authors' code clamps what stands in the exponent to ±s, and has no gradient beyond; here nothing is
        clamped. Its ``r``, the share of the other classes that is drawn, is ``sample_rate`` here.
    """

    margin_unit = "cosine"

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.4,
        scale: float = 64,
        negative_weight: float = 1.0,
        thresholds: Thresholds = "unified",
        **kwargs,
    ):
        check_between("in [0, 2], a difference of cosines", "The paper's is 0.4.", margin=margin)
        check_between("positive", "The paper's is 1.", negative_weight=negative_weight)
        check_choices(thresholds=(thresholds, Thresholds))
        if kwargs.pop("bias", False) is not False:
            raise ValueError(
                "bias must be False because UniFaceLoss has thresholds of its own, got True. Leave it out."
            )
        super().__init__(num_classes, embedding_size, scale, bias=thresholds == "separate", **kwargs)
        self.margin, self.negative_weight = margin, negative_weight
        initial = math.log(10 * self.class_weights.compared_classes)
        self.threshold = nn.Parameter(torch.tensor(initial)) if thresholds == "unified" else None
        if self.class_weights.bias is not None:
            nn.init.constant_(self.class_weights.bias, -initial)
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos θ − m``."""
        return additive_cosine(batch.cosine, self.margin)

    def combine(self, target: Tensor, negatives: NegativeLogits) -> Tensor:
        """One binary cross entropy per class."""
        if self.threshold is not None:
            threshold = self.threshold.to(target)
            target = target - threshold
            classes = len(negatives.weight) // negatives.sub_centers
            negatives = dataclasses.replace(negatives, bias=(-threshold).expand(classes))
        return F.softplus(-target, threshold=40) + self.negative_weight * negative_sum(negatives, of=_softplus)

    @torch.no_grad()
    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; a new class has the mean of the thresholds."""
        before, bias = self.num_classes, self.class_weights.bias
        super().resize_classes(num_classes)
        if bias is not None and self.class_weights.bias is not None:
            self.class_weights.bias[before:] = bias.mean()


def _softplus(logits: Tensor) -> Tensor:
    return F.softplus(logits, threshold=40)
