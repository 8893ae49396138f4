"""RangeLoss."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor

from pml_center.checks import check_between, check_flags, check_size
from pml_center.losses.base_element_loss import BaseElementLoss
from pml_center.losses.tuning import Range
from pml_center.ops.centers import class_sums
from pml_center.ops.distances import farthest_pairs, squared_distances


class RangeLoss(BaseElementLoss):
    """Range loss: the longest distances within each class of a batch, and the shortest between two classes.

    ``L = α · Σ_c k / Σ_{r≤k} (1 / D_r) + β · max(0, m − D_center)``: for each class in the batch the harmonic mean of
    its k largest squared distances D_1 … D_k, and once the squared distance D_center of the two class means that are
    nearest to each other. Classes of few samples count as much as those of many, which is what it is for. The batch
    brings all that it needs: sample some images of each class. Add it to a softmax loss.

    Args:
        k: at least 1, how many of the largest distances. A class of n samples has n(n − 1) / 2: where that is less than
            k, the mean is over those; a single sample has none, and its class no first term.
        margin: m, at least 0, a squared distance, or a distance without ``squared``. It belongs to the size of the
            embeddings: the paper's are not normalised.
        intra_weight: α, at least 0.
        inter_weight: β, at least 0.
        squared: whether distances are squared, as the paper's are, or Euclidean.
        kwargs: ``ignore_index``, ``miner_weighting`` and PML's arguments, see
            :class:`~pml_center.losses.base_element_loss.BaseElementLoss`.

    Shape: embeddings (B, D), labels (B,) any integers -> loss per sample (B,), reduced by ``reducer``. A sample of a
        class of n carries B / n of the first term of its class, and the second term, so that the mean is L. Memory is
        O(B² + B·D).

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> import torch
        >>> loss = RangeLoss(k=2, margin=50, intra_weight=1, inter_weight=1)
        >>> loss(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 0, 0, 1]))
        tensor(23.4274)
        >>> 2 / (1 / 9 + 1 / 4) + 50 - (7 - 4 / 3) ** 2  # the two longest of class 0, and both means
        23.427...

    Source: Zhang et al., Range loss for deep face recognition with long-tailed training data, ICCV 2017,
        arXiv:1611.08976; its α, β, m and k are the defaults.

    Differs: Charrin's caffe layer is this loss; where a class has fewer than k pairs it reads memory that is not its
        own. Chen94yue's code is this loss with ``squared=False``; where a class has fewer than k pairs it takes the
        distance of a sample to itself for one, 1e-6, next to which all others vanish.
    """

    takes_any_distance = False

    tuned: ClassVar[dict[str, Range]] = {
        "margin": Range("margin", 0.1, 10, log=True, relative=True),
        "intra_weight": Range("weight", 0.1, 10, log=True, relative=True),
    }

    def __init__(
        self,
        k: int = 2,
        margin: float = 2e4,
        intra_weight: float = 5e-5,
        inter_weight: float = 1e-4,
        squared: bool = True,
        **kwargs,
    ):
        check_flags(squared=squared)
        self.squared = squared  # ahead of all else: the distance depends on it
        super().__init__(**kwargs)
        values = {"margin": margin, "intra_weight": intra_weight, "inter_weight": inter_weight}
        check_between("finite and at least 0", "The paper has 2e4, 5e-5 and 1e-4.", **values)
        self.k, self.margin = check_size("k", k, "The paper has 2."), margin
        self.intra_weight, self.inter_weight = intra_weight, inter_weight
        self.add_to_recordable_attributes(list_of_names=["k", "margin", "intra_weight", "inter_weight"], is_stat=False)
        self.add_to_recordable_attributes(list_of_names=["intra_part", "inter_part"], is_stat=True)

    def get_default_distance(self):
        """PML's hook: the Euclidean distance, squared or not."""
        return LpDistance(normalize_embeddings=False, p=2, power=2 if self.squared else 1)

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Each sample's share of ``L``, (B,)."""
        classes, sums, counts = class_sums(embeddings, labels)
        own = torch.searchsorted(classes, labels)
        intra = self._harmonic_means(embeddings, own, len(classes))
        inter = self._nearest_means(sums / counts.clamp_min(1).unsqueeze(1), counts > 0)
        if self.collect_stats:
            self.intra_part, self.inter_part = intra.sum().item(), inter.item()
        shares = len(labels) / counts.clamp_min(1)
        return self.intra_weight * (intra * shares).index_select(0, own) + self.inter_weight * inter

    def _harmonic_means(self, embeddings: Tensor, own: Tensor, places: int) -> Tensor:
        """Of the k largest distances of each class, 0 for one without any, by the place of the class, (U,)."""
        first, second, is_pair = farthest_pairs(embeddings, own, self.k)
        differences = embeddings.index_select(0, first) - embeddings.index_select(0, second)
        distances = self._lengths(torch.where(is_pair.unsqueeze(1), differences, 1.0))  # (P,)
        distances = distances.clamp_min(torch.finfo(distances.dtype).tiny)  # of twins: 1 / D stays finite
        distances = torch.where(is_pair, distances, torch.inf)
        of_class = own.index_select(0, first)
        nothing = distances.new_zeros(places)
        # k / Σ(1 / D) does not change if all D are measured by the shortest, and then neither term can overflow.
        shortest = torch.full_like(nothing, torch.inf).scatter_reduce(0, of_class, distances.detach(), "amin")
        pairs = nothing.index_add(0, of_class, is_pair.to(nothing))
        shortest = torch.where(pairs > 0, shortest, 1.0)
        ratios = nothing.index_add(0, of_class, shortest.index_select(0, of_class) / distances)
        return pairs * shortest / torch.where(pairs > 0, ratios, 1.0)

    def _nearest_means(self, means: Tensor, is_there: Tensor) -> Tensor:
        """``max(0, m − D)`` of the two class means that are nearest to each other, 0-d; 0 for a single class."""
        with torch.no_grad():
            left_out = torch.eye(len(means), dtype=torch.bool, device=means.device) | ~is_there | ~is_there.unsqueeze(1)
            nearest = squared_distances(means, means).masked_fill(left_out, torch.inf).argmin()
            first, second = nearest // len(means), nearest % len(means)
        difference = means.index_select(0, first.reshape(1)) - means.index_select(0, second.reshape(1))
        is_pair = is_there.sum() > 1
        value = F.relu(self.margin - self._lengths(torch.where(is_pair, difference, 1.0))).squeeze(0)
        return torch.where(is_pair, value, 0.0)

    def _lengths(self, differences: Tensor) -> Tensor:
        return differences.square().sum(-1) if self.squared else differences.norm(dim=-1)
