"""SubCenterArcFaceLoss."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from pml_center.losses.arcface_loss import ArcFaceLoss
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.pml_names import check_degrees
from pml_center.losses.tuning import SCALE, Range
from pml_center.ops.margins import additive_angular


@ArcFaceLoss.register  # isinstance says what it says of PML's
class SubCenterArcFaceLoss(BaseSoftmaxLoss):
    """Sub-center ArcFace: several centers to a class, of which an embedding meets the nearest.

    :class:`ArcFaceLoss` with ``cos θ_j = max_k cos θ_{jk}``. For noisy labels: clean samples gather at one sub-center,
    wrong ones at the others. After some epochs :meth:`get_outliers` names the samples that are far from the dominant
    sub-center, and :meth:`drop_nondominant` leaves one center per class to go on with.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: degrees in [0, 180], as in PML; the paper's 0.5 rad is 28.6.
        scale: s > 0, the factor of all cosines.
        sub_centers: K, centers per class.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); margin outside [0, 180]; scale not positive; no sub-center.

    Example:
        >>> import torch
        >>> loss = SubCenterArcFaceLoss(2, 2, scale=1, sub_centers=2)
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # two a class
        >>> _ = loss.class_weights.weight.data.copy_(rows)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8], [0.0, 2.0], [1.0, 0.1]]), torch.tensor([0, 0, 0])
        >>> loss.get_logits(embeddings[:1]).detach()  # the nearest: max(0.6, 0.8), max(−0.6, −0.8)
        tensor([[ 0.8000, -0.6000]])
        >>> loss.get_outliers(embeddings, labels)[0]  # most of class 0 are at its second center, the last is not
        tensor([2])

    Source: Deng et al., Sub-center ArcFace: boosting face recognition by large-scale noisy web faces, ECCV 2020.

    Differs: PML's class takes ``num_classes`` and ``embedding_size`` as keywords only, and its ``get_outliers`` returns
        the dominant sub-centers whether or not they are asked for. wespeaker's adds a penalty on the nearest other
        classes, and continues beyond π in another way.
    """

    margin_unit = "degrees"
    from_pml_units: ClassVar[dict[str, Callable]] = {"margin": math.degrees}

    tuned: ClassVar[dict[str, Range]] = {"scale": SCALE, "margin": Range("margin", 0, 40)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 28.6,
        scale: float = 64,
        sub_centers: int = 3,
        **kwargs,
    ):
        self.margin = margin
        super().__init__(num_classes, embedding_size, scale, sub_centers=sub_centers, **kwargs)
        self.add_to_recordable_attributes(list_of_names=["margin", "sub_centers"], is_stat=False)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "margin":
            check_degrees(self, value)
        super().__setattr__(name, value)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        return additive_angular(batch.cosine, math.radians(self.margin))
