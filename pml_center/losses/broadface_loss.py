"""BroadFaceLoss."""

import torch
from torch import Tensor

from pml_center.checks import check_between, check_size
from pml_center.losses.base_element_loss import BaseElementLoss
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.class_weights import Chosen
from pml_center.ops.margins import additive_angular
from pml_center.ops.negative_logits import SHORTEST


class BroadFaceLoss(BaseSoftmaxLoss):
    """BroadFace: ArcFace whose class weights also learn from the embeddings of many batches before.

    The embeddings get the gradient of ArcFace on the batch. The class weights get that of its mean over the batch and
    a queue of past embeddings, each moved as the weights of its class have moved since,
    ``e + (‖e‖ / ‖w_old‖)·(w_new − w_old)``. For many classes, of which a batch shows few. The value is that of the
    batch alone.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, radians in [0, π], as in :class:`ArcFaceLoss`. Larger is stricter.
        scale: s > 0, the factor of all cosines.
        queue_size: past embeddings, at least 1. Time and logits grow with it as with the size of a batch;
            on the CPU with those that are there, elsewhere with all from the start.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`; one
            sub-center. With ``sample_rate`` below 1 the queue still meets all classes.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``, where the queue
        has its share of the mean if it is PML's ``MeanReducer``.

    State: ``queue`` (queue_size, D), ``queue_rows`` (queue_size, D), the weights at their time, ``queue_labels``
        (queue_size,), the newest at the end, -1 where none is yet; they move only in training mode.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = BroadFaceLoss(2, 2, queue_size=3, weight_init_func=torch.nn.init.eye_)
        >>> for _ in range(2):
        ...     value = loss(torch.eye(2), torch.tensor([0, 1]))
        >>> loss.queue_labels  # the newest are last
        tensor([1, 0, 1])

    Source: Kim et al., BroadFace, ECCV 2020, arXiv:2008.06674.
    """

    queue: Tensor
    queue_rows: Tensor
    queue_labels: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.5,
        scale: float = 64,
        queue_size: int = 32_000,
        **kwargs,
    ):
        check_between("in [0, π] radians", "The paper's margin is 0.5.", margin=margin)
        queue_size = check_size("queue_size", queue_size, "Common are 8000 to 32000.")
        if kwargs.get("loss_weights") is not None:
            raise ValueError(
                "loss_weights must be None because past samples have no weights, got some. Leave them out."
            )
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        if self.sub_centers != 1:
            raise ValueError(
                f"sub_centers must be 1 because BroadFaceLoss follows one row per class, got {self.sub_centers}. "
                "Leave it out."
            )
        self.margin = margin
        self.register_buffer("queue", torch.zeros(queue_size, embedding_size))
        self.register_buffer("queue_rows", torch.zeros(queue_size, embedding_size))
        self.register_buffer("queue_labels", torch.full((queue_size,), -1))
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``, continued."""
        return additive_angular(batch.cosine, self.margin)

    def prototypes(self, chosen: Chosen) -> Tensor:
        """The weights, whose gradient is that of a mean over batch and queue."""
        size = len(chosen.own)
        share = size / (size + (self.queue_labels >= 0).sum().to(chosen.rows))
        return share * chosen.rows + (1 - share) * chosen.rows.detach()

    def observe(self, batch: Batch) -> None:
        """The newest embeddings push the oldest out of the queue."""
        embeddings = batch.negatives.embeddings * batch.norm.unsqueeze(1)
        rows = self.class_weights.weight[batch.labels]
        self.queue = _pushed(self.queue, embeddings)
        self.queue_rows = _pushed(self.queue_rows, rows)
        self.queue_labels = _pushed(self.queue_labels, batch.labels)

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, (B,), which carries the gradient of the queue to the weights."""
        known = self.queue_labels >= 0  # before the batch joins them
        past, old_rows, past_labels = self.queue, self.queue_rows, self.queue_labels.clamp_min(0)
        if known.device.type == "cpu" and not torch.compiler.is_compiling():  # else nobody waits for the number
            past, old_rows, past_labels, known = (each[known] for each in (past, old_rows, past_labels, known))
        losses = super().element_losses(embeddings, labels)
        if not self.training or not len(past):
            return losses
        rows, bias = self.class_weights.everything(embeddings.dtype)
        moved = _moved(past.to(rows), old_rows.to(rows), rows.detach()[past_labels])
        batch = self._compare(moved, Chosen(rows, bias, past_labels), past_labels)
        of_queue = (known * self._losses(batch)).sum() / (len(labels) + known.sum())
        return losses + (of_queue - of_queue.detach())  # its gradient without its value

    losses_of_both = BaseElementLoss.losses_of_both  # its queue holds samples of one class each

    @torch.no_grad()
    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; the queue forgets the classes that are dropped."""
        super().resize_classes(num_classes)
        self.queue_labels = self.queue_labels.where(self.queue_labels < num_classes, -1)


def _moved(embeddings: Tensor, old_rows: Tensor, rows: Tensor) -> Tensor:
    """``e + (‖e‖ / ‖w_old‖)·(w_new − w_old)``."""
    lengths = embeddings.norm(dim=1, keepdim=True) / old_rows.norm(dim=1, keepdim=True).clamp_min(SHORTEST)
    return embeddings + lengths * (rows - old_rows)


def _pushed(queue: Tensor, newest: Tensor) -> Tensor:
    """The last entries of both, as many as the queue has; the state is replaced, never mutated."""
    return torch.cat([queue, newest.to(queue)])[-len(queue) :]
