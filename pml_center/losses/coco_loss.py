"""COCOLoss."""

import math

from torch import Tensor

from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch


class COCOLoss(BaseSoftmaxLoss):
    """COCO (congenerous cosine): cross entropy over cosines, with the scale that the number of classes asks for.

    ``ℓ = −log( e^{α·cos θ_y} / Σ_j e^{α·cos θ_j} )``, where ``α = ½·log(C − 1) + 3`` lets the loss of good
    embeddings come near 0. :class:`NormalizedSoftmaxLoss` with another scale, much softer than that of margin losses.

    Args:
        num_classes: C.
        embedding_size: D.
        scale: α > 0, the length that embeddings are given; None takes the formula.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); scale not positive.

    Example:
        >>> import torch
        >>> round(COCOLoss(10, 64).scale, 2)  # ½·log 9 + 3
        4.1
        >>> loss = COCOLoss(2, 2, weight_init_func=torch.nn.init.eye_)
        >>> loss.get_logits(torch.tensor([[0.6, 0.8]])).detach()  # 3 · 0.6, 3 · 0.8
        tensor([[1.8000, 2.4000]])

    Source: Liu et al., Rethinking feature discrimination and polymerization for large-scale recognition, 2017,
        arXiv:1710.00870.

    Differs: opensphere overwrites its weights by their directions at every step, and leaves a radial part in their
        gradient.
    """

    margin_unit = "cosine"

    def __init__(self, num_classes: int, embedding_size: int, scale: float | None = None, **kwargs):
        super().__init__(num_classes, embedding_size, 1 if scale is None else scale, **kwargs)
        self.is_automatic = scale is None
        if self.is_automatic:
            self.scale = automatic_scale(num_classes)

    def target_cosine(self, batch: Batch) -> Tensor:
        """The cosine itself: no margin."""
        return batch.cosine

    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; a scale that follows the number of classes follows it."""
        super().resize_classes(num_classes)
        if self.is_automatic:
            self.scale = automatic_scale(num_classes)


def automatic_scale(num_classes: int) -> float:
    """``½·log(C − 1) + 3``."""
    return math.log(max(num_classes - 1, 1)) / 2 + 3
