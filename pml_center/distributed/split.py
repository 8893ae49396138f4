"""Tables with a row for each class, of which each process has a part: what losses do to them, with the whole result.

A loss finds a :class:`SplitTable` in the place of a tensor. What is asked for each sample, such as the row of its class
or a sum over all classes, is the same on every process; what is there for each class stays where the class is.

Gradients of rows are those of all samples, and never averaged. That they are known where the rows are, all that is
beside them has its whole gradient on each process. Where a process finds but a part of it, the parts are added up at
once; or, for embeddings and a bias of all classes, which nothing with rows comes before, each counts as often as there
are processes, and the mean that :mod:`pml_center.distributed.collectives` takes is the sum.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pml_center.distributed.collectives import rows_by_rank
from pml_center.ops import centers, draws, negative_logits
from pml_center.ops.draws import drawn, size_of_draw
from pml_center.ops.first_order import first_order
from pml_center.ops.negative_logits import Comparison, NegativeLogits


@dataclass(frozen=True)
class Part:
    """Which classes a process has."""

    start: int
    stop: int
    classes: int
    """How many all processes have."""

    def places(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Where among ours each class is, (B,), and whether it is ours, (B,); elsewhere the place is any."""
        place = own - self.start
        nearest = place.clamp(0, self.stop - self.start - 1)
        return nearest, place == nearest

    def own(self, own: Tensor) -> Tensor:
        """Where among ours each class is, -1 elsewhere."""
        place, is_here = self.places(own)
        return torch.where(is_here, place, -1)


def part_of_classes(classes: int, rank: int, world: int) -> Part:
    """The part of one process: ``torch.chunk``'s, as ``Shard(0)`` of torch has it."""
    size = -(-classes // world)
    return Part(min(rank * size, classes), min((rank + 1) * size, classes), classes)


class SplitTable(Tensor):
    """Stands for a table of all classes; what it holds are the rows of this process.

    Row by row it is computed with as any tensor is, and so is another table that is split in the same way. It is asked
    for the rows of classes, and written to, by their numbers. Whatever else would need rows of other processes is
    refused.
    """

    rows: Tensor
    """Those of this process, with their graph."""
    part: Part
    stored: Tensor | None
    """The parameter that they are a part of, which has the gradient."""

    @staticmethod
    def of(rows: Tensor, part: Part, stored: Tensor | None = None) -> "SplitTable":
        """A table of which these are the rows of this process."""
        table = rows.detach().as_subclass(SplitTable)
        table.rows, table.part, table.stored = rows, part, stored
        return table

    @property
    def rows_per_class(self) -> int:
        """Rows of a class."""
        return len(self.rows) // (self.part.stop - self.part.start)

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        own = _OWN.get(func) or _OWN_BY_NAME.get(getattr(func, "__name__", ""))
        if own is not None:
            found = own(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if getattr(func, "__name__", "") in ROW_BY_ROW:
            return _row_by_row(func, args, kwargs)
        raise _refused(func)


# Functions of tensors, and of torch.nn.functional, whose result for a row depends on that row alone.
ROW_BY_ROW = {
    *("to", "type", "float", "double", "clone", "detach", "contiguous", "requires_grad_", "copy_", "is_floating_point"),
    *("add", "sub", "mul", "div", "true_divide", "pow", "neg", "abs", "square", "sqrt", "rsqrt", "reciprocal", "exp"),
    *("log", "log1p", "expm1", "cos", "sin", "acos", "tanh", "sigmoid", "relu", "clamp", "clamp_min", "clamp_max"),
    *("lerp", "where", "masked_fill", "maximum", "minimum", "isfinite", "isnan", "isinf", "unsqueeze", "normalize"),
    *(
        "eq",
        "ne",
        "gt",
        "ge",
        "lt",
        "le",
        "logical_and",
        "logical_or",
        "logical_not",
        "repeat_interleave",
        "smooth_l1_loss",
    ),
    *(f"__{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "radd", "rsub", "rmul", "rdiv", "rpow")),
    *(f"__{name}__" for name in ("neg", "abs", "and", "or", "xor", "invert", "eq", "ne", "gt", "ge", "lt", "le")),
    *("rsub", "zeros_like", "ones_like", "empty_like", "__repr__", "__format__", "dim", "element_size"),
    "__get__",  # what it has, as its type
}


def _row_by_row(func: Callable, args: tuple, kwargs: dict) -> Any:
    """The function of our rows; a tensor that comes out is a table that is split alike."""
    table = next(each for each in (*args, *kwargs.values()) if isinstance(each, SplitTable))
    found = func(*map(_rows, args), **{name: _rows(each) for name, each in kwargs.items()})
    if not isinstance(found, Tensor):
        return found
    if not (found.ndim and len(found) % len(table.rows) == 0):
        raise _refused(func)
    return SplitTable.of(found, table.part)


def _rows(value: Any) -> Any:
    """Ours of a table; what else rows are computed with has a gradient from those of all processes."""
    if isinstance(value, SplitTable):
        return value.rows
    is_learned = isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()
    return _Completed.apply(value) if is_learned else value


def _refused(func: Callable) -> TypeError:
    name = getattr(func, "__name__", str(func)).strip("_")
    return TypeError(
        "a table of classes must be looked at row by row, or by labels, where each process has a part of it, got "
        f"{name} of it. Leave shard_classes out, or what calls it."
    )


# What talks to the other processes.


class _Total(torch.autograd.Function):
    """The sum over the processes; its gradient is known on each."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _LogOfTotal(torch.autograd.Function):
    """``logsumexp`` over the processes, (B,)."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = torch.stack(rows_by_rank(part, lengths=[len(part)] * dist.get_world_size())).logsumexp(0)
        ctx.save_for_backward(part - total)
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (share,) = ctx.saved_tensors
        return gradient * share.exp()


class _Counted(torch.autograd.Function):
    """The same; a gradient that each process has a part of counts for all where their mean is taken."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * dist.get_world_size()


class _Completed(torch.autograd.Function):
    """The same; the gradient that each process has a part of is added up."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


def _from_owner(found: Tensor, is_here: Tensor) -> Tensor:
    """What the owner of each sample's class has found, (B, ...)."""
    return _Total.apply(torch.where(is_here.view(-1, *[1] * (found.ndim - 1)), found, 0))


# What losses ask of their tables, by function.


def _compare(
    embeddings: Tensor,
    weight: SplitTable,
    own: Tensor,
    normalize_embeddings: bool = True,
    normalize: bool = True,
    sub_centers: int = 1,
) -> Comparison:
    direction, norm = negative_logits.directions(embeddings, normalize_embeddings)
    place, is_here = weight.part.places(own)
    found = negative_logits.compare(_Counted.apply(direction), weight.rows, place, False, normalize, sub_centers)
    similarity, row_norm = _from_owner(torch.stack([found.similarity, found.row_norm], 1), is_here).unbind(1)
    return Comparison(direction, norm, similarity, row_norm, SplitTable.of(found.weight, weight.part))


def _logits_here(logits: NegativeLogits) -> NegativeLogits:
    """Of our classes alone."""
    table, scale, bias = logits.weight, logits.scale, logits.bias
    assert isinstance(table, SplitTable)
    part = table.part
    if isinstance(bias, SplitTable):
        bias = bias.rows
    elif bias is not None:
        bias = _Counted.apply(bias[part.start : part.stop])
    return replace(
        logits,
        embeddings=_Counted.apply(logits.embeddings),
        weight=table.rows,
        own=part.own(logits.own),
        scale=_Completed.apply(scale) if isinstance(scale, Tensor) and scale.requires_grad else scale,
        bias=bias,
        other=None if logits.other is None else part.own(logits.other),
        drawn=logits.drawn.rows if isinstance(logits.drawn, SplitTable) else None,
        is_part=True,
    )


def _negative_logsumexp(logits: NegativeLogits) -> Tensor:
    return _LogOfTotal.apply(negative_logits.negative_logsumexp(_logits_here(logits)))


def _negative_sum(logits: NegativeLogits, of: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    return _Total.apply(negative_logits.negative_sum(_logits_here(logits), of))


@torch.no_grad()
def _hardest(logits: NegativeLogits, count: int) -> Tensor:
    here = negative_logits.nearest_others(_logits_here(logits), count)
    every = rows_by_rank(here, lengths=[len(here)] * dist.get_world_size())
    return torch.cat(every, dim=1).topk(count).values[:, -1]


def _with_rows(table: SplitTable, index: Tensor) -> tuple[Tensor, SplitTable]:
    place, is_here = table.part.places(index)
    rows, again = centers.with_rows(table.rows, place)
    return _from_owner(rows, is_here), SplitTable.of(again, table.part)


def _unit_sum(table: SplitTable) -> tuple[Tensor, Tensor]:
    return tuple(_Total.apply(each) for each in centers.unit_sum(table.rows.detach()))  # type: ignore[return-value]


def _pairwise_cosines(table: SplitTable) -> Tensor:
    return centers.pairwise_cosines(table.rows, _unit_sum(table))


def _repulsion_step(table: SplitTable, rate: float) -> None:
    centers.repulsion_step(table.rows, rate, _unit_sum(table))


def _other_squared_distances(embeddings: Tensor, table: SplitTable, labels: Tensor) -> Tensor:
    classes = table.part.classes
    others = max(classes - 1, 1)
    own, table = _with_rows(table, labels)
    mean = _Total.apply(table.rows.sum(0)) / classes
    scatter = _Total.apply(
        (table.rows - mean.detach()).square().sum()
    )  # smallest about the mean: it has no slope there
    own = own - mean
    scatter = (scatter - classes / others * torch.linalg.vecdot(own, own)).clamp_min(0)
    away = embeddings - mean + own / others  # from the mean of the others
    return scatter + (classes - 1) * torch.linalg.vecdot(away, away)


@torch.no_grad()
def _nearest_other(
    embeddings: Tensor, table: SplitTable, labels: Tensor, angular: bool = False, chunk_size: int | None = None
) -> Tensor:
    own = table.part.own(labels)
    nearest = centers.nearest_other(embeddings, table.rows, own, angular, chunk_size, is_part=True)
    rows = table.rows.index_select(0, nearest)
    if angular:
        away = -torch.linalg.vecdot(embeddings, F.normalize(rows, dim=1))
    else:
        away = torch.linalg.vecdot(embeddings - rows, embeddings - rows)
    away = torch.where(nearest == own, torch.inf, away)  # nobody else is here
    found = [len(away)] * dist.get_world_size()
    first = torch.stack(rows_by_rank(away, lengths=found)).argmin(0, keepdim=True)
    return torch.stack(rows_by_rank(nearest + table.part.start, lengths=found)).gather(0, first).squeeze(0)


def _other_log_likelihoods(
    embeddings: Tensor,
    means: SplitTable,
    labels: Tensor,
    log_variances: SplitTable | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    variances = None if log_variances is None else log_variances.rows
    x, own = _Counted.apply(embeddings), means.part.own(labels)
    return _LogOfTotal.apply(centers.other_log_likelihoods(x, means.rows, own, variances, chunk_size, is_part=True))


def _drawn_classes(
    table: SplitTable, labels: Tensor, classes: int, rate: float, seed: int, draws: Tensor
) -> SplitTable:
    """Each process draws among its own; the numbers say which."""
    part, rank, world = table.part, dist.get_rank(), dist.get_world_size()
    parts = [part_of_classes(classes, each, world) for each in range(world)]
    sizes = [size_of_draw(len(labels), each.stop - each.start, rate) for each in parts]
    place, is_here = part.places(labels)
    order = drawn(torch.rand, part.stop - part.start, (seed + int(draws)) * world + rank, labels.device)
    order = order.scatter_reduce(0, place, torch.where(is_here, 2.0, 0.0), "amax")
    found = order.topk(sizes[rank], sorted=False).indices.sort().values
    start = sum(sizes[:rank])
    return SplitTable.of(found + part.start, Part(start, start + sizes[rank], sum(sizes)))


def _drawn_probability(classes: SplitTable, own: Tensor, num_classes: int) -> SplitTable:
    """Of what this process drew among its own classes."""
    here, drawn_here = part_of_classes(num_classes, dist.get_rank(), dist.get_world_size()), len(classes.rows)
    place, is_here = classes.part.places(own)
    is_present = torch.zeros(drawn_here, device=own.device).scatter_reduce(0, place, is_here.float(), "amax") > 0
    present = is_present.sum()
    share = (drawn_here - present) / (here.stop - here.start - present).clamp_min(1)
    return SplitTable.of(torch.where(is_present, 1.0, share), classes.part)


def _embedding(index: SplitTable, table: SplitTable, *args: Any, sparse: bool = False, **kwargs: Any) -> Tensor:
    """Rows by numbers of which each process has those of its own rows."""
    if not isinstance(index, SplitTable):
        return _select(table, 0, index)
    return SplitTable.of(F.embedding(index.rows - table.part.start * table.rows_per_class, table.rows), index.part)


def _searchsorted(classes: SplitTable, labels: Tensor) -> Tensor:
    """Which of the drawn classes of all is each label, negative where another process has it."""
    place = torch.searchsorted(classes.rows, labels).clamp_max(len(classes.rows) - 1)
    return torch.where(classes.rows[place] == labels, place + classes.part.start, -1)


def _select(table: SplitTable, dim: int, labels: Tensor) -> Tensor:
    place, is_here = table.part.places(labels)
    return _from_owner(table.rows.index_select(0, place), is_here)


def _get(table: Tensor, index: Any) -> Any:
    if isinstance(index, SplitTable) and isinstance(table, SplitTable):
        return SplitTable.of(table.rows[index.rows - table.part.start], index.part)
    if (
        isinstance(index, Tensor)
        and isinstance(table, SplitTable)
        and not index.is_floating_point()
        and index.ndim == 1
    ):
        return _select(table, 0, index)
    return NotImplemented


def _added(table: SplitTable, dim: int, labels: Tensor, rows: Tensor, *, alpha: float = 1) -> SplitTable:
    return _add_(SplitTable.of(table.rows.clone(), table.part), dim, labels, rows, alpha=alpha)


def _add_(table: SplitTable, dim: int, labels: Tensor, rows: Tensor, *, alpha: float = 1) -> SplitTable:
    place, is_here = table.part.places(labels)
    rows = torch.where(is_here.view(-1, *[1] * (rows.ndim - 1)), rows, 0)
    table.rows.data.index_add_(0, place, rows, alpha=alpha)
    return table


def _copied(table: SplitTable, dim: int, labels: Tensor, rows: Tensor) -> SplitTable:
    return _copy_(SplitTable.of(table.rows.clone(), table.part), dim, labels, rows)


def _copy_(table: SplitTable, dim: int, labels: Tensor, rows: Tensor) -> SplitTable:
    """Nobody waits to know which are ours: others write what the first of ours does, or what is there."""
    place, is_here = table.part.places(labels)
    first = is_here.long().argmax(0, keepdim=True)
    rows = torch.where(is_here.view(-1, *[1] * (rows.ndim - 1)), rows, rows.index_select(0, first))
    place = torch.where(is_here, place, place.index_select(0, first))
    rows = torch.where(is_here.any(), rows, table.rows.index_select(0, place))
    table.rows.data.index_copy_(0, place, rows)  # a view of a parameter lets nobody write
    return table


def _put_(table: SplitTable, index: tuple[Tensor], value: Tensor) -> SplitTable:
    (labels,) = index
    return _copy_(table, 0, labels, value.expand(len(labels), *table.rows.shape[1:]))


def _scatter_reduce_(table: SplitTable, dim: int, labels: Tensor, values: Tensor, reduce: str) -> Any:
    if reduce != "amax" or table.rows.ndim != 1:
        return NotImplemented
    place, is_here = table.part.places(labels)
    values = torch.where(is_here, values, table.rows.index_select(0, place))
    table.rows.data.scatter_reduce_(0, place, values, "amax")
    return table


def _is_over_classes(dim: Any) -> bool:
    return dim in (None, 0, (), (0,), [0])


def _sum(table: SplitTable, dim: Any = None, **kwargs: Any) -> Tensor:
    if not _is_over_classes(dim):
        return _of_each_row(torch.sum, table, dim, **kwargs)
    return _Total.apply(table.rows.sum() if dim is None else table.rows.sum(0, **kwargs))


def _mean(table: SplitTable, dim: Any = None, **kwargs: Any) -> Tensor:
    if not _is_over_classes(dim):
        return _of_each_row(torch.mean, table, dim, **kwargs)
    total = _sum(table, dim, **kwargs)
    return total / (table.shape.numel() if dim is None else len(table))


def _norm(table: SplitTable, p: Any = "fro", dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    return NotImplemented if _is_over_classes(dim) else _of_each_row(torch.norm, table, p, dim, *args, **kwargs)


def _max(table: SplitTable, *args: Any) -> Any:
    if args:
        return NotImplemented
    largest = table.rows.detach().amax()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def _min(table: SplitTable, *args: Any) -> Any:
    return NotImplemented if args else -_max(SplitTable.of(-table.rows, table.part))


def _of_each_row(func: Callable, table: SplitTable, *args: Any, **kwargs: Any) -> SplitTable:
    return SplitTable.of(func(table.rows, *args, **kwargs), table.part)


def _shape(table: SplitTable, *args: Any) -> torch.Size:
    return torch.Size((table.rows_per_class * table.part.classes, *table.rows.shape[1:]))


def _reshape(table: SplitTable, *shape: Any) -> Any:
    if shape[0] not in (table.part.classes, len(table)):
        return NotImplemented
    return SplitTable.of(
        table.rows.reshape(shape[0] // table.part.classes * (table.part.stop - table.part.start), *shape[1:]),
        table.part,
    )


def _flatten(table: SplitTable) -> SplitTable:
    return SplitTable.of(table.rows.flatten(), table.part)


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    """To the type of a table."""
    if isinstance(tensor, SplitTable):
        return NotImplemented
    (table,) = args
    return tensor.to(table.rows, **kwargs)


_OWN: dict[Any, Callable] = {
    negative_logits.compare: _compare,
    negative_logits.negative_logsumexp: _negative_logsumexp,
    negative_logits.negative_sum: _negative_sum,
    negative_logits.hardest: _hardest,
    centers.with_rows: _with_rows,
    centers.pairwise_cosines: _pairwise_cosines,
    centers.repulsion_step: _repulsion_step,
    centers.other_squared_distances: _other_squared_distances,
    centers.nearest_other: _nearest_other,
    centers.other_log_likelihoods: _other_log_likelihoods,
    draws.drawn_classes: _drawn_classes,
    draws.drawn_probability: _drawn_probability,
    F.embedding: _embedding,
    Tensor.shape.__get__: _shape,  # type: ignore[attr-defined]
    Tensor.grad.__get__: lambda table: None if table.stored is None else table.stored.grad,  # type: ignore[union-attr]
}
_OWN_BY_NAME: dict[str, Callable] = {
    "size": lambda table, *dim: _shape(table)[dim[0]] if dim else _shape(table),
    "__len__": lambda table: _shape(table)[0],
    "numel": lambda table: _shape(table).numel(),
    "index_select": _select,
    "__getitem__": _get,
    "searchsorted": _searchsorted,
    "index_add": _added,
    "index_add_": _add_,
    "index_copy": _copied,
    "index_copy_": _copy_,
    "index_put_": _put_,
    "scatter_reduce_": _scatter_reduce_,
    "sum": _sum,
    "mean": _mean,
    "norm": _norm,
    "max": _max,
    "min": _min,
    "reshape": _reshape,
    "flatten": _flatten,
    "to": _to,
}
