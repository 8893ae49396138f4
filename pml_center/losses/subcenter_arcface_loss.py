"""SubCenterArcFaceLoss."""

import math
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from pml_center.checks import check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import BeyondPi, Gradient, additive_angular, detached


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
        gradient: as in :class:`ArcFaceLoss`.
        beyond_pi: as in :class:`ArcFaceLoss`.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); margin outside [0, 180]; scale not positive; no sub-center.

    Example:
        >>> import torch
        >>> loss = SubCenterArcFaceLoss(10, 64)
        >>> embeddings, labels = torch.randn(8, 64), torch.arange(8)
        >>> loss(embeddings, labels).shape
        torch.Size([])
        >>> outliers, dominant = loss.get_outliers(embeddings, labels)

    Source: Deng et al., Sub-center ArcFace: boosting face recognition by large-scale noisy web faces, ECCV 2020.

    Differs: PML's class takes ``num_classes`` and ``embedding_size`` as keywords only, and its ``get_outliers`` returns
        the dominant sub-centers themselves, where ours says which they are. wespeaker's adds a penalty on the nearest
        other classes, and continues beyond π in another way.
    """

    from_pml_units: ClassVar[dict[str, Callable]] = {"margin": math.degrees}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 28.6,
        scale: float = 64,
        sub_centers: int = 3,
        gradient: Gradient = "full",
        beyond_pi: BeyondPi = "linear",
        **kwargs,
    ):
        if not 0 <= margin <= 180:
            raise ValueError(f"margin must be in [0, 180] degrees, got {margin}. The paper's margin is 28.6.")
        super().__init__(num_classes, embedding_size, scale, sub_centers=sub_centers, **kwargs)
        check_choices(gradient=(gradient, Gradient), beyond_pi=(beyond_pi, BeyondPi))
        self.margin, self.gradient, self.beyond_pi = margin, gradient, beyond_pi
        self.add_to_recordable_attributes(list_of_names=["margin", "sub_centers"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        margined = additive_angular(batch.cosine, math.radians(self.margin), self.beyond_pi)
        return detached(batch.cosine, margined, self.gradient)
