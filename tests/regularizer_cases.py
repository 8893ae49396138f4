"""One entry per regularizer: its formula written from the paper, in fp64, sharing no code."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pml_center import regularizers


@dataclass(frozen=True)
class RegularizerCase:
    """A regularizer, and its formula: rows (N, D) to the term of each row, or to one for all."""

    regularizer: type
    formula: Callable[[Tensor], Tensor]
    arguments: dict = field(default_factory=dict)

    def __str__(self):
        return "-".join([self.regularizer.__name__, *map(str, self.arguments.values())])

    def build(self, **arguments):
        """The regularizer in fp64."""
        return self.regularizer(**self.arguments, **arguments).double()


def lengths(rows):
    return torch.stack([row.pow(2).sum().sqrt() for row in rows])


def ring(rows):
    return (lengths(rows) - 1.5) ** 2 / 2


def ring_of_the_mean(rows):
    return (lengths(rows) - lengths(rows).mean().detach()) ** 2 / 2


def smooth_ring(rows):
    difference = (lengths(rows) - 1.5).abs()
    return torch.where(difference < 1, difference**2 / 2, difference - 0.5)


def automatic_ring(rows):
    return ((lengths(rows) - 1.5) / max(0.5, lengths(rows).mean().item())) ** 2 / 2


def magnitude(rows):
    a = lengths(rows).clamp(1.2, 3)
    return a / 3**2 + 1 / a


def center_invariant(rows):
    squares = [row.pow(2).sum() for row in rows]
    return torch.stack([(square - sum(squares) / len(squares)) ** 2 / 4 for square in squares])


def center_repulsion(rows):
    pairs = [(j, k) for j in range(len(rows)) for k in range(len(rows)) if j != k]
    return sum(torch.cosine_similarity(rows[j], rows[k], dim=0) + 1 for j, k in pairs) / len(pairs)


REGULARIZER_CASES = [
    RegularizerCase(regularizers.RingRegularizer, ring, {"radius": 1.5}),
    RegularizerCase(regularizers.RingRegularizer, ring_of_the_mean),
    RegularizerCase(regularizers.RingRegularizer, smooth_ring, {"radius": 1.5, "kind": "l1"}),
    RegularizerCase(regularizers.RingRegularizer, automatic_ring, {"radius": 1.5, "kind": "auto"}),
    RegularizerCase(regularizers.MagnitudeRegularizer, magnitude, {"lower_norm": 1.2, "upper_norm": 3}),
    RegularizerCase(regularizers.CenterInvariantRegularizer, center_invariant),
    RegularizerCase(regularizers.CenterRepulsionRegularizer, center_repulsion),
]
