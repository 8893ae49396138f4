"""P2SGradLoss."""

from collections.abc import Callable
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
        descriptors_dim: PML's name of ``embedding_size``, in place of it.
        kwargs: ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`; no ``label_smoothing``.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes).
        TypeError: ``embedding_size`` and ``descriptors_dim`` both, or none of them.

    Example:
        >>> import torch
        >>> loss = P2SGradLoss(2, 2, weight_init_func=torch.nn.init.eye_)
        >>> loss(torch.tensor([[0.6, 0.8]]), torch.tensor([0])).detach()  # ½ · ((0.6 − 1)² + 0.8²)
        tensor(0.4000)

    Source: Zhang et al., P2SGrad, CVPR 2019, arXiv:1905.02479.

    Differs: PML's class of the same name takes ``(descriptors_dim, num_classes)``, in that order, and its gradient is
        2/C of the paper's, as it takes the mean over classes and has no ½.
    """

    margin_unit = "cosine"
    tuned: ClassVar[dict[str, Range]] = {}  # a regression of cosines
    from_pml_units: ClassVar[dict[str, Callable]] = {"distance": lambda _: None}  # PML's has one, and asks it nothing
    pml_weight: ClassVar[str] = "weight"

    def __init__(
        self, num_classes: int, embedding_size: int | None = None, *, descriptors_dim: int | None = None, **kwargs
    ):
        sizes = [size for size in (embedding_size, descriptors_dim) if size is not None]
        if len(sizes) != 1:
            raise TypeError(
                "embedding_size must be given once, by this name or by PML's, descriptors_dim, got "
                f"{embedding_size} and {descriptors_dim}. Write P2SGradLoss(num_classes=..., embedding_size=...)."
            )
        super().__init__(num_classes, sizes[0], **kwargs)
        self.descriptors_dim = self.embedding_size

    def target_cosine(self, batch: Batch) -> Tensor:
        """The cosine itself."""
        return batch.cosine

    def combine(self, target: Tensor, negatives: NegativeLogits) -> Tensor:
        """Half the squared errors."""
        return ((target - 1).square() + negative_sum(negatives, of=torch.square)) / 2
