"""ArcNegFaceLoss."""

import torch
from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import additive_angular
from pml_center.ops.negative_logits import Elementwise


class ArcNegFaceLoss(BaseSoftmaxLoss):
    """ArcNegFace: ArcFace in which other classes count more the nearer they are to one's own.

    The target is ArcFace's ``a = cos(θ_y + m)``; the cosine c to another class becomes ``t·c + t − 1`` with
    ``t = α·e^{−(c − a)²/σ}``, taken for a constant. Classes far beyond one's own on either side, such as those of
    wrong labels, count less.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, radians in [0, π]. Larger is stricter.
        scale: s > 0, the factor of all cosines.
        strength: α > 0, of a class that is as near as one's own.
        width: σ > 0, of the differences of cosines that count.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = ArcNegFaceLoss(2, 2, margin=0.5, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss.get_logits(embeddings, labels).detach()  # a = cos(θ + 0.5); t = 1.2 · e^(−(0.8 − a)²/2)
        tensor([[0.1430, 0.7407]])

    Source: Liu et al., Towards flops-constrained face recognition, ICCV workshops 2019, arXiv:1909.00632.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.5,
        scale: float = 64,
        strength: float = 1.2,
        width: float = 2.0,
        **kwargs,
    ):
        check_between("in [0, π] radians", "The paper's margin is 0.5.", margin=margin)
        check_between("positive", "The paper has 1.2 and 2.", strength=strength, width=width)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin, self.strength, self.width = margin, strength, width
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        return additive_angular(batch.cosine, self.margin)

    def negative_margin(self, target: Tensor) -> Elementwise:
        """``t·c + t − 1``."""
        center, strength, width = target.unsqueeze(1), self.strength, self.width

        def weighted(cosine: Tensor) -> Tensor:
            weight = strength * torch.exp(-(cosine.detach() - center).square() / width)
            return weight * (cosine + 1) - 1

        return weighted
