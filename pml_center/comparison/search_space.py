"""SearchSpace: what a search moves of a loss, and the settings that it tries."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pml_center import losses as ours
from pml_center.comparison.tuned_of_pml import TUNED
from pml_center.losses import BaseCenterLoss
from pml_center.losses.tuning import Range
from pml_center.names import constructor_parameters, unknown_name
from pml_center.training.config import TrainConfig
from pml_center.training.loss_formula import MOST_TERMS, Term, parse_loss, parse_terms

LR = Range("lr", 1 / 4, 4, log=True, relative=True)
LOSS_LR = Range("loss_lr", 1 / 2, 50, log=True, relative=True)  # proxies may learn much faster than a network
WEIGHT = Range("weight", 0.1, 10, log=True, relative=True)
PER_CLASS = 4  # images of a class in a batch, tried beside what is given, 0 beside another number
RATES = ("lr", "loss_lr", "per_class")  # knobs that are options of training, not of a loss
QUANTITIES = (
    *RATES,
    "scale",
    "margin",
    "weight",
    "other",
)  # each has its own coordinate
STEP = 0.25  # by which a setting at an edge is moved beyond it, as a share of the range


class Knob(NamedTuple):
    """A number that is moved."""

    name: str  # what a table calls it
    argument: str  # what holds it: an argument of the loss, "weight", or an option of training
    term: int  # of the formula; -1 for an option of training
    range: Range
    given: float | None  # where it stands; None where the loss finds it by itself
    coordinate: int


@dataclass(frozen=True)
class Setting:
    """What one trial trains with: a formula, options, and the values of the knobs in the order of the space."""

    loss: str
    lr: float
    loss_lr: float | None
    per_class: int
    values: tuple[float | None, ...] = ()

    def applied(self, config: TrainConfig) -> TrainConfig:
        """A configuration with it. Rates of parts of the model keep their ratio to that of the model."""
        parts = {name: rate for name in ("trunk_lr", "neck_lr") if (rate := getattr(config, name)) is not None}
        moved: dict[str, Any] = {name: rate * (self.lr / config.rate) for name, rate in parts.items()}
        return replace(config, loss=self.loss, lr=self.lr, loss_lr=self.loss_lr, per_class=self.per_class, **moved)


class SearchSpace:
    """The numbers that a search moves of one formula.

    These are the learning rate, that of the loss's own weights where it has any, whether batches are drawn by class,
    what each loss says of itself (``tuned``, and ``TUNED`` for those of PML), and in a sum the weights beside the first
    loss that is no center loss. All move at once, along Sobol's points: the n-th settings of all losses have the same
    learning rate, the same scale (a temperature is the inverse of one), and so on, however many there are.

    Args:
        formula: as for :func:`parse_loss`.
        config: with the rates and batches that are given.
        hold: arguments and options that stay as they are.
        num_classes: that are trained on; batches by class must be able to have as many.

    Raises:
        ValueError: a formula that cannot be read.

    Example:
        >>> space = SearchSpace("CosFaceLoss + 0.01 * CenterLoss", TrainConfig(), num_classes=50)
        >>> [knob.name for knob in space.knobs]
        ['lr', 'loss_lr', 'per_class', 'scale', 'margin', 'weight of CenterLoss']
        >>> for setting in SearchSpace("CosFaceLoss", TrainConfig(), hold=["per_class"]).settings(3):
        ...     print(setting.loss, setting.lr)
        CosFaceLoss 0.002
        CosFaceLoss(scale=39.9, margin=0.18) 0.00156
        CosFaceLoss(scale=12.6, margin=0.647) 0.00301

    Source: Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 13, 2012, for moving all settings
        at once; Sobol, On the distribution of points in a cube, 1967.
    """

    def __init__(self, formula: str, config: TrainConfig, hold: Sequence[str] = (), num_classes: int = 4):
        self.formula, self.config = formula, config
        self.terms = parse_terms(formula)
        built = parse_loss(formula, num_classes=4, embedding_size=4, class_counts=1)
        learns = any(True for _ in built.parameters())
        found = _rates(config, learns, num_classes) + _of_terms(self.terms, list(built.losses))
        self.knobs: list[Knob] = []
        for name, argument, term, span, given in found:
            if argument not in hold:
                same = sum(knob.range.quantity == span.quantity for knob in self.knobs)
                coordinate = same * len(QUANTITIES) + QUANTITIES.index(span.quantity)
                self.knobs.append(Knob(name, argument, term, span.around(given), given, coordinate))

    @property
    def given(self) -> Setting:
        """What is asked for, as it stands."""
        config = self.config
        values = tuple(knob.given for knob in self.knobs)
        return Setting(self.formula, config.rate, config.loss_lr, config.per_class, values)

    def settings(self, count: int) -> list[Setting]:
        """The first of them is the one that is given; more begin with the same."""
        return [self.given, *(self.point(number) for number in range(1, count))]

    def point(self, number: int) -> Setting:
        """The setting of that number, from 1."""
        places = _points(max(number - 1, 1).bit_length())[number - 1]
        return self.at([self._placed(knob, places[knob.coordinate]) for knob in self.knobs])

    def at(self, values: Sequence[float | None]) -> Setting:
        """The setting whose knobs have these values; None leaves one as it is."""
        options = dict[str, float | None](lr=self.config.rate, loss_lr=self.config.loss_lr)
        options["per_class"] = self.config.per_class
        terms = list(self.terms)
        for knob, value in zip(self.knobs, values, strict=True):
            if value is None:
                continue
            if knob.term < 0:
                options[knob.argument] = value
            elif knob.argument == "weight":
                terms[knob.term] = replace(terms[knob.term], weight=value)
            else:
                term = terms[knob.term]
                terms[knob.term] = term.changed(term.weight, {knob.argument: value})
        formula = self.formula if terms == self.terms else " + ".join(map(str, terms))
        lr, loss_lr, per_class = options.values()
        return Setting(formula, float(lr or 0), loss_lr, int(per_class or 0), tuple(values))

    def edges(self, best: Setting, tried: Sequence[Setting]) -> dict[str, str]:
        """The knobs whose value is the smallest or the largest of all that were tried, and which of both it is."""
        found = {}
        for number, knob in enumerate(self.knobs):
            own = best.values[number]
            others = [setting.values[number] for setting in tried]
            known = [value for value in others if value is not None]
            if own is None or knob.argument == "per_class" or len(set(known)) < 2:
                continue
            if own == max(known):
                found[knob.name] = "largest"
            elif own == min(known) and own > 0:
                found[knob.name] = "smallest"
        return found

    def widened(self, best: Setting, tried: Sequence[Setting], number: int) -> Setting:
        """Beyond the edges where the best one lies; the next point, of that number, where it lies at none."""
        edges = self.edges(best, tried)
        values = list(best.values)
        for place, knob in enumerate(self.knobs):
            value = values[place]
            if knob.name in edges and value is not None:
                is_up = (edges[knob.name] == "largest") != knob.range.inverse
                values[place] = knob.range.at(knob.range.place_of(value) + (STEP if is_up else -STEP))
        moved = self.at(values)
        try:
            parse_loss(moved.loss, num_classes=4, embedding_size=4, class_counts=1)
        except ValueError:  # a loss may have no room there
            return self.point(number)
        return moved if edges else self.point(number)

    def _placed(self, knob: Knob, place: float) -> float:
        if knob.argument == "per_class":
            return (knob.range.low, knob.range.high)[int(2 * place)]
        return knob.range.at(place)


def check_hold(hold: Sequence[str], formulas: Sequence[str], config: TrainConfig) -> None:
    """What is held must be there to be moved.

    Raises:
        ValueError: a name that no loss has.
    """
    spaces = [SearchSpace(formula, config, num_classes=config.batch_size) for formula in formulas]
    known = sorted({knob.argument for space in spaces for knob in space.knobs} | set(RATES))
    for name in hold:
        if name not in known:
            raise ValueError(unknown_name("hold", name, known, f"A search of these losses moves {', '.join(known)}."))


@cache
def _points(exponent: int) -> NDArray[np.float64]:
    """The first 2**exponent points of Sobol's sequence, with a coordinate for each knob that there can be."""
    from scipy.stats import qmc

    return qmc.Sobol(len(QUANTITIES) * MOST_TERMS, rng=0).random_base2(exponent)


_Found = tuple[str, str, int, Range, float | None]


def _rates(config: TrainConfig, learns: bool, num_classes: int) -> list[_Found]:
    given = config.rate if config.loss_lr is None else config.loss_lr
    found: list[_Found] = [("lr", "lr", -1, LR, config.rate)]
    if learns:
        found.append(("loss_lr", "loss_lr", -1, LOSS_LR, given))
    by_class = config.per_class or PER_CLASS
    if config.batch_size % by_class == 0 and config.batch_size <= by_class * num_classes:
        found.append(("per_class", "per_class", -1, Range("per_class", 0, by_class), config.per_class))
    return found


def _of_terms(terms: Sequence[Term], losses: Sequence[nn.Module]) -> list[_Found]:
    separating = [not isinstance(loss, BaseCenterLoss) for loss in losses]
    first = separating.index(True) if any(separating) else 0  # its weight is the unit of all others
    found: list[_Found] = []
    for place, (term, loss) in enumerate(zip(terms, losses, strict=True)):
        of_term = f" of {term.name}" if len(terms) > 1 else ""
        if place != first:
            found.append((f"weight of {term.name}", "weight", place, WEIGHT, float(term.weight or 1)))
        found += [
            (f"{name}{of_term}" if place != first else name, name, place, span, given)
            for name, span, given in _arguments(term, type(loss))
        ]
    return found


def _arguments(term: Term, kind: type) -> list[tuple[str, Range, float | None]]:
    """What is moved in a loss; of two arguments of one quantity the one that is written, else the first."""
    parameters = constructor_parameters(kind, stop=nn.Module)
    found: dict[str, tuple[str, Range, float | None]] = {}
    for name, span in tuned(kind).items():
        if name not in parameters:
            continue
        written = name in term.arguments
        value = ast.literal_eval(term.arguments[name]) if written else parameters[name][1].default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number and (written or value is not None):
            continue  # a choice, such as scale="auto"
        if is_number and value <= 0 and span.log:
            continue
        if written or span.quantity not in found:
            found[span.quantity] = (name, span, float(value) if is_number else None)
    return list(found.values())


def tuned(kind: type) -> dict[str, Range]:
    """What a loss says of itself; for one of PML what the table says, or that of ours of the same name."""
    own = getattr(kind, "tuned", None)
    return TUNED.get(kind.__name__, getattr(getattr(ours, kind.__name__, None), "tuned", {})) if own is None else own
