"""LargeMarginSoftmaxLoss."""

from abc import ABCMeta
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import Range
from pml_center.ops.margins import multiplied_angular


class LargeMarginSoftmaxLoss(BaseSoftmaxLoss, metaclass=ABCMeta):
    """Large-margin softmax (L-Softmax): softmax whose angle to one's own class is multiplied.

    ``ℓ = −log( e^{f_y} / (e^{f_y} + Σ_{j≠y} e^{w_jᵀx}) )`` with ``f_y = ‖w_y‖‖x‖ψ(θ_y)`` and
    ``ψ(θ) = (−1)^k·cos(mθ) − 2k`` for θ in [kπ/m, (k+1)π/m]. The first of the margin losses; nothing is normalised, so
    lengths matter. Hard to start: the paper anneals the margin, for which
    ``margin_schedule=schedules.Annealing()`` is there.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, an integer of at least 1; 2 to 4 in the paper. 1 is :class:`SoftmaxLoss` without bias.
        scale: a factor of all logits.
        kwargs: ``margin_schedule``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); margin no integer of at least 1; scale not positive.

    Example:
        >>> import torch
        >>> from pml_center.losses.schedules import Annealing
        >>> embeddings, labels = torch.tensor([[3.0, 4.0]]), torch.tensor([0])
        >>> loss = LargeMarginSoftmaxLoss(2, 2, margin=2, weight_init_func=torch.nn.init.eye_)
        >>> loss.get_logits(embeddings, labels).detach()  # 5 · cos 2θ = 5 · (2 · 0.6² − 1)
        tensor([[-1.4000,  4.0000]])
        >>> loss = LargeMarginSoftmaxLoss(2, 2, 2, margin_schedule=Annealing(), weight_init_func=torch.nn.init.eye_)
        >>> loss.get_logits(embeddings, labels).detach()  # a thousandth of the way from 3 to there, at first
        tensor([[2.9951, 4.0000]])

    Source: Liu et al., Large-margin softmax loss for convolutional neural networks, ICML 2016, arXiv:1612.02295
        (equations 4 to 6).

    Differs: PML has no annealing, truncates a broken margin, and takes ``distance=CosineSimilarity()`` where the loss
        is defined on plain products, which is what is taken here.
    """

    normalizes = False
    default_gradient = None  # lengths are part of the target
    from_pml_units: ClassVar[dict[str, Callable]] = {"distance": lambda _: None}

    tuned: ClassVar[dict[str, Range]] = {"scale": Range("scale", 0.25, 16, log=True)}  # a margin is a whole number

    def __init__(self, num_classes: int, embedding_size: int, margin: int = 4, scale: float = 1, **kwargs):
        check_between("an integer of at least 1", "The paper's margins are 2 to 4.", margin=margin)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin = margin
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``‖w‖‖x‖ψ(θ)``."""
        lengths = batch.norm * batch.row_norm
        cosine = batch.cosine / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
        return lengths * multiplied_angular(cosine, self.margin)
