"""GitLoss."""

from typing import ClassVar

import torch
from torch import Tensor

from pml_center.checks import check_between, check_flags
from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch, Update
from pml_center.losses.base_element_loss import BaseElementLoss
from pml_center.losses.tuning import Range
from pml_center.ops.centers import class_places, half_squared_distance
from pml_center.ops.distances import squared_distances


class GitLoss(BaseCenterLoss):
    """Git loss: center loss in which the centers of the other samples repel, as a gravity turned round.

    ``ℓ_i = ½‖x_i − c_{y_i}‖² + λ_G · Σ_{j: y_j ≠ y_i} 1 / (1 + ‖x_i − c_{y_j}‖²)`` over the samples j of the batch: a
    center repels once for each of them, strongly only where it is near. Centers step as in :class:`CenterLoss`, towards
    their own embeddings alone. Add it to a softmax loss with a weight λ_C; the paper's λ_G beside the softmax is then
    λ_C times the one here.

    Args:
        num_classes: C.
        embedding_size: D.
        repulsion: λ_G, at least 0. With 0 it is center loss.
        same_class: whether j runs over the other samples of one's own class too, as the paper's sum over all j ≠ i
            literally does. Those push an embedding away from its own center.
        alpha: in (0, 1], the rate of the center step.
        update: ``"paper"``, ``"mean"`` or ``"gradient"``, see :class:`BaseCenterLoss`; the gradient moves the centers
            by both terms.
        kwargs: ``init``, ``sparse_gradient``, ``accumulation_steps``, ``process_group`` and PML's arguments, see
            :class:`BaseCenterLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``. Memory is
        O(B · U) for the U classes in the batch on the CPU, and O(B²) elsewhere, where nobody waits to know U.

    State: ``centers`` (C, D), fp32; a buffer that moves only in training mode, or a parameter. ``last_seen``, ``step``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = GitLoss(num_classes=2, embedding_size=1).eval()
        >>> loss.centers.copy_(torch.tensor([[0.0], [3.0]]))
        tensor([[0.],
                [3.]])
        >>> loss(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 1]))  # mean of 0 + 1/10 and 1/2 + 1/5
        tensor(0.4000)

    Source: Calefati et al., Git loss for deep face recognition, BMVC 2018, arXiv:1807.08512. Both weights are 1 in the
        authors' program.

    Differs: the authors' code takes ``1 / (1 + d²)`` of the difference d of each coordinate, where the paper has the
        squared distance; it has no ½, divides the first term by B·D and the second by B·B·D, keeps samples of one's
        own class, and adds the constant λ_G / B. Coordinate by coordinate, this loss with ``same_class=True`` is its.
    """

    tuned: ClassVar[dict[str, Range]] = {"repulsion": Range("weight", 0.1, 10, log=True, relative=True)}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        repulsion: float = 1.0,
        same_class: bool = False,
        alpha: float = 0.5,
        update: Update = "paper",
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, alpha, update, **kwargs)
        check_flags(same_class=same_class)
        check_between("finite and at least 0", "The authors have 1; 0 is center loss.", repulsion=repulsion)
        self.repulsion, self.same_class = repulsion, same_class
        self.add_to_recordable_attributes(list_of_names=["repulsion"], is_stat=False)

    losses_of_both = BaseElementLoss.losses_of_both  # the centers of other samples repel

    def pull(self, batch: CenterBatch) -> Tensor:
        """``½‖x_i − c_{y_i}‖² + λ_G · Σ_j 1 / (1 + ‖x_i − c_{y_j}‖²)``, the sum taken class by class."""
        classes, own, counts = class_places(batch.labels)
        samples = torch.arange(len(own), device=own.device)
        of_class = torch.zeros_like(classes).scatter_reduce(0, own, samples, "amax")  # a sample of each
        weights = counts.to(batch.embeddings.dtype).repeat(len(own), 1)  # (B, U)
        others = weights.gather(1, own.unsqueeze(1)) - 1 if self.same_class else torch.zeros_like(batch.own[:, :1])
        weights = weights.scatter(1, own.unsqueeze(1), others)
        repelled = weights / (1 + squared_distances(batch.embeddings, batch.own.index_select(0, of_class)))
        return half_squared_distance(batch.embeddings, batch.own) + self.repulsion * repelled.sum(1)
