"""LDAMLoss."""

from collections.abc import Sequence

from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import additive_cosine


class LDAMLoss(BaseSoftmaxLoss):
    """LDAM: CosFace whose margin is larger the fewer samples a class has.

    The target is ``cos θ_y − m_y`` with ``m_j = m·(n_min / n_j)^{1/4}``, n_j the number of samples of class j: the
    rarest class has the whole margin. The exponent balances bounds of the error of frequent and rare classes. For data
    of a long tail that is tested evenly; :class:`DynamicArcFaceLoss` is the same idea with angles.

    Args:
        num_classes: C.
        embedding_size: D.
        class_counts: n, (C,) samples of each class in the training data, or one number for all;
            ``torch.bincount(labels, minlength=num_classes)``.
        margin: m, a difference of cosines in [0, 2], of the rarest class.
        scale: s > 0, the factor of all cosines.
        exponent: of the counts, at least 0; 0 is :class:`CosFaceLoss`.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``class_counts`` (C,).

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = LDAMLoss(2, 2, class_counts=[16, 1], scale=1, weight_init_func=torch.nn.init.eye_)
        >>> loss.get_logits(torch.eye(2), torch.tensor([0, 1])).detach()  # 1 − 0.5 · (1 / 16)^¼, 1 − 0.5
        tensor([[0.7500, 0.0000],
                [0.0000, 0.5000]])

    Source: Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss, NeurIPS 2019,
        arXiv:1906.07413. Their deferred weights by class are ``loss_weights``, which may be set between two epochs.
    """

    class_counts: Tensor

    margin_unit = "cosine"

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        class_counts: Tensor | Sequence[int] | int,
        margin: float = 0.5,
        scale: float = 30,
        exponent: float = 0.25,
        **kwargs,
    ):
        check_between("in [0, 2], a difference of cosines", "The authors' is 0.5.", margin=margin)
        check_between("at least 0", "The paper's is 0.25.", exponent=exponent)
        super().__init__(num_classes, embedding_size, scale, class_counts=class_counts, **kwargs)
        self.margin, self.exponent = margin, exponent
        self.add_to_recordable_attributes(list_of_names=["margin", "exponent"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos θ − m_y``."""
        counts = self.class_counts.to(batch.cosine)
        margin = self.margin * (counts.min() / counts[batch.labels]).pow(self.exponent)
        return additive_cosine(batch.cosine, margin)
