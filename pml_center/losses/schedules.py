"""Schedules of margin and scale: from the number of the training batch, counted from 1, to a share."""

from dataclasses import dataclass

from pml_center.checks import check_between


@dataclass(frozen=True)
class Annealing:
    """The margin of L-Softmax and SphereFace, brought in slowly: ``1 / (1 + λ)``, λ falling to a minimum.

    ``λ = max(minimum, base·(1 + gamma·step)^−power)``; the target is ``(λ·cos θ + ψ(θ)) / (1 + λ)``.

    Args:
        base: λ at the start; 0 is no annealing if ``minimum`` is 0.
        gamma: how fast λ falls.
        power: how steeply.
        minimum: λ in the end. With the authors' 5, a sixth of the margin is applied for good.

    Example:
        >>> Annealing()(1), round(Annealing()(10_000), 4)
        (0.0011187..., 0.1667)

    Source: Liu et al., SphereFace, CVPR 2017, arXiv:1704.08063, and the authors' code.
    """

    base: float = 1000
    gamma: float = 0.12
    power: float = 1
    minimum: float = 5

    def __post_init__(self):
        for name, value in vars(self).items():
            check_between("at least 0", f"The authors' code has {getattr(type(self), name)}.", **{name: value})

    def __call__(self, step: int) -> float:
        """The share of the margin."""
        return 1 / (1 + max(self.minimum, self.base * (1.0 + self.gamma * step) ** -self.power))


@dataclass(frozen=True)
class LinearWarmup:
    """From nothing to everything in equal steps: ``min(1, step / steps)``.

    Args:
        steps: training batches until all is there.

    Example:
        >>> [LinearWarmup(4)(step) for step in (1, 2, 4, 9)]
        [0.25, 0.5, 1.0, 1.0]
    """

    steps: int

    def __post_init__(self):
        check_between("at least 1", "Leave the schedule out to have none.", steps=self.steps)

    def __call__(self, step: int) -> float:
        """The share."""
        return min(1.0, step / self.steps)
