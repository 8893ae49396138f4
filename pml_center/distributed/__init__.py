"""Several processes that train together, and do what one process does with the batches of all.

Started by ``torchrun``, a program of any number of processes is four lines longer than one for one::

    with initialize("cpu"):
        model, loss = create_embedder("convnet"), SoftmaxLoss(num_classes=10, embedding_size=64)
        trained, joined = prepare(model, loss)
        optimizer = torch.optim.AdamW(param_groups(model, loss, lr=1e-3))
        for images, labels in batches:  # this process's own
            joined(trained(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        if is_main():
            torch.save(model.state_dict(), "model.pt")

"""

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from pml_center.distributed import collectives

__all__ = [
    "JoinedLoss",
    "clip_gradients",
    "from_main",
    "gather_objects",
    "gather_rows",
    "initialize",
    "is_main",
    "is_split",
    "of_each",
    "own_state",
    "prepare",
    "rank",
    "shard_rows",
    "share_buffers",
    "whole_state",
    "world_size",
]

Rows = TypeVar("Rows", np.ndarray, Tensor)
T = TypeVar("T")


def prepare(model: nn.Module, *losses: nn.Module, shard_classes: bool = False) -> tuple[nn.Module, ...]:
    """The model and the losses as several processes train them: they do what one does with the joined batch.

    The model goes into ``DistributedDataParallel``. A loss goes into :class:`JoinedLoss`, which gives it the embeddings
    of all processes, so that what it mines, draws, remembers and reduces is what it would in one process; the losses of
    the softmax family share the products with all classes among them. All start from the weights of the first process.

    What you give stays as it is, and has the weights that are trained: optimize, evaluate and save *that*, and call
    what you get in training. Without several processes you get what you gave.

    Args:
        model: what makes embeddings. With BatchNorm, each process looks at its own images; on GPUs
            ``torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)`` beforehand looks at all.
        losses: ours, PML's, PML's ``MultipleLosses``, a :class:`~pml_center.training.LossFormula`; not wrapped. A miner
            belongs inside one of the last two, so that it, too, sees the joined batch.
        shard_classes: whether each process keeps a part of the classes: of their weights, centers, biases, margins and
            memories, of the gradients of these, and of what an optimizer has for them. They become new parameters:
            make the optimizer afterwards.

    Returns:
        Model and losses, in the order in which they came.

    Raises:
        TypeError: a loss that is no module, or that is wrapped for several processes already; with ``shard_classes``,
            PML's with class weights.
        ValueError: with ``shard_classes``, losses without classes, or with too few; sparse gradients; torch 2.4.

    Example:
        >>> from pml_center.losses import SoftmaxLoss
        >>> loss = SoftmaxLoss(num_classes=10, embedding_size=2)
        >>> prepare(nn.Linear(3, 2), loss)[1] is loss  # one process
        True
    """
    wrappers = JoinedLoss, DistributedDataParallel, DistributedLossWrapper
    for loss in losses:
        parts = loss.modules() if isinstance(loss, nn.Module) else [loss]
        wrong = [part for part in parts if not isinstance(part, nn.Module) or isinstance(part, wrappers)]
        if wrong:
            raise TypeError(
                f"losses must be modules that nothing wraps, got {type(wrong[0]).__name__}. "
                "Pass the losses themselves, one by one: prepare(model, loss, other)."
            )
    if world_size() == 1:
        return model, *losses
    joined = [JoinedLoss(loss, shard_classes) for loss in losses]
    if shard_classes and not any(each.tables for each in joined):
        names = ", ".join(type(loss).__name__ for loss in losses) or "none"
        raise ValueError(f"losses must have classes with shard_classes, got {names}. Leave shard_classes out.")
    of_model = set(model.parameters())
    split = {parameter for each in joined if each.tables for parameter in each.tables.parameters()}
    for parameter in dict.fromkeys(parameter for loss in losses for parameter in loss.parameters()):
        if parameter.requires_grad and parameter not in of_model | split:
            parameter.register_post_accumulate_grad_hook(collectives.average_gradient)
    if any(parameter.requires_grad for parameter in of_model) and not isinstance(model, DistributedDataParallel):
        model = DistributedDataParallel(model)
        if world_size() > 2 and not any(parameter.device.type != "cpu" for parameter in of_model):
            model.register_comm_hook(None, collectives.mean_in_order)
    return model, *joined


class JoinedLoss(nn.Module):
    """A loss of the joined batch: the rows of all processes, in the order of their ranks.

    Every process must call it, one with no rows, too, and all get the same value. Its gradients are such that their
    mean over the processes, which ``DistributedDataParallel`` takes, is that of one process with the joined batch;
    :func:`prepare` sees to the mean of the loss's own parameters. Processes may have different numbers of rows. Where a
    loss or a miner draws at random, all draw what the first process draws.

    Args:
        module: the loss.
        shard_classes: as for :func:`prepare`.
    """

    def __init__(self, module: nn.Module, shard_classes: bool = False):
        super().__init__()
        self.module = module
        state = module.state_dict(keep_vars=True).values()  # with counts, which are no buffers
        for tensor in dict.fromkeys((*module.parameters(), *module.buffers(), *state)):
            if isinstance(tensor, torch.Tensor):
                collectives.take_from_first(tensor)
        self.tables = None
        if shard_classes:
            from pml_center.distributed.sharded import Tables  # half a second of torch, for who asks for it

            self.tables = Tables(module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the loss says to the joined batch.

        Args:
            args: as the loss takes them: tensors with a row for each sample of this process, such as embeddings and
                labels.
            kwargs: as ``args``.

        Raises:
            TypeError: an argument that is neither a tensor nor None, such as the tuples of a miner.
        """
        names = [f"argument {place}" for place in range(1, len(args) + 1)] + list(kwargs)
        values = (*args, *kwargs.values())
        for name, value in zip(names, values, strict=True):
            if not (value is None or (isinstance(value, Tensor) and value.ndim)):
                raise TypeError(
                    f"{name} must be a tensor with a row for each sample, or None, got {type(value).__name__}. "
                    "Put a miner inside the loss, so that it sees the batches of all processes: "
                    "MultipleLosses([loss], miners=[miner])."
                )
        device = next(value.device for value in values if value is not None)
        tensors = {id(value): value.to(device) for value in values if value is not None}  # one given twice stays one
        lengths = collectives.lengths_by_rank([len(tensor) for tensor in tensors.values()], device)
        joined = {
            key: collectives.join_rows(tensor, of_tensor)
            for (key, tensor), of_tensor in zip(tensors.items(), zip(*lengths, strict=True), strict=True)
        }
        rows = [joined.get(id(value)) for value in values]
        in_parts = self.tables.in_parts if self.tables else nullcontext
        with _draws_of_the_first(device), collectives.joined(shares_rows=not self.tables), in_parts():
            return self.module(*rows[: len(args)], **dict(zip(kwargs, rows[len(args) :], strict=True)))


def rank() -> int:
    """The number of this process, from 0; 0 without several."""
    return dist.get_rank() if collectives.is_distributed() else 0


def world_size() -> int:
    """How many processes there are; 1 without several."""
    return dist.get_world_size() if collectives.is_distributed() else 1


def is_main() -> bool:
    """Whether this is the process that writes and prints: the first, or the only one."""
    return rank() == 0


def shard_rows(size: int) -> range:
    """The rows of this process, out of so many: together the processes have each row once.

    Args:
        size: number of rows; it need not be a multiple of the processes, nor as large.

    Returns:
        Indices for an array or for ``torch.utils.data.Subset``; some process may have none.

    Example:
        >>> shard_rows(5)  # one process
        range(0, 5)
    """
    part = collectives.part_of(size, rank(), world_size())
    return range(part.start, part.stop)


def gather_rows(rows: Rows) -> Rows:
    """The rows of all processes, in the order of their ranks: what :func:`shard_rows` took apart.

    Every process must call it, and gets the same.

    Args:
        rows: (R, ...) array or tensor of this process; R may differ between processes, and be 0.

    Returns:
        (ΣR, ...) of the same kind, type and device, without gradient.

    Example:
        >>> gather_rows(np.arange(3))  # one process
        array([0, 1, 2])
    """
    if world_size() == 1:
        return rows
    tensor = torch.as_tensor(rows)
    place = tensor.device if tensor.device.type != "cpu" else collectives.meeting_place(torch.device("cuda"))
    joined = torch.cat(collectives.rows_by_rank(tensor.detach().to(place))).to(tensor.device)
    return joined.numpy() if isinstance(rows, np.ndarray) else joined


def is_split(tensor: Tensor) -> bool:
    """Whether each process has a part of a parameter, as :func:`prepare` splits them.

    Example:
        >>> is_split(nn.Linear(3, 2).weight)
        False
    """
    return hasattr(tensor, "to_local")


def clip_gradients(parameters: Iterable[Tensor], longest: float) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` that also takes parameters which :func:`prepare` has split.

    Where some are, every process must call it.

    Args:
        parameters: with gradients, or without.
        longest: the length that the gradient of all together is to have at most.

    Returns:
        The length that it had, 0-d.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> clip_gradients([weight], 1), weight.grad
        (tensor(5.), tensor([0.6000, 0.8000]))
    """
    parameters = list(parameters)
    if not any(map(is_split, parameters)):
        return clip_grad_norm_(parameters, longest)
    from pml_center.distributed import sharded

    return sharded.clip_gradients(parameters, longest)


def whole_state(module: nn.Module) -> dict[str, Any]:
    """``module.state_dict()``, with whole tables in the place of those that :func:`prepare` has split.

    For a file that a loss of one process loads. Every process must call it, and gets the same.

    Example:
        >>> list(whole_state(nn.Linear(3, 2)))  # nothing is split
        ['weight', 'bias']
    """
    if world_size() == 1:
        return module.state_dict()
    from pml_center.distributed import sharded

    return sharded.whole_state(module)


def own_state(module: nn.Module) -> dict[str, Any]:
    """``module.state_dict()``, with what this process has of tables that :func:`prepare` has split."""
    return {name: value.to_local() if is_split(value) else value for name, value in module.state_dict().items()}


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first, such as BatchNorm's running statistics.

    Weights are the same everywhere at any time; what BatchNorm remembers is of the images that a process has seen. Call
    it before several processes embed with one model: else each would with a model of its own. Every process must call
    it.

    Args:
        model: given to :func:`prepare` before, or a moving average of such a model.

    Example:
        >>> share_buffers(nn.BatchNorm1d(2))  # one process: nothing to do
    """
    if world_size() > 1:
        for buffer in model.buffers():
            collectives.take_from_first(buffer)


def from_main(work: Callable[[], T]) -> T:
    """What the first process finds, in every process. Where it raises an error, all do.

    Args:
        work: done by the first process alone, while the others wait. Its result must be picklable.

    Example:
        >>> from_main(lambda: 6 * 7)  # one process
        42
    """
    if world_size() == 1:
        return work()
    found: list[Any] = [None, None]
    if is_main():
        try:
            found[0] = work()
        except Exception as error:
            found[1] = error
    dist.broadcast_object_list(found, 0)
    if found[1] is not None:
        raise found[1]
    return found[0]


def of_each(work: Callable[[], T]) -> T:
    """What this process finds. Where any process raises an error, all do.

    Args:
        work: done by every process, with nothing in it that waits for another.

    Example:
        >>> of_each(lambda: 6 * 7)  # one process
        42
    """
    if world_size() == 1:
        return work()
    found: Any = None
    error: Exception | None = None
    try:
        found = work()
    except Exception as own:
        error = own
    first = next(filter(None, gather_objects(error)), None)
    if first is not None:
        raise first
    return found


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks; they must be picklable.

    Example:
        >>> gather_objects("one process")
        ['one process']
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def initialize(device: str | torch.device = "cpu") -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` has started, and part from them at the end.

    Alone, without ``torchrun``, or where ``torch.distributed`` is in use already, it changes nothing.

    Args:
        device: ``"cpu"``: processes talk by gloo. ``"cuda"``: by NCCL, and each has a GPU of its own.

    Yields:
        The device of this process.

    Raises:
        ValueError: more processes on this machine than GPUs.

    Example:
        >>> with initialize("cpu") as device:
        ...     print(device, rank(), world_size(), is_main())
        cpu 0 1 True
    """
    device = torch.device(device)
    if collectives.is_distributed() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    if device.type == "cuda":
        place, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= gpus:
            raise ValueError(
                f"device must be a GPU for each process, got process {place + 1} on a machine with {gpus}. "
                "Start as many as there are GPUs, with --nproc-per-node, or use the CPU."
            )
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()
        gc.collect()  # what still refers to the group goes now: threads of gloo that outlive Python abort it


@contextmanager
def _draws_of_the_first(device: torch.device) -> Iterator[None]:
    """Every process draws from torch's generators what the first one does; those of the others stay where they were."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus, enabled=not is_main()):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[gpu.index] for gpu in gpus)):
            state = generator.get_state().to(collectives.meeting_place(device))
            collectives.take_from_first(state)
            generator.set_state(state.cpu())
        yield
