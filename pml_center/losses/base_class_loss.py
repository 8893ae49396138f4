"""BaseClassLoss: what every loss with one row of numbers per class shares."""

import warnings
from collections.abc import Sequence

import torch
from pytorch_metric_learning.losses.mixins import WeightRegularizerMixin
from torch import Tensor

from pml_center.checks import check_embeddings, check_labels, check_size
from pml_center.losses.base_element_loss import BaseElementLoss

BATCHES_AT_REST = 20  # so many training batches may pass before we call an optimizer forgotten


class BaseClassLoss(WeightRegularizerMixin, BaseElementLoss):
    """A loss that compares each embedding with the rows of its classes: abstract.

    A subclass says :meth:`element_losses` and :meth:`class_rows`.

    Args:
        num_classes: C, at least 1.
        embedding_size: D, at least 1.
        loss_weights: (C,) how much the samples of each class count; the mean is that of the weighted samples.
        kwargs: ``ignore_index``, ``miner_weighting`` and PML's ``reducer``, ``distance``, ``embedding_regularizer``,
            ``embedding_reg_weight``, ``collect_stats``, see
            :class:`~pml_center.losses.base_element_loss.BaseElementLoss`, and PML's ``weight_regularizer``,
            ``weight_reg_weight``, ``weight_init_func``. A ``weight_regularizer`` with a true attribute ``takes_labels``
            is called with the numbers of the rows whose classes are in the batch, too.
    """

    loss_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        loss_weights: Tensor | Sequence[float] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = check_size("num_classes", num_classes)
        self.embedding_size = check_size("embedding_size", embedding_size)
        if loss_weights is None:
            self.loss_weights = None  # a buffer that is None would stop PML's record keeper
        else:
            self.register_buffer("loss_weights", self._checked_weights(loss_weights))
        self.add_to_recordable_attributes(list_of_names=["num_classes", "embedding_size"], is_stat=False)
        self._batches_at_rest = 0  # -1: never look again
        self._watched: tuple[int, Tensor] | None = None

    def class_rows(self) -> Tensor:
        """What ``weight_regularizer`` looks at, (C, D)."""
        raise NotImplementedError

    def check_batch(self, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        """Width and range of labels too."""
        check_embeddings(embeddings, self.embedding_size)
        return check_labels(labels, self.num_classes, len(embeddings), self.ignore_index)

    def before_batch(self, embeddings: Tensor, labels: Tensor) -> None:
        """Look whether an optimizer was forgotten."""
        if len(labels):
            self._warn_of_a_forgotten_optimizer(labels)

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """PML's hook: with the term of the weight regularizer."""
        regularized: dict[str, dict] = {}
        rows = self.class_rows()  # before centers take their step
        if getattr(self.weight_regularizer, "takes_labels", False):
            of_batch = self._rows_of(labels[self._taking_part(labels)])
            term = self.weight_regularizer(rows, of_batch) * self.weight_reg_weight
            regularized["weight_reg_loss"] = {"losses": term, "indices": None, "reduction_type": "already_reduced"}
        else:
            self.add_weight_regularization_to_loss_dict(regularized, rows)
        return regularized | super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)

    def weighted_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """With the weights of their classes."""
        losses = self.element_losses(embeddings, labels)
        if self.loss_weights is None:
            return losses
        of_sample = self.loss_weights[labels].to(losses)
        return losses * of_sample / of_sample.mean()

    def _rows_of(self, labels: Tensor) -> Tensor:
        """Numbers of the class rows of these classes, which may have several each."""
        per_class = len(self.class_rows()) // self.num_classes
        return (labels.unsqueeze(1) * per_class + torch.arange(per_class, device=labels.device)).flatten()

    def _checked_weights(self, loss_weights: Tensor | Sequence[float]) -> Tensor:
        weights = torch.as_tensor(loss_weights, dtype=torch.float32)
        if weights.shape != (self.num_classes,) or not ((weights > 0) & weights.isfinite()).all():
            got = f"shape {tuple(weights.shape)}"
            if weights.numel():
                got += f" and values from {weights.min().item():g} to {weights.max().item():g}"
            raise ValueError(
                f"loss_weights must be {self.num_classes} positive numbers, one per class, got {got}. "
                "Leave out classes with ignore_index."
            )
        return weights

    def _working_dtype(self, embeddings: Tensor) -> torch.dtype:
        """The wider of embeddings and class rows, at least fp32."""
        return torch.promote_types(super()._working_dtype(embeddings), self.class_rows().dtype)

    def _warn_of_a_forgotten_optimizer(self, labels: Tensor) -> None:
        """Say, once, that gradients keep arriving at rows which nothing has ever moved.

        Values are compared, not version counters: fused optimizers do not raise those.
        """
        if (
            torch.compiler.is_compiling()
        ):  # for a count that changes with every batch, it would compile every batch anew
            return
        rows = self.class_rows()
        if self._batches_at_rest < 0 or not (self.training and torch.is_grad_enabled() and rows.requires_grad):
            return
        of_class = rows.detach().view(self.num_classes, -1)
        if self._watched is not None and self._watched[0] < self.num_classes:
            label, row = self._watched
            moved = not torch.equal(of_class[label].to(row), row)
            self._batches_at_rest = -1 if moved else self._batches_at_rest + (rows.grad is not None)
        if self._batches_at_rest == BATCHES_AT_REST:
            self._batches_at_rest = -1
            warnings.warn(
                f"{type(self).__name__} has parameters that no optimizer has moved in {BATCHES_AT_REST} training "
                "batches. Give them to one: torch.optim.AdamW(pml_center.param_groups(model, loss, lr=...)). If you "
                "accumulate gradients over more batches than that, all is well.",
                stacklevel=2,
            )
        label = int(labels[0])
        self._watched = None if self._batches_at_rest < 0 else (label, of_class[label].clone())
