"""Names that code around PML's losses overrides, assigns or calls: none that ours would ignore passes in silence."""

import inspect
import math
import warnings
from types import FunctionType
from typing import Any, get_args

from torch import Tensor, nn

from pml_center.checks import check_between

OURS = f"{__name__.partition('.')[0]}."
SIZES = "num_classes", "embedding_size", "sub_centers"


class PMLName:
    """A name that PML's losses look at and ours do not: whatever is done with it is an error that says what to do.

    Args:
        remedy: what to write instead.
    """

    name: str
    remedy: str

    def __init__(self, remedy: str):
        self.__dict__["remedy"] = remedy

    def __set_name__(self, kind: type, name: str):
        self.__dict__["name"] = name

    def refusal(self, what: str) -> TypeError:
        """The error for what was done with the name."""
        return TypeError(
            f"{self.name} must not be {what}, because it belongs to the inner workings of PML's losses, which ours do "
            f"not share. {self.remedy}"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise the error of a call."""
        raise self.refusal("called")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by whatever looks through a class
            raise AttributeError(name)
        raise AttributeError(str(self.refusal(f"asked for its {name}")))

    def __setattr__(self, name: str, value: Any) -> None:
        raise self.refusal(f"given another {name}")


class PMLNames:
    """Those of every loss of PML."""

    compute_loss = PMLName("Say the loss of each sample by element_losses, in a center loss by pull.")


class PMLClassNames:
    """Those of PML's losses with class weights."""

    weight_regularization_loss = PMLName("Build the loss with weight_regularizer=... and weight_reg_weight=...")
    add_weight_regularization_to_loss_dict = PMLName("Build the loss with weight_regularizer=...")


class PMLSoftmaxNames:
    """Those of PML's softmax family."""

    cross_entropy = PMLName(
        "Build the loss with label_smoothing=..., with loss_weights=... for weights of the classes, or with a reducer."
    )
    m_loss = PMLName("Override combine.")
    init_margin = PMLName("Nothing has to be prepared: loss.margin is read in every batch, by target_cosine(batch).")
    get_cosine = PMLName(
        "Call get_logits(embeddings), which is scale times the cosines; override prototypes for other class weights."
    )
    get_target_mask = PMLName("Call get_logits(embeddings, labels) for the logits with margin.")
    get_angles = PMLName("Take batch.cosine.acos() in target_cosine; with collect_stats=True avg_angle is their mean.")
    get_cos_with_margin = PMLName("Override target_cosine(batch), or call get_logits(embeddings, labels).")
    modify_cosine_of_target_classes = PMLName("Override target_cosine(batch), where batch.cosine are these cosines.")
    scale_logits = PMLName("Override logit_scale(batch), one factor for all or (B,).")
    cast_types = PMLName("Nothing is cast in forward: call loss.to(device).")


def check_overridden(kind: type) -> None:
    """No class may define what ours never look at, be it by a base, or by an assignment to the class.

    Raises:
        TypeError: a name of PML's losses that ours never look at.
    """
    for base in (PMLNames, PMLClassNames, PMLSoftmaxNames):
        for name, standing in vars(base).items() if issubclass(kind, base) else ():
            if isinstance(standing, PMLName) and getattr(kind, name) is not standing:
                raise standing.refusal(f"overridden in {kind.__name__}")


def check_subclass(kind: type) -> None:
    """What a subclass defines must be looked at, and a method of ours stay one that can be called as ours is.

    Raises:
        TypeError: a name of PML's losses that ours never look at, or one that ours use in another way.
    """
    check_overridden(kind)
    ours = next(base for base in kind.__mro__ if base.__module__.startswith(OURS))
    for base in kind.__mro__[: kind.__mro__.index(ours)]:
        for name, given in vars(base).items():
            standing: Any = getattr(ours, name, None)
            if name.startswith("_") or name == "forward":  # which is called by whoever calls the loss, as they like
                continue
            if _is_method(standing) and not _can_be_called_as(given, standing):
                asked = ", ".join(_needed(standing)[1:]) or "nothing"
                raise TypeError(
                    f"{name} must be a method that takes {asked}, because {ours.__name__} calls it, got something else "
                    f"in {kind.__name__}. Choose another name for your own."
                )
            if standing is None and _kind_of_state(ours, name):
                raise TypeError(
                    f"{name} must stay what {ours.__name__} keeps under this name, got something else in "
                    f"{kind.__name__}. Choose another name for your own."
                )


def check_assigned(loss: nn.Module, name: str, value: Any) -> None:
    """What is assigned to a loss must be looked at, and must not hide what the loss looks at.

    Raises:
        TypeError: a name of PML's losses that ours never look at; something else than a function for a method, or of
            another type for a tensor or a module.
        ValueError: another size than that of the class rows.
    """
    kind, before = type(loss), vars(loss)
    standing = getattr(kind, name, None)
    if isinstance(standing, PMLName):
        raise standing.refusal("assigned")
    if _is_method(standing) and (isinstance(value, nn.Module) or not callable(value)):
        raise TypeError(
            f"{name} must stay a method of {kind.__name__}, which calls it, got {type(value).__name__}. "
            "Choose another name for your own."
        )
    state = standing is None and _kind_of_state(kind, name)
    if state and not isinstance(value, state):
        remedy = "Build the loss with loss_weights=... for weights of the classes in the loss, or choose"
        raise TypeError(
            f"{name} must stay what {kind.__name__} keeps under this name, got {type(value).__name__}. "
            f"{remedy if name == 'class_weights' else 'Choose'} another name for your own."
        )
    if name in SIZES and name in before and "_forgotten_optimizer" in before and value != before[name]:
        raise ValueError(
            f"{name} must stay {before[name]}, of which the class rows are made, got {value!r}. "
            "Classes are added and dropped by resize_classes(num_classes) of the softmax family; else build anew."
        )


def check_degrees(loss: nn.Module, margin: Any) -> None:
    """A margin in degrees, with a warning where radians are likely: as PML's losses take it, not as they keep it.

    Raises:
        ValueError: a margin outside [0, 180].
    """
    check_between("in [0, 180] degrees", "The paper's margin is 28.6.", margin=margin)
    if not 0 < margin < 1:
        return
    name, radians = type(loss).__name__, float(margin)
    is_built = "margin" in vars(loss)
    warnings.warn(
        f"{name}(margin={radians}) is {radians} degrees, almost no margin, because PML's margins are in degrees. "
        f"If you mean {radians} rad, write margin={math.degrees(radians):.1f}.",
        stacklevel=3 if is_built else 4,  # who assigned it, or who called the constructor
    )


def _is_method(standing: Any) -> bool:
    return isinstance(standing, FunctionType) and standing.__module__.startswith(OURS)


def _kind_of_state(kind: type, name: str) -> Any:
    """The type of a tensor or a module that a class of ours says to keep; None of everything else."""
    for base in kind.__mro__:
        if base.__module__.startswith(OURS) and name in vars(base).get("__annotations__", {}):
            annotation = vars(base)["__annotations__"][name]
            kinds = [each for each in get_args(annotation) or [annotation] if isinstance(each, type)]
            return annotation if any(issubclass(each, Tensor | nn.Module) for each in kinds) else None
    return None


def _needed(function: FunctionType) -> list[str]:
    """Arguments without a default."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def _can_be_called_as(given: Any, standing: FunctionType) -> bool:
    if isinstance(given, property) or not (callable(given) or hasattr(given, "__get__")):
        return False
    needed = _needed(standing)
    if isinstance(given, staticmethod | classmethod):
        given, needed = given.__func__, needed[isinstance(given, staticmethod) :]
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # it has none that could be read
        return True
    try:
        signature.bind(*needed)
    except TypeError:
        return False
    return True
