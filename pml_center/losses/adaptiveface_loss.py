"""AdaptiveFaceLoss."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import SCALE, Range
from pml_center.ops.margins import additive_cosine


class AdaptiveFaceLoss(BaseSoftmaxLoss):
    """AdaptiveFace (AdaM-Softmax): CosFace with a margin per class, which is learned.

    ``ℓ = −log( e^{s(cos θ_y − m_y)} / (e^{s(cos θ_y − m_y)} + Σ_{j≠y} e^{s·cos θ_j}) ) + λ·(1 − mean_j m_j)`` with m_j
    in [0, 1]. A margin is as large as its class bears: classes of few samples, which see little resistance, get larger
    ones. Give ``loss.parameters()`` to the optimizer, of which ``margins`` are a part.

    Args:
        num_classes: C.
        embedding_size: D.
        initial_margin: of all classes, a cosine in [0, 1].
        scale: s > 0, the factor of all cosines.
        margin_weight: λ ≥ 0. Larger margins with a larger one.
        kwargs: ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``margins`` (C,), a parameter. One that an optimizer's step took out of [0, 1] counts as the end that it
        passed, and has no gradient that leads farther out.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = AdaptiveFaceLoss(2, 2, 0.5, scale=1, margin_weight=2, weight_init_func=torch.nn.init.eye_)
        >>> value = loss(torch.tensor([[0.6, 0.8]]), torch.tensor([0]))
        >>> value.detach()  # log(1 + e^(0.8 − 0.1)) + 2 · (1 − 0.5)
        tensor(2.1032)
        >>> value.backward()
        >>> loss.margins.grad  # the margin of class 1, which nothing resists, grows faster
        tensor([-0.3318, -1.0000])

    Source: Liu et al., AdaptiveFace, CVPR 2019.

    Differs: FaceX-Zoo writes the margins back into [0, 1] in every forward pass, which is the same but for margins that
        are beyond an end.
    """

    margin_unit = "cosine"
    default_gradient = None  # margins learn through the target

    per_class = (*BaseSoftmaxLoss.per_class, "margins")
    tuned: ClassVar[dict[str, Range]] = {"scale": SCALE, "initial_margin": Range("margin", 0, 0.7)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        initial_margin: float = 0.35,
        scale: float = 30,
        margin_weight: float = 70,
        **kwargs,
    ):
        check_between("in [0, 1]", "CosFace's margin is 0.35.", initial_margin=initial_margin)
        check_between("at least 0", "A common value is 70.", margin_weight=margin_weight)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margins = nn.Parameter(torch.full((num_classes,), float(initial_margin)))
        self.initial_margin, self.margin_weight = initial_margin, margin_weight
        self.add_to_recordable_attributes(list_of_names=["margin_weight"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos θ − m_y``."""
        margin = self.margins[batch.labels].to(batch.cosine)
        margin = torch.where(margin < 0, 0.0, margin)  # the cross entropy leads down: no gradient below 0
        return additive_cosine(batch.cosine, margin - (margin - 1).clamp_min(0).detach())

    def penalty(self, batch: Batch) -> Tensor:
        """``λ·(1 − mean_j m_j)``."""
        margins = self.margins.to(batch.cosine)
        margins = torch.where(margins > 1, 1.0, margins)  # it leads up: no gradient above 1
        return self.margin_weight * (1 - (margins - margins.clamp_max(0).detach()).mean())

    @torch.no_grad()
    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; new classes start from the initial margin."""
        before = self.num_classes
        super().resize_classes(num_classes)
        added = self.num_classes - before
        self.margins = nn.Parameter(nn.functional.pad(self.margins, (0, added), value=self.initial_margin))
