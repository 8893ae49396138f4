"""IslandLoss."""

from typing import ClassVar

from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch, Update
from pml_center.losses.tuning import Range
from pml_center.ops.centers import half_squared_distance, pairwise_cosines, repulsion_step


class IslandLoss(BaseCenterLoss):
    """Island loss: center loss whose centers also turn away from each other.

    ``ℓ = ½‖x − c_y‖² + λ₁ · Σ_{j≠k} (cos(c_j, c_k) + 1)``, over ordered pairs of all centers. After each training batch
    ``c_j += α · ( Σ_{y=j}(x − c_j) / (1 + n_j) − λ₁ / (C − 1) · Σ_{k≠j} ∂cos(c_j, c_k)/∂c_j )``. The second sum moves
    all centers, those of absent classes too, and only the embeddings feel where they go: add it to a softmax loss, as
    center loss. The sums over pairs are taken in closed form, O(C·D).

    The second term is never below λ₁ · C(C − 2): with λ₁ = 10 and a thousand classes the value is 10⁷ from the start,
    and the pull is beyond its digits. Gradients are not touched by it; to follow the pull, set ``collect_stats=True``
    and read ``avg_intra``. The turn of a center is the longer the shorter it is, as ``1 / ‖c‖``: centers that are much
    shorter than 1 leap far beyond the embeddings and come back over some batches. Weights of samples, a miner's too,
    count for both terms.

    Args:
        num_classes: C.
        embedding_size: D.
        repulsion: λ₁, at least 0, how much the centers repel each other.
        alpha: in (0, 1], the rate of the center step.
        update: ``"paper"`` as above; ``"mean"`` with ``Σ(x − c) / n`` in place of the first sum; ``"gradient"`` makes
            the centers parameters, which the gradient of both terms moves.
        kwargs: ``init``, ``accumulation_steps``, ``process_group`` and PML's arguments, see :class:`BaseCenterLoss`.
            Centers start from 0 by default, where they have no direction and do not repel.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``; the second term is
        that of each sample, so that a mean adds it once.

    State: ``centers`` (C, D), fp32; a buffer that moves only in training mode, or a parameter. ``last_seen``, ``step``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = IslandLoss(num_classes=2, embedding_size=2, repulsion=1.0)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(4.)
        >>> loss.centers[0]
        tensor([0.5000, 0.0000])

    Source: Cai et al., Island loss for learning discriminative features in facial expression recognition, FG 2018,
        arXiv:1710.03144. Its weight beside a softmax loss is 0.01, λ₁ is 10.

    Differs: FER-China/islandloss has the same value but turns its centers by a product entry by entry, which is no
        derivative of the cosine, and divides the pull by B. LeleFox's version has no ½ and counts each center's cosine
        to itself as 0, which adds λ₁ · C.
    """

    reaches_all_centers = True

    tuned: ClassVar[dict[str, Range]] = {"repulsion": Range("weight", 0.1, 10, log=True, relative=True)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        repulsion: float = 10.0,
        alpha: float = 0.5,
        update: Update = "paper",
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, alpha, update, **kwargs)
        check_between("finite and at least 0", "The paper has 10; 0 is center loss.", repulsion=repulsion)
        self.repulsion = repulsion
        self.add_to_recordable_attributes(list_of_names=["repulsion"], is_stat=False)

    def pull(self, batch: CenterBatch) -> Tensor:
        """``½‖x − c_y‖² + λ₁ · Σ_{j≠k} (cos + 1)``, the second term one for all."""
        pairs = self.num_classes * (self.num_classes - 1)
        repelled = self.repulsion * (pairwise_cosines(batch.centers) + pairs)
        return half_squared_distance(batch.embeddings, batch.own) + repelled

    def spread(self, centers: Tensor) -> None:
        """The second term of the step."""
        repulsion_step(centers, self.alpha * self.repulsion / max(self.num_classes - 1, 1))
