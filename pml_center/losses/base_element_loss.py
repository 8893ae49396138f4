"""BaseElementLoss: the boundary that all losses share."""

import inspect
import os
import sys
from numbers import Integral
from typing import Any, ClassVar, Literal

import torch
from pytorch_metric_learning.distances import BaseDistance, LpDistance
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import BaseReducer, MeanReducer
from torch import Tensor, nn

from pml_center.checks import (
    as_numbers,
    check_between,
    check_choices,
    check_embeddings,
    check_flags,
    check_labels,
    check_modules,
)
from pml_center.distributed.collectives import processes
from pml_center.losses.pml_names import PMLNames, check_assigned, check_overridden, check_subclass
from pml_center.losses.tuning import Range
from pml_center.losses.watch import Drift, is_averaged
from pml_center.names import constructor_arguments, receiver, unknown_name
from pml_center.ops.in_place import untraced
from pml_center.ops.precision import ProductPrecision, full_precision, product_dtype, working_dtype

MinerWeighting = Literal["max", "normalize", "count"]


class BaseElementLoss(PMLNames, BaseMetricLossFunction):
    """A loss that each sample has, reduced by PML's reducer: abstract.

    It is the boundary that all losses share: input is checked, half precision is cast up (parameters are never cast),
    autocast is switched off inside, but for the products of a loss that has a ``product_precision``, samples with
    ``ignore_index`` are left out, miners' tuples become weights of the samples, and the loss of each sample goes to
    PML's reducer. A subclass must say

    - :meth:`element_losses`, or with ``takes_references`` :meth:`reference_losses`,

    and may say

    - ``takes_any_distance``: False if it is defined on the default of PML's ``distance`` alone;
    - ``num_classes`` and ``embedding_size``, if it has as many of them: input is held against both;
    - :meth:`class_rows`: rows of numbers that it has for its classes;
    - :meth:`before_batch`: what happens to a batch ahead of its losses;
    - :meth:`watch`: which mistakes to look for in training.

    Args:
        ignore_index: samples with this label take no part; None takes all.
        miner_weighting: what a miner's tuples make of the samples. A sample that stands in n of them counts
            ``"max"`` (PML's way): n / max n; ``"normalize"``: n / mean n, so that the mean is that of the mined
            samples; ``"count"``: n. One that stands in none counts 0. No tuples at all count as no miner.
        kwargs: PML's ``reducer``, ``distance``, ``embedding_regularizer``, ``embedding_reg_weight``, ``collect_stats``.
    """

    takes_any_distance: ClassVar[bool] = True
    takes_references: ClassVar[bool] = False  # whether it compares embeddings with a second set, ``ref_emb``
    tuned: ClassVar[dict[str, Range]] = {}  # what a search of settings moves, and over what range
    num_classes: int | None = None
    embedding_size: int | None = None
    sparse_gradient: bool = False
    _counts = False  # whether training batches are counted
    product_precision: ProductPrecision = "float32"  # of the matrix products of all classes, for a loss that has them
    _product_dtype: torch.dtype | None = None  # the half precision of those of this batch
    _moves = False  # whether each of them moves what the next one is compared with

    def __init__(self, *, ignore_index: int | None = None, miner_weighting: MinerWeighting = "max", **kwargs):
        known = constructor_arguments(BaseMetricLossFunction, stop=nn.Module)  # all others have been taken
        for name in kwargs:
            if name not in known:
                raise _unknown_argument(receiver(type(self), stop=BaseElementLoss), name)
        check_modules(embedding_regularizer=kwargs.get("embedding_regularizer"))
        check_modules(BaseDistance, distance=kwargs.get("distance"))
        check_modules(BaseReducer, reducer=kwargs.get("reducer"))
        check_between("finite", "PML's is 1.", embedding_reg_weight=kwargs.get("embedding_reg_weight", 1))
        if kwargs.get("collect_stats") is not None:
            check_flags(collect_stats=kwargs["collect_stats"])
        if not (ignore_index is None or (isinstance(ignore_index, Integral) and not isinstance(ignore_index, bool))):
            raise TypeError(f"ignore_index must be an integer or None, got {ignore_index!r}. It is a label, as -1.")
        if ignore_index is not None:
            check_between("an integer in [-2147483648, 2147483647]", "It is a label, as -1.", ignore_index=ignore_index)
        super().__init__(**kwargs)
        check_choices(miner_weighting=(miner_weighting, MinerWeighting))
        self.ignore_index = ignore_index
        self.miner_weighting = miner_weighting
        self._drift = Drift(type(self).__name__)

    def __new__(cls, *args, **kwargs):
        """With an argument of another name Python would only say that one is missing."""
        check_overridden(cls)
        _check_call(cls, args, kwargs)
        return super().__new__(cls)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        check_subclass(cls)

    def __setattr__(self, name: str, value: object) -> None:
        check_assigned(self, name, value)
        if name == "distance":
            self._check_distance(value)
        if isinstance(getattr(type(self), name, None), property):  # torch would say that the name is taken
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, (B, D) and (B,) to (B,)."""
        raise NotImplementedError

    def losses_of_both(
        self, embeddings: Tensor, labels: Tensor, other_labels: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The losses of samples that are of two classes, by the first and by the second, (B,) each, in one step.

        Args:
            embeddings: (B, D).
            labels: (B,).
            other_labels: (B,).
            share: (B,) of the first, in [0, 1].
        """
        raise NotImplementedError

    def reference_losses(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> Tensor:
        """The loss of each sample beside R references, (B, D), (B,), (R, D) and (R,) to (B,)."""
        raise NotImplementedError

    def class_rows(self) -> Tensor | None:
        """Rows of numbers that belong to classes, (C, D): computed with is the wider type of them and embeddings."""
        return None

    def before_batch(self, embeddings: Tensor, labels: Tensor) -> None:
        """Called once for each batch, with the samples that take part; there may be none."""

    def watch(self, embeddings: Tensor, labels: Tensor, rows: Tensor | None) -> None:
        """Look for mistakes in training, ahead of all else, in a batch that has samples, and in the class rows."""

    def losses_and_terms(
        self, embeddings: Tensor, labels: Tensor, rows: Tensor | None, references: tuple[Tensor, ...], mixture=None
    ) -> tuple[Tensor, dict[str, dict]]:
        """The loss of each sample as it counts, (B,), and terms beside it, by the names that PML's reducers take."""
        if not references:
            return self.element_losses(embeddings, labels), {}
        ref_emb, ref_labels = references
        return self.reference_losses(embeddings, labels, ref_emb.to(embeddings.dtype), ref_labels), {}

    def get_default_distance(self):
        """PML's hook: the squared Euclidean distance, nothing normalised."""
        return LpDistance(normalize_embeddings=False, p=2, power=2)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple=None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        other_labels: Tensor | None = None,
        share: Tensor | float | None = None,
    ) -> Tensor:
        """The reduced loss of a batch.

        Args:
            embeddings: (B, D) floating point, finite.
            labels: (B,) integers, in [0, num_classes) where a loss has that many classes.
            indices_tuple: what a PML miner returned, see ``miner_weighting``.
            ref_emb: (R, D) references, for a loss that says that it takes them. Others bring their own: None, or
                ``embeddings`` itself.
            ref_labels: (R,) as ``labels``.
            other_labels: (B,) a second class of each sample, for images that mixup or cutmix has made of two: its loss
                is ``λ·ℓ(x, labels) + (1 − λ)·ℓ(x, other_labels)``, with every margin. Running statistics see each
                sample once, by the class of which it has more; a center moves by its share. For losses with a row for
                each class.
            share: λ in [0, 1], a number or (B,) floating point; beside ``other_labels``.

        Returns:
            What the reducer makes of the (B,) losses; 0 for an empty batch.

        Raises:
            TypeError: embeddings, labels or tuples of the wrong type.
            ValueError: no labels, shape or width that does not fit, NaN or infinity, lengths that overflow, labels or
                tuples out of range, other references; other labels without a share, or for a loss without class rows.
            RuntimeError: a call in training inside :func:`torch.utils.checkpoint.checkpoint`, which calls again in
                backward, of a loss whose state the first call moves.
        """
        is_again = self._counts and is_recomputed()
        if self.training and self._moves and (is_again or _is_checkpointed()):
            raise RuntimeError(
                f"{type(self).__name__} must be called outside of torch.utils.checkpoint, because each training batch "
                "moves its state, and the call in backward would find it moved, got a call inside. "
                "Checkpoint the model alone, and call the loss on what it returns."
            )
        own = (ref_emb is None or ref_emb is embeddings) and (ref_labels is None or ref_labels is labels)
        if not (own or self.takes_references):
            raise ValueError(
                f"ref_emb must be None for {type(self).__name__}, which brings its own references, got another tensor. "
                "Leave ref_emb out, and efficient=True of DistributedLossWrapper."
            )
        if isinstance(labels, Tensor) and labels.ndim == 2 and labels.is_floating_point():
            _check_order(embeddings, labels)
        check_embeddings(embeddings, self.embedding_size)
        labels = check_labels(labels, self.num_classes, len(embeddings), self.ignore_index).to(embeddings.device)
        if processes() > 1 and any(parameter.requires_grad for parameter in self.parameters()):
            averaged = is_averaged(type(self).__name__, self.sparse_gradient)
            if self.training and torch.is_grad_enabled():
                self._drift.see(averaged)
        if indices_tuple is not None:
            indices_tuple = _checked_tuples(indices_tuple, len(labels))
        mixture = None if other_labels is None and share is None else self._checked_mixture(labels, other_labels, share)
        references: tuple[Tensor, ...] = ()
        if self.takes_references:
            references = self._checked_references(embeddings, ref_emb, ref_labels)
        rows = self.class_rows()
        if rows is not None and rows.device != embeddings.device:
            raise elsewhere(self, rows, embeddings)
        is_asked = self.product_precision == "autocast"
        self._product_dtype = product_dtype(embeddings, rows) if is_asked else None
        with full_precision(embeddings):
            embeddings = embeddings.to(working_dtype(embeddings, rows, *references[:1]))
            part, present, classes, takes_part = None, embeddings, labels, None
            if self.ignore_index is not None:  # here, and nowhere further in
                takes_part = labels != self.ignore_index
                if mixture is not None:  # of two classes
                    takes_part = takes_part & (mixture[0] != self.ignore_index)
                if self._may_ignore_later(indices_tuple):
                    classes = labels.masked_fill(~takes_part, 0)
                    if mixture is not None:
                        mixture = mixture[0].masked_fill(~takes_part, 0), mixture[1]
                    present = torch.where(takes_part.unsqueeze(1), embeddings, 0.0)  # what is not finite has a gradient
                else:  # a GPU is waited for, to know how many there are
                    part, takes_part = takes_part.nonzero().squeeze(1), None
                    present, classes = embeddings[part], labels[part]
                    if mixture is not None:
                        mixture = mixture[0][part], mixture[1][part]
            mostly = classes if mixture is None else torch.where(mixture[1] >= 0.5, classes, mixture[0])
            if self.training and len(classes) and not is_again:
                self.watch(present, mostly, rows)
            if not is_again:
                self.before_batch(present, mostly)
            if not len(classes):
                return self.reducer(self.zero_losses(), self._with_parameters(embeddings), labels)
            self.reset_stats()
            mixed = () if mixture is None else (mixture,)
            losses, terms = self.losses_and_terms(present, classes, rows, references, *mixed)
            if takes_part is not None:
                losses = torch.where(takes_part, losses, 0.0)
                if type(self.reducer) is MeanReducer:
                    losses = losses * len(labels) / takes_part.sum().clamp_min(1).to(losses.dtype)
            if indices_tuple is not None:
                losses = losses * self._miner_weights(indices_tuple, labels, part).to(embeddings)
            self.add_embedding_regularization_to_loss_dict(terms, present)
            terms["loss"] = {
                "losses": losses,
                "indices": torch.arange(len(labels), device=labels.device) if part is None else part,
                "reduction_type": "element",
                "divisor": len(classes),  # DivisorReducer raises without one
            }
            return self.reducer(terms, embeddings, labels)

    def _may_ignore_later(self, indices_tuple: object) -> bool:
        """Whether samples that take no part may come along until their loss, which is then set to 0."""
        return False

    def _with_parameters(self, embeddings: Tensor) -> Tensor:
        """The same numbers, with a gradient of 0 to every parameter where DistributedDataParallel waits for one."""
        if processes() == 1:
            return embeddings
        return embeddings + sum(0 * parameter.sum() for parameter in self.parameters() if parameter.requires_grad)

    def _checked_mixture(self, labels: Tensor, other_labels: Any, share: Any) -> tuple[Tensor, Tensor]:
        """The second class of each sample, (B,), and the share of the first, (B,)."""
        name = type(self).__name__
        if type(self).losses_of_both is BaseElementLoss.losses_of_both:
            raise ValueError(
                f"other_labels must be None for {name}, whose samples have one class each, got some. "
                "Give it batches that are not mixed."
            )
        if other_labels is None or share is None:
            missing = "other_labels" if other_labels is None else "share"
            raise ValueError(
                f"{missing} must be given, as other_labels and share go together, got None. "
                "Call loss(embeddings, labels, other_labels=..., share=0.7)."
            )
        size = len(labels)
        other = check_labels(other_labels, self.num_classes, size, self.ignore_index, name="other_labels")
        return other.to(labels.device), _shares(share, size, labels.device)

    def _check_distance(self, distance: Any) -> None:
        if self.takes_any_distance:
            return
        default = self.get_default_distance()
        alike = all(
            getattr(distance, name, None) == getattr(default, name) for name in ("normalize_embeddings", "p", "power")
        )
        if not (type(distance) is type(default) and alike):
            raise TypeError(
                f"distance must be the default because {type(self).__name__} is defined on it, "
                f"got {type(distance).__name__}. Leave distance out."
            )

    def _checked_references(
        self, embeddings: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The references that take part, with labels as int64."""
        name = type(self).__name__
        if ref_emb is None or ref_labels is None:
            raise ValueError(
                f"{'ref_emb' if ref_emb is None else 'ref_labels'} must be given for {name}, which compares embeddings "
                "with a second set, got None. Call loss(embeddings, labels, ref_emb=..., ref_labels=...)."
            )
        check_embeddings(ref_emb, name="ref_emb")
        if ref_emb.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"ref_emb must have the {embeddings.shape[1]} columns of embeddings, got shape "
                f"{tuple(ref_emb.shape)}. Let one embedding size make both."
            )
        ref_labels = check_labels(ref_labels, None, len(ref_emb), name="ref_labels").to(embeddings.device)
        if self.ignore_index is None:
            return ref_emb, ref_labels
        part = (ref_labels != self.ignore_index).nonzero().squeeze(1)
        return ref_emb[part], ref_labels[part]

    def _miner_weights(self, indices_tuple: tuple[Tensor, ...], labels: Tensor, part: Tensor | None) -> Tensor:
        """How much each sample that takes part counts, (B,); ``part`` are their rows, None all."""
        if part is not None:
            takes_part = torch.zeros_like(labels, dtype=torch.bool).index_fill(0, part, True)
            indices_tuple = _among(takes_part, indices_tuple)
        mined = torch.cat([index.to(labels.device) for index in indices_tuple])
        counts = torch.zeros(len(labels), device=labels.device)
        counts = counts.index_add(0, mined, torch.ones(len(mined), device=labels.device))
        counts = counts if part is None else counts[part]
        if not len(mined):
            return torch.ones_like(counts)
        if self.miner_weighting == "count":
            return counts
        return counts / (counts.max() if self.miner_weighting == "max" else counts.mean())


@untraced  # a number would be compiled anew with each value
def _shares(share: Any, size: int, device: torch.device) -> Tensor:
    """The share of the first class of each sample, (B,); values of a GPU are not looked at."""
    shares = share if isinstance(share, Tensor) and share.is_floating_point() else as_numbers(share)
    if shares is None or shares.shape not in ((), (size,)):
        got = repr(share) if shares is None else f"shape {tuple(shares.shape)}"
        raise ValueError(f"share must be a number or have shape ({size},), got {got}. It is the share of labels.")
    if shares.device.type == "cpu" and not bool(((shares >= 0) & (shares <= 1)).all()):
        raise ValueError(f"share must be in [0, 1], got {share!r}. It is the share of labels.")
    return shares.to(device, non_blocking=True).expand(size)


def elsewhere(loss: BaseElementLoss, rows: Tensor, embeddings: Tensor) -> ValueError:
    """The error for a loss that was left on another device."""
    return ValueError(
        f"{type(loss).__name__} must be on the device of the embeddings, {embeddings.device}, got its class rows on "
        f"{rows.device}. Move it, before the optimizer is made: loss.to({str(embeddings.device)!r})."
    )


def _check_call(kind: Any, args: tuple, kwargs: dict) -> None:
    """An argument of another name is named, rather than the one that is missing for it."""
    try:
        inspect.signature(kind.__init__).bind(None, *args, **kwargs)
    except TypeError:
        known = constructor_arguments(kind, stop=nn.Module)
        for name in kwargs:
            if name not in known:
                raise _unknown_argument(kind, name) from None


def _unknown_argument(kind: type, name: str) -> TypeError:
    known = constructor_arguments(kind, stop=nn.Module)
    takes = f"It takes {', '.join(known)}."
    return TypeError(unknown_name(f"argument of {kind.__name__}", name, known, takes))


def _check_order(embeddings: object, labels: Tensor) -> None:
    """Labels that look like embeddings, beside embeddings that look like labels."""
    if isinstance(embeddings, Tensor) and embeddings.ndim == 1 and not embeddings.is_floating_point():
        raise TypeError(
            f"embeddings must come first and labels second, got {embeddings.dtype} of shape {tuple(embeddings.shape)} "
            f"and {labels.dtype} of shape {tuple(labels.shape)}. Call loss(embeddings, labels)."
        )


def is_recomputed() -> bool:
    """Whether a backward pass is calling, as :func:`torch.utils.checkpoint.checkpoint` does to have forward again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _is_checkpointed() -> bool:
    """Whether a checkpoint that will call again is calling; one with ``use_reentrant=True`` cannot be told."""
    if torch.compiler.is_compiling():
        return False
    if not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):  # torch 2.4 has no door to them
        return _is_called_from(os.path.join("torch", "utils", "checkpoint.py"))
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and getattr(hooks[0], "_checkpoint_internal", False)


def _is_called_from(file: str) -> bool:
    frame = sys._getframe().f_back
    while frame is not None and not frame.f_code.co_filename.endswith(file):
        frame = frame.f_back
    return frame is not None


def _checked_tuples(indices_tuple: object, batch_size: int) -> tuple[Tensor, ...]:
    """What a miner returns, three or four tensors that index the batch, as int64."""
    rule = "indices_tuple must be what a PML miner returned, three tensors (triplets) or four (pairs)"
    if not (isinstance(indices_tuple, tuple | list) and len(indices_tuple) in (3, 4)):
        got = f"{len(indices_tuple)} parts" if isinstance(indices_tuple, tuple | list) else type(indices_tuple).__name__
        raise TypeError(f"{rule}, got {got}. Pass miner(embeddings, labels).")
    for index in indices_tuple:
        if not isinstance(index, Tensor) or index.layout is not torch.strided:
            got = f"{index.device.type} {index.layout}" if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"{rule}, got a {got} among them. Convert it with torch.as_tensor.")
        if index.numel() and (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool):
            raise TypeError(f"{rule} of integers, got dtype {index.dtype} among them. Convert it with .long().")
        is_seen = index.device.type == "cpu" and index.numel()
        if is_seen and not (index.min() >= 0 and index.max() < batch_size):
            bad = int(index[(index < 0) | (index >= batch_size)][0])
            raise ValueError(
                f"indices_tuple must index the {batch_size} samples of the batch, got {bad}. "
                "Mine the same embeddings that the loss gets, without references."
            )
    shapes = [tuple(index.shape) for index in indices_tuple]
    kinds = [set(shapes)] if len(shapes) == 3 else [set(shapes[:2]), set(shapes[2:])]
    if any(len(kind) > 1 or len(shape) != 1 for kind in kinds for shape in kind):
        raise ValueError(f"{rule} of equal length, got shapes {shapes}. Pass miner(embeddings, labels).")
    return tuple(index.long() for index in indices_tuple)


def _among(part: Tensor, indices_tuple: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The triplets, or the pairs, all of whose samples take part."""
    groups = [indices_tuple] if len(indices_tuple) == 3 else [indices_tuple[:2], indices_tuple[2:]]
    kept = []
    for group in groups:
        keep = torch.stack([part[index] for index in group]).all(0)
        kept += [index[keep] for index in group]
    return tuple(kept)
