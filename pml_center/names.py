"""Names: which there are, where each lives, what to say of one that does not exist, on one line. Nothing heavy."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

OTHER_NAMES = {  # of arguments, in other codes
    **dict.fromkeys(("feat_dim", "feature_dim", "embedding_dim", "descriptors_dim", "in_features"), "embedding_size"),
    **dict.fromkeys(("n_classes", "num_class", "class_num", "out_features"), "num_classes"),
    "s": "scale",
    "m": "margin",
}


def forwarded(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__``: public names that live elsewhere are loaded on first use.

    So a package can be imported without what only some of its names need, and a name that moved keeps its place.

    Args:
        package: its ``__name__``.
        homes: the module that each name is loaded from. A name whose home is ``package.name`` is that module itself.

    Example:
        >>> forwarded("here", {"sqrt": "math"})("sqrt")(4)
        2.0
        >>> forwarded("here", {"sqrt": "math"})("root")
        Traceback (most recent call last):
        ...
        AttributeError: module 'here' has no attribute 'root'
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            home = import_module(homes[name])
        except ModuleNotFoundError as error:
            if error.name is None or "." in error.name or str(error) != f"No module named {error.name!r}":
                raise
            raise _lacking(f"{package}.{name}", [error.name]) from error
        return home if homes[name] == f"{package}.{name}" else getattr(home, name)

    return __getattr__


INSTALLED_AS = {"PIL": "pillow", "faiss": "faiss-cpu", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def require(room: str, *modules: str) -> None:
    """Name what a room needs and this environment lacks, ahead of the room's own imports; nothing is imported.

    Losses, regularizers and ``distributed`` need torch, numpy and PML alone, and may be installed beside nothing else.

    Raises:
        ModuleNotFoundError: something is missing.

    Example:
        >>> require("pml_center.here", "math", "PIL_of_another")
        Traceback (most recent call last):
        ...
        ModuleNotFoundError: pml_center.here needs PIL_of_another, which is not installed. Run: python -m pip install
            PIL_of_another
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise _lacking(room, missing)


def _lacking(room: str, modules: Sequence[str]) -> ModuleNotFoundError:
    names = [INSTALLED_AS.get(name, name) for name in modules]
    return ModuleNotFoundError(
        f"{room} needs {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not installed. "
        f"Run: python -m pip install {' '.join(names)}",
        name=modules[0],
    )


def constructor_arguments(kind: type, stop: type = object) -> list[str]:
    """What a class can be built with, along its bases as long as they pass arguments on.

    Args:
        kind: the class.
        stop: a base whose own arguments are not meant.

    Example:
        >>> class Base:
        ...     def __init__(self, reducer=None): ...
        >>> class Loss(Base):
        ...     def __init__(self, margin=0.5, **kwargs): ...
        >>> constructor_arguments(Loss)
        ['margin', 'reducer']
    """
    return list(constructor_parameters(kind, stop))


def constructor_parameters(kind: type, stop: type = object) -> dict[str, tuple[type, inspect.Parameter]]:
    """The same, with the class that declares each argument, and how it declares it."""
    found: dict[str, tuple[type, inspect.Parameter]] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is stop:
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        for parameter in named:
            found.setdefault(parameter.name, (base, parameter))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def receiver(kind: type, stop: type) -> type:
    """The class that was called with a keyword which arrived at a base: ``kind``, or a base that gets no ``**kwargs``.

    Args:
        kind: the class of the object.
        stop: the base.

    Example:
        >>> class Base:
        ...     def __init__(self, **kwargs): ...
        >>> class Loss(Base):
        ...     def __init__(self, margin=0.5, **kwargs): ...
        >>> class Own(Loss):
        ...     def __init__(self):
        ...         super().__init__(reducer=None)
        >>> receiver(Own, Base).__name__
        'Loss'
    """
    makers = [base for base in kind.__mro__[: kind.__mro__.index(stop) + 1] if "__init__" in vars(base)]
    found = kind
    for base, below in pairwise(makers):
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            found = below
    return found


def unknown_name(kind: str, name: str, known: Sequence[str], remedy: str) -> str:
    """The message for a name that does not exist: what it is, the nearest ones, or its name here, and where to look.

    Example:
        >>> unknown_name("loss", "ArcFaseLoss", ["ArcFaceLoss", "CenterLoss"], "See the list of losses.")
        "loss must be a known name, got 'ArcFaseLoss'. Did you mean 'ArcFaceLoss'? See the list of losses."
    """
    lowered = {candidate.lower(): candidate for candidate in known}
    close = [lowered[match] for match in get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.6)]
    meant = OTHER_NAMES.get(name)
    close = [meant] if meant is not None and meant in known else close
    hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{kind} must be a known name, got {name!r}. {hint}{remedy}"


def one_line(text: object) -> str:
    """A text, such as the message of an error, with every white space, line breaks too, as one space.

    Example:
        >>> one_line(ValueError("two lines:\\n    here they are"))
        'two lines: here they are'
    """
    return " ".join(str(text).split())
