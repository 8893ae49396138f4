"""ContrastiveCenterLoss."""

from typing import ClassVar

from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch, Init, Update
from pml_center.losses.tuning import Range
from pml_center.ops.centers import half_squared_distance, other_squared_distances


class ContrastiveCenterLoss(BaseCenterLoss):
    """Contrastive-center loss: how near its own center an embedding is, relative to all other centers.

    ``ℓ = ½ · ‖x − c_y‖² / (Σ_{j≠y} ‖x − c_j‖² + δ)``. Unlike center loss it is not smallest where all is one point. It
    falls with the number of classes, as the sum grows: with C classes at similar distances it is near 1 / (2C), and its
    weight beside a softmax loss belongs to C. The sum is taken in closed form, O((B + C)·D).

    Args:
        num_classes: C.
        embedding_size: D.
        delta: δ > 0, which keeps the ratio finite; of the size of a squared length.
        alpha: in (0, 1], the rate of the center step; unused by ``update="gradient"``.
        update: ``"gradient"`` makes the centers parameters, which the gradient of the loss pulls to their own
            embeddings and pushes from others. ``"paper"`` and ``"mean"`` step them towards their own embeddings alone,
            as in :class:`CenterLoss`; then only embeddings are pushed.
        kwargs: ``init``, ``accumulation_steps``, ``process_group`` and PML's arguments, see :class:`BaseCenterLoss`.
            Centers start from N(0, 1) by default.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``centers`` (C, D), fp32; a parameter, or a buffer that moves only in training mode. ``last_seen``, ``step``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = ContrastiveCenterLoss(num_classes=2, embedding_size=2, init="zeros")
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))  # ½ · 4 / (4 + 1)
        tensor(0.4000, grad_fn=<MeanBackward0>)

    Source: Qi and Su, Contrastive-center loss for deep neural networks, ICIP 2017, arXiv:1707.07391. The paper sums
        over the batch, PML's default reducer takes the mean. δ = 1 is the paper's.

    Differs: lyakaap/image-feature-learning-pytorch divides the sum of the numerators of a batch by that of the
        denominators, has δ = 1e-6, and multiplies by 10.
    """

    default_init: ClassVar[Init] = "normal"
    reaches_all_centers = True

    tuned: ClassVar[dict[str, Range]] = {"delta": Range("margin", 0.1, 10, log=True)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        delta: float = 1.0,
        alpha: float = 0.5,
        update: Update = "gradient",
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, alpha, update, **kwargs)
        check_between("finite and positive", "The paper's is 1.", delta=delta)
        self.delta = delta
        self.add_to_recordable_attributes(list_of_names=["delta"], is_stat=False)

    def pull(self, batch: CenterBatch) -> Tensor:
        """``½ · ‖x − c_y‖² / (Σ_{j≠y} ‖x − c_j‖² + δ)``."""
        others = other_squared_distances(batch.embeddings, batch.centers, batch.labels)
        return half_squared_distance(batch.embeddings, batch.own) / (others + self.delta)
