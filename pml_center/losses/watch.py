"""CenterShare: says when the weight of center loss is so large that nothing else counts."""

import warnings

import torch
from torch import Tensor

DWARFED = 10  # so many times the rest the weighted center term may be, in the mean over
BATCHES = 100  # so many training batches


class CenterShare:
    """Watches the center term of a joint loss beside the rest, and warns once if it dwarfs it.

    Args:
        name: of the center term, for the message.
    """

    def __init__(self, name: str):
        self.name = name
        self._sums: Tensor | None = None
        self._batches = 0  # -1: never look again

    def see(self, center: Tensor, rest: Tensor, weight: float) -> None:
        """Count one training batch.

        Args:
            center: 0-d, the center term before its weight.
            rest: 0-d, all other terms together.
            weight: λ.
        """
        if self._batches < 0 or torch.compiler.is_compiling():
            return
        pair = torch.stack([weight * center.detach(), rest.detach().abs()])
        self._sums = pair if self._sums is None else self._sums.to(pair) + pair
        self._batches += 1
        if self._batches < BATCHES:
            return
        center_sum, rest_sum = self._sums.tolist()
        if not center_sum > DWARFED * rest_sum:
            self._sums, self._batches = None, 0
            return
        self._batches = -1
        ratio = center_sum / rest_sum if rest_sum else float("inf")
        even = weight * rest_sum / center_sum
        warnings.warn(
            f"{self.name} with weight {weight:g} is {ratio:.3g} times all other terms together, in the mean of "
            f"{BATCHES} training batches: embeddings are pulled together before classes part. Try {even:.1g} or less.",
            stacklevel=3,
        )
