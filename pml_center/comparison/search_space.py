"""tried_settings: what a search tries for a loss, as many settings as for any other."""

import ast
from typing import NamedTuple

from torch import nn

from pml_center.losses import BaseCenterLoss
from pml_center.names import constructor_parameters
from pml_center.training.loss_formula import Term, parse_loss, parse_terms

# The largest factor by which a search moves each setting, up or down, from where it was.
SPANS = {"lr": 4.0, "weight": 10.0, "scale": 4.0, "margin": 2.0}


class Setting(NamedTuple):
    """What one trial trains with."""

    loss: str  # a formula
    lr: float


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

    losses = parse_loss(formula, num_classes=4, embedding_size=4).losses
    terms = parse_terms(formula)
    moved = [_knobs(loss, term, len(terms) > 1) for loss, term in zip(losses, terms, strict=True)]
    points = qmc.Halton(1 + sum(map(len, moved)), scramble=False)
    points.fast_forward(2)  # the first is a corner, the second leaves the learning rate where it was
    settings = [Setting(formula, lr)]
    for first, *others in points.random(count - 1).tolist():
        coordinates, tried = iter(others), []
        for term, knobs in zip(terms, moved, strict=True):
            values = {name: _moved(name, value, next(coordinates)) for name, value in knobs.items()}
            tried.append(term.changed(values.pop("weight", term.weight), values))
        settings.append(Setting(" + ".join(map(str, tried)), _moved("lr", lr, first)))
    return settings


def _moved(name: str, value: float, coordinate: float) -> float:
    """A value times the factor at a coordinate in [0, 1), to three digits."""
    return float(f"{value * SPANS[name] ** (2 * coordinate - 1):.3g}")


def _knobs(loss: nn.Module, term: Term, is_one_of_several: bool) -> dict[str, float]:
    """What can be moved in a term, and where it is."""
    found = {}
    if is_one_of_several and isinstance(loss, BaseCenterLoss):
        found["weight"] = float(term.weight or 1)
    parameters = constructor_parameters(type(loss))
    for name in ("scale", "margin"):
        _, parameter = parameters.get(name, (None, None))
        if parameter is None or parameter.annotation is int:
            continue
        value = ast.literal_eval(term.arguments[name]) if name in term.arguments else parameter.default
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            found[name] = float(value)
    return found
