"""CACLoss."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pml_center.checks import check_between, check_embeddings
from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch
from pml_center.losses.tuning import Range
from pml_center.ops.precision import full_precision, working_dtype


class CACLoss(BaseCenterLoss):
    """CAC, class anchor clustering: near the anchor of one's class and far from the others, and no anchor ever moves.

    ``ℓ = log(1 + Σ_{j≠y} e^{d_y − d_j}) + λ·d_y`` with ``d_j = ‖x − a·e_j‖``, e_j being the axis of class j. For open
    sets: what is far from all anchors belongs to no known class, and it can be told by a distance.

    Args:
        num_classes: C, at most D.
        embedding_size: D; the paper's is C.
        radius: a > 0, the length of the anchors.
        anchor_weight: λ ≥ 0, of the distance to one's own anchor.
        kwargs: ``ignore_index``, ``loss_weights``, ``miner_weighting`` and PML's arguments, see
            :class:`BaseCenterLoss`; nothing that moves centers.

    Shape: embeddings (B, D), not normalised, labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``centers`` (C, D), fp32, the anchors, a buffer. ``last_seen``, ``step``, which stay 0.

    Raises:
        ValueError: labels outside [0, num_classes); more classes than axes; an argument outside its range.

    Example:
        >>> import torch
        >>> loss = CACLoss(num_classes=2, embedding_size=2, radius=1)
        >>> embeddings = torch.tensor([[1.0, 0.0]])
        >>> loss(embeddings, torch.tensor([0]))  # log(1 + e^(0 − √2))
        tensor(0.2176)
        >>> loss.get_logits(embeddings)
        tensor([[-0.0000, -1.4142]])

    Source: Miller et al., Class anchor clustering: a loss for distance-based open set recognition, WACV 2021,
        arXiv:2004.02434.
    """

    reaches_all_centers = True
    tuned: ClassVar[dict[str, Range]] = {"radius": Range("scale", 2, 50, log=True)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        radius: float = 10.0,
        anchor_weight: float = 0.1,
        **kwargs,
    ):
        check_between("positive", "The paper's is 10.", radius=radius)
        check_between("finite and at least 0", "The paper's is 0.1.", anchor_weight=anchor_weight)
        for name in ("alpha", "update", "init", "init_length", "sparse_gradient"):
            if name in kwargs:
                raise ValueError(
                    f"{name} must be left out because the anchors of CACLoss do not move, got {kwargs[name]!r}. "
                    "radius says where."
                )
        super().__init__(num_classes, embedding_size, update="fixed", init="axes", init_length=radius, **kwargs)
        self.radius, self.anchor_weight = radius, anchor_weight
        self.add_to_recordable_attributes(list_of_names=["radius", "anchor_weight"], is_stat=False)

    def pull(self, batch: CenterBatch) -> Tensor:
        """Cross entropy of the distances, and the distance to one's own anchor."""
        distances = _distances(batch.embeddings, batch.centers)
        own = distances.gather(1, batch.labels.unsqueeze(1)).squeeze(1)
        return F.cross_entropy(-distances, batch.labels, reduction="none") + self.anchor_weight * own

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """The distances to all anchors, negated, (B, D) to (B, C): an open set is told by the largest."""
        check_embeddings(embeddings, self.embedding_size)
        x = embeddings.to(working_dtype(embeddings, self.centers))
        with full_precision(x):
            return -_distances(x, self.centers.to(x.dtype))

    def predict(self, embeddings: Tensor) -> Tensor:
        """The nearest anchor's class of each embedding, (B, D) to (B,)."""
        return self.get_logits(embeddings).argmax(1)


def _distances(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """(B, C), from the differences: squares of lengths would cancel near an anchor."""
    return torch.cdist(embeddings, anchors, compute_mode="donot_use_mm_for_euclid_dist")
