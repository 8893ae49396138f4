"""SoftmaxCenterLoss."""

from typing import Any, ClassVar

from torch import Tensor

from pml_center.checks import check_between, check_flags
from pml_center.losses.base_center_loss import Update
from pml_center.losses.base_class_loss import BaseClassLoss
from pml_center.losses.center_loss import CenterLoss
from pml_center.losses.softmax_loss import SoftmaxLoss
from pml_center.losses.tuning import Range
from pml_center.losses.watch import CenterShare
from pml_center.ops.precision import ProductPrecision


class SoftmaxCenterLoss(BaseClassLoss):
    """The joint loss of the paper on center loss: ``softmax + λ · center``, as one loss.

    ``ℓ = −log softmax(W x + b)_y + λ · ½‖x − c_y‖²``. Give its parameters, those of the softmax, to an optimizer; the
    centers step by themselves. After each batch :attr:`parts` holds the mean of both terms before λ.

    Args:
        num_classes: C.
        embedding_size: D.
        center_weight: λ, at least 0. It belongs to the size of the embeddings: ‖x − c‖² grows with D and with their
            length. Powers of ten around the paper's 0.003 are worth a try.
        alpha: in (0, 1], the rate of the center step.
        update: how centers move, see :class:`CenterLoss`.
        radius: a length within which embeddings are left alone, see :class:`CenterLoss`.
        per_dim: whether center loss is divided by D.
        shared: whether the centers are the softmax's class weights at a learned length, see ``shared_with`` of
            :class:`CenterLoss`; needs ``update="gradient"``.
        bias: whether each class has an additive bias b, which starts from 0.
        label_smoothing: in [0, 1), of the softmax.
        kwargs: ``init``, ``sparse_gradient``, ``accumulation_steps``, ``process_group`` of the centers, see
            :class:`BaseCenterLoss`; ``chunk_size`` and ``product_precision`` of the softmax; ``ignore_index``,
            ``loss_weights``, ``miner_weighting`` and PML's arguments. ``weight_regularizer`` and ``weight_init_func``
            are for the class weights.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: that of ``softmax`` and of ``center``, which are a :class:`SoftmaxLoss` and a :class:`CenterLoss`.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.
        TypeError: a distance: the center term is Euclidean.

    Example:
        >>> import torch
        >>> loss = SoftmaxCenterLoss(num_classes=10, embedding_size=2, center_weight=0.5)
        >>> _ = torch.nn.init.zeros_(loss.softmax.class_weights.weight)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([3]))  # log 10 + 0.5 · 2
        tensor(3.3026, grad_fn=<MeanBackward0>)
        >>> {name: round(value.item(), 4) for name, value in loss.parts.items()}
        {'softmax': 2.3026, 'center': 2.0}

    Source: Wen et al., A discriminative feature learning approach for deep face recognition, ECCV 2016 (equation 5).
    """

    takes_any_distance = False
    _counts = True

    tuned: ClassVar[dict[str, Range]] = {"center_weight": Range("weight", 0.1, 10, log=True, relative=True)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        center_weight: float = 0.003,
        alpha: float = 0.5,
        update: Update = "paper",
        radius: float = 0.0,
        per_dim: bool = False,
        shared: bool = False,
        bias: bool = True,
        label_smoothing: float = 0.0,
        *,
        init: Any = None,
        sparse_gradient: bool = False,
        accumulation_steps: int | None = 1,
        process_group: Any = None,
        chunk_size: int | None = None,
        product_precision: ProductPrecision = "autocast",
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, **kwargs)
        check_flags(shared=shared, sparse_gradient=sparse_gradient)
        check_between("finite and at least 0", "The paper has 0.003.", center_weight=center_weight)
        self.center_weight, self.sparse_gradient = center_weight, sparse_gradient
        sizes, stats = (num_classes, embedding_size), self.collect_stats
        init_func = self.weight_init_func
        self.softmax = SoftmaxLoss(
            *sizes,
            bias,
            label_smoothing,
            chunk_size=chunk_size,
            product_precision=product_precision,
            weight_init_func=init_func,
            collect_stats=stats,
        )
        self.product_precision = product_precision
        self.center = CenterLoss(
            *sizes,
            alpha,
            update,
            radius,
            per_dim,
            shared_with=self.softmax if shared else None,
            init=init,
            sparse_gradient=sparse_gradient,
            accumulation_steps=accumulation_steps,
            process_group=process_group,
            collect_stats=stats,
        )
        self._moves = self.softmax._moves or self.center._moves
        self.parts: dict[str, Tensor] = {}
        self._share = CenterShare("center loss")
        self.add_to_recordable_attributes(list_of_names=["center_weight"], is_stat=False)
        self.add_to_recordable_attributes(list_of_names=["softmax_part", "center_part"], is_stat=True)

    def requires_grad_(self, requires_grad: bool = True) -> "SoftmaxCenterLoss":
        """Also stops the centers, or lets them go on."""
        self.center.requires_grad_(requires_grad)
        self._moves = self.softmax._moves or self.center._moves
        return super().requires_grad_(requires_grad)

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """``softmax + λ · center`` of each sample, (B,)."""
        self.softmax._product_dtype = self._product_dtype
        softmax = self.softmax.element_losses(embeddings, labels)
        return self._joined(softmax, self.center.element_losses(embeddings, labels))

    def losses_of_both(
        self, embeddings: Tensor, labels: Tensor, other_labels: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same by either class."""
        self.softmax._product_dtype = self._product_dtype
        softmax = self.softmax.losses_of_both(embeddings, labels, other_labels, share)
        center = self.center.losses_of_both(embeddings, labels, other_labels, share)
        one, two = (self._joined(*parts) for parts in zip(softmax, center, strict=True))
        return one, two

    def _joined(self, softmax: Tensor, center: Tensor) -> Tensor:
        self.parts = {"softmax": softmax.detach().mean(), "center": center.detach().mean()}
        if self.training:
            self._share.see(self.parts["center"], self.parts["softmax"], self.center_weight)
        if self.collect_stats:
            self.softmax_part, self.center_part = (part.item() for part in self.parts.values())
        return softmax + self.center_weight * center

    def watch(self, embeddings: Tensor, labels: Tensor, rows: Any) -> None:
        """Both are watched."""
        super().watch(embeddings, labels, rows)
        self.center.watch(embeddings, labels, self.center.class_rows())

    def before_batch(self, embeddings: Tensor, labels: Tensor) -> None:
        """The centers count batches too."""
        self.center.before_batch(embeddings, labels)

    def class_rows(self) -> Tensor:
        """The class weights of the softmax, (C, D)."""
        return self.softmax.class_rows()

    def step_centers(self) -> None:
        """Step the centers now, see :meth:`BaseCenterLoss.step_centers`."""
        self.center.step_centers()

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """Those of the softmax, (B, D) to (B, C)."""
        return self.softmax.get_logits(embeddings)

    def predict(self, embeddings: Tensor) -> Tensor:
        """The most likely class of each embedding, (B, D) to (B,)."""
        return self.softmax.predict(embeddings)

    def get_default_weight_init_func(self):
        """PML's hook: the softmax's own."""
        return None
