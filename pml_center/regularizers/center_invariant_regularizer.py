"""CenterInvariantRegularizer."""

import torch
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from pml_center.checks import check_labels, check_rows
from pml_center.ops.centers import class_sums
from pml_center.regularizers.base_row_regularizer import BaseRowRegularizer


class CenterInvariantRegularizer(BaseRowRegularizer):
    """Center invariant loss: the centers, or class weights, of all classes are equally far from 0.

    ``¼(‖c_j‖² − 1/C · Σ_k ‖c_k‖²)²``, a ``weight_regularizer`` for classes of very different numbers of samples. Losses
    of this package say which classes are in the batch, and the terms are of those; the mean inside is of all.

    Args:
        kwargs: PML's ``reducer`` and ``collect_stats``.

    Shape: class rows (C, D) -> term per class in the batch, reduced by ``reducer``; of every class where nobody says
        which are in the batch, as in a loss of PML.

    Example:
        >>> import torch
        >>> centers = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])  # squared lengths 1, 4, 1 around 2
        >>> CenterInvariantRegularizer()(centers)
        tensor(0.5000)
        >>> CenterInvariantRegularizer()(centers, labels=torch.tensor([1, 1]))
        tensor(1.)

    Source: Wu et al., Deep face recognition with center invariant loss, Thematic Workshops of ACM Multimedia 2017.

    Differs: PML's ``CenterInvariantRegularizer`` is that of all classes, in its own losses and in ours.
    """

    takes_labels = True

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The reduced terms.

        Args:
            x: (C, D) class rows.
            labels: numbers of the rows whose classes are in the batch; None means all.
        """
        check_rows(x, "rows")
        if labels is not None:
            labels = check_labels(labels, len(x), len(labels) if isinstance(labels, Tensor) and labels.ndim else 1)
        self.reset_stats()
        return self.reducer(self.compute_loss(x, labels), x, torch.arange(len(x), device=x.device))

    def compute_loss(self, x: Tensor, labels: Tensor | None = None) -> dict[str, dict]:
        """PML's hook: the terms as a dictionary for the reducer."""
        computed = super().compute_loss(x)
        if labels is None:
            return computed
        terms = computed["loss"]["losses"]
        if type(self.reducer) is MeanReducer:  # of the classes present, which nobody waits to know
            _, sums, counts = class_sums(terms.index_select(0, labels).unsqueeze(1), labels)
            mean = (sums.squeeze(1) / counts.clamp_min(1)).sum() / (counts > 0).sum()
            return {"loss": {"losses": mean, "indices": None, "reduction_type": "already_reduced"}}
        present = labels.unique()
        terms = terms.index_select(0, present)
        return {"loss": computed["loss"] | {"losses": terms, "indices": present, "divisor": len(present)}}

    def terms(self, rows: Tensor) -> Tensor:
        """That of each class, (C, D) to (C,)."""
        squares = rows.square().sum(1)
        return (squares - squares.mean()).square() / 4
