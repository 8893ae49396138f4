"""DynamicArcFaceLoss."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pml_center.checks import check_choices, check_class_counts
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import BeyondPi, Gradient, additive_angular, detached


class DynamicArcFaceLoss(BaseSoftmaxLoss):
    """ArcFace with dynamic margins: the fewer samples a class has, the larger its margin.

    The target is ``cos(θ_y + m_y)`` with ``m_j = a·n_j^{−λ} + b``, n_j the number of samples of class j. For data of a
    long tail, landmarks for instance.

    Args:
        num_classes: C.
        embedding_size: D.
        class_counts: n, (C,) samples of each class in the training data, or one number for all;
            ``torch.bincount(labels, minlength=num_classes)``.
        factor: a ≥ 0, radians.
        exponent: λ ≥ 0. 0 is :class:`ArcFaceLoss` with the margin a + b.
        least_margin: b ≥ 0, radians; a + b is at most π.
        scale: s > 0, the factor of all cosines.
        gradient: ``"full"`` differentiates ``cos(θ + m)``; ``"detached"`` takes the margin for a constant.
        beyond_pi: where ``θ_y + m > π``, see :class:`ArcFaceLoss`.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``class_counts`` (C,).

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = DynamicArcFaceLoss(num_classes=3, embedding_size=64, class_counts=[500, 20, 3])
        >>> loss(torch.randn(3, 64), torch.arange(3)).shape
        torch.Size([])

    Source: Ha et al., Google Landmark Recognition 2020 competition third place solution, 2020, arXiv:2010.05350.
        Another paper of 2021 has the name Dyn-ArcFace, and margins from the distances of class centers.
    """

    class_counts: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        class_counts: Tensor | Sequence[int] | int,
        factor: float = 0.5,
        exponent: float = 0.25,
        least_margin: float = 0.05,
        scale: float = 64,
        gradient: Gradient = "full",
        beyond_pi: BeyondPi = "linear",
        **kwargs,
    ):
        for name, value, usual in (("factor", factor, 0.5), ("least_margin", least_margin, 0.05)):
            if not 0 <= value <= math.pi or factor + least_margin > math.pi:
                raise ValueError(
                    f"{name} must be in [0, π] radians, and factor + least_margin too, got {value}. "
                    f"The paper's is {usual}."
                )
        if not exponent >= 0:
            raise ValueError(f"exponent must be at least 0, got {exponent}. The paper's is 0.25.")
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        check_choices(gradient=(gradient, Gradient), beyond_pi=(beyond_pi, BeyondPi))
        self.factor, self.exponent, self.least_margin = factor, exponent, least_margin
        self.gradient, self.beyond_pi = gradient, beyond_pi
        self.register_buffer("class_counts", check_class_counts(class_counts, num_classes))
        self.add_to_recordable_attributes(list_of_names=["factor", "exponent", "least_margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m_y)``, continued."""
        counts = self.class_counts[batch.labels].to(batch.cosine)
        margin = self.factor * counts.pow(-self.exponent) + self.least_margin
        return detached(batch.cosine, additive_angular(batch.cosine, margin, self.beyond_pi), self.gradient)

    @torch.no_grad()
    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; new classes count one sample: set ``class_counts``."""
        added = num_classes - self.num_classes
        super().resize_classes(num_classes)
        self.class_counts = torch.nn.functional.pad(self.class_counts, (0, added), value=1)
