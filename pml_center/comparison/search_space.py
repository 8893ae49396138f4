"""tried_settings: what a search tries for a loss, as many settings as for any other."""

import ast
import inspect
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from pml_center.losses import BaseCenterLoss
from pml_center.training.loss_formula import parse_loss, summands

# The largest factor by which a search moves each setting, up or down, from where it was.
SPANS = {"lr": 4.0, "weight": 10.0, "scale": 4.0, "margin": 2.0}


class Setting(NamedTuple):
    """What one trial trains with."""

    loss: str  # a formula
    lr: float


@dataclass
class _Term:
    """A term of a formula, taken apart: its arguments as they are written."""

    weight: str | None
    name: str
    arguments: dict[str, str]
    miner: str | None

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        weight = "" if self.weight is None else f"{self.weight} * "
        miner = "" if self.miner is None else f" @ {self.miner}"
        return f"{weight}{self.name}{f'({arguments})' if arguments else ''}{miner}"


def tried_settings(formula: str, lr: float, count: int) -> list[Setting]:
    """Settings of a loss, the first of which is the one that is given.

    A search moves the learning rate, ``scale`` and ``margin`` of each term that has one, unless it is an integer, and
    the weights of center losses beside others. Each is multiplied by a factor that is even on a log scale. All settings
    of a trial move at once, along Halton's points, whose first coordinate is that of the learning rate: the n-th trials
    of all losses have the same.

    Args:
        formula: as for :func:`parse_loss`.
        lr: the learning rate to move.
        count: how many settings.

    Raises:
        ValueError: a formula that cannot be read.

    Example:
        >>> for setting in tried_settings("CosFaceLoss + 0.01 * CenterLoss", lr=0.002, count=3):
        ...     print(*setting)
        CosFaceLoss + 0.01 * CenterLoss 0.002
        CosFaceLoss(scale=..., margin=...) + ... * CenterLoss 0.001
        CosFaceLoss(scale=..., margin=...) + ... * CenterLoss 0.004

    Source: Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 13, 2012, for moving all settings
        at once; Halton, On the efficiency of certain quasi-random sequences of points, Numerische Mathematik 2, 1960.
    """
    from scipy.stats import qmc

    losses = list(parse_loss(formula, num_classes=4, embedding_size=4).losses)
    moved = [_knobs(loss, term, len(losses) > 1) for loss, term in zip(losses, _terms(formula), strict=True)]
    points = qmc.Halton(1 + sum(map(len, moved)), scramble=False)
    points.fast_forward(2)  # the first is a corner, the second leaves the learning rate where it was
    settings = [Setting(formula, lr)]
    for first, *others in points.random(count - 1).tolist():
        terms, coordinates = _terms(formula), iter(others)
        for term, knobs in zip(terms, moved, strict=True):
            for name, value in knobs.items():
                moved_to = repr(_moved(name, value, next(coordinates)))
                if name == "weight":
                    term.weight = moved_to
                else:
                    term.arguments[name] = moved_to
        settings.append(Setting(" + ".join(map(str, terms)), _moved("lr", lr, first)))
    return settings


def _moved(name: str, value: float, coordinate: float) -> float:
    """A value times the factor at a coordinate in [0, 1), to three digits."""
    return float(f"{value * SPANS[name] ** (2 * coordinate - 1):.3g}")


def _knobs(loss: nn.Module, term: _Term, is_one_of_several: bool) -> dict[str, float]:
    """What can be moved in a term, and where it is."""
    found = {}
    if is_one_of_several and isinstance(loss, BaseCenterLoss):
        found["weight"] = float(term.weight or 1)
    for name in ("scale", "margin"):
        parameter = _parameter(type(loss), name)
        if parameter is None or parameter.annotation is int:
            continue
        value = ast.literal_eval(term.arguments[name]) if name in term.arguments else parameter.default
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            found[name] = float(value)
    return found


def _parameter(kind: type, name: str) -> inspect.Parameter | None:
    """The parameter of a constructor, along the bases as long as they pass arguments on."""
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            if name in parameters:
                return parameters[name]
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                return None
    return None


def _terms(formula: str) -> list[_Term]:
    """The terms of a formula that can be read."""
    found = []
    for node in summands(formula):
        miner = weight = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            miner, node = ast.unparse(node.right), node.left
        if isinstance(node, ast.BinOp):
            weight, node = ast.unparse(node.left), node.right
        keywords = node.keywords if isinstance(node, ast.Call) else []
        name = ast.unparse(node.func if isinstance(node, ast.Call) else node)
        found.append(_Term(weight, name, {str(each.arg): ast.unparse(each.value) for each in keywords}, miner))
    return found
