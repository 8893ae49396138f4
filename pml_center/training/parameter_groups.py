"""param_groups: nobody forgets the parameters of a loss."""

from collections.abc import Iterable

from pytorch_metric_learning.regularizers import BaseRegularizer
from torch import nn

from pml_center.losses import BaseCenterLoss


def param_groups(
    model: nn.Module,
    *losses: nn.Module,
    lr: float,
    loss_lr: float | None = None,
    center_lr: float | None = None,
    weight_decay: float = 0.0,
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

    Returns:
        Groups named ``model``, ``model (no decay)``, ``losses`` and ``centers``, without empty ones; each parameter
        that requires a gradient is in exactly one.

    Raises:
        ValueError: nothing to train.
        TypeError: a loss that is no module, such as a list of them.

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
    own = list(model.parameters())
    candidates: list[tuple[str, Iterable[nn.Parameter], float, float]] = [
        ("model", [p for p in own if p.ndim > 1], lr, weight_decay),
        ("model (no decay)", [p for p in own if p.ndim <= 1], lr, 0.0),
        ("centers", centers, center_lr, 0.0),
        ("losses", [p for loss in losses for p in loss.parameters()], loss_lr, 0.0),
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
