"""BaseCenterLoss: owns, updates and checks the centers."""

import math
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor, nn
from torch.optim import Optimizer

from pml_center.checks import check_between, check_choices, check_flags
from pml_center.distributed.collectives import joined_by_wrapper, processes, rows_by_rank
from pml_center.losses.base_class_loss import BaseClassLoss
from pml_center.losses.base_element_loss import is_recomputed
from pml_center.losses.placed_rows import check_length, placed_rows
from pml_center.losses.watch import Collapse, ForgottenStep
from pml_center.ops.centers import ClassSums, center_step, class_sums, merge_class_sums, with_rows
from pml_center.ops.precision import working_dtype

Update = Literal["paper", "mean", "gradient", "fixed"]
Init = Literal["zeros", "normal", "first_batch", "simplex", "axes"]


class CenterBatch(NamedTuple):
    """What a center loss may look at."""

    embeddings: Tensor
    """(B, D)"""
    own: Tensor
    """(B, D) the center of each embedding's class."""
    labels: Tensor
    """(B,)"""
    centers: Tensor
    """(C, D) all of them; in the type of the embeddings, with their gradient, where a loss reaches all centers."""


class BaseCenterLoss(BaseClassLoss):
    """A loss that compares each embedding with the center of its class: abstract.

    Here centers are gathered, started, counted, and moved once the loss of a training batch is known: in closed form
    from buffers, or by an optimizer. A final subclass must say

    - :meth:`pull`: the loss of each sample,

    and may say

    - :meth:`spread`: what moves the centers beside the pull;
    - ``reaches_all_centers``: True if centers of absent classes have a gradient, too;
    - ``only_pulls``: True if it is smallest where all embeddings are the same point;
    - ``default_init`` and ``takes_any_distance``, with :meth:`get_default_distance`;
    - ``per_class``: its tables with rows for each class, beside those of this class.

    Args:
        num_classes: C.
        embedding_size: D.
        alpha: in (0, 1], the rate of the center step; unused by ``update="gradient"``.
        update: ``"paper"``: centers are a buffer that moves by ``α · Σ(x − c) / (1 + n)`` for the n embeddings of each
            class present; ``"mean"``: by ``α · Σ(x − c) / n``. Neither needs an optimizer. ``"gradient"``: centers are
            parameters, give them to an optimizer. ``"fixed"``: they stay where ``init`` puts them.
        init: ``"zeros"``, ``"normal"`` (N(0, 1)), ``"first_batch"``: each center starts from the mean of the first
            embeddings of its class, ``"simplex"``: as far from each other as C ≤ D + 1 of them can be (Pang et al.
            2020, Max-Mahalanobis center loss), or ``"axes"``: C ≤ D, one along each. None leaves it to
            ``weight_init_func``, or to the default of the loss.
        init_length: of each center of a simplex or along an axis; the paper's is 10.
        sparse_gradient: with ``update="gradient"``, whether the gradient of the centers is a sparse tensor of the rows
            in the batch, for ``torch.optim.SGD`` or ``SparseAdam``. A dense one costs O(C·D) at every step.
            DistributedDataParallel does not take it.
        accumulation_steps: training batches that make one step of your optimizer. The centers then step once for them
            all, from their sums and counts. None leaves the step to :meth:`step_centers`.
        process_group: processes that train together, of ``torch.distributed``; None is all of them. Centers that step
            by themselves take the step of the joined batch, the same on each.
        kwargs: ``ignore_index``, ``loss_weights``, ``miner_weighting`` and PML's arguments, see
            :class:`~pml_center.losses.base_class_loss.BaseClassLoss`. ``weight_init_func`` fills the centers. A
            ``weight_regularizer`` sees the centers, and moves them only if they are parameters.
    """

    default_init: ClassVar[Init] = "zeros"
    takes_any_distance: ClassVar[bool] = False
    reaches_all_centers: ClassVar[bool] = False
    per_class = (*BaseClassLoss.per_class, "centers", "last_seen")
    _counts = True
    only_pulls: ClassVar[bool] = False
    _is_frozen = False

    centers: Tensor
    last_seen: Tensor
    step: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        alpha: float = 0.5,
        update: Update = "paper",
        *,
        init: Init | None = None,
        init_length: float = 10.0,
        sparse_gradient: bool = False,
        accumulation_steps: int | None = 1,
        process_group: dist.ProcessGroup | None = None,
        weight_init_func: Any = None,
        **kwargs,
    ):
        check_choices(update=(update, Update))
        self.update = update  # ahead of all else: the default start of the centers depends on it
        super().__init__(num_classes, embedding_size, weight_init_func=weight_init_func, **kwargs)
        self.init_length = init_length
        _check_options(self, alpha, init, sparse_gradient, accumulation_steps, process_group, weight_init_func)
        self.alpha, self.init = alpha, init or self.default_init
        self.sparse_gradient, self.accumulation_steps = sparse_gradient, accumulation_steps
        self.process_group = process_group
        self._is_frozen = update == "fixed"
        self._moves = update not in ("gradient", "fixed")
        self._build_centers(init)
        self.register_buffer("last_seen", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._pending: ClassSums | None = None
        self._pending_batches = 0
        self.add_to_recordable_attributes(list_of_names=["alpha"], is_stat=False)
        self.add_to_recordable_attributes(
            list_of_names=["avg_norm", "avg_center_norm", "avg_intra", "avg_inter"], is_stat=True
        )
        self._forgotten_step = ForgottenStep(type(self).__name__)
        self._collapse = Collapse(type(self).__name__, self.only_pulls)

    def requires_grad_(self, requires_grad: bool = True) -> "BaseCenterLoss":
        """Also stops centers that step by themselves, or lets them go on. As with parameters, no state remembers it."""
        self._is_frozen = not requires_grad or self.update == "fixed"
        self._moves = not self._is_frozen and self.update != "gradient"
        return super().requires_grad_(requires_grad)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """There are none where centers step by themselves; an optimizer that is given them alone says so."""
        parameter = None
        for parameter in super().parameters(recurse):
            yield parameter
        if parameter is None:
            _tell_optimizer(self, sys._getframe())

    def pull(self, batch: CenterBatch) -> Tensor:
        """The loss of each sample, (B,)."""
        raise NotImplementedError

    def spread(self, centers: Tensor) -> None:
        """A term of the step beside the pull: move all centers in place, (C, D). Seen before the pull moves any."""

    def own_centers(self, labels: Tensor) -> Tensor:
        """The center of each label, (B, D)."""
        if self.sparse_gradient:
            return F.embedding(labels, self.centers, sparse=True)
        return self.centers.index_select(0, labels)  # several times faster than centers[labels]

    def class_rows(self) -> Tensor:
        """The centers, (C, D)."""
        return self.centers

    def get_default_weight_init_func(self):
        """PML's hook: that of ``default_init``; N(0, 1) for parameters of which the direction counts, as 0 has none.

        A center at 0 that steps by itself finds its direction in its first step.
        """
        is_learned_direction = self.distance.normalize_embeddings and self.update == "gradient"
        normal = self.default_init == "normal" or is_learned_direction
        return c_f.TorchInitWrapper(nn.init.normal_ if normal else nn.init.zeros_)

    @torch.no_grad()
    def step_centers(self) -> None:
        """Move the centers by what has gathered since their last step: for ``accumulation_steps=None``, or a short end.

        Call it beside ``optimizer.step()``, on every process. With no batch since the last step it does nothing.

        Raises:
            ValueError: centers that an optimizer moves, or nothing.
        """
        if self.update == "fixed":
            raise ValueError(
                'step_centers must not be called with update="fixed", whose centers stay. Leave the call out.'
            )
        if self.update == "gradient":
            raise ValueError(
                'step_centers must not be called with update="gradient", whose centers an optimizer moves. '
                "Call optimizer.step() alone."
            )
        if self._pending is not None:
            self._move(self._pending)
            self._pending, self._pending_batches = None, 0

    def watch(self, embeddings: Tensor, labels: Tensor, rows: Any) -> None:
        """Look for collapse, too, and only at centers that have started: a start is no optimizer's work."""
        starts = self.init == "first_batch" and self.update == "gradient"
        seen = self.last_seen.index_select(0, labels) if starts else None
        self._forgotten_optimizer.see(rows, labels, self.num_classes, seen)
        self._collapse.see(embeddings, labels)

    @torch.no_grad()  # of all, where torch 2.4 cannot compile a block that ends in a branch
    def before_batch(self, embeddings: Tensor, labels: Tensor) -> None:
        """Count the batch, and start the centers of classes that come for the first time."""
        if not self.training or self._is_frozen:
            return
        if len(labels) or processes(self.process_group) > 1:
            self.step = self.step + 1  # replaced, never mutated
            if self.init == "first_batch":
                self._start_centers(self._compared(embeddings), labels)
        if not len(labels):  # one of the batches of a step all the same, and other processes may wait for us
            self._see(labels) if self.update == "gradient" else self._gather(self._compared(embeddings), labels)

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Pull, then step the centers: the loss is that of the centers before the step."""
        batch = self._batch(embeddings, labels)
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break()  # a graph with the pull would keep all centers, which step before backward
        losses = self.pull(batch)
        with torch.no_grad():
            if self.collect_stats:
                _record(self, batch)
            if self.training and self._moves:
                compared = self._compared(embeddings)
                difference = compared - batch.own.to(compared.dtype)
                del batch  # one (B, D) block less while the centers step
                self._gather(difference, labels)
            elif self.training and not (self._is_frozen or is_recomputed()):
                self._see(labels)
        return losses

    def losses_of_both(
        self, embeddings: Tensor, labels: Tensor, other_labels: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pull to either center, then step each by the sample's share in it."""
        if self.init == "first_batch":
            raise ValueError(
                'init must not be "first_batch" with samples of two classes, whose embeddings are nobody\'s mean, got '
                '"first_batch". Take init="zeros".'
            )
        both = [(labels, share), (other_labels, 1 - share)]
        batches = [self._batch(embeddings, each) for each, _ in both]
        losses = [self.pull(batch) for batch in batches]
        with torch.no_grad():
            if self.collect_stats:
                _record(self, batches[0])
            every = torch.cat([labels, other_labels])
            if self.training and self._moves:
                compared = self._compared(embeddings)
                differences = torch.cat([compared - batch.own.to(compared) for batch in batches])
                shares = torch.cat([part for _, part in both]).to(compared)
                self._gather(differences * shares.unsqueeze(1), every, shares)
            elif self.training and not (self._is_frozen or is_recomputed()):
                self._see(every)
        return losses[0], losses[1]

    def _batch(self, embeddings: Tensor, labels: Tensor) -> CenterBatch:
        """What :meth:`pull` sees."""
        if self.reaches_all_centers:
            own, centers = with_rows(self.class_rows().to(embeddings.dtype), labels)  # one gradient for both
            return CenterBatch(embeddings, own, labels, centers)
        return CenterBatch(embeddings, self.own_centers(labels).to(embeddings.dtype), labels, self.class_rows())

    def _build_centers(self, init: Init | None) -> None:
        centers = torch.empty(self.embedding_size, self.num_classes)  # PML's layout, for fan-in and fan-out
        if init == "simplex" or init == "axes":
            centers.copy_(placed_rows(init, self.num_classes, self.embedding_size, self.init_length).t())
        elif init in ("zeros", "normal"):
            (nn.init.zeros_ if init == "zeros" else nn.init.normal_)(centers)
        else:
            self.weight_init_func(centers)
        centers = centers.t().contiguous()  # (C, D)
        if self.update == "gradient":
            self.centers = nn.Parameter(centers)
        else:
            self.register_buffer("centers", centers)

    def _compared(self, embeddings: Tensor) -> Tensor:
        """Embeddings as the centers average them, and at least fp32: sums of half precision overflow."""
        if self.distance.normalize_embeddings:  # a row whose length overflows would be 0, which is no direction
            overflows = embeddings.norm(dim=1, keepdim=True).isinf()
            embeddings = self.distance.maybe_normalize(embeddings).masked_fill(overflows, torch.nan)
        return embeddings.to(working_dtype(self.centers))

    def _see(self, labels: Tensor) -> None:
        """Remember when the classes of all processes were seen."""
        if processes(self.process_group) > 1:
            labels = torch.cat(rows_by_rank(labels, self.process_group))
        self._mark(labels)

    def _mark(self, classes: Tensor, is_seen: Tensor | None = None) -> None:
        """These classes were seen in this batch, or those for which this is true."""
        if is_seen is None:
            self.last_seen.index_put_((classes,), self.step)
        else:
            self.last_seen.scatter_reduce_(0, classes, self.step * is_seen, "amax")

    def _gather(self, difference: Tensor, labels: Tensor, counts: Tensor | None = None) -> None:
        """Take the differences ``x − c`` of a batch for the next step of the centers, and take that step if it is due.

        (B, D) and (B,), and how much of a sample each is, (B,), None is one. What processes bring is joined at once, so
        that each has the whole state at any time.
        """
        found = self._sums(difference, labels, counts)
        if self.accumulation_steps == 1:
            self._move(found)
            return
        if self._pending is not None:
            found = merge_class_sums([self._pending, found], self.num_classes)
        self._pending = found
        self._pending_batches += 1
        if self.accumulation_steps is None:
            self._forgotten_step.see(self._pending_batches)
        elif self._pending_batches >= self.accumulation_steps:
            self.step_centers()

    def _move(self, differences: ClassSums) -> None:
        """One step of the centers; none where no batch had a sample."""
        if not len(differences.classes):
            return
        if not differences.may_be_empty:
            self.spread(self.centers)
        elif type(self).spread is not BaseCenterLoss.spread:  # nobody knows yet whether there is a sample
            spread = self.centers.clone()
            self.spread(spread)
            self.centers.copy_(torch.where((differences.counts > 0).any(), spread, self.centers))
        center_step(self.centers, differences, self.alpha, "mean" if self.update == "mean" else "paper")
        self._mark(differences.classes, differences.counts > 0 if differences.may_be_empty else None)

    def _sums(self, rows: Tensor, labels: Tensor, counts: Tensor | None = None) -> ClassSums:
        """The sums of all processes, without rows that are not finite, or not when squared: they would spoil a center.

        What comes back is no view of what came: the caller may write over both.
        """
        if rows.device.type == "cpu" and math.isfinite(torch.linalg.vector_norm(rows)):
            own = class_sums(rows, labels, counts)
        else:
            finite = rows.norm(dim=1).isfinite()  # on a GPU nobody has looked
            rows = torch.where(finite.unsqueeze(1), rows, 0.0)
            known = finite.to(rows.dtype) if counts is None else finite * counts
            own = class_sums(rows, labels, known, self.num_classes)
        if processes(self.process_group) == 1:
            return own
        parts = zip(*(rows_by_rank(each, self.process_group) for each in own), strict=True)
        joined = [ClassSums(*part) for part in parts]
        if joined_by_wrapper():  # under it, each has all
            return joined[0]
        return merge_class_sums(joined, self.num_classes)

    def _start_centers(self, embeddings: Tensor, labels: Tensor) -> None:
        """Put the center of each class that was never seen at the mean of its embeddings."""
        classes, sums, counts = self._sums(embeddings, labels)
        first = torch.searchsorted(classes, classes)  # the same is written from all places of a class
        starts = (self.last_seen.index_select(0, classes) == 0) & (counts.index_select(0, first) > 0)
        means = (sums / counts.clamp_min(1).unsqueeze(1)).index_select(0, first).to(self.centers.dtype)
        centers = torch.where(starts.unsqueeze(1), means, self.centers.index_select(0, classes))
        self.centers.index_copy_(0, classes, centers)
        self._mark(classes, starts)  # the step that follows may be several batches away

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        """With what waits for the next step of the centers, where anything does."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._pending is not None:
            pending = self._pending._asdict() | {"batches": torch.tensor(self._pending_batches)}
            destination.update({f"{prefix}pending_{name}": value.clone() for name, value in pending.items()})

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Also takes a state with other pending batches than ours, or with none, and one that has centers alone."""
        names = [f"{prefix}pending_{name}" for name in (*ClassSums._fields, "batches")]
        *pending, batches = [state_dict.pop(name, None) for name in names]
        self._pending, self._pending_batches = None, 0
        if batches is not None and self.accumulation_steps != 1:
            classes, sums, counts = (each.to(self.last_seen.device) for each in pending)
            self._pending = class_sums(sums, classes, counts, self.num_classes)  # a GPU's may be empty
            self._pending_batches = int(batches)
        if prefix + "centers" in state_dict:  # of other code: they are not to start anew
            state_dict.setdefault(prefix + "last_seen", torch.ones_like(self.last_seen))
            state_dict.setdefault(prefix + "step", torch.ones_like(self.step))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _record(loss: BaseCenterLoss, batch: CenterBatch) -> None:
    """PML's recordable statistics: lengths and distances, Euclidean, of embeddings as they are."""
    loss.avg_norm = batch.embeddings.norm(dim=1).mean().item()
    loss.avg_center_norm = batch.own.norm(dim=1).mean().item()
    loss.avg_intra = (batch.embeddings - batch.own).norm(dim=1).mean().item()
    seen = loss.own_centers((loss.last_seen > 0).nonzero().squeeze(1))
    scatter = (seen - seen.mean(0)).square().sum().item() if len(seen) > 1 else 0.0
    loss.avg_inter = math.sqrt(2 * scatter / max(len(seen) - 1, 1))  # root of the mean square over all pairs


def _tell_optimizer(loss: BaseCenterLoss, parameters: FrameType) -> None:
    """Say to an optimizer that is given the parameters of a loss, by their generator, why there are none."""
    asking = parameters.f_back
    given = {} if asking is None else asking.f_locals
    is_all = getattr(given.get("params"), "gi_frame", None) is parameters
    if asking is None or not (is_all and isinstance(given.get("self"), Optimizer)):
        return
    step = f"step by themselves at the rate alpha={loss.alpha}" if loss.update != "fixed" else "stay where they are"
    message = (
        f"parameters() of {type(loss).__name__} must not be given to an optimizer, because its centers {step}, got "
        'none of them. Leave the optimizer out, or use update="gradient".'
    )
    if asking.f_code.co_name == "__init__":  # where torch would only say that the list is empty
        raise ValueError(message)
    warnings.warn(message, stacklevel=6)  # a group among others


def _check_options(
    loss: BaseCenterLoss, alpha, init, sparse_gradient, accumulation_steps, process_group, weight_init_func
) -> None:
    check_flags(sparse_gradient=sparse_gradient)
    check_length(init, loss.init_length, usual=10.0)
    if not (process_group is None or (dist.is_available() and isinstance(process_group, dist.ProcessGroup))):
        raise TypeError(
            f"process_group must be a group of processes or None, got {process_group!r}. "
            "Make it with torch.distributed.new_group, or leave it out for all."
        )
    if init is not None:
        check_choices(init=(init, Init))
    check_between("finite and positive", "The paper's rate is 0.5, and 1 the largest.", alpha=alpha)
    check_between("in (0, 1]", "The paper's rate is 0.5.", alpha=alpha)
    if sparse_gradient and loss.update != "gradient":
        raise ValueError(
            f"sparse_gradient must be False with update={loss.update!r}, whose centers have no gradient, got True. "
            'Leave it out, or use update="gradient".'
        )
    if sparse_gradient and loss.reaches_all_centers:
        raise ValueError(
            f"sparse_gradient must be False for {type(loss).__name__}, whose gradient reaches the centers of all "
            "classes, got True. Leave it out."
        )
    if accumulation_steps is not None:
        remedy = "It is the number of batches for one step of your optimizer."
        check_between("an integer of at least 1, or None", remedy, accumulation_steps=accumulation_steps)
    if init == "first_batch" and loss.update == "fixed":
        raise ValueError(
            'init must not be "first_batch" with update="fixed", whose centers never move, got "first_batch". '
            'Take init="simplex".'
        )
    if init is not None and weight_init_func is not None:
        raise ValueError(f"init must be None with weight_init_func, got {init!r}. Leave one of them out.")
    if init == "zeros" and loss.update == "gradient" and loss.distance.normalize_embeddings:
        raise ValueError(
            'init must not be "zeros" with update="gradient" where centers are compared by angle, got "zeros". '
            "They have no direction there, and a slope without bound: leave it out."
        )
