"""BaseRowRegularizer: what all regularizers share."""

from typing import ClassVar

import torch
from pytorch_metric_learning.reducers import BaseReducer
from pytorch_metric_learning.regularizers import BaseRegularizer
from torch import Tensor, nn

from pml_center.checks import check_flags, check_modules, check_rows
from pml_center.ops.precision import full_precision, working_dtype


class BaseRowRegularizer(BaseRegularizer):
    """A regularizer of rows, embeddings or class rows, reduced by PML's reducer: abstract.

    Half precision is cast up and autocast is switched off inside. A subclass says :meth:`terms`.

    Args:
        reducer: PML's; its mean by default. A term that is one number for all rows passes as it is.
        collect_stats: PML's, whether statistics are recorded.
    """

    takes_labels: ClassVar[bool] = False  # whether our losses call it with the rows of the classes in the batch too

    def __init__(self, *, reducer: nn.Module | None = None, collect_stats: bool | None = None):
        check_modules(BaseReducer, reducer=reducer)
        if collect_stats is not None:
            check_flags(collect_stats=collect_stats)
        super().__init__(reducer=reducer, collect_stats=collect_stats)

    def forward(self, x: Tensor) -> Tensor:
        """The reduced terms.

        Args:
            x: (N, D) rows, floating point.

        Raises:
            TypeError: rows of another type.
            ValueError: rows of another shape.
        """
        check_rows(x, "rows")
        return super().forward(x)

    def terms(self, rows: Tensor) -> Tensor:
        """That of each row, (N, D) to (N,), or one for all, 0-d."""
        raise NotImplementedError

    def compute_loss(self, x: Tensor) -> dict[str, dict]:
        """PML's hook: the terms as a dictionary for the reducer."""
        with full_precision(x):
            terms = self.terms(x.to(working_dtype(x)))
        if not terms.ndim:
            return {"loss": {"losses": terms, "indices": None, "reduction_type": "already_reduced"}}
        return {
            "loss": {
                "losses": terms,
                "indices": torch.arange(len(terms), device=x.device),
                "reduction_type": "element",
                "divisor": len(terms),  # DivisorReducer raises without one
            }
        }
