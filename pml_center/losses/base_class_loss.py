"""BaseClassLoss: what every loss with one row of numbers per class shares."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pytorch_metric_learning.losses.mixins import WeightRegularizerMixin
from torch import Tensor

from pml_center.checks import as_numbers, check_between, check_functions, check_modules, check_size
from pml_center.losses.base_element_loss import BaseElementLoss
from pml_center.losses.pml_names import PMLClassNames
from pml_center.losses.watch import ForgottenOptimizer


class BaseClassLoss(PMLClassNames, WeightRegularizerMixin, BaseElementLoss):
    """A loss that compares each embedding with the rows of its classes: abstract.

    Beside what :class:`~pml_center.losses.base_element_loss.BaseElementLoss` does, it holds labels against the number
    of classes, weighs them, regularizes their rows, and looks whether an optimizer moves them. A subclass must say

    - :meth:`element_losses`: the loss of each sample;
    - :meth:`class_rows`: the rows.

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

    per_class: ClassVar[tuple[str, ...]] = ("loss_weights",)  # tables, which processes may split
    num_classes: int
    embedding_size: int
    loss_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        loss_weights: Tensor | Sequence[float] | None = None,
        **kwargs,
    ):
        # Here, for PML's mixin takes them before a base would see them.
        check_modules(weight_regularizer=kwargs.get("weight_regularizer"))
        check_between("finite", "PML's is 1.", weight_reg_weight=kwargs.get("weight_reg_weight", 1))
        remedy = "It fills a tensor in place, as torch.nn.init.normal_ does."
        check_functions(remedy, weight_init_func=kwargs.get("weight_init_func"))
        super().__init__(**kwargs)
        self.num_classes = check_size("num_classes", num_classes)
        self.embedding_size = check_size("embedding_size", embedding_size)
        if loss_weights is None:
            self.loss_weights = None  # a buffer that is None would stop PML's record keeper
        else:
            self.register_buffer("loss_weights", self._checked_weights(loss_weights))
        self.add_to_recordable_attributes(list_of_names=["num_classes", "embedding_size"], is_stat=False)
        self._forgotten_optimizer = ForgottenOptimizer(type(self).__name__)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "loss_weights" and value is not None:
            if name not in self.__dict__.get("_buffers", ()):
                raise TypeError(
                    f"loss_weights must be given when {type(self).__name__} is built, because it weighs the classes of "
                    "a batch, got them later. Pass loss_weights=..., or choose another name for your own."
                )
            value = self._checked_weights(value)
        super().__setattr__(name, value)

    def class_rows(self) -> Tensor:
        """What ``weight_regularizer`` looks at, (C · rows of a class, D)."""
        raise NotImplementedError

    def watch(self, embeddings: Tensor, labels: Tensor, rows: Any) -> None:
        """Look whether an optimizer moves the rows of these labels."""
        self._forgotten_optimizer.see(rows, labels, self.num_classes)

    def losses_and_terms(
        self, embeddings: Tensor, labels: Tensor, rows: Any, references: tuple[Tensor, ...], mixture: Any = None
    ) -> tuple[Tensor, dict[str, dict]]:
        """With the weights of the classes, and the term of the weight regularizer."""
        terms = {}
        if self.weight_regularizer is not None:  # before centers take their step
            takes_labels = getattr(self.weight_regularizer, "takes_labels", False)
            present = labels if mixture is None else torch.cat([labels, mixture[0]])
            of_batch = [self._numbers_of_rows(present, len(rows))] if takes_labels else []
            term = self.weight_regularizer(rows, *of_batch) * self.weight_reg_weight
            terms["weight_reg_loss"] = {"losses": term, "indices": None, "reduction_type": "already_reduced"}
        if mixture is None:
            losses = self.element_losses(embeddings, labels)
            if self.loss_weights is not None:
                of_sample = self.loss_weights[labels].to(losses)
                losses = losses * of_sample / of_sample.mean()
            return losses, terms
        other_labels, share = mixture[0], mixture[1].to(embeddings)
        both = self.losses_of_both(embeddings, labels, other_labels, share)
        weights = [share, 1 - share]
        if self.loss_weights is not None:
            one, two = (
                self.loss_weights[labels].to(share) * share,
                self.loss_weights[other_labels].to(share) * (1 - share),
            )
            mean = (one + two).mean()
            weights = [one / mean, two / mean]
        return weights[0] * both[0] + weights[1] * both[1], terms

    def _numbers_of_rows(self, labels: Tensor, rows: int) -> Tensor:
        """Which of so many class rows belong to these classes, which may have several each."""
        per_class = rows // self.num_classes
        return (labels.unsqueeze(1) * per_class + torch.arange(per_class, device=labels.device)).flatten()

    def _checked_weights(self, loss_weights: Tensor | Sequence[float]) -> Tensor:
        weights = as_numbers(loss_weights, torch.float32)
        if weights is None or weights.shape != (self.num_classes,) or not ((weights > 0) & weights.isfinite()).all():
            got = repr(loss_weights) if weights is None else f"shape {tuple(weights.shape)}"
            if weights is not None and weights.numel():
                got += f" and values from {weights.min().item():g} to {weights.max().item():g}"
            raise ValueError(
                f"loss_weights must be {self.num_classes} positive numbers, one per class, got {got}. "
                "Leave out classes with ignore_index."
            )
        return weights
