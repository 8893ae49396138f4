"""What a loss says of itself, in its docstring, its signature and when it is built: for command line and site."""

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor, nn

from pml_center.losses import BaseSoftmaxLoss
from pml_center.names import constructor_parameters, one_line, unknown_name
from pml_center.training.loss_formula import known_losses

FAMILIES = ("softmax family", "center losses", "batch losses", "pytorch-metric-learning")
# Up to the year, which no title has for its last words, and the number that arXiv gave it.
REFERENCE = re.compile(r"\s*(?:[\w ]+: )?(.*(?<!:)\b(?:19|20)\d\d\b(?!\.\d)(?:, arXiv:[\d.]*\d)?)")
TRIAL = {"num_classes": 5, "embedding_size": 7, "queue_size": 11}  # primes: the size of a tensor tells which it is


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
        family: one of ``FAMILIES``. A batch loss holds nothing for a class: the batch brings its own references.
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
        listed[_family(known[name])][name] = _plain(written_summary(known[name]))
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
    summary = _plain(written_summary(kind))
    loss = _build(kind)
    return LossDescription(
        name=name,
        family=_family(kind),
        summary=summary,
        text=_plain(sections[""]).removeprefix(summary).strip(),
        arguments=tuple(_arguments(kind)),
        source=_line(sections.get("Source", "")) or _address(kind),
        state=_line(sections.get("State", "")),
        parameters=None if loss is None else shapes(loss.named_parameters()),
        miners=None if loss is None else _takes_miners(kind),
    )


def references(source: str) -> str:
    """The papers in the source of a loss, without what a docstring remarks on them; an address stays as it is.

    Example:
        >>> references("Wen et al., A study, ECCV 2016 (equation 2); radius: Li et al., 2019, arXiv:1901.01234. Its")
        'Wen et al., A study, ECCV 2016; Li et al., 2019, arXiv:1901.01234.'
    """
    found = [match[1] for part in source.partition(". ")[0].split(";") if (match := REFERENCE.match(part))]
    return f"{'; '.join(found)}." if found else source


def written_summary(kind: type) -> str:
    """The first line of its docstring, with the marks that Sphinx reads."""
    return one_line(_sections(kind)[""].partition("\n\n")[0])


def shapes(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[str, ...]]:
    """The shapes of named tensors of a loss that was built with ``TRIAL``, each size by the argument that it is of.

    Example:
        >>> from pml_center.losses import SubCenterArcFaceLoss
        >>> shapes(SubCenterArcFaceLoss(num_classes=5, embedding_size=7).named_parameters())
        {'class_weights.weight': ('3·num_classes', 'embedding_size')}
    """
    return {name: tuple(map(_symbol, tensor.shape)) for name, tensor in tensors}


def _family(kind: type) -> str:
    softmax, center, batch, theirs = FAMILIES
    if not kind.__module__.startswith("pml_center"):
        return theirs
    if issubclass(kind, BaseSoftmaxLoss):
        return softmax
    return center if "num_classes" in constructor_parameters(kind) else batch


def _sections(kind: type) -> dict[str, str]:
    """The docstring of a class itself, not of its bases, by the titles of its sections; before them, under ``""``."""
    parts = re.split(r"^([A-Z][a-z]+):(?=\s|$)", inspect.cleandoc(vars(kind).get("__doc__") or ""), flags=re.MULTILINE)
    titles = ["", *parts[1::2]]
    return {title: inspect.cleandoc(f"\n{text}") for title, text in zip(titles, parts[0::2], strict=True)}


def _line(text: str) -> str:
    return one_line(_plain(text))


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


def _takes_miners(kind: type[BaseMetricLossFunction]) -> bool:
    """PML's losses that take none refuse them by a call; ours that compare two sets of images are no term."""
    code = getattr(kind.compute_loss, "__code__", None)  # ours have none
    refuses = code is not None and "indices_tuple_not_supported" in code.co_names
    return not (refuses or getattr(kind, "takes_references", False))


def _symbol(size: int) -> str:
    for name, unit in TRIAL.items():
        if size % unit == 0:
            return name if size == unit else f"{size // unit}·{name}"
    return str(size)
