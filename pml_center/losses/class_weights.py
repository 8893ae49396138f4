"""ClassWeights: where the weights of the classes live."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ClassWeights(nn.Module):
    """One row of weights per class, and a bias per class if asked for.

    Rows, not PML's columns: rows gather, split and shard. They keep the type that they were made with, fp32,
    whatever arrives; a wider type is met by a copy.

    Args:
        num_classes: C.
        embedding_size: D.
        init: fills a (D, C) tensor in place, as PML's ``weight_init_func``.
        bias: whether there is a bias, which starts from 0.
    """

    def __init__(self, num_classes: int, embedding_size: int, init: Callable[[Tensor], object], bias: bool = False):
        super().__init__()
        columns = torch.empty(embedding_size, num_classes)  # PML's layout: initialisers look at fan-in and fan-out
        init(columns)
        self.weight = nn.Parameter(columns.t().contiguous())
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    def rows(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """All weights (C, D) and biases (C,) or None, in the type to compute with."""
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
