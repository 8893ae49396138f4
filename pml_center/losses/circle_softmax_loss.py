"""CircleSoftmaxLoss."""

from typing import ClassVar

from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import Range
from pml_center.ops.negative_logits import Elementwise


class CircleSoftmaxLoss(BaseSoftmaxLoss):
    """Circle loss in its classification form: each cosine weighs as much as it is short of its optimum.

    ``ℓ = −log( e^{γ·α_y(s_y − 1 + m)} / (e^{γ·α_y(s_y − 1 + m)} + Σ_{j≠y} e^{γ·α_j(s_j − m)}) )`` with
    ``s_j = cos θ_j``, ``α_y = max(0, 1 + m − s_y)`` and ``α_j = max(0, s_j + m)``, which are taken for constants: a
    cosine near its optimum is hardly pulled any further. PML's ``CircleLoss`` is the form for pairs; this one has a
    row of weights per class.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, a cosine in [0, 1): one's own class is to be above 1 − m, others below m. Smaller is stricter.
        scale: γ > 0.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); margin outside [0, 1); scale not positive.

    Example:
        >>> import torch
        >>> loss = CircleSoftmaxLoss(2, 2, margin=0.25, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss.get_logits(embeddings, labels).detach()  # 0.65 · (0.6 − 0.75), 1.05 · (0.8 − 0.25)
        tensor([[-0.0975,  0.5775]])

    Source: Sun et al., Circle loss, CVPR 2020, arXiv:2002.10857 (one positive; m and γ of face
        recognition).
    """

    default_gradient = None  # what multiplies the cosine is its gradient

    margin_unit = "cosine"
    tuned: ClassVar[dict[str, Range]] = {
        "scale": Range("scale", 32, 1024, log=True),
        "margin": Range("margin", 0.1, 0.6),
    }

    def __init__(self, num_classes: int, embedding_size: int, margin: float = 0.25, scale: float = 256, **kwargs):
        check_between("in [0, 1)", "The paper's margin is 0.25.", margin=margin)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin = margin
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``α_y(s_y − 1 + m)``."""
        weight = (1 + self.margin - batch.cosine.detach()).clamp_min(0)
        return weight * (batch.cosine - 1 + self.margin)

    def negative_margin(self, target: Tensor) -> Elementwise:
        """``α_j(s_j − m)``."""
        margin = self.margin
        return lambda cosine: (cosine.detach() + margin).clamp_min(0) * (cosine - margin)
