"""CosFaceLoss."""

from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.large_margin_softmax_loss import LargeMarginSoftmaxLoss
from pml_center.ops.margins import additive_cosine


@LargeMarginSoftmaxLoss.register  # isinstance says what it says of PML's
class CosFaceLoss(BaseSoftmaxLoss):
    """CosFace, also known as AM-Softmax: a margin subtracted from the cosine to one's own class.

    ``ℓ = −log( e^{s(cos θ_y − m)} / (e^{s(cos θ_y − m)} + Σ_{j≠y} e^{s·cos θ_j}) )``. The plainest margin:
    its gradient is the same at every angle, which makes it the steadiest of the family.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: a cosine in [0, 2]. Larger is stricter; 0 is :class:`NormalizedSoftmaxLoss`.
        scale: s > 0, the factor of all cosines.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); margin outside [0, 2]; scale not positive.

    Example:
        >>> import torch
        >>> loss = CosFaceLoss(2, 2, margin=0.5, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss.get_logits(embeddings, labels).detach()  # 0.6 − 0.5
        tensor([[0.1000, 0.8000]])
        >>> loss(embeddings, labels).detach()  # log(1 + e^(0.8 − 0.1))
        tensor(1.1032)

    Source: Wang et al., CosFace, CVPR 2018, arXiv:1801.09414 (equation 4); Wang et al., Additive margin
        softmax, 2018, arXiv:1801.05599.
    """

    margin_unit = "cosine"

    def __init__(self, num_classes: int, embedding_size: int, margin: float = 0.35, scale: float = 64, **kwargs):
        check_between("in [0, 2], a difference of cosines", "The paper's is 0.35.", margin=margin)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin = margin
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos θ − m``."""
        return additive_cosine(batch.cosine, self.margin)
