"""BaseCenterLoss: owns, updates and checks the centers."""

from typing import Literal

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor, nn

from pml_center.checks import check_choices
from pml_center.losses.base_class_loss import BaseClassLoss
from pml_center.ops.centers import center_step

Update = Literal["paper", "gradient"]


class BaseCenterLoss(BaseClassLoss):
    """A loss that pulls each embedding towards the center of its class: abstract.

    A final subclass says :meth:`pull`. Here centers are gathered, and moved once the loss of a training batch
    is known.

    Args:
        num_classes: C.
        embedding_size: D.
        alpha: in (0, 1], the rate of the paper's center step; unused by ``update="gradient"``.
        update: ``"paper"``: centers are a buffer, stepped in closed form, no optimizer needed.
            ``"gradient"``: centers are parameters, give them to an optimizer.
        kwargs: PML's arguments, see :class:`~pml_center.losses.base_class_loss.BaseClassLoss`.
            ``weight_init_func`` fills the centers, by default with 0. A ``weight_regularizer`` sees the
            centers, and moves them only if they are parameters.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        alpha: float = 0.5,
        update: Update = "paper",
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, **kwargs)
        check_choices(update=(update, Update))
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], got {alpha}. The paper's rate is 0.5.")
        self.alpha = alpha
        self.update = update
        centers = torch.empty(embedding_size, num_classes)  # PML's layout: initialisers look at fan-in and fan-out
        self.weight_init_func(centers)
        centers = centers.t().contiguous()  # (C, D)
        if update == "gradient":
            self.centers = nn.Parameter(centers)
        else:
            self.register_buffer("centers", centers)
        self.add_to_recordable_attributes(list_of_names=["alpha"], is_stat=False)

    def pull(self, embeddings: Tensor, own: Tensor) -> Tensor:
        """The loss of each sample, (B,).

        Args:
            embeddings: (B, D).
            own: (B, D), the center of each embedding's class.
        """
        raise NotImplementedError

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Pull, then step the centers: the loss is that of the centers before the step."""
        own = self.centers[labels].to(embeddings.dtype)
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break()  # a graph with the pull would keep all centers, which step before backward
        losses = self.pull(embeddings, own)
        if self.training and self.update == "paper":
            center_step(self.centers, self.distance.maybe_normalize(embeddings.detach()), labels, self.alpha)
        return losses

    def class_rows(self) -> Tensor:
        """The centers, (C, D)."""
        return self.centers

    def get_default_distance(self):
        """PML's hook: the squared Euclidean distance, nothing normalised."""
        return LpDistance(normalize_embeddings=False, p=2, power=2)

    def get_default_weight_init_func(self):
        """PML's hook: 0; N(0, 1) for a distance of directions, which 0 has none of."""
        return c_f.TorchInitWrapper(nn.init.normal_ if self.distance.normalize_embeddings else nn.init.zeros_)
