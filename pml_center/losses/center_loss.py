"""CenterLoss."""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor, nn

from pml_center.checks import check_between, check_flags
from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch, Update
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss
from pml_center.ops.centers import half_squared_distance


class CenterLoss(BaseCenterLoss):
    """Center loss: half the squared distance between an embedding and the center of its class.

    ``ℓ = ½‖x − c_y‖²``, and after each training batch ``c_j += α · Σ_{y=j}(x − c_j) / (1 + n_j)`` for the
    n_j > 0 embeddings of each class present. Add it to a loss that separates classes, with a small weight λ: alone it
    is smallest when every embedding is the same point. The step of the centers needs no optimizer. It depends neither
    on λ, nor on the reducer, nor on the size of the batch, nor on a miner: a sample that is left out moves its center
    like any other.

    ========================  =======================  =========================================================
    you had                   weight of this loss      arguments
    ========================  =======================  =========================================================
    the paper: λ, α           λ, beside a softmax      ``alpha=α``
                              loss, both as means
    caffe-face                ``loss_weight``          ``alpha=base_lr·lr_mult``; its solver also decays that
                                                       rate, and adds momentum and weight decay
    KaiyangZhou: λ, r         2λ                       ``update="gradient"``, centers by SGD with ``lr=r / λ``
    reid-strong-baseline      2 · 0.0005               ``update="gradient"``, centers by SGD with ``lr=1000``
    ========================  =======================  =========================================================

    In the last two r is the learning rate of the centers, 0.5, and their gradients are multiplied by 1 / λ before their
    step; here they are not.

    Args:
        num_classes: C.
        embedding_size: D.
        alpha: in (0, 1], the rate of the center step. With 1 a center moves n / (1 + n) of the way to the
            mean of the n embeddings of its class.
        update: ``"paper"`` steps the centers as above, ``"mean"`` by ``α · Σ(x − c) / n``, a moving average of the
            means of the batches. ``"gradient"`` makes them parameters for an optimizer.
        radius: ρ, at least 0, a length: ``½·max(0, ‖x − c_y‖ − ρ)²`` leaves embeddings within it alone.
        per_dim: whether the loss is divided by D, so that a weight found at one width serves another.
        shared_with: a softmax loss whose class weights are the centers: ``c_j = length · w_j / ‖w_j‖``, where
            ``length`` is a parameter that starts from 1. Nothing steps, so ``update`` must be ``"gradient"``.
        kwargs: ``init``, ``sparse_gradient``, ``accumulation_steps``, ``process_group`` and PML's arguments, see
            :class:`BaseCenterLoss`. ``distance`` is ``LpDistance(normalize_embeddings=False, power=2)`` by default;
            a distance d of PML gives ``d / 2``, a similarity s, such as ``CosineSimilarity``, ``1 − s``.
            Centers start from 0 by default; those that are parameters of a distance of directions, from N(0, 1).

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``centers`` (C, D), fp32; a buffer that moves only in training mode, or a parameter. ``last_seen`` (C,), the
        number of the training batch in which a class was last seen, 0 for never. ``step``, how many there were.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.
        TypeError: ``shared_with`` something else than a softmax loss.

    Example:
        >>> import torch
        >>> loss = CenterLoss(num_classes=10, embedding_size=2, alpha=1.0)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([3]))
        tensor(2.)
        >>> loss.centers[3]
        tensor([1., 0.])

    Source: Wen et al., A discriminative feature learning approach for deep face recognition, ECCV 2016
        (equations 2 to 4); ``radius`` and ``shared_with``: Wen et al., A comprehensive study on center loss for deep
        face recognition, IJCV 2019. The paper sums both the softmax and the center term over the batch, PML's
        default reducer takes the mean of both: the paper's λ = 0.003 is the same number here.

    Differs: the authors' caffe layer divides the loss by the batch size, as here, and adds solver momentum
        and weight decay to the centers, which are not in the paper. The widely copied
        KaiyangZhou/pytorch-center-loss has no ½, adds 1e-12 for each other class, loses the digits of large norms, and
        moves its centers by 2n / B times the learning rate; ``update="gradient"`` does so for twice this loss.
        jxgu1016/MNIST_center_loss_pytorch divides the step by B too, facenet and Weitao Wan's code take
        ``(1 − alfa) · Σ(x − c)``, which overshoots for many samples of a class.
    """

    takes_any_distance = True
    only_pulls = True

    length: nn.Parameter

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        alpha: float = 0.5,
        update: Update = "paper",
        radius: float = 0.0,
        per_dim: bool = False,
        shared_with: BaseSoftmaxLoss | None = None,
        **kwargs,
    ):
        if shared_with is not None:
            _check_shared(shared_with, num_classes, embedding_size, update, kwargs)
        self.__dict__["_shared"] = shared_with  # beside the modules: its parameters and its state are its own
        super().__init__(num_classes, embedding_size, alpha, update, **kwargs)
        check_flags(per_dim=per_dim)
        check_between("finite and at least 0", "It is a length, such as 5.", radius=radius)
        if radius and not self._is_squared_euclidean:
            raise ValueError(
                f"radius must be 0 with {type(self.distance).__name__}, got {radius}. It is defined for the squared "
                "Euclidean distance: leave distance out."
            )
        self.radius, self.per_dim = radius, per_dim
        self._forgotten_optimizer.is_over = shared_with is not None  # which watches its weights itself
        self.add_to_recordable_attributes(list_of_names=["radius"], is_stat=False)

    @property
    def _is_squared_euclidean(self) -> bool:
        return isinstance(self.distance, LpDistance) and self.distance.p == self.distance.power == 2

    def pull(self, batch: CenterBatch) -> Tensor:
        """``½‖x − c_y‖²``, or what another distance makes of it."""
        distance = self.distance
        embeddings, own = distance.maybe_normalize(batch.embeddings), distance.maybe_normalize(batch.own)
        if self.radius:
            losses = F.relu((embeddings - own).norm(dim=1) - self.radius).square() / 2
        elif self._is_squared_euclidean:
            losses = half_squared_distance(embeddings, own)
        elif isinstance(distance, LpDistance):  # its pairwise_distance would add 1e-6 and ignore the power
            losses = (embeddings - own).norm(p=distance.p, dim=1) ** distance.power / 2
        elif distance.is_inverted:
            losses = 1 - distance.pairwise_distance(embeddings, own) ** distance.power
        else:
            losses = distance.pairwise_distance(embeddings, own) ** distance.power / 2
        return losses / self.embedding_size if self.per_dim else losses

    def own_centers(self, labels: Tensor) -> Tensor:
        """The center of each label, (B, D): a buffer's, a parameter's, or made of the shared weights."""
        if self._shared is None:
            return super().own_centers(labels)
        return self.length * F.normalize(self._shared.class_weights.weight.index_select(0, labels), dim=1)

    def class_rows(self) -> Tensor:
        """The centers, or the weights that they are made of, (C, D)."""
        return self.centers if self._shared is None else self._shared.class_weights.weight

    def _build_centers(self, init: Any) -> None:
        if self._shared is None:
            super()._build_centers(init)
        else:
            self.length = nn.Parameter(torch.ones(()))


def _check_shared(softmax: Any, num_classes: int, embedding_size: int, update: str, others: dict[str, Any]) -> None:
    if not isinstance(softmax, BaseSoftmaxLoss):
        raise TypeError(
            f"shared_with must be a softmax loss of pml_center, got {type(softmax).__name__}. "
            "Pass the loss itself, such as SoftmaxLoss(num_classes, embedding_size)."
        )
    if (softmax.num_classes, softmax.embedding_size, softmax.sub_centers) != (num_classes, embedding_size, 1):
        raise ValueError(
            f"shared_with must have {num_classes} classes, width {embedding_size} and one center a class, got "
            f"{softmax.num_classes}, {softmax.embedding_size} and {softmax.sub_centers}. Build both alike."
        )
    if update != "gradient":
        raise ValueError(
            f'update must be "gradient" with shared_with, whose weights an optimizer moves, got {update!r}. '
            'Pass update="gradient".'
        )
    for name in ("init", "sparse_gradient", "weight_init_func"):
        if others.get(name):
            raise ValueError(
                f"{name} must be left out with shared_with, whose weights are the centers, got {others[name]!r}. "
                f"Give it to {type(softmax).__name__}."
            )
