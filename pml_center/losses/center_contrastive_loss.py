"""CenterContrastiveLoss."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor

from pml_center.checks import check_between, check_choices, check_chunk_size, check_embeddings
from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch, Update
from pml_center.losses.tuning import SCALE, Range
from pml_center.ops.negative_logits import NegativeLogits, directions, negative_logsumexp
from pml_center.ops.precision import ProductPrecision, full_precision, working_dtype


class CenterContrastiveLoss(BaseCenterLoss):
    """Center contrastive loss (CCL): embeddings are told apart by the centers of all classes, and pulled to their own.

    ``ℓ = −log( e^{s(cos θ_y − m)} / (e^{s(cos θ_y − m)} + Σ_{j≠y} e^{s·cos θ_j}) ) + λ · ‖x̂ − ĉ_y‖²`` with θ_j the
    angle to the center of class j and x̂, ĉ at length 1: the loss of :class:`CosFaceLoss` over a bank of centers, which
    are not learned but follow the embeddings, ``c_j += α · Σ_{y=j}(x̂ − c_j) / (1 + n_j)``, and center loss. It stands
    alone; its centers need no optimizer. The sum over all classes is taken in blocks.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, a difference of cosines, in [0, 2].
        scale: s > 0, the factor of all cosines.
        center_weight: λ, at least 0.
        alpha: in (0, 1], the rate of the center step.
        update: ``"paper"`` (of :class:`CenterLoss`) as above, ``"mean"`` with n_j in place of 1 + n_j; ``"gradient"``
            makes the centers parameters, which both terms move.
        chunk_size: classes in a block of logits, with nothing kept between forward and backward: memory is
            O(B · chunk_size). None chooses, and keeps up to 52 MiB. The result does not depend on it.
        product_precision: of the matrix products with all centers, as in :class:`BaseSoftmaxLoss`.
        kwargs: ``init``, ``accumulation_steps``, ``process_group`` and PML's arguments, see :class:`BaseCenterLoss`.
            Centers start from 0 by default, where their cosine is 0 until their class is seen; those that are
            parameters, from N(0, 1).

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``centers`` (C, D), fp32; a buffer that moves only in training mode, or a parameter. ``last_seen``, ``step``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = CenterContrastiveLoss(2, 2, margin=0.5, scale=1, alpha=0.5, weight_init_func=torch.nn.init.eye_)
        >>> loss(torch.tensor([[0.6, 0.8]]), torch.tensor([0]))  # log(1 + e^(0.8 − 0.1)) + 0.4² + 0.8²
        tensor(1.9032)
        >>> loss.centers[0]  # (1, 0) + 0.5 · (−0.4, 0.8) / (1 + 1)
        tensor([0.9000, 0.2000])

    Source: Cai, Xiong and Tian, Center contrastive loss for metric learning, 2023, arXiv:2308.00458. From its abstract:
        a bank of class centers that is updated in step with training, and a contrastive loss between queries and
        centers. The formula is that of two public reimplementations, which write the pull as −2λ·cos θ_y and so are
        less by 2λ, as are s = 64, m = 0.2 and λ = 1; we could not check them in the paper. That the bank steps as
        center loss does, rather than by gradient, is our reading of "updated in real-time"; both reimplementations
        take gradients.
    """

    reaches_all_centers = True

    tuned: ClassVar[dict[str, Range]] = {"scale": SCALE, "margin": Range("margin", 0, 0.7)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.2,
        scale: float = 64.0,
        center_weight: float = 1.0,
        alpha: float = 0.5,
        update: Update = "paper",
        *,
        chunk_size: int | None = None,
        product_precision: ProductPrecision = "autocast",
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, alpha, update, **kwargs)
        check_between("finite and positive", "Common values are 16 to 64.", scale=scale)
        check_between("finite and at least 0", "Common are 0.2 and 1.", margin=margin, center_weight=center_weight)
        check_between("in [0, 2], a difference of cosines", "A common one is 0.2.", margin=margin)
        check_chunk_size(chunk_size)
        check_choices(product_precision=(product_precision, ProductPrecision))
        self.product_precision = product_precision
        self.margin, self.scale, self.center_weight, self.chunk_size = margin, scale, center_weight, chunk_size
        self.add_to_recordable_attributes(list_of_names=["margin", "scale", "center_weight"], is_stat=False)

    def pull(self, batch: CenterBatch) -> Tensor:
        """Cross entropy with a margin over the cosines to all centers, and the pull of one's own."""
        unit, _ = directions(batch.embeddings)
        cosine = torch.linalg.vecdot(unit, F.normalize(batch.own, dim=1))
        negatives = NegativeLogits(
            unit,
            batch.centers,
            batch.labels,
            self.scale,
            chunk_size=self.chunk_size,
            product_dtype=self._product_dtype,
        )
        target = self.scale * (cosine - self.margin)
        losses = F.softplus(negative_logsumexp(negatives) - target, threshold=40)
        return losses + self.center_weight * 2 * (1 - cosine)

    def get_logits(self, embeddings: Tensor) -> Tensor:
        """Scaled cosines to the centers of all classes, (B, D) to (B, C)."""
        check_embeddings(embeddings, self.embedding_size)
        embeddings = embeddings.to(working_dtype(embeddings, self.centers))
        with full_precision(embeddings):
            centers = F.normalize(self.centers.to(embeddings.dtype), dim=1)
            return self.scale * F.linear(F.normalize(embeddings, dim=1), centers)

    def predict(self, embeddings: Tensor) -> Tensor:
        """The class of the center nearest by angle to each embedding, (B, D) to (B,)."""
        return self.get_logits(embeddings).argmax(1)

    def get_default_distance(self):
        """PML's hook: cosine similarity."""
        return CosineSimilarity()
