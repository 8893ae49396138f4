"""TripletCenterLoss."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pml_center.checks import check_between, check_chunk_size, check_flags
from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch, Init, Update
from pml_center.losses.tuning import Range
from pml_center.ops.centers import half_squared_distance, nearest_other


class TripletCenterLoss(BaseCenterLoss):
    """Triplet-center loss: nearer to one's own center than to any other, by a margin.

    ``ℓ = max(0, D(x, c_y) + m − min_{j≠y} D(x, c_j))`` with ``D = ½‖x − c‖²``: a triplet of an embedding and two
    centers, so that nothing is left to mine. The nearest other center is searched for in blocks of classes; both
    distances are then taken anew from the differences.

    Args:
        num_classes: C; with a single class there is nothing to part, and the loss is 0.
        embedding_size: D.
        margin: m, at least 0, a difference of D: of half squared lengths, or of lengths if ``squared`` is False.
        squared: whether D is ``½‖x − c‖²``, as in the paper; False is ``‖x − c‖``, as in the authors' code.
        alpha: in (0, 1], the rate of the center step; unused by ``update="gradient"``.
        update: ``"gradient"`` makes the centers parameters, which the gradient of the loss pulls and pushes.
            ``"paper"`` and ``"mean"`` step them towards all embeddings of their class, as in :class:`CenterLoss`.
        chunk_size: classes in a block; memory is O(chunk_size · (B + D)). None chooses. The result does not depend on
            it.
        kwargs: ``init``, ``sparse_gradient``, ``accumulation_steps``, ``process_group`` and PML's arguments, see
            :class:`BaseCenterLoss`. Centers start from N(0, 1) by default, as in the authors' code.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``centers`` (C, D), fp32; a parameter, or a buffer that moves only in training mode. ``last_seen``, ``step``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = TripletCenterLoss(num_classes=2, embedding_size=2, margin=1, init="zeros")
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))  # 2 + 1 − 2
        tensor(1., grad_fn=<MeanBackward0>)

    Source: He et al., Triplet-center loss for multi-view 3D object retrieval, CVPR 2018, arXiv:1803.06189. The paper
        sums over the batch, PML's default reducer takes the mean. m = 5 is the default of several public codes; that of
        the paper we could not check.

    Differs: the authors' eriche2016/cvpr_2018_TCL.pytorch has the distance without square (``squared=False``) and, of
        its two versions, one that looks among all classes, as here, and one among the classes of the batch.
        xlliu7/Shrec2018_TripletCenterLoss.pytorch is the latter: that of a loss with only the classes of the batch.
    """

    default_init: ClassVar[Init] = "normal"

    tuned: ClassVar[dict[str, Range]] = {"margin": Range("margin", 1, 10)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 5.0,
        squared: bool = True,
        alpha: float = 0.5,
        update: Update = "gradient",
        *,
        chunk_size: int | None = None,
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, alpha, update, **kwargs)
        check_flags(squared=squared)
        check_between("finite and at least 0", "The common one is 5.", margin=margin)
        check_chunk_size(chunk_size)
        self.margin, self.squared, self.chunk_size = margin, squared, chunk_size
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def pull(self, batch: CenterBatch) -> Tensor:
        """``max(0, D(x, c_y) + m − min_{j≠y} D(x, c_j))``."""
        x, labels = batch.embeddings, batch.labels
        nearest = nearest_other(x.detach(), batch.centers.detach().to(x.dtype), labels, chunk_size=self.chunk_size)
        own, other = self.own_centers(torch.cat([labels, nearest])).to(x.dtype).chunk(2)  # at once: one gradient of all
        losses = F.relu(self._distance(x, own) + self.margin - self._distance(x, other))
        return losses if self.num_classes > 1 else 0 * losses

    def _distance(self, embeddings: Tensor, centers: Tensor) -> Tensor:
        return half_squared_distance(embeddings, centers) if self.squared else (embeddings - centers).norm(dim=1)
