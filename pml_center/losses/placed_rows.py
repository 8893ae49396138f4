"""Rows of classes that a formula places: a simplex, or axes."""

from typing import Literal

import torch
from torch import Tensor

from pml_center.checks import check_between

Placed = Literal["simplex", "axes"]


def check_length(init: str | None, length: float, usual: float) -> None:
    """The length of placed rows is a positive number, and says nothing of others."""
    check_between("positive", "It is the length of each row.", init_length=length)
    if init not in ("simplex", "axes") and length != usual:
        raise ValueError(
            f'init_length must be left out without init="simplex" or "axes", got {length} with init={init!r}. '
            "weight_init_func makes rows of any length."
        )


def placed_rows(init: Placed, num_classes: int, embedding_size: int, length: float) -> Tensor:
    """A row for each class, (C, D), all of one length.

    ``"simplex"``: as far from each other as they can be, at angles whose cosine is ``−1 / (C − 1)``; the first C − 1
    numbers of a row are those of Helmert's matrix, the others 0. ``"axes"``: at right angles, row j along axis j.

    Args:
        init: which.
        num_classes: C, at most D + 1 for a simplex and D for axes.
        embedding_size: D.
        length: of each row.

    Raises:
        ValueError: more classes than there is room for.

    Example:
        >>> rows = placed_rows("simplex", 3, 2, length=1)
        >>> rows @ rows.t()
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]])
    """
    most, room = (embedding_size + 1, "embedding_size + 1") if init == "simplex" else (embedding_size, "embedding_size")
    if num_classes > most:
        raise ValueError(
            f'num_classes must be at most {room} = {most} with init="{init}", got {num_classes}. '
            "Take wider embeddings, or let the rows be learned."
        )
    rows = torch.zeros(num_classes, embedding_size, dtype=torch.double)
    if init == "axes" or num_classes == 1:
        rows.diagonal().fill_(length)
        return rows.float()
    row = torch.arange(1, num_classes, dtype=torch.double)  # of Helmert's matrix, whose columns are the corners
    helmert = torch.ones(num_classes - 1, num_classes, dtype=torch.double).tril()
    helmert.diagonal(1).copy_(-row)
    helmert /= (row * (row + 1)).sqrt().unsqueeze(1)
    rows[:, : num_classes - 1] = helmert.t() * (length * (num_classes / (num_classes - 1)) ** 0.5)
    return rows.float()
