"""CentroidTripletLoss."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor

from pml_center.checks import check_between, check_choices, check_flags
from pml_center.losses.base_element_loss import BaseElementLoss
from pml_center.losses.tuning import Range
from pml_center.ops.centers import class_sums
from pml_center.ops.distances import squared_distances

Negatives = Literal["hardest", "all"]


class CentroidTripletLoss(BaseElementLoss):
    """Centroid triplet loss (CTL): each embedding is nearer to the others of its class than to any other class.

    ``ℓ = max(0, ‖x − c_P‖² − ‖x − c_N‖² + m)`` with the centroids of the batch: c_P is the mean of the other samples of
    the query's class, the query itself left out, and c_N the mean of another class. The batch brings all that it needs:
    sample at least two images of each class.

    Args:
        margin: m, at least 0, a squared distance, or a distance without ``squared``.
        negatives: ``"hardest"``: c_N is the centroid nearest to the query. ``"all"``: the mean over the centroids of
            all other classes in the batch.
        squared: whether distances are squared, as the paper's are, or Euclidean, as in the authors' code.
        kwargs: ``ignore_index``, ``miner_weighting`` and PML's arguments, see
            :class:`~pml_center.losses.base_element_loss.BaseElementLoss`.

    Shape: embeddings (B, D), labels (B,) any integers -> loss per sample (B,), reduced by ``reducer``. The single
        sample of a class has no c_P: it is no query and its loss is 0, though it is a centroid to others. In a batch of
        one class there is no query. A mean counts these zeros, PML's ``AvgNonZeroReducer`` does not. Memory is
        O(B·U + B·D) for the U classes in the batch on the CPU, and O(B² + B·D) elsewhere.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = CentroidTripletLoss(margin=0.5)
        >>> loss(torch.tensor([[0.0], [2.0], [3.0]]), torch.tensor([0, 0, 1]))  # (0 + (4 − 1 + 0.5) + 0) / 3
        tensor(1.1667)

    Source: Wieczorek, Rychalska and Dąbrowski, On the unreasonable effectiveness of centroids in image retrieval,
        ICONIP 2021, arXiv:2104.13643. The margin 0.5 is that of the authors' configuration.

    Differs: the authors' code has Euclidean distances and asks for as many samples of each class. It takes the r-th
        sample of every class for queries together and leaves all of them out of all centroids, the negative ones too;
        centroids are anchors as well, and queries of other classes negatives as well.
    """

    takes_any_distance = False

    tuned: ClassVar[dict[str, Range]] = {"margin": Range("margin", 0.1, 1)}

    def __init__(self, margin: float = 0.5, negatives: Negatives = "hardest", squared: bool = True, **kwargs):
        check_flags(squared=squared)
        self.squared = squared  # ahead of all else: the distance depends on it
        super().__init__(**kwargs)
        check_between("finite and at least 0", "The authors have 0.5.", margin=margin)
        check_choices(negatives=(negatives, Negatives))
        self.margin, self.negatives = margin, negatives
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def get_default_distance(self):
        """PML's hook: the Euclidean distance, squared or not."""
        return LpDistance(normalize_embeddings=False, p=2, power=2 if self.squared else 1)

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """``max(0, D(x, c_P) − D(x, c_N) + m)``, 0 for what is no query, (B,)."""
        classes, sums, counts = class_sums(embeddings, labels)
        own = torch.searchsorted(classes, labels)
        is_there = counts > 0
        centroids, count = sums / counts.clamp_min(1).unsqueeze(1), counts.index_select(0, own)
        # x − (n·c − x) / (n − 1) = n / (n − 1) · (x − c): without x, the centroid of its class is so much farther.
        farther = (count / (count - 1).clamp_min(1)).unsqueeze(1)
        positive = self._lengths(farther * (embeddings - centroids.index_select(0, own)))
        if self.negatives == "hardest":
            with torch.no_grad():
                others = squared_distances(embeddings, centroids).masked_fill(~is_there, torch.inf)
                nearest = others.scatter(1, own.unsqueeze(1), torch.inf).argmin(1)
            negative = self._lengths(embeddings - centroids.index_select(0, nearest))
            losses = F.relu(positive - negative + self.margin)
        else:
            squares = squared_distances(embeddings, centroids)  # (B, U)
            tiny = torch.finfo(squares.dtype).tiny  # where a root would have no slope
            negative = squares if self.squared else squares.clamp_min(tiny).sqrt()
            hinges = F.relu(positive.unsqueeze(1) - negative + self.margin).masked_fill(~is_there, 0.0)
            losses = hinges.scatter(1, own.unsqueeze(1), 0.0).sum(1) / (is_there.sum() - 1).clamp_min(1)
        return torch.where((count > 1) & (is_there.sum() > 1), losses, 0.0)

    def _lengths(self, differences: Tensor) -> Tensor:
        return differences.square().sum(1) if self.squared else differences.norm(dim=1)
