"""BaseClassLoss: what every loss with one row of numbers per class shares."""

import warnings
from collections.abc import Sequence

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.losses.mixins import WeightRegularizerMixin
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu
from torch import Tensor, nn

from pml_center.checks import check_embeddings, check_labels, check_size, constructor_arguments, unknown_name

BATCHES_AT_REST = 20  # so many training batches may pass before we call an optimizer forgotten


class BaseClassLoss(WeightRegularizerMixin, BaseMetricLossFunction):
    """A loss that compares each embedding with the rows of its classes: abstract.

    It is the boundary that all such losses share: input is checked, half precision is cast up (parameters are
    never cast), autocast is switched off inside, miners' tuples become weights, and the loss of each sample
    goes to PML's reducer. A subclass says :meth:`element_losses` and :meth:`class_rows`.

    Args:
        num_classes: C, at least 1.
        embedding_size: D, at least 1.
        ignore_index: samples with this label take no part; None takes all.
        loss_weights: (C,) how much the samples of each class count; the mean is that of the weighted samples.
        kwargs: PML's ``reducer``, ``distance``, ``embedding_regularizer``, ``embedding_reg_weight``,
            ``weight_regularizer``, ``weight_reg_weight``, ``weight_init_func``, ``collect_stats``.
    """

    loss_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        ignore_index: int | None = None,
        loss_weights: Tensor | Sequence[float] | None = None,
        **kwargs,
    ):
        accepted = constructor_arguments(type(self), stop=nn.Module)
        for name in kwargs:
            if name not in accepted:
                takes = f"It takes {', '.join(accepted)}."
                raise TypeError(unknown_name(f"argument of {type(self).__name__}", name, accepted, takes))
        super().__init__(**kwargs)
        self.num_classes = check_size("num_classes", num_classes)
        self.embedding_size = check_size("embedding_size", embedding_size)
        self.ignore_index = ignore_index
        self.register_buffer("loss_weights", None if loss_weights is None else self._checked_weights(loss_weights))
        self.add_to_recordable_attributes(list_of_names=["num_classes", "embedding_size"], is_stat=False)
        self._batches_at_rest = 0  # -1: never look again
        self._watched: tuple[int, Tensor] | None = None

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, (B, D) and (B,) to (B,)."""
        raise NotImplementedError

    def class_rows(self) -> Tensor:
        """What ``weight_regularizer`` looks at, (C, D)."""
        raise NotImplementedError

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple=None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """The reduced loss of a batch.

        Args:
            embeddings: (B, D) floating point, finite.
            labels: (B,) integers in [0, num_classes).
            indices_tuple: what a PML miner returned. Each sample then counts as often as it was mined,
                relative to the one mined most; a sample never mined counts 0; no tuples at all count as no
                miner.
            ref_emb: not supported by losses that bring their own references; None or ``embeddings`` itself.
            ref_labels: as ``ref_emb``.

        Returns:
            What the reducer makes of the (B,) losses; 0 for an empty batch.

        Raises:
            TypeError: embeddings or labels of the wrong type.
            ValueError: shape or width that does not fit, NaN or infinity, labels out of range, other
                references.
        """
        if (ref_emb is not None and ref_emb is not embeddings) or (ref_labels is not None and ref_labels is not labels):
            raise ValueError(
                f"ref_emb must be None for {type(self).__name__}, which brings its own references (a row per class), "
                "got another tensor. Leave ref_emb out."
            )
        check_embeddings(embeddings, self.embedding_size)
        labels = check_labels(labels, self.num_classes, len(embeddings), self.ignore_index)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self._working_dtype(embeddings))
            if not len(self._taking_part(labels)):
                return self.reducer(self.zero_losses(), embeddings, labels)
            self._warn_of_a_forgotten_optimizer(labels[self._taking_part(labels)])
            return super().forward(embeddings, labels, indices_tuple)

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """PML's hook: the losses of the samples, weighted by the miner, as a dictionary for the reducer."""
        if indices_tuple is not None and self.ignore_index is not None:
            indices_tuple = _among(labels != self.ignore_index, indices_tuple)
        weights = lmu.convert_to_weights(indices_tuple, labels, dtype=embeddings.dtype)
        loss_dict = {}
        self.add_weight_regularization_to_loss_dict(loss_dict, self.class_rows())  # before centers take their step
        indices = self._taking_part(labels)
        if self.ignore_index is not None:
            embeddings, labels, weights = embeddings[indices], labels[indices], weights[indices]
        losses = self.element_losses(embeddings, labels) * weights
        if self.loss_weights is not None:
            of_sample = self.loss_weights[labels].to(losses)
            losses = losses * of_sample / of_sample.mean()
        loss_dict["loss"] = {
            "losses": losses,
            "indices": indices,
            "reduction_type": "element",
            "divisor": len(indices),  # DivisorReducer raises without one
        }
        return loss_dict

    def _taking_part(self, labels: Tensor) -> Tensor:
        """Rows of the samples that are not ignored."""
        if self.ignore_index is None:
            return torch.arange(len(labels), device=labels.device)
        return (labels != self.ignore_index).nonzero().squeeze(1)

    def _checked_weights(self, loss_weights: Tensor | Sequence[float]) -> Tensor:
        weights = torch.as_tensor(loss_weights, dtype=torch.float32)
        if weights.shape != (self.num_classes,) or not (weights > 0).all():
            raise ValueError(
                f"loss_weights must be {self.num_classes} positive numbers, one per class, "
                f"got shape {tuple(weights.shape)} and least value {weights.min().item():g}. Leave out classes with "
                "ignore_index."
            )
        return weights

    def _working_dtype(self, embeddings: Tensor) -> torch.dtype:
        """The wider of embeddings and class rows, at least fp32."""
        wider = torch.promote_types(embeddings.dtype, self.class_rows().dtype)
        return torch.promote_types(wider, torch.float32)

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


def _among(part: Tensor, indices_tuple: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The triplets, or the pairs, all of whose samples take part."""
    groups = [indices_tuple] if len(indices_tuple) == 3 else [indices_tuple[:2], indices_tuple[2:]]
    kept = []
    for group in groups:
        keep = torch.stack([part[index] for index in group]).all(0)
        kept += [index[keep] for index in group]
    return tuple(kept)
