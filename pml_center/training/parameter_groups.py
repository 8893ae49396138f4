"""param_groups: nobody forgets the parameters of a loss."""

from collections.abc import Iterable
from typing import Any

from pytorch_metric_learning.regularizers import BaseRegularizer
from torch import nn

from pml_center.checks import check_between
from pml_center.distributed import is_split
from pml_center.losses import BaseCenterLoss

SPLIT = " (split)"  # ends the name of a group whose parameters processes have a part of each


def param_groups(
    model: nn.Module,
    *losses: nn.Module,
    lr: float,
    loss_lr: float | None = None,
    center_lr: float | None = None,
    weight_decay: float = 0.0,
    trunk_lr: float | None = None,
    neck_lr: float | None = None,
    layer_decay: float = 1.0,
) -> list[dict]:
    """Parameter groups of a model and its losses, ready for any optimizer of torch.

    Weight decay goes to the model's weight matrices alone: biases, norms, class weights and centers have none. What a
    regularizer learns, such as the radius of :class:`~pml_center.regularizers.RingRegularizer`, goes with its loss.

    Args:
        model: what makes the embeddings.
        losses: ours, PML's, PML's ``MultipleLosses``; those without parameters add nothing.
        lr: learning rate of the model.
        loss_lr: of the losses' parameters, by default ``lr``.
        center_lr: of centers that are parameters (``update="gradient"``), by default ``loss_lr``.
        weight_decay: of the model's weight matrices.
        trunk_lr: of the trunk of an :class:`~pml_center.Embedder`, by default ``lr``.
        neck_lr: of its neck, by default ``lr``.
        layer_decay: the rate of a block of the trunk is this factor below that of the next one, in (0, 1].

    Returns:
        Groups named ``model``, ``losses`` and ``centers``, without empty ones; each parameter that requires a gradient
        is in exactly one. Where parts of the model have rates of their own they are named ``trunk``, or ``block 0`` and
        so on, and ``neck``. What has no decay is apart, as in ``model (no decay)``, and what
        :func:`~pml_center.distributed.prepare` has split over processes, as in ``losses (split)``: kernels of
        optimizers take no mixture.

    Raises:
        ValueError: nothing to train, ``layer_decay`` for a model of unknown blocks.
        TypeError: a loss that is no module, such as a list of them; rates of parts for a model without trunk and neck.

    Example:
        >>> from pml_center.losses import SoftmaxLoss
        >>> model = nn.Linear(8, 4)
        >>> groups = param_groups(model, SoftmaxLoss(10, 4), lr=1e-3, loss_lr=1e-2, weight_decay=0.05)
        >>> [(group["name"], group["lr"], group["weight_decay"]) for group in groups]
        [('model', 0.001, 0.05), ('model (no decay)', 0.001, 0.0), ('losses', 0.01, 0.0)]
    """
    for loss in losses:
        if not isinstance(loss, nn.Module):
            raise TypeError(
                f"losses must be modules, got {type(loss).__name__}. "
                "Pass them one by one: param_groups(model, loss, other, lr=...)."
            )
    loss_lr = lr if loss_lr is None else loss_lr
    center_lr = loss_lr if center_lr is None else center_lr
    center_losses = [module for loss in losses for module in loss.modules() if isinstance(module, BaseCenterLoss)]
    regularizers = [module for loss in losses for module in loss.modules() if isinstance(module, BaseRegularizer)]
    no_centers = {parameter for regularizer in regularizers for parameter in regularizer.parameters()}
    centers = [p for loss in center_losses for p in loss.parameters() if p not in no_centers]
    candidates: list[tuple[str, Iterable[nn.Parameter], float, float]] = [
        (f"{name}{note}", [p for p in part if (p.ndim > 1) is is_matrix], rate, decay)
        for name, part, rate in _parts(model, lr, trunk_lr, neck_lr, layer_decay)
        for note, is_matrix, decay in (("", True, weight_decay), (" (no decay)", False, 0.0))
    ]
    of_losses = [
        ("centers", centers, center_lr),
        ("losses", [p for loss in losses for p in loss.parameters()], loss_lr),
    ]
    candidates += [
        (f"{name}{note}", [p for p in part if is_split(p) is split], rate, 0.0)
        for name, part, rate in of_losses
        for note, split in (("", False), (SPLIT, True))
    ]
    seen: set[int] = set()
    groups = []
    for name, parameters, rate, decay in candidates:
        new = [p for p in dict.fromkeys(parameters) if p.requires_grad and id(p) not in seen]
        seen.update(map(id, new))
        if new:
            groups.append({"name": name, "params": new, "lr": rate, "weight_decay": decay})
    if not groups:
        raise ValueError("model must have parameters that require a gradient, got none. Unfreeze some of them.")
    return groups


def _parts(
    model: nn.Module, lr: float, trunk_lr: float | None, neck_lr: float | None, layer_decay: float
) -> list[tuple[str, list[nn.Parameter], float]]:
    """The parts of a model that have a rate of their own: name, parameters, rate."""
    check_between("in (0, 1]", "1 is none.", layer_decay=layer_decay)
    if trunk_lr is neck_lr is None and layer_decay == 1:
        return [("model", list(model.parameters()), lr)]
    whole: Any = model
    if not (hasattr(model, "trunk") and hasattr(model, "neck")):
        raise TypeError(
            f"model must have a trunk and a neck for trunk_lr, neck_lr or layer_decay, got {type(model).__name__}. "
            "Make it with pml_center.create_embedder, or wrap its trunk in pml_center.Embedder."
        )
    trunk_lr, neck_lr = (lr if rate is None else rate for rate in (trunk_lr, neck_lr))
    if layer_decay == 1:
        parts = [("trunk", list(whole.trunk.parameters()), trunk_lr)]
    else:
        blocks = whole.blocks
        rates = [trunk_lr * layer_decay ** (len(blocks) - number) for number in range(len(blocks))]
        parts = [(f"block {number}", *part) for number, part in enumerate(zip(blocks, rates, strict=True))]
    return [*parts, ("neck", list(whole.neck.parameters()), neck_lr)]
