"""LiArcFaceLoss."""

from functools import partial

from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import linear_angular
from pml_center.ops.negative_logits import Elementwise


class LiArcFaceLoss(BaseSoftmaxLoss):
    """Li-ArcFace (AirFace): ArcFace whose similarity is linear in the angle.

    ``ℓ = −log( e^{s(π − 2(θ_y + m))/π} / (e^{s(π − 2(θ_y + m))/π} + Σ_{j≠y} e^{s(π − 2θ_j)/π}) )``. The similarity
    never turns, and its pull on the angle is the same everywhere; made for small embeddings and small networks.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, radians in [0, π].
        scale: s > 0, the factor of all similarities.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); margin outside [0, π]; scale not positive.

    Example:
        >>> import torch
        >>> loss = LiArcFaceLoss(2, 2, margin=torch.pi / 8, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> loss.get_logits(torch.tensor([[1.0, 1.0]]), torch.tensor([0])).detach()  # 1 − 2 · (1/4 + 1/8), 1 − 2 · 1/4
        tensor([[0.2500, 0.5000]])

    Source: Li et al., AirFace: lightweight and efficient model for face recognition, ICCV workshops 2019,
        arXiv:1907.12256.

    Differs: public codes have an infinite gradient at a cosine of ±1, ours a finite one. :meth:`get_logits` without
        labels gives scaled cosines, which come in the same order.
    """

    default_gradient = None  # all similarities are linear in the angle

    def __init__(self, num_classes: int, embedding_size: int, margin: float = 0.45, scale: float = 64, **kwargs):
        check_between("in [0, π] radians", "Common values are 0.42 to 0.45.", margin=margin)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin = margin
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``(π − 2(θ + m)) / π``."""
        return linear_angular(batch.cosine, self.margin)

    def negative_margin(self, target: Tensor) -> Elementwise:
        """``(π − 2θ) / π``."""
        return partial(linear_angular, margin=0.0)
