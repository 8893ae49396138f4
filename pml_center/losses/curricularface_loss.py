"""CurricularFaceLoss."""

from functools import partial

import torch
from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import additive_angular, hard_curricular
from pml_center.ops.negative_logits import Elementwise


class CurricularFaceLoss(BaseSoftmaxLoss):
    """CurricularFace: ArcFace whose hard negatives count little at first and more as training settles.

    ``ℓ = −log( e^{s·cos(θ_y + m)} / (e^{s·cos(θ_y + m)} + Σ_{j≠y} e^{s·N(t, cos θ_j)}) )``, where
    ``N = cos θ_j·(t + cos θ_j)`` for hard negatives, those with ``cos θ_j > cos(θ_y + m)``, and ``cos θ_j`` for the
    others. t is a running mean of ``cos θ_y``. For large, clean data; on labels with errors the late stress on hard
    negatives can hurt.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, radians in [0, π]. Larger is stricter.
        scale: s > 0, the factor of all cosines.
        momentum: in [0, 1], the weight of the newest batch in t.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``difficulty``, t; moves before use, and only in training mode.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = CurricularFaceLoss(2, 2, margin=0.5, scale=1, momentum=1, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss.get_logits(embeddings, labels).detach()  # cos(θ + 0.5), and 0.8 · (0 + 0.8) as t is 0
        tensor([[0.1430, 0.6400]])
        >>> _ = loss(embeddings, labels)
        >>> loss.get_logits(embeddings, labels).detach()  # t is 0.6 now
        tensor([[0.1430, 1.1200]])

    Source: Huang et al., CurricularFace, CVPR 2020, arXiv:2004.00288 (equations 5 to 9).

    Differs: the authors' code moves t in evaluation too.
    """

    difficulty: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.5,
        scale: float = 64,
        momentum: float = 0.01,
        **kwargs,
    ):
        check_between("in [0, π] radians", "The paper's margin is 0.5.", margin=margin)
        check_between("in [0, 1]", "The paper's is 0.01.", momentum=momentum)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin, self.momentum = margin, momentum
        self.register_buffer("difficulty", torch.zeros(()))
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def observe(self, batch: Batch) -> None:
        """The difficulty t moves towards the mean of ``cos θ``."""
        self.difficulty = self.difficulty.lerp(batch.cosine.mean().to(self.difficulty), self.momentum)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        return additive_angular(batch.cosine, self.margin)

    def negative_threshold(self, batch: Batch, target: Tensor) -> Tensor:
        """``cos(θ + m)``, which is not continued."""
        return additive_angular(batch.cosine, self.margin, "rotate")

    def negative_margin(self, target: Tensor) -> Elementwise:
        """``N`` of the formula."""
        return partial(hard_curricular, threshold=target, difficulty=self.difficulty.to(target))
