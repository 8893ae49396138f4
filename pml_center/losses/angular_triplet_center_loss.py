"""AngularTripletCenterLoss."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor

from pml_center.checks import check_between, check_chunk_size
from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch, Update
from pml_center.losses.tuning import Range
from pml_center.ops.centers import angle_between, nearest_other


class AngularTripletCenterLoss(BaseCenterLoss):
    """Angular triplet-center loss: a smaller angle to one's own center than to any other, by a margin.

    ``ℓ = max(0, θ(x, c_y) + m − min_{j≠y} θ(x, c_j))`` with θ the angle between two vectors. :class:`TripletCenterLoss`
    for embeddings that are compared by cosine; unlike the cosine, an angle is pulled as hard when it is small. The
    nearest other center is searched for in blocks of classes. Angles are taken without an arc cosine, whose slope has
    no bound at 0 and at π.

    Args:
        num_classes: C; with a single class there is nothing to part, and the loss is 0.
        embedding_size: D.
        margin: m, radians in [0, π].
        alpha: in (0, 1], the rate of the center step; unused by ``update="gradient"``.
        update: ``"gradient"`` makes the centers parameters, which the gradient of the loss turns. ``"paper"`` and
            ``"mean"`` step them towards all embeddings of their class at length 1, as in :class:`AngularCenterLoss`.
        chunk_size: classes in a block; memory is O(chunk_size · (B + D)). None chooses. The result does not depend on
            it.
        kwargs: ``init``, ``sparse_gradient``, ``accumulation_steps``, ``process_group`` and PML's arguments, see
            :class:`BaseCenterLoss`. Centers start from N(0, 1) by default, those that step by themselves from 0, which
            is at π/2 from all.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``centers`` (C, D), fp32; a parameter, or a buffer that moves only in training mode. ``last_seen``, ``step``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = AngularTripletCenterLoss(num_classes=2, embedding_size=2, margin=1)
        >>> _ = torch.nn.init.eye_(loss.centers)
        >>> loss(torch.tensor([[3.0, 3.0]]), torch.tensor([1]))  # π/4 + 1 − π/4
        tensor(1., grad_fn=<MeanBackward0>)

    Source: Li et al., Angular triplet-center loss for multi-view 3D shape retrieval, AAAI 2019, arXiv:1811.08622. The
        margin of the paper we could not check; 0.7 is that of a public code.
    """

    tuned: ClassVar[dict[str, Range]] = {"margin": Range("margin", 0.2, 1.2)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.7,
        alpha: float = 0.5,
        update: Update = "gradient",
        *,
        chunk_size: int | None = None,
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, alpha, update, **kwargs)
        check_between("in [0, π] radians", "A common one is 0.7, 40 degrees.", margin=margin)
        check_chunk_size(chunk_size)
        self.margin, self.chunk_size = margin, chunk_size
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def pull(self, batch: CenterBatch) -> Tensor:
        """``max(0, θ(x, c_y) + m − min_{j≠y} θ(x, c_j))``."""
        x, labels = batch.embeddings, batch.labels
        centers = batch.centers.detach().to(x.dtype)
        nearest = nearest_other(x.detach(), centers, labels, angular=True, chunk_size=self.chunk_size)
        own, other = self.own_centers(torch.cat([labels, nearest])).to(x.dtype).chunk(2)  # at once: one gradient of all
        losses = F.relu(angle_between(x, own) + self.margin - angle_between(x, other))
        return losses if self.num_classes > 1 else 0 * losses

    def get_default_distance(self):
        """PML's hook: cosine similarity."""
        return CosineSimilarity()
