"""MVSoftmaxLoss."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pml_center.checks import check_between, check_choices, check_flags
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import additive_angular, additive_cosine, hard_shifted
from pml_center.ops.negative_logits import Elementwise

Variant = Literal["cosine", "angular"]


class MVSoftmaxLoss(BaseSoftmaxLoss):
    """MV-Softmax, also known as SV-X-Softmax: CosFace or ArcFace in which misclassified directions count more.

    ``ℓ = −log( e^{s·f} / (e^{s·f} + Σ_{j≠y} e^{s·h_j}) )`` with ``f = cos θ_y − m`` or ``f = cos(θ_y + m)``, and
    ``h_j = (t + 1)·cos θ_j + t`` for hard negatives, those with ``cos θ_j > f``, and ``cos θ_j`` for the others. Mines
    hard negatives within the softmax, from the first step on; :class:`CurricularFaceLoss` waits.

    Args:
        num_classes: C.
        embedding_size: D.
        variant: ``"cosine"`` subtracts the margin from the cosine (MV-AM-Softmax), ``"angular"`` adds it to the angle
            (MV-Arc-Softmax).
        margin: m, a cosine, or radians in [0, π]; None is the paper's 0.35, or 0.5. Larger is stricter.
        scale: s > 0, the factor of all cosines.
        hardness: t ≥ 0, the extra of hard negatives; 0 is :class:`CosFaceLoss` or :class:`ArcFaceLoss`.
        easy_margin: whether the target has its margin only where ``cos θ_y > 0``.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = MVSoftmaxLoss(2, 2, margin=0.35, scale=1, hardness=0.2, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss.get_logits(embeddings, labels).detach()  # 0.6 − 0.35; 0.8 is above it: 1.2 · 0.8 + 0.2
        tensor([[0.2500, 1.1600]])

    Source: Wang et al., Mis-classified vector guided softmax loss for face recognition, AAAI 2020, arXiv:1912.00833.

    Differs: the authors' code is ``easy_margin=True`` by default. Where ``θ_y + m > π`` the angular target is continued
        as in :class:`ArcFaceLoss`. FaceX-Zoo writes t + 1 for t, and its cosine variant leaves out the margin where
        ``cos θ_y ≤ m``.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        variant: Variant = "cosine",
        margin: float | None = None,
        scale: float = 32,
        hardness: float = 0.2,
        easy_margin: bool = False,
        **kwargs,
    ):
        check_choices(variant=(variant, Variant))
        margin = {"cosine": 0.35, "angular": 0.5}[variant] if margin is None else margin
        rule = {"cosine": "in [0, 2], a difference of cosines", "angular": "in [0, π] radians"}[variant]
        check_between(rule, "The paper's margins are 0.35, a cosine, and 0.5 radians.", margin=margin)
        check_flags(easy_margin=easy_margin)
        check_between("at least 0", "The paper's is 0.2.", hardness=hardness)
        self.margin_unit = "cosine" if variant == "cosine" else "radians"
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.variant, self.margin, self.hardness = variant, margin, hardness
        self.easy_margin = easy_margin
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """The target f."""
        if self.variant == "angular":
            return additive_angular(batch.cosine, self.margin, "easy" if self.easy_margin else "linear")
        margined = additive_cosine(batch.cosine, self.margin)
        return torch.where(batch.cosine > 0, margined, batch.cosine) if self.easy_margin else margined

    def negative_threshold(self, batch: Batch, target: Tensor) -> Tensor:
        """The target f as the formula has it, with its margin everywhere and not continued."""
        if self.variant == "angular":
            return additive_angular(batch.cosine, self.margin, "rotate")
        return additive_cosine(batch.cosine, self.margin)

    def negative_margin(self, target: Tensor) -> Elementwise:
        """``h``."""
        return partial(hard_shifted, threshold=target, hardness=self.hardness)
