"""Tables of classes of which each process keeps a part: as ``DTensor``, which torch's optimizers and checkpoints know.

This is the only module that looks into one. Losses compute with a :class:`~pml_center.distributed.split.SplitTable` of
its rows.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pml_center.distributed import collectives
from pml_center.distributed.split import SplitTable, part_of_classes

try:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard
except ImportError:  # torch 2.4 has it in the making
    DTensor = None  # type: ignore[assignment, misc]


class Tables:
    """The tables of a loss, split by class over all processes from now on.

    A class keeps its sub-centers together: where it has several rows, what is kept is (C, sub_centers, D).

    Args:
        loss: any loss; tables are what its modules call so by ``per_class``.

    Raises:
        TypeError: PML's loss with class weights.
        ValueError: torch before 2.5; fewer classes than leave one to each process; sparse gradients.
    """

    def __init__(self, loss: nn.Module):
        self._places = list(_places(loss))
        for module in loss.modules():
            _check(module)
        known: dict[int, Tensor] = {}
        for _, module, tensors, name in self._places:
            whole = tensors[name]
            if id(whole) not in known:
                mesh = init_device_mesh(whole.device.type, (dist.get_world_size(),))
                known[id(whole)] = _split(whole, module.num_classes, mesh)
            tensors[name] = known[id(whole)]
        for module in loss.modules():
            if hasattr(module, "per_class"):
                module.register_forward_pre_hook(_check_call)
        _look_at_optimizers()

    def __bool__(self) -> bool:
        return bool(self._places)

    def parameters(self) -> set[Tensor]:
        """Those that are split."""
        return {tensors[name] for *_, tensors, name in self._places if isinstance(tensors[name], nn.Parameter)}

    @contextmanager
    def in_parts(self) -> Iterator[None]:
        """Inside, the loss finds a :class:`SplitTable` in the place of each; what it puts there is kept."""
        stored = [tensors[name] for *_, tensors, name in self._places]
        views: dict[int, SplitTable] = {}
        for kept, (_, module, tensors, name) in zip(stored, self._places, strict=True):
            if id(kept) not in views:
                views[id(kept)] = _view(kept, module.num_classes)
            tensors[name] = views[id(kept)]
        try:
            yield
        finally:
            for kept, (*_, tensors, name) in zip(stored, self._places, strict=True):
                rows = tensors[name].rows
                is_same = rows is views[id(kept)].rows
                tensors[name] = (
                    kept if is_same else _stored(rows.view_as(kept.to_local()), kept.shape, kept.device_mesh)
                )


def whole_state(module: nn.Module) -> dict[str, Any]:
    """``module.state_dict()`` with whole tables, see :func:`pml_center.distributed.whole_state`."""
    return {
        name: _as_rows(each.full_tensor() if is_split(each) else each) for name, each in module.state_dict().items()
    }


def is_split(tensor: Any) -> bool:
    """Whether each process has a part of it."""
    return DTensor is not None and isinstance(tensor, DTensor)


def own_part(tensor: Any) -> Tensor:
    """What this process has of it."""
    return tensor.to_local() if is_split(tensor) else tensor


def clip_gradients(parameters: Iterable[Tensor], longest: float) -> Tensor:
    """Shorten the gradient of all, where some are split, see :func:`pml_center.distributed.clip_gradients`."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    split = [own_part(each) for each in gradients if is_split(each)]
    whole = [each for each in gradients if not is_split(each)]
    square = torch.stack([torch.linalg.vector_norm(each).square() for each in split]).sum()
    dist.all_reduce(square)
    length = torch.stack([square, *(torch.linalg.vector_norm(each).square().to(square) for each in whole)]).sum().sqrt()
    share = (longest / (length + 1e-6)).clamp_max(1)  # as torch has it
    for each in (*split, *whole):
        each.mul_(share.to(each))
    return length


def table_paths(loss: nn.Module) -> set[str]:
    """The names of the tables in the state of a loss."""
    return {place.path for place in _places(loss)}


def parts_of(loss: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The tables of a loss and what an optimizer has for each: of both, what a process has, (classes, ...)."""
    parts = {}
    for path, module, tensors, name in _places(loss):
        table = tensors[name]
        parts[f"loss.{path}"] = _by_class(table, module.num_classes)
        for key, value in optimizer.state.get(table, {}).items():
            if isinstance(value, Tensor) and value.shape == table.shape:
                parts[f"optimizer.{path}.{key}"] = _by_class(value, module.num_classes)
    return parts


def save_parts(folder: Path, parts: Mapping[str, Tensor]) -> None:
    """Write :func:`parts_of` to a new folder, each process its own. Every process must call it."""
    from torch.distributed import checkpoint

    with _one_process_is_enough():
        checkpoint.save(dict(parts), storage_writer=checkpoint.FileSystemWriter(folder))


def load_parts(folder: Path, loss: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Fill the tables of a loss with what :func:`save_parts` wrote, by any number of processes.

    Returns:
        What the optimizer had for each table that is a parameter, by its name.

    Raises:
        ValueError: tables of other sizes.
    """
    from torch.distributed import checkpoint

    there: Any = checkpoint.FileSystemReader(folder).read_metadata().state_dict_metadata
    wanted: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {}
    for path, module, tensors, name in _places(loss):
        table = tensors[name].detach()
        wanted[f"loss.{path}"] = _by_class(table, module.num_classes)
        for key, saved in there.items():
            if key.startswith(f"optimizer.{path}."):
                moment = torch.zeros_like(table, dtype=saved.properties.dtype)
                moments.setdefault(path, {})[key.removeprefix(f"optimizer.{path}.")] = moment
                wanted[key] = _by_class(moment, module.num_classes)
    for key, tensor in wanted.items():
        if key not in there or there[key].size != tensor.shape:
            got = f"shape {tuple(there[key].size)}" if key in there else "none"
            raise ValueError(f"{key} must have shape {tuple(tensor.shape)}, got {got}.")
    with _one_process_is_enough():
        checkpoint.load(wanted, storage_reader=checkpoint.FileSystemReader(folder))
    return moments


def read_tables(folder: Path) -> dict[str, Tensor]:
    """The tables of a loss that :func:`save_parts` wrote, whole, by name: for one process alone."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    reader = checkpoint.FileSystemReader(folder)
    there: Any = reader.read_metadata().state_dict_metadata
    tables = {
        key: torch.empty(saved.size, dtype=saved.properties.dtype)
        for key, saved in there.items()
        if key.startswith("loss.")
    }
    _load_state_dict(tables, reader, no_dist=True)  # what others do is no concern of this one
    return {key.removeprefix("loss."): _as_rows(table) for key, table in tables.items()}


@contextmanager
def _one_process_is_enough() -> Iterator[None]:
    """Torch warns of being alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is")
        yield


def _by_class(table: Tensor, classes: int) -> Tensor:
    """The same memory, with a class in each place of the first dimension."""
    table = table.detach()
    return table if len(table) == classes else table.unflatten(0, (classes, -1))


def _as_rows(table: Tensor) -> Tensor:
    """Of a table as it is kept, the rows of all classes."""
    return table.flatten(0, 1) if table.ndim > 2 else table


class _Place(NamedTuple):
    """Where a table is."""

    path: str
    module: Any
    tensors: dict[str, Any]
    name: str


def _places(loss: nn.Module) -> Iterator[_Place]:
    for prefix, module in loss.named_modules():
        for name in getattr(module, "per_class", ()):
            for tensors in (module._parameters, module._buffers):
                if tensors.get(name) is not None:
                    yield _Place(f"{prefix}.{name}".removeprefix("."), module, tensors, name)


def _split(whole: Tensor, classes: int, mesh: Any) -> Tensor:
    """The table as it is kept, whose rows are this process's; the whole one is emptied, whoever still holds it."""
    part = part_of_classes(classes, dist.get_rank(), dist.get_world_size())
    table = _by_class(whole, classes)
    kept = _stored(table[part.start : part.stop].clone(), table.shape, mesh)
    if not isinstance(whole, nn.Parameter):
        return kept
    whole.data = whole.data.new_empty(0)
    whole.is_split = True  # type: ignore[attr-defined]
    return nn.Parameter(kept, whole.requires_grad)


def _stored(rows: Tensor, shape: torch.Size, mesh: Any) -> Tensor:
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def _view(stored: Any, classes: int) -> SplitTable:
    part = part_of_classes(classes, dist.get_rank(), dist.get_world_size())
    return SplitTable.of(_as_rows(stored.to_local()), part, stored)


def _check(module: Any) -> None:
    """Say what cannot be split."""
    name, world = type(module).__name__, dist.get_world_size()
    is_ours = hasattr(module, "per_class")
    if not is_ours and isinstance(module, BaseMetricLossFunction) and list(module.parameters(recurse=False)):
        raise TypeError(
            f"losses must be of pml_center with shard_classes, where they have class weights, got PML's {name}. "
            "Take ours of that name, or leave shard_classes out."
        )
    if not is_ours:
        return
    if DTensor is None:
        raise ValueError(
            f"shard_classes must be False before torch 2.5, got True with torch {torch.__version__}. Update torch, or "
            "leave it out."
        )
    if getattr(module, "sparse_gradient", False):
        raise ValueError(
            f"sparse_gradient must be False for {name} with shard_classes, whose gradients are dense, got True. "
            "Leave one of them out."
        )
    classes = module.num_classes
    last = part_of_classes(classes, world - 1, world)
    if last.start == last.stop:
        raise ValueError(
            f"num_classes must leave each of the {world} processes a class with shard_classes, in parts of "
            f"{-(-classes // world)}, got {classes} for {name}. Leave shard_classes out."
        )


def _check_call(module: nn.Module, args: tuple) -> None:
    """A loss whose tables are split is no longer for its owner to call."""
    if not collectives.is_joined():
        raise RuntimeError(
            f"{type(module).__name__} must be called by way of what prepare returned, because its classes are split "
            "over the processes, got a call of the loss itself. Write trained, joined = prepare(model, loss, "
            "shard_classes=True), and call joined(embeddings, labels)."
        )


@cache
def _look_at_optimizers() -> None:
    register_optimizer_step_pre_hook(_check_step)


def _check_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    """An optimizer that was made before would move rows that nobody uses any more."""
    for group in optimizer.param_groups:
        if any(hasattr(parameter, "is_split") for parameter in group["params"]):
            raise ValueError(
                "optimizer must be made after prepare(..., shard_classes=True), which makes new parameters of the "
                f"class weights, got {type(optimizer).__name__} with those of before. Make it behind that line."
            )
