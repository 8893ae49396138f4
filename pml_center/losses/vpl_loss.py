"""VPLLoss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pml_center.checks import check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.class_weights import Chosen
from pml_center.ops.margins import BeyondPi, Gradient, additive_angular, detached


class VPLLoss(BaseSoftmaxLoss):
    """Variational prototype learning: ArcFace to weights that are mixed with the latest sample of each class.

    In training ``(1 − λ)·ŵ_j + λ·q_j`` stands in place of the weights of each class j that was seen in the last
    ``max_age`` batches, with q_j the direction of its latest embedding, taken for a constant. Samples are so compared
    with each other as well as with a row. Evaluation has the weights alone.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, radians in [0, π], as in :class:`ArcFaceLoss`. Larger is stricter.
        scale: s > 0, the factor of all cosines.
        share: λ in [0, 1), of the latest embedding; 0 is ArcFace.
        max_age: batches, at least 1, after which an embedding is out of date.
        start_step: batches before the first mixture; embeddings move too fast at the beginning.
        gradient: ``"full"`` differentiates ``cos(θ + m)``; ``"detached"`` takes the margin for a constant.
        beyond_pi: where ``θ_y + m > π``, see :class:`ArcFaceLoss`.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``latest`` (C, D) directions, ``seen`` (C,) in which batch, ``step`` how many there were; they move only in
        training mode.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = VPLLoss(num_classes=10, embedding_size=64)
        >>> loss(torch.randn(8, 64), torch.arange(8)).shape
        torch.Size([])

    Source: Deng et al., Variational prototype learning for deep face recognition, CVPR 2021; what the paper leaves
        open as in the authors' insightface.
    """

    latest: Tensor
    seen: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.5,
        scale: float = 64,
        share: float = 0.15,
        max_age: int = 200,
        start_step: int = 8000,
        gradient: Gradient = "full",
        beyond_pi: BeyondPi = "linear",
        **kwargs,
    ):
        if not 0 <= margin <= math.pi:
            raise ValueError(f"margin must be in [0, π] radians, got {margin}. The paper's margin is 0.5.")
        if not 0 <= share < 1:
            raise ValueError(f"share must be in [0, 1), got {share}. The paper's is 0.15.")
        for name, value, least, usual in (("max_age", max_age, 1, 200), ("start_step", start_step, 0, 8000)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}. The authors' is {usual}.")
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        check_choices(gradient=(gradient, Gradient), beyond_pi=(beyond_pi, BeyondPi))
        self.margin, self.gradient, self.beyond_pi = margin, gradient, beyond_pi
        self.share, self.max_age, self.start_step = share, max_age, start_step
        self.register_buffer("latest", torch.zeros(num_classes, embedding_size))
        self.register_buffer("seen", torch.full((num_classes,), -max_age))  # out of date in the first batch
        self.register_buffer("step", self.step)  # saved, as ages are counted from it
        self.add_to_recordable_attributes(list_of_names=["margin", "share"], is_stat=False)

    def prototypes(self, chosen: Chosen) -> Tensor:
        """``(1 − λ)·ŵ + λ·q`` of the classes that were seen of late."""
        latest, seen = (x if chosen.classes is None else x[chosen.classes] for x in (self.latest, self.seen))
        step = self.step + 1
        is_mixed = (step - seen <= self.max_age) & (step > self.start_step)
        share = (self.share * is_mixed.to(chosen.rows)).repeat_interleave(self.sub_centers).unsqueeze(1)
        latest = latest.to(chosen.rows).repeat_interleave(self.sub_centers, dim=0)
        return (1 - share) * F.normalize(chosen.rows, dim=1) + share * latest

    def observe(self, batch: Batch) -> None:
        """Keep the last embedding of each class in the batch."""
        assert batch.negatives is not None
        classes, inverse = batch.labels.unique(return_inverse=True)
        numbers = torch.arange(len(inverse), device=inverse.device)
        last = torch.zeros_like(classes).scatter_reduce(0, inverse, numbers, "amax")
        self.latest = self.latest.index_copy(0, classes, batch.negatives.embeddings[last].to(self.latest))
        self.seen = self.seen.index_copy(0, classes, self.step.expand(len(classes)))

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        return detached(batch.cosine, additive_angular(batch.cosine, self.margin, self.beyond_pi), self.gradient)

    @torch.no_grad()
    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; new classes have not been seen."""
        kept = min(num_classes, self.num_classes)
        super().resize_classes(num_classes)
        latest, seen = self.latest, self.seen
        self.latest = torch.cat([latest[:kept], latest.new_zeros(num_classes - kept, self.embedding_size)])
        self.seen = torch.cat([seen[:kept], seen.new_full((num_classes - kept,), int(self.step) - self.max_age)])
