"""CenterLoss."""

from typing import Literal

from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from torch import Tensor

from pml_center.losses.base_center_loss import BaseCenterLoss


class CenterLoss(BaseCenterLoss):
    """Center loss: half the squared distance between an embedding and the center of its class.

    ``ℓ = ½‖x − c_y‖²``, and after each training batch ``c_j += α · Σ_{y=j}(x − c_j) / (1 + n_j)`` for the
    n_j > 0 embeddings of each class present. Add it to a loss that separates classes, with a small weight λ: alone it
    is smallest when every embedding is the same point. The step of the centers needs no optimizer. It depends neither
    on λ, nor on the reducer, nor on the size of the batch, nor on a miner: a sample that is left out moves its center
    like any other.

    Args:
        num_classes: C.
        embedding_size: D.
        alpha: in (0, 1], the rate of the center step. With 1 a center moves n / (1 + n) of the way to the
            mean of the n embeddings of its class.
        update: ``"paper"`` steps the centers as above. ``"gradient"`` makes them parameters for an optimizer.
        kwargs: PML's arguments, see :class:`BaseCenterLoss`. ``distance`` is
            ``LpDistance(normalize_embeddings=False, power=2)`` by default; any ``LpDistance`` gives half of
            that distance, ``CosineSimilarity`` gives ``1 − cos(x, c_y)``. ``weight_init_func`` fills the
            centers, by default with 0.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``centers`` (C, D), fp32; a buffer that moves only in training mode, or a parameter.

    Raises:
        ValueError: labels outside [0, num_classes); alpha outside (0, 1]; unknown update.
        TypeError: another distance.

    Example:
        >>> import torch
        >>> loss = CenterLoss(num_classes=10, embedding_size=2, alpha=1.0)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([3]))
        tensor(2.)
        >>> loss.centers[3]
        tensor([1., 0.])

    Source: Wen et al., A discriminative feature learning approach for deep face recognition, ECCV 2016
        (equations 2 to 4). The paper sums both the softmax and the center term over the batch, PML's
        default reducer takes the mean of both: the paper's λ = 0.003 is the same number here.

    Differs: the authors' caffe layer divides the loss by the batch size, as here, and adds solver momentum
        and weight decay to the centers, which are not in the paper. The widely copied
        KaiyangZhou/pytorch-center-loss has no ½ and moves its centers by 2n / B times the learning rate;
        ``update="gradient"`` does so for twice this loss.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        alpha: float = 0.5,
        update: Literal["paper", "gradient"] = "paper",
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, alpha, update, **kwargs)
        if not isinstance(self.distance, LpDistance | CosineSimilarity):
            raise TypeError(
                f"distance must be an LpDistance or CosineSimilarity, got {type(self.distance).__name__}. "
                "Leave it out for the paper's squared Euclidean distance."
            )

    def pull(self, embeddings: Tensor, own: Tensor) -> Tensor:
        """``½‖x − c_y‖²``, or half of another distance."""
        distance = self.distance
        embeddings, own = distance.maybe_normalize(embeddings), distance.maybe_normalize(own)
        if isinstance(distance, CosineSimilarity):
            return 1 - (embeddings * own).sum(1) ** distance.power
        difference = embeddings - own  # PML's pairwise_distance would add 1e-6 and ignore the power
        if distance.p == distance.power == 2:
            return difference.square().sum(1) / 2
        return difference.norm(p=distance.p, dim=1) ** distance.power / 2
