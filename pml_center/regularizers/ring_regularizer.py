"""RingRegularizer."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pml_center.checks import check_between, check_choices
from pml_center.distributed.collectives import processes, rows_by_rank
from pml_center.regularizers.base_row_regularizer import BaseRowRegularizer

Kind = Literal["l2", "l1", "auto"]
SHORTEST_MEAN = 0.5  # of the lengths, that "auto" divides by


class RingRegularizer(BaseRowRegularizer):
    """Ring loss: all embeddings have the same length, which is learned.

    ``½(‖x‖ − R)²``, an ``embedding_regularizer`` for a loss that sees the lengths of embeddings, such as softmax. The
    radius R is a parameter of the loss: :func:`~pml_center.training.param_groups` gives it to an optimizer.

    Args:
        radius: R at the start, positive. None: the mean length in the first training batch, over all processes that
            train together, each of which must bring some embeddings to it.
        kind: ``"l2"`` as above. ``"l1"``: ``½δ²`` where the difference δ of length and radius is below 1, ``|δ| − ½``
            beyond, which outliers move less. ``"auto"``: ``½(δ / max(½, mean ‖x‖))²``, where the mean is a constant to
            the gradient, so that one weight serves any size of embeddings.
        kwargs: PML's ``reducer`` and ``collect_stats``.

    Shape: embeddings (B, D) -> term per embedding (B,), reduced by ``reducer``.

    State: ``radius``, a 0-d parameter, fp32; 0 until the first training batch if none is given.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> ring = RingRegularizer()
        >>> ring(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))  # R = 3
        tensor(2., grad_fn=<MeanBackward0>)
        >>> ring.radius
        Parameter containing:
        tensor(3., requires_grad=True)

    Source: Zheng, Pal and Savvides, Ring loss: convex feature normalization for face recognition, CVPR 2018,
        arXiv:1803.00130. Its weight is 0.01.

    Differs: amena6490/ringloss has each kind twice as large, a radius of −1 for none, and a gradient of NaN at an
        embedding of 0, where it is 0 here.
    """

    def __init__(self, radius: float | None = None, kind: Kind = "l2", **kwargs):
        super().__init__(**kwargs)
        if radius is not None:
            check_between("positive and finite", "Leave it out to have it found.", radius=radius)
        check_choices(kind=(kind, Kind))
        self.kind = kind
        self.radius = nn.Parameter(torch.tensor(0.0 if radius is None else float(radius)))
        self._is_known = radius is not None
        self.add_to_recordable_attributes(list_of_names=["avg_norm", "current_radius"], is_stat=True)

    def terms(self, rows: Tensor) -> Tensor:
        """That of each embedding, (B, D) to (B,)."""
        lengths = rows.norm(dim=1)
        radius = self.radius if self._is_known else self._started(lengths.detach())
        if self.collect_stats:
            self.avg_norm, self.current_radius = lengths.mean().item(), radius.item()
        difference = lengths - radius
        if self.kind == "l1":
            return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
        if self.kind == "auto":
            difference = difference / lengths.detach().mean().clamp_min(SHORTEST_MEAN)
        return difference.square() / 2

    def _started(self, lengths: Tensor) -> Tensor:
        """The radius, for which the mean of a batch stands until one of training has given it.

        That the radius is 0 says that none has. On a GPU nobody reads it, and every batch is ready to give one.
        """
        if processes() > 1:  # each must start from the same
            lengths = torch.cat(rows_by_rank(lengths))
        finite = lengths.isfinite()  # an overflow of half precision must not be the radius
        mean = torch.where(finite, lengths, 0.0).sum() / finite.sum()
        starts = self.radius == 0
        if not self.training:
            return torch.where(starts, mean, self.radius)
        with torch.no_grad():
            self.radius.copy_(torch.where(starts & mean.isfinite(), mean, self.radius))
        self._is_known = self.radius.device.type == "cpu" and bool(self.radius != 0)
        return self.radius

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._is_known = bool(self.radius != 0)
