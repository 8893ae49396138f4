"""P2SGradLoss."""

from typing import ClassVar

import torch
from torch import Tensor

from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import Range
from pml_center.ops.negative_logits import NegativeLogits, negative_sum


class P2SGradLoss(BaseSoftmaxLoss):
    """P2SGrad: the error of each cosine is its own gradient, nothing to tune.

    ``ℓ = ½·Σ_j (cos θ_j − [j = y])²``, whose gradient to each cosine is the paper's ``cos θ_j − [j = y]``: in place of
    the probability that softmax would give a class stands its cosine, so that there is no scale and no margin.

    Args:
        num_classes: C.
        embedding_size: D.
        kwargs: ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`; no ``label_smoothing``.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes).

    Example:
        >>> import torch
        >>> loss = P2SGradLoss(2, 2, weight_init_func=torch.nn.init.eye_)
        >>> loss(torch.tensor([[0.6, 0.8]]), torch.tensor([0])).detach()  # ½ · ((0.6 − 1)² + 0.8²)
        tensor(0.4000)

    Source: Zhang et al., P2SGrad, CVPR 2019, arXiv:1905.02479.

    Differs: PML's class of the same name takes ``(descriptors_dim, num_classes)``, and its gradient is 2/C of the
        paper's, as it takes the mean over classes and has no ½.
    """

    tuned: ClassVar[dict[str, Range]] = {}  # a regression of cosines

    def __init__(self, num_classes: int, embedding_size: int, **kwargs):
        super().__init__(num_classes, embedding_size, **kwargs)

    def target_cosine(self, batch: Batch) -> Tensor:
        """The cosine itself."""
        return batch.cosine

    def combine(self, target: Tensor, negatives: NegativeLogits) -> Tensor:
        """Half the squared errors."""
        return ((target - 1).square() + negative_sum(negatives, of=torch.square)) / 2
