"""VPLLoss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pml_center.checks import check_between, check_size
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.class_weights import Chosen
from pml_center.ops.margins import additive_angular


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
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``latest`` (C, D) directions, ``seen`` (C,) in which batch, ``step`` how many there were; they move only in
        training mode.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = VPLLoss(2, 2, margin=0, scale=1, share=0.5, start_step=0, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss(embeddings, labels).detach()  # log(1 + e^(0.8 − 0.6))
        tensor(0.7981)
        >>> loss(embeddings, labels).detach()  # class 0 is half this embedding now, at a cosine of 0.8944
        tensor(0.6470)

    Source: Deng et al., Variational prototype learning for deep face recognition, CVPR 2021; what the paper leaves
        open as in the authors' insightface.
    """

    latest: Tensor
    seen: Tensor

    per_class = (*BaseSoftmaxLoss.per_class, "latest", "seen")

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.5,
        scale: float = 64,
        share: float = 0.15,
        max_age: int = 200,
        start_step: int = 8000,
        **kwargs,
    ):
        check_between("in [0, π] radians", "The paper's margin is 0.5.", margin=margin)
        check_between("in [0, 1)", "The paper's is 0.15.", share=share)
        max_age = check_size("max_age", max_age, "The authors' is 200.")
        check_between("an integer of at least 0", "The authors' is 8000.", start_step=start_step)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin = margin
        self.share, self.max_age, self.start_step = share, max_age, start_step
        self.register_buffer("latest", torch.zeros(num_classes, embedding_size))
        self.register_buffer("seen", torch.full((num_classes,), -max_age))  # out of date in the first batch
        self.add_count("_step")  # saved, as ages are counted from it
        self.add_to_recordable_attributes(list_of_names=["margin", "share"], is_stat=False)

    def prototypes(self, chosen: Chosen) -> Tensor:
        """``(1 − λ)·ŵ + λ·q`` of the classes that were seen of late."""
        latest, seen = (x if chosen.classes is None else x[chosen.classes] for x in (self.latest, self.seen))
        step = self._step + 1
        is_mixed = (step - seen <= self.max_age) & (step > self.start_step)
        share = (self.share * is_mixed.to(chosen.rows)).repeat_interleave(self.sub_centers).unsqueeze(1)
        latest = latest.to(chosen.rows).repeat_interleave(self.sub_centers, dim=0)
        return (1 - share) * F.normalize(chosen.rows, dim=1) + share * latest

    def observe(self, batch: Batch) -> None:
        """Keep the last embedding of each class in the batch."""
        labels = batch.labels
        ordered, samples = labels.sort(stable=True)
        last = samples[torch.searchsorted(ordered, labels, right=True) - 1]  # the same for all samples of a class
        self.latest = self.latest.index_copy(0, labels, batch.negatives.embeddings[last].to(self.latest))
        self.seen = self.seen.index_copy(0, labels, torch.ones_like(labels) * self._step)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        return additive_angular(batch.cosine, self.margin)

    @torch.no_grad()
    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; new classes have not been seen."""
        before = self.num_classes
        super().resize_classes(num_classes)
        kept, latest, seen = min(before, num_classes), self.latest, self.seen
        self.latest = torch.cat([latest[:kept], latest.new_zeros(num_classes - kept, self.embedding_size)])
        self.seen = torch.cat([seen[:kept], seen.new_full((num_classes - kept,), int(self._step) - self.max_age)])
