"""SphereFaceLoss."""

from typing import ClassVar, Literal

from torch import Tensor

from pml_center.checks import check_between, check_choices, check_flags
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.large_margin_softmax_loss import LargeMarginSoftmaxLoss
from pml_center.losses.tuning import Range
from pml_center.ops.margins import multiplied_angular

Version = Literal["sphereface", "r"]


@LargeMarginSoftmaxLoss.register  # isinstance says what it says of PML's
class SphereFaceLoss(BaseSoftmaxLoss):
    """SphereFace (A-Softmax): the angle to one's own class multiplied, class weights normalised.

    ``ℓ = −log( e^{s·r·ψ(θ_y)} / (e^{s·r·ψ(θ_y)} + Σ_{j≠y} e^{s·r·cos θ_j}) )`` with r = ‖x‖ and
    ``ψ(θ) = (−1)^k·cos(mθ) − 2k`` for θ in [kπ/m, (k+1)π/m]. The paper anneals the margin, for which
    ``margin_schedule=schedules.Annealing()`` is there.

    SphereFace-R, its steadier successor, has r = 1, a margin that need not be whole, and takes the margin for a
    constant in the gradient, which makes annealing needless: ``version="r"``.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m ≥ 1, the factor of the angle. 1 is no margin.
        scale: s > 0, a factor of all logits.
        scale_by_norm: whether r is the length of the embedding, or 1.
        version: ``"r"`` is SphereFace-R: ``gradient="detached"``, ``scale_by_norm=False``, and a margin of 1.7 and a
            scale of 30 where both are left at 4 and 1.
        kwargs: ``gradient``, ``margin_schedule``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); margin below 1; scale not positive.

    Example:
        >>> import torch
        >>> embeddings, labels = torch.tensor([[3.0, 4.0]]), torch.tensor([0])
        >>> loss = SphereFaceLoss(2, 2, margin=2, weight_init_func=torch.nn.init.eye_)
        >>> loss.get_logits(embeddings, labels).detach()  # 5 · cos 2θ = 5 · (2 · 0.6² − 1), 5 · 0.8
        tensor([[-1.4000,  4.0000]])
        >>> loss = SphereFaceLoss(2, 2, margin=2, scale=10, version="r", weight_init_func=torch.nn.init.eye_)
        >>> loss.get_logits(embeddings, labels).detach()  # 10 in place of the length
        tensor([[-2.8000,  8.0000]])

    Source: Liu et al., SphereFace, CVPR 2017, arXiv:1704.08063 (equations 6 and 7); Liu et al., SphereFace revived,
        TPAMI 2022, arXiv:2109.05565.

    Differs: PML has no annealing and truncates a broken margin. The backward pass of the authors' Caffe layer is no
        derivative of its forward pass: its weights do not see the margin. Their later code clamps the cosine to
        ±(1 − 1e-5), and its weight gradient is not tangent to the sphere.
    """

    tuned: ClassVar[dict[str, Range]] = {"scale": Range("scale", 0.25, 16, log=True)}  # a margin is a whole number

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 4,
        scale: float = 1,
        scale_by_norm: bool = True,
        version: Version = "sphereface",
        **kwargs,
    ):
        check_choices(version=(version, Version))
        check_flags(scale_by_norm=scale_by_norm)
        check_between("at least 1", "The papers' margins are 4 and 1.7.", margin=margin)
        check_between("positive", "The papers' scales are 1 and 30.", scale=scale)
        if version == "r":
            margin, scale = (1.7, 30) if (margin, scale) == (4, 1) else (margin, scale)
            scale_by_norm, kwargs["gradient"] = False, "detached"
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin, self.scale_by_norm = margin, scale_by_norm
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """ψ(θ)."""
        return multiplied_angular(batch.cosine, self.margin)

    def logit_scale(self, batch: Batch) -> float | Tensor:
        """``s·‖x‖``, or s."""
        return self.scale * batch.norm if self.scale_by_norm else self.scale
