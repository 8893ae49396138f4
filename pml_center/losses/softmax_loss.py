"""SoftmaxLoss."""

from typing import ClassVar

from torch import Tensor

from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import Range


class SoftmaxLoss(BaseSoftmaxLoss):
    """Softmax loss: a linear layer followed by cross entropy, in one.

    ``ℓ = −log softmax(W x + b)_y``, with label smoothing ε ``(1 − ε)·ℓ + ε·mean_j(−log softmax(W x + b)_j)``.
    The usual way to train a classifier, and the partner of center loss. Without bias the features of a class
    spread along a ray from the origin; with one, rays may start elsewhere.

    Args:
        num_classes: C.
        embedding_size: D.
        bias: whether each class has an additive bias b, which starts from 0.
        label_smoothing: in [0, 1). The share of the target that is spread evenly over all classes.
        kwargs: ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); label_smoothing outside [0, 1).

    Example:
        >>> import torch
        >>> loss = SoftmaxLoss(2, 2, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[3.0, 4.0]]), torch.tensor([0])
        >>> loss(embeddings, labels).detach()  # log(1 + e^(4 − 3))
        tensor(1.3133)

    Source: Bridle, Training stochastic model recognition algorithms as networks can lead to maximum mutual
        information estimation of parameters, NeurIPS 1989; label smoothing: Szegedy et al., CVPR 2016,
        arXiv:1512.00567.
    """

    normalizes = False

    tuned: ClassVar[dict[str, Range]] = {}  # lengths of embeddings are its scale

    def __init__(
        self, num_classes: int, embedding_size: int, bias: bool = True, label_smoothing: float = 0.0, **kwargs
    ):
        super().__init__(num_classes, embedding_size, bias=bias, label_smoothing=label_smoothing, **kwargs)

    def target_cosine(self, batch: Batch) -> Tensor:
        """The product itself: no margin."""
        return batch.cosine
