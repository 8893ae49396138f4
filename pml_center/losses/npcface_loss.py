"""NPCFaceLoss."""

import dataclasses
import math

import torch
from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import additive_angular
from pml_center.ops.negative_logits import Elementwise, negative_sum


class NPCFaceLoss(BaseSoftmaxLoss):
    """NPCFace: the nearer the wrong classes of a sample, the larger the margin to its own.

    Another class is hard if its cosine c is above ``cos(θ_y + m)``; its cosine becomes ``t·c + a``. The target is
    ``cos(θ_y + m_0 + m_1·c̄)`` with c̄ the mean of the hard cosines, 0 if there are none, and ``cos θ_y`` where that is
    not above 0. c̄ is taken for a constant: no gradient goes through the margin. For large, clean sets of many classes,
    where hard positives and hard negatives are the same samples.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, radians in [0, π]. From which angle on a class is hard.
        scale: s > 0, the factor of all cosines.
        least_margin: m_0, radians in [0, π].
        added_margin: m_1, radians, at least 0; with m_0 at most π.
        slope: t, at least 1.
        shift: a, a cosine.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = NPCFaceLoss(2, 2, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss.get_logits(embeddings, labels).detach()  # cos(θ + 0.4 + 0.2 · 0.8), 1.1 · 0.8 + 0.2
        tensor([[0.0834, 1.0800]])

    Source: Zeng et al., NPCFace, 2020, arXiv:2007.10172; what the paper leaves open as in the authors' FaceX-Zoo.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.5,
        scale: float = 64,
        least_margin: float = 0.4,
        added_margin: float = 0.2,
        slope: float = 1.1,
        shift: float = 0.2,
        **kwargs,
    ):
        margins = {"margin": margin, "least_margin": least_margin, "added_margin": added_margin}
        check_between("in [0, π] radians", "Common are 0.5, 0.4 and 0.2.", **margins)
        if not (added_margin <= least_margin and least_margin + added_margin <= math.pi):
            raise ValueError(
                "least_margin and added_margin must be radians with 0 <= added_margin <= least_margin and a sum of at "
                f"most π, got {least_margin} and {added_margin}. Common are 0.4 and 0.2."
            )
        check_between("at least 1", "Common is 1.1.", slope=slope)
        check_between("finite", "Common is 0.2.", shift=shift)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin, self.least_margin, self.added_margin = margin, least_margin, added_margin
        self.slope, self.shift = slope, shift
        self.add_to_recordable_attributes(list_of_names=["margin", "least_margin", "added_margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m_0 + m_1·c̄)``."""
        threshold = self.negative_threshold(batch, batch.cosine).detach().unsqueeze(1)
        hard = dataclasses.replace(batch.negatives, margin=lambda cosine: cosine * (cosine > threshold))
        one = dataclasses.replace(batch.negatives, margin=lambda cosine: (cosine > threshold).to(cosine))
        mean = negative_sum(hard) / negative_sum(one).clamp_min(1)
        return additive_angular(batch.cosine, self.least_margin + self.added_margin * mean, "easy")

    def negative_threshold(self, batch: Batch, target: Tensor) -> Tensor:
        """``cos(θ + m)``."""
        return additive_angular(batch.cosine, self.margin, "rotate")

    def negative_margin(self, target: Tensor) -> Elementwise:
        """``t·c + a`` where c is hard."""
        threshold, slope, shift = target.unsqueeze(1), self.slope, self.shift
        return lambda cosine: torch.where(cosine > threshold, slope * cosine + shift, cosine)
