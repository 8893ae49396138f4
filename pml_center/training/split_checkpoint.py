"""What checkpoints hold of a run whose classes are split: files of each process, which any number of them reads.

All else is in the files of every checkpoint. An optimizer's state is kept by the names of its parameters, for their
groups are others where nothing is split.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pml_center import distributed
from pml_center.distributed import sharded
from pml_center.training.checkpoint import TABLES, Fingerprint, check_finite, check_tables, sync_each
from pml_center.training.parameter_groups import SPLIT


def write_tables(folder: Path, loss: nn.Module, optimizer: Optimizer) -> tuple[Path, dict[str, Fingerprint]]:
    """Write the part of each process, for ``write_checkpoint`` to take in. Every process must call it.

    Args:
        folder: of the checkpoint; they are written beside it.
        loss: whose classes are split.
        optimizer: with what it has for them.

    Returns:
        Where they are, and all files there.

    Raises:
        FloatingPointError: numbers that are not finite.
    """
    draft = folder.with_name(f"{folder.name}-{TABLES}")
    parts = sharded.parts_of(loss, optimizer)
    own = {name: sharded.own_part(part) for name, part in parts.items()}
    distributed.of_each(lambda: check_finite(folder, {"": own}))
    distributed.from_main(lambda: shutil.rmtree(draft, ignore_errors=True))
    sharded.save_parts(draft, parts)
    paths = sorted(draft.iterdir())[distributed.rank() :: distributed.world_size()]
    found = distributed.gather_objects(distributed.of_each(lambda: sync_each(paths)))
    return draft, {name: fingerprint for files in found for name, fingerprint in files.items()}


def rest_of(loss: nn.Module) -> dict[str, Tensor]:
    """The state of a loss without its tables."""
    paths = sharded.table_paths(loss)
    return {name: value for name, value in loss.state_dict().items() if name not in paths}


def rest_of_optimizer(optimizer: Optimizer, model: nn.Module, loss: nn.Module) -> dict[str, Any]:
    """The state of an optimizer, by the names of its parameters, without what it has for tables."""
    tables = sharded.parts_of(loss, optimizer)
    state = {
        name: {key: value for key, value in optimizer.state[parameter].items() if f"{_in(name)}.{key}" not in tables}
        for name, parameter in _named(optimizer, model, loss)
        if parameter in optimizer.state
    }
    groups = {group["name"]: {key: group[key] for key in group if key != "params"} for group in optimizer.param_groups}
    return {"state": state, "groups": groups}


def load_split(folder: Path, run: str, loss: nn.Module, rest: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Fill a loss from a checkpoint.

    Args:
        folder: of the checkpoint.
        run: the identity of the run.
        loss: split or not.
        rest: of its state.

    Returns:
        What an optimizer had for its tables, by their names.

    Raises:
        CheckpointError: files that are damaged.
        ValueError: a state of other sizes or names.
    """
    distributed.of_each(lambda: check_tables(folder, run, distributed.rank(), distributed.world_size()))
    missing, unexpected = loss.load_state_dict(rest, strict=False)
    if wrong := {*missing, *unexpected} - sharded.table_paths(loss):
        raise ValueError(f"loss must have the state of the checkpoint, got other names, e.g. {min(wrong)}")
    return sharded.load_parts(folder / TABLES, loss)


def load_optimizer(
    optimizer: Optimizer,
    model: nn.Module,
    loss: nn.Module,
    saved: dict[str, Any],
    moments: dict[str, dict[str, Tensor]],
) -> None:
    """Fill an optimizer with what :func:`rest_of_optimizer` and :func:`load_split` found."""
    state = optimizer.state_dict()
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    state["state"] = {}
    for number, (name, _) in zip(numbers, _named(optimizer, model, loss), strict=True):
        if name in saved["state"]:
            state["state"][number] = saved["state"][name] | moments.get(name.removeprefix("loss."), {})
    for group in state["param_groups"]:
        name = group["name"]
        others = name, name.removesuffix(SPLIT), f"{name}{SPLIT}"
        found = next(saved["groups"][other] for other in others if other in saved["groups"])
        group.update(found | {"name": name})
    optimizer.load_state_dict(state)


def _named(optimizer: Optimizer, model: nn.Module, loss: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters in the order of an optimizer, with their names."""
    names = {
        parameter: name
        for part, prefix in ((loss, "loss"), (model, "model"))
        for name, parameter in part.named_parameters(prefix)
    }
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names[parameter], parameter


def _in(name: str) -> str:
    """The name of what an optimizer has for a parameter of the loss, among :func:`sharded.parts_of`."""
    return f"optimizer.{name.removeprefix('loss.')}"
