"""Range: over what a search moves an argument of a loss."""

import math
from typing import NamedTuple


class Range(NamedTuple):
    """Where good values of an argument lie.

    Each family and each loss states those of its arguments as ``tuned``, by name. Arguments of one quantity draw the
    same places, however a loss calls them and counts them: a temperature is the inverse of a scale.

    Args:
        quantity: what it means: ``"scale"``, ``"margin"``, ``"weight"``, or ``"other"`` for a second of its kind.
        low: the smallest value of the quantity; of a relative one a factor of what is given.
        high: the largest.
        log: whether places are even on a log scale.
        inverse: whether the argument is 1 / quantity.
        relative: whether ends are factors of the value that is given.

    Example:
        >>> Range("scale", 4, 64, log=True).at(0.5), Range("scale", 4, 64, log=True, inverse=True).at(0.5)
        (16.0, 0.0625)
        >>> Range("margin", 0, 0.7).place_of(0.35)
        0.5
    """

    quantity: str
    low: float
    high: float
    log: bool = False
    inverse: bool = False
    relative: bool = False

    def around(self, value: float | None) -> "Range":
        """The range itself, in units of the quantity, for an argument that is given as ``value``."""
        if not self.relative:
            return self
        unit = 1.0 if value is None else value
        return self._replace(low=self.low * unit, high=self.high * unit, relative=False)

    def at(self, place: float) -> float:
        """The value at a place, 0 at the low end and 1 at the high one; the quantity has three digits."""
        low, high = self.low, self.high
        quantity = low * (high / low) ** place if self.log else low + place * (high - low)
        quantity = float(f"{max(quantity, min(low, 0.0)):.3g}")  # a quantity that starts at 0 is never negative
        return 1 / quantity if self.inverse else quantity

    def place_of(self, value: float) -> float:
        """Where a value lies; beyond 0 and 1 outside the range."""
        quantity = 1 / value if self.inverse else value
        if self.log:
            return math.log(quantity / self.low) / math.log(self.high / self.low)
        return (quantity - self.low) / (self.high - self.low)


SCALE = Range("scale", 4, 128, log=True)  # of cosines
TEMPERATURE = SCALE._replace(inverse=True)
