"""CombinedMarginLoss."""

from typing import ClassVar

from torch import Tensor

from pml_center.checks import check_between, check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import SCALE, Range
from pml_center.ops.margins import BeyondPi, additive_cosine, combined_angular
from pml_center.ops.negative_logits import Elementwise


class CombinedMarginLoss(BaseSoftmaxLoss):
    """Combined margin: the margins of SphereFace, ArcFace and CosFace in one.

    ``ℓ = −log( e^{s·ψ} / (e^{s·ψ} + Σ_{j≠y} e^{s·cos θ_j}) )`` with ``ψ = cos(m₁θ_y + m₂) − m₃``. The paper's
    combinations are (1, 0.3, 0.2) and (0.9, 0.4, 0.15), which it finds a little better than one margin alone.

    Args:
        num_classes: C.
        embedding_size: D.
        m1: the factor of the angle, above 0; 1 leaves it alone.
        m2: radians in [0, π], added to the angle.
        m3: a cosine of at least 0, subtracted.
        scale: s > 0, the factor of all cosines.
        beyond_pi: where ``m₁θ + m₂ > π``: ``"linear"`` continues by ``cos θ − a·sin a``, where a is what the angle has
            gained there (m₂ if m₁ = 1); ``"rotate"`` lets the cosine turn; ``"easy"`` applies m₁ and m₂ only where
            ``cos θ_y > 0``.
        filter_threshold: cosines to other classes above it count as 0 and get no gradient: likely the same person
            under two labels. None filters nothing.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); a margin outside its range; scale not positive.

    Example:
        >>> import torch
        >>> loss = CombinedMarginLoss(2, 2, m1=1, m2=0.3, m3=0.2, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss.get_logits(embeddings, labels).detach()  # cos(θ + 0.3) − 0.2
        tensor([[0.1368, 0.8000]])

    Source: Deng et al., ArcFace, CVPR 2019, arXiv:1801.07698 (equation 4).

    Differs: insightface's PyTorch class of this name applies only m₃ where m₃ > 0, only m₂ else, and refuses other
        m₁; its gradient is ``"detached"`` and its ``beyond_pi`` ``"rotate"``.
    """

    tuned: ClassVar[dict[str, Range]] = {
        "scale": SCALE,
        "m2": Range("margin", 0, 0.7),
        "m3": Range("other", 0, 0.4),
    }

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        m1: float = 1.0,
        m2: float = 0.3,
        m3: float = 0.2,
        scale: float = 64,
        beyond_pi: BeyondPi = "linear",
        filter_threshold: float | None = None,
        **kwargs,
    ):
        check_between("positive", "1 leaves the angle alone.", m1=m1)
        check_between("in [0, π] radians", "The paper's are 0.3 and 0.4.", m2=m2)
        check_between("in [0, 2], a difference of cosines", "The paper's are 0.2 and 0.15.", m3=m3)
        if filter_threshold is not None:
            check_between("in [-1, 1], a cosine", "Leave it out to have none.", filter_threshold=filter_threshold)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        check_choices(beyond_pi=(beyond_pi, BeyondPi))
        self.m1, self.m2, self.m3 = m1, m2, m3
        self.beyond_pi, self.filter_threshold = beyond_pi, filter_threshold
        self.add_to_recordable_attributes(list_of_names=["m1", "m2", "m3"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(m₁θ + m₂) − m₃``."""
        return additive_cosine(combined_angular(batch.cosine, self.m1, self.m2, self.beyond_pi), self.m3)

    def negative_margin(self, target: Tensor) -> Elementwise | None:
        """0 above the threshold."""
        threshold = self.filter_threshold
        return None if threshold is None else lambda cosine: cosine.masked_fill(cosine > threshold, 0)
