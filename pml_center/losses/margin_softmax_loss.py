"""MarginSoftmaxLoss: the engine of the softmax family."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor

from pml_center.losses.base_class_loss import BaseClassLoss
from pml_center.losses.class_weights import ClassWeights
from pml_center.ops.cross_entropy import NegativeLogits, gather_rows, negative_logsumexp, negative_sum, scaled


class Batch(NamedTuple):
    """What a margin may look at."""

    cosine: Tensor
    """(B,) between each embedding and its class weights; the plain product where a loss normalises nothing."""
    norm: Tensor
    """(B,) length of each embedding."""
    labels: Tensor
    """(B,)"""


class MarginSoftmaxLoss(BaseClassLoss):
    """Softmax cross entropy over similarities to one row of weights per class, with a margin on the target: abstract.

    With t the cosine to one's own class and c to another, every loss of the family is
    ``softplus(logsumexp(s·ν(c)) − s·ψ(t))``. A final subclass states its paper through four hooks and nothing
    else: :meth:`target_cosine` is ψ, :meth:`negative_margin` is ν, :meth:`logit_scale` is s, :meth:`observe`
    keeps running statistics. Blocks of logits are made a chunk of classes at a time and computed again in
    backward.

    Args:
        num_classes: C.
        embedding_size: D.
        scale: s, the factor of all cosines.
        bias: whether each class has an additive bias.
        label_smoothing: in [0, 1). The share of the target that is spread evenly over all classes.
        chunk_size: classes in a block of logits; None chooses. Memory is O(B · chunk_size); the result does
            not depend on it.
        kwargs: PML's arguments, see :class:`~pml_center.losses.base_class_loss.BaseClassLoss`.
            ``weight_init_func`` is N(0, 0.01) by default, where PML takes N(0, 1): under Adam the angle of a
            row moves by lr / length, and long rows hardly move.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: an argument outside its range; see :meth:`forward` for those of a batch.
        TypeError: a distance other than the one that the margin is defined on.
    """

    normalizes: ClassVar[bool] = True  # embeddings and weights are compared by cosine, else by the plain product

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: float = 1.0,
        *,
        bias: bool = False,
        label_smoothing: float = 0.0,
        chunk_size: int | None = None,
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}. Common values are 0 and 0.1.")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}. Leave it out to have it chosen.")
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}. Common values are 16 to 64.")
        if not isinstance(self.distance, DotProductSimilarity) or (
            self.distance.normalize_embeddings is not self.normalizes
        ):
            default = type(self.get_default_distance()).__name__
            raise TypeError(
                f"distance must be {default} because {type(self).__name__} is defined on it, "
                f"got {type(self.distance).__name__}. Leave distance out."
            )
        self.scale = scale
        self.label_smoothing = label_smoothing
        self.chunk_size = chunk_size
        self.class_weights = ClassWeights(num_classes, embedding_size, self.weight_init_func, bias)
        self.add_to_recordable_attributes(list_of_names=["scale"], is_stat=False)

    def target_cosine(self, batch: Batch) -> Tensor:
        """ψ: what stands in place of the cosine to one's own class, (B,)."""
        raise NotImplementedError

    def negative_margin(self, target: Tensor) -> Callable[[Tensor], Tensor] | None:
        """ν: a function of (B, K) cosines to other classes; None leaves them alone.

        Args:
            target: (B,) what :meth:`target_cosine` returned, detached.
        """
        return None

    def logit_scale(self, batch: Batch) -> float | Tensor:
        """s: one factor for all, or (B,)."""
        return self.scale

    def observe(self, batch: Batch) -> None:
        """Move running statistics; called in training mode, without gradient. Replace buffers, never mutate them."""

    @property
    def W(self) -> Tensor:
        """The class weights in PML's layout, (D, C); a view."""
        return self.class_weights.weight.t()

    def get_logits(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of all classes, (B, C): scaled and without margin, or those of training if labels are given.

        Args:
            embeddings: (B, D).
            labels: (B,), or None for inference.
        """
        embeddings = embeddings.to(self._working_dtype(embeddings))
        with torch.autocast(embeddings.device.type, enabled=False):
            rows, bias = self.class_weights.rows(embeddings.dtype)
            directions = self._directions(embeddings)
            similarity = F.linear(directions, self._directions(rows))  # (B, C)
            if labels is None:
                scale = self.logit_scale(Batch(similarity.amax(1), embeddings.norm(dim=1), similarity.argmax(1)))
            else:
                batch = self._batch(embeddings, rows[labels], labels)
                target, scale = self.target_cosine(batch), self.logit_scale(batch)
                margin = self.negative_margin(target.detach())
                similarity = similarity if margin is None else margin(similarity)
                similarity = similarity.scatter(1, labels.unsqueeze(1), target.unsqueeze(1))
            logits = scaled(similarity, scale)
            return logits if bias is None else logits + bias

    def predict(self, embeddings: Tensor) -> Tensor:
        """The most likely class of each embedding, (B, D) to (B,)."""
        return self.get_logits(embeddings).argmax(1)

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """``softplus(logsumexp(negatives) − target)`` of each sample, (B,)."""
        rows, bias = self.class_weights.rows(embeddings.dtype)
        own, rows = gather_rows(rows, labels)
        batch = self._batch(embeddings, own, labels)
        if self.training:
            with torch.no_grad():
                self.observe(batch)
        target, scale = self.target_cosine(batch), self.logit_scale(batch)
        negative_logits = NegativeLogits(
            self._directions(embeddings),
            rows,
            labels,
            scale,
            margin=self.negative_margin(target.detach()),
            bias=bias,
            normalize=self.normalizes,
            chunk_size=self.chunk_size,
        )
        negatives = negative_logsumexp(negative_logits)
        target_logit = scale * target if bias is None else scale * target + bias[labels]
        # Not logsumexp − target: softplus keeps the relative precision of tiny losses. Its default threshold of 20
        # becomes the identity with an error of 1e-9.
        losses = F.softplus(negatives - target_logit, threshold=40)
        if self.label_smoothing:
            others = negative_sum(negative_logits)
            losses = losses + self.label_smoothing * (target_logit - (target_logit + others) / self.num_classes)
        return losses

    def class_rows(self) -> Tensor:
        """The class weights, (C, D)."""
        return self.class_weights.weight

    def get_default_distance(self):
        """PML's hook: cosine similarity, or the plain product."""
        return CosineSimilarity() if self.normalizes else DotProductSimilarity(normalize_embeddings=False)

    def get_default_weight_init_func(self):
        """PML's hook: N(0, 0.01)."""
        return c_f.TorchInitWrapper(torch.nn.init.normal_, std=0.01)

    def _directions(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=1) if self.normalizes else rows

    def _batch(self, embeddings: Tensor, own: Tensor, labels: Tensor) -> Batch:
        cosine = (self._directions(embeddings) * self._directions(own)).sum(1)
        return Batch(cosine, embeddings.norm(dim=1), labels)
