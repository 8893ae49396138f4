"""DynamicArcFaceLoss."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pml_center.checks import check_between, check_class_counts
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import SCALE, Range
from pml_center.ops.margins import additive_angular


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
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``class_counts`` (C,).

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = DynamicArcFaceLoss(2, 2, class_counts=[16, 1], scale=1, weight_init_func=torch.nn.init.eye_)
        >>> loss.get_logits(torch.eye(2), torch.tensor([0, 1])).detach()  # cos(0.5 / 2 + 0.05), cos(0.5 + 0.05)
        tensor([[0.9553, 0.0000],
                [0.0000, 0.8525]])

    Source: Ha et al., Google Landmark Recognition 2020 competition third place solution, 2020, arXiv:2010.05350.
        Another paper of 2021 has the name Dyn-ArcFace, and margins from the distances of class centers.
    """

    class_counts: Tensor

    per_class = (*BaseSoftmaxLoss.per_class, "class_counts")
    tuned: ClassVar[dict[str, Range]] = {"scale": SCALE, "factor": Range("margin", 0.2, 0.8)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        class_counts: Tensor | Sequence[int] | int,
        factor: float = 0.5,
        exponent: float = 0.25,
        least_margin: float = 0.05,
        scale: float = 64,
        **kwargs,
    ):
        rule, usual = "in [0, π] radians, and factor + least_margin too", "The paper has 0.5 and 0.05."
        check_between(rule, usual, factor=factor, least_margin=least_margin)
        check_between("in [0, π] radians", usual, **{"factor + least_margin": factor + least_margin})
        check_between("at least 0", "The paper's is 0.25.", exponent=exponent)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.factor, self.exponent, self.least_margin = factor, exponent, least_margin
        self.register_buffer("class_counts", check_class_counts(class_counts, num_classes))
        self.add_to_recordable_attributes(list_of_names=["factor", "exponent", "least_margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m_y)``, continued."""
        counts = self.class_counts[batch.labels].to(batch.cosine)
        margin = self.factor * counts.pow(-self.exponent) + self.least_margin
        return additive_angular(batch.cosine, margin)

    @torch.no_grad()
    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; new classes count one sample: set ``class_counts``."""
        before = self.num_classes
        super().resize_classes(num_classes)
        added = self.num_classes - before
        self.class_counts = torch.nn.functional.pad(self.class_counts, (0, added), value=1)
