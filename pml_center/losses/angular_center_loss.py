"""AngularCenterLoss."""

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor

from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch


class AngularCenterLoss(BaseCenterLoss):
    """Angular center loss: one minus the cosine between an embedding and the center of its class.

    ``ℓ = 1 − cos(x, c_y)``, half the squared distance of the two at length 1: for embeddings that are compared by
    cosine, where center loss would also pull at their length. After each training batch the centers step towards the
    embeddings at length 1, ``c_j += α · Σ_{y=j}(x / ‖x‖ − c_j) / (1 + n_j)``. Add it to a loss that separates classes.
    It is :class:`CenterLoss` with PML's ``CosineSimilarity``, by the name under which people look for it.

    Args:
        num_classes: C.
        embedding_size: D.
        kwargs: ``alpha``, ``update``, ``init``, ``sparse_gradient``, ``accumulation_steps``, ``process_group`` and
            PML's arguments, see :class:`BaseCenterLoss`. Centers start from 0 by default, where they have no direction
            and pull at nothing; those that are parameters, with ``update="gradient"``, from N(0, 1).

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``centers`` (C, D), fp32; a buffer that moves only in training mode, or a parameter. ``last_seen``, ``step``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = AngularCenterLoss(num_classes=10, embedding_size=2, alpha=1.0)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([3]))
        tensor(1.)
        >>> loss.centers[3]
        tensor([0.5000, 0.0000])

    Source: Reiss and Hoshen, Mean-shifted contrastive loss for anomaly detection, AAAI 2023, arXiv:2106.03844, for a
        single class, as −cos, and with a center that stays; wujiyang/Face_Pytorch (``AgentCenterLoss``) for many. The
        step is that of center loss, which the former has no need of.

    Differs: wujiyang's code divides by B·C instead of B, has a factor in front, and leaves the centers to an optimizer.
    """

    only_pulls = True

    def pull(self, batch: CenterBatch) -> Tensor:
        """``1 − cos(x, c_y)``."""
        return 1 - torch.linalg.vecdot(F.normalize(batch.embeddings, dim=1), F.normalize(batch.own, dim=1))

    def get_default_distance(self):
        """PML's hook: cosine similarity."""
        return CosineSimilarity()
