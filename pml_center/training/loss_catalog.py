"""What a loss says of itself: in its docstring, its signature, and when it is tried."""

import inspect
import re
import warnings
from dataclasses import dataclass

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import nn

from pml_center.losses import BaseCenterLoss, BaseSoftmaxLoss
from pml_center.names import constructor_parameters, unknown_name
from pml_center.training.loss_formula import known_losses

FAMILIES = ("softmax family", "center losses", "other losses of pml-center", "pytorch-metric-learning")
TRIAL = {"num_classes": 7, "embedding_size": 5}  # primes: the size of a parameter tells which of them it is


@dataclass(frozen=True)
class Argument:
    """An argument of a loss: its default as Python writes it, None where it must be given, and what it means."""

    name: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class LossDescription:
    """A loss in full.

    Attributes:
        name: as a formula writes it.
        family: one of ``FAMILIES``.
        summary: a line.
        text: the formula, and when to use it.
        arguments: in the order of the constructor, those that bases take last.
        source: the paper, empty where none is named.
        state: the buffers that move in training, empty where none are described.
        parameters: the shape of each parameter that training moves, by name; None where the loss needs arguments that
            are not known here.
        miners: whether it takes what a miner finds; None likewise.
    """

    name: str
    family: str
    summary: str
    text: str
    arguments: tuple[Argument, ...]
    source: str
    state: str
    parameters: dict[str, tuple[str, ...]] | None
    miners: bool | None


def list_losses() -> dict[str, dict[str, str]]:
    """The summary of every loss that a formula can name, by family and name.

    Example:
        >>> list_losses()["center losses"]["CenterLoss"]
        'Center loss: half the squared distance between an embedding and the center of its class.'
    """
    known = known_losses()
    plain = {name: name.removeprefix("pml.") for name in known}  # a loss has two names where it could have one
    names = [name for name, kind in known.items() if name == plain[name] or known[plain[name]] is not kind]
    listed: dict[str, dict[str, str]] = {family: {} for family in FAMILIES}
    for name in sorted(names, key=str.lower):
        listed[_family(known[name])][name] = _summary(_sections(known[name])[""])
    return listed


def describe_loss(name: str) -> LossDescription:
    """All that is known of one loss.

    Args:
        name: as a formula writes it, such as ``"ArcFaceLoss"`` or ``"pml.ArcFaceLoss"``.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> loss = describe_loss("ArcFaceLoss")
        >>> loss.arguments[2].name, loss.arguments[2].default
        ('margin', '28.6')
        >>> loss.parameters, loss.miners
        ({'class_weights.weight': ('num_classes', 'embedding_size')}, True)
    """
    known = known_losses()
    if name not in known:
        raise ValueError(unknown_name("loss", name, list(known), "List them with `pml-center losses`."))
    kind = known[name]
    sections = _sections(kind)
    summary = _summary(sections[""])
    loss = _build(kind)
    return LossDescription(
        name,
        _family(kind),
        summary,
        _plain(sections[""]).removeprefix(summary).strip(),
        tuple(_arguments(kind)),
        _line(sections.get("Source", "")) or _address(kind),
        _line(sections.get("State", "")),
        None if loss is None else {key: _symbols(value.shape) for key, value in loss.named_parameters()},
        None if loss is None else _takes_miners(loss),
    )


def _family(kind: type) -> str:
    ours = kind.__module__.startswith("pml_center")
    return FAMILIES[
        0 if issubclass(kind, BaseSoftmaxLoss) else 1 if issubclass(kind, BaseCenterLoss) else 2 if ours else 3
    ]


def _sections(kind: type) -> dict[str, str]:
    """The docstring of a class itself, not of its bases, by the titles of its sections; before them, under ``""``."""
    parts = re.split(r"^([A-Z][a-z]+):(?=\s|$)", inspect.cleandoc(vars(kind).get("__doc__") or ""), flags=re.MULTILINE)
    titles = ["", *parts[1::2]]
    return {title: inspect.cleandoc(f"\n{text}") for title, text in zip(titles, parts[0::2], strict=True)}


def _summary(text: str) -> str:
    return _line(text.partition("\n\n")[0])


def _line(text: str) -> str:
    return " ".join(_plain(text).split())


def _address(kind: type) -> str:
    found = re.search(r"https?://\S+", vars(kind).get("__doc__") or "")
    return found[0] if found else ""


def _plain(text: str) -> str:
    """Without the marks that Sphinx reads."""
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")


def _arguments(kind: type) -> list[Argument]:
    meanings: dict[type, dict[str, str]] = {}
    found = []
    for name, (base, parameter) in constructor_parameters(kind, stop=nn.Module).items():
        if base not in meanings:
            entries = re.split(r"^(\w+): ", _sections(base).get("Args", ""), flags=re.MULTILINE)
            meanings[base] = {key: _line(text) for key, text in zip(entries[1::2], entries[2::2], strict=True)}
        default = None if parameter.default is parameter.empty else repr(parameter.default)
        found.append(Argument(name, default, meanings[base].get(name, "")))
    return found


def _build(kind: type[BaseMetricLossFunction]) -> nn.Module | None:
    names = constructor_parameters(kind, stop=nn.Module)
    try:
        return kind(**{name: size for name, size in TRIAL.items() if name in names})
    except Exception:  # PML's constructors raise whatever their parts do
        return None


def _takes_miners(loss: nn.Module) -> bool:
    embeddings = torch.randn(4, TRIAL["embedding_size"], generator=torch.Generator().manual_seed(0))
    triplet = tuple(torch.tensor([row]) for row in (0, 1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what happens in the first batches of a training
        try:
            loss(embeddings, torch.tensor([0, 0, 1, 1]), triplet)
        except Exception:  # a loss says in its own way that it takes none
            return False
    return True


def _symbols(shape: torch.Size) -> tuple[str, ...]:
    return tuple(map(_symbol, shape))


def _symbol(size: int) -> str:
    for name, unit in TRIAL.items():
        if size % unit == 0:
            return name if size == unit else f"{size // unit}·{name}"
    return str(size)
