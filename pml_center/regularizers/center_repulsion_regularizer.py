"""CenterRepulsionRegularizer."""

from torch import Tensor

from pml_center.ops.centers import pairwise_cosines
from pml_center.regularizers.base_row_regularizer import BaseRowRegularizer


class CenterRepulsionRegularizer(BaseRowRegularizer):
    """Center repulsion: centers, or class weights, turn away from each other.

    ``1 / (C(C − 1)) · Σ_{j≠k} (cos(c_j, c_k) + 1)``, a ``weight_regularizer``: in [0, 2], 1 for directions at random,
    and at its least, ``(C − 2) / (C − 1)``, for any that balance each other. In closed form, O(C·D), where PML's
    ``RegularFaceRegularizer`` makes the (C, C) matrix to find the nearest. It moves centers that are parameters; those
    that step by themselves repel in :class:`~pml_center.losses.IslandLoss`.

    Args:
        kwargs: PML's ``reducer``, to which the value is one number for the whole, and ``collect_stats``.

    Shape: class rows (C, D) -> 0-d. A row at 0 has no direction, and a cosine of 0 to all; a single class has 0.

    Example:
        >>> import torch
        >>> CenterRepulsionRegularizer()(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))  # cosines 0, 0 and −1
        tensor(0.6667)

    Source: the second term of Cai et al., Island loss, FG 2018, arXiv:1710.03144, as a mean in place of a sum, so that
        its weight does not depend on the number of classes.
    """

    def terms(self, rows: Tensor) -> Tensor:
        """The mean over all pairs, 0-d."""
        pairs = len(rows) * (len(rows) - 1)
        return (pairwise_cosines(rows) + pairs) / max(pairs, 1)
