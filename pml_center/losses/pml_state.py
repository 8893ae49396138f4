"""What PML's losses and ours bring each other: arguments, class weights, and what an optimizer knows of these."""

import warnings
import weakref
from functools import cache
from typing import Any

from pytorch_metric_learning import losses as pml_losses
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pml_center.names import constructor_arguments

# What PML's losses have no argument for, where ours keep it, and the value with which both are the same.
BEYOND_PML = {
    "beyond_pi": ("beyond_pi", "linear"),
    "bias": ("class_weights.bias", None),
    "gradient": ("gradient", "full"),
    "hard_negatives": ("hard_negatives", 0),
    "ignore_index": ("ignore_index", None),
    "label_smoothing": ("label_smoothing", 0),
    "learn_scale": ("log_scale", None),
    "loss_weights": ("loss_weights", None),
    "margin_schedule": ("margin_schedule", None),
    "miner_weighting": ("miner_weighting", "max"),
    "normalize_weights": ("normalizes", True),
    "prior_weight": ("prior_weight", 0),
    "sample_rate": ("class_weights.sample_rate", 1),
    "scale_by_norm": ("scale_by_norm", True),
    "scale_schedule": ("scale_schedule", None),
    "sub_centers": ("sub_centers", 1),
    "update": ("update", "gradient"),
}

_taken: "weakref.WeakSet[Any]" = weakref.WeakSet()  # losses with PML's weights that no optimizer has moved yet
_converted: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()  # whose state was turned


def from_pml(kind: Any, loss: Any) -> Any:
    """A loss of such a class of ours with the arguments and weights of PML's, see ``BaseSoftmaxLoss.from_pml``."""
    if type(loss) is not getattr(pml_losses, kind.__name__, None):
        ours = "our own " if type(loss).__module__.startswith("pml_center.") else ""
        raise TypeError(
            f"loss must be PML's {kind.__name__}, got {ours}{type(loss).__name__}. Use the class of that name."
        )
    shared = [name for name in constructor_arguments(kind) if hasattr(loss, name)]
    arguments = {name: kind.from_pml_units.get(name, lambda x: x)(getattr(loss, name)) for name in shared}
    columns = getattr(loss, kind.pml_weight)
    width, rows = columns.shape  # PML's NormalizedSoftmaxLoss has a num_classes of 0
    arguments["num_classes"] = rows // getattr(loss, "sub_centers", 1)
    arguments["descriptors_dim" if "descriptors_dim" in shared else "embedding_size"] = width
    ours = kind(**arguments).to(columns)
    ours.load_state_dict(loss.state_dict(), strict=False)
    ours.class_weights.weight.requires_grad_(columns.requires_grad)
    return ours.train(loss.training)


def to_pml(loss: Any) -> Any:
    """PML's loss of the same name with the arguments and weights of ours, see ``BaseSoftmaxLoss.to_pml``."""
    kind, theirs = type(loss), getattr(pml_losses, type(loss).__name__, None)
    if theirs is None:
        raise TypeError(f"loss must have a class of its name in PML, got {kind.__name__}. Save its own state_dict().")
    accepted = constructor_arguments(theirs, stop=nn.Module)
    for name in constructor_arguments(kind):
        if name in BEYOND_PML and name not in accepted:
            place, neutral = BEYOND_PML[name]
            value = _found(loss, place)
            if value is not neutral and (isinstance(value, Tensor) or value != neutral):
                raise ValueError(
                    f"{name} must be left out for to_pml, because PML's {kind.__name__} has no such argument, got "
                    f"{_shown(value)}. Save our own state_dict()."
                )
    shared = [name for name in accepted if hasattr(loss, name)]
    if not kind.takes_lengths:
        shared.remove("distance")  # the one that each is defined on, in PML's words and in ours
    weight = loss.class_weights.weight
    pml_loss = theirs(**{name: getattr(loss, name) for name in shared}).to(weight)
    pml_loss.load_state_dict({kind.pml_weight: weight.t()}, strict=False)
    getattr(pml_loss, kind.pml_weight).requires_grad_(weight.requires_grad)
    return pml_loss.train(loss.training)


def take_weights(loss: Any, state_dict: dict[str, Any], prefix: str) -> None:
    """Make our weights of PML's where a state has them, and warn where it brings none but those that we have.

    For use in ``_load_from_state_dict``.
    """
    name = f"{prefix}class_weights.weight"
    columns = state_dict.pop(prefix + loss.pml_weight, None)
    if columns is not None:
        state_dict[name] = columns.t().contiguous()
        _taken.add(loss)
        _look_at_first_steps()
    elif _is_itself(state_dict.get(name), loss.class_weights.weight):
        kind = type(loss).__name__
        warnings.warn(
            f"{kind} was given the very class weights that it has, so that none are loaded. A state of PML's loss that "
            f"is filtered by our names loses its {loss.pml_weight!r}: load it whole, or take {kind}.from_pml.",
            stacklevel=5,
        )


def load_optimizer_state(optimizer: Optimizer, state_dict: dict[str, Any], *losses: nn.Module) -> None:
    """Load the state of an optimizer that was saved with PML's losses: its class weights are the transpose of ours.

    Momenta and squared gradients of class weights are turned as the weights are; all else is loaded as it stands. In
    place of ``optimizer.load_state_dict(state_dict)``, before or after the losses are loaded.

    Args:
        optimizer: built for our losses as that of PML's was for theirs: the same parameters in the same groups.
        state_dict: what ``optimizer.state_dict()`` was with PML's losses; it is not changed.
        losses: ours, or modules that hold them, such as PML's ``MultipleLosses``.

    Raises:
        TypeError: no losses of the softmax family among them.
        ValueError: a state that has no moments of PML's class weights, such as those of an optimizer that keeps sums
            over rows and columns; class weights that the optimizer does not have.

    Example:
        >>> import torch
        >>> from pml_center.losses import CosFaceLoss
        >>> theirs = pml_losses.CosFaceLoss(3, 2)
        >>> before = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
        >>> theirs(torch.eye(2), torch.tensor([0, 1])).backward(), before.step()
        (None, None)
        >>> ours = CosFaceLoss.from_pml(theirs)
        >>> optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
        >>> load_optimizer_state(optimizer, before.state_dict(), ours)
        >>> optimizer.state[ours.class_weights.weight]["momentum_buffer"].shape
        torch.Size([3, 2])
    """
    weights: list[Tensor] = [
        module.class_weights.weight  # type: ignore[union-attr, misc]
        for loss in losses
        for module in loss.modules()
        if _is_ours(module)
    ]
    if not weights:
        kinds = ", ".join(type(loss).__name__ for loss in losses) or "none"
        raise TypeError(f"losses must be ours with class weights, got {kinds}. Pass those that took PML's place.")
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for weight in weights:
        if all(weight is not parameter for parameter in own):
            raise ValueError(
                f"optimizer must have the class weights of losses, got none of shape {tuple(weight.shape)} among its "
                f"{len(own)} parameters. Build it with loss.parameters()."
            )
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    turned = dict(state_dict["state"])
    for number, parameter in zip(numbers, own, strict=False):  # torch says where they are not as many
        if number in turned and any(parameter is weight for weight in weights):
            turned[number] = {name: _turned(name, value, parameter) for name, value in turned[number].items()}
    optimizer.load_state_dict({**state_dict, "state": turned})
    _converted.add(optimizer)


def _is_ours(module: Any) -> bool:
    return hasattr(module, "class_weights") and hasattr(module, "pml_weight")


def _turned(name: str, value: Any, weight: Tensor) -> Any:
    """What an optimizer keeps of PML's weights, as it would of ours; counts stay."""
    if not (isinstance(value, Tensor) and value.ndim):
        return value
    if value.shape != weight.t().shape:
        raise ValueError(
            f"state_dict must have moments of PML's class weights, {tuple(weight.t().shape)}, got {name} of shape "
            f"{tuple(value.shape)}. One saved with our losses is for optimizer.load_state_dict; else start anew."
        )
    return value.t().contiguous()


@cache
def _look_at_first_steps() -> None:
    """From now on, where a loss has taken PML's weights, look at the state of the optimizer that moves them first."""
    register_optimizer_step_pre_hook(_look)


def _look(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    """Refuse what was saved of PML's weights: where C = D, an optimizer would go on with moments of other entries."""
    for loss in list(_taken):
        weight = loss.class_weights.weight
        if all(weight is not parameter for group in optimizer.param_groups for parameter in group["params"]):
            continue
        kept = [v for v in optimizer.state.get(weight, {}).values() if isinstance(v, Tensor) and v.ndim]
        is_square = weight.shape[0] == weight.shape[1]
        if optimizer not in _converted and any(is_square or value.shape != weight.shape for value in kept):
            raise ValueError(
                f"optimizer must be new, or have moments of our class weights, {tuple(weight.shape)}, where "
                f"{type(loss).__name__} has taken PML's, got moments of shape {tuple(kept[0].shape)} from before. "
                "Load those of PML with pml_center.losses.pml_state.load_optimizer_state(optimizer, state_dict, loss)."
            )
        _taken.discard(loss)


def _is_itself(loaded: object, weight: Tensor) -> bool:
    """Whether a state holds the very memory that it is loaded into."""
    return isinstance(loaded, Tensor) and loaded.data_ptr() == weight.data_ptr() != 0


def _found(loss: Any, place: str) -> Any:
    """The value of an option; of class weights that are compared as they are by definition, the one that both have."""
    if place == "normalizes":
        return loss.normalizes == type(loss).normalizes
    for name in place.split("."):
        loss = getattr(loss, name)
    return loss


def _shown(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
