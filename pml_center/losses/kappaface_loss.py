"""KappaFaceLoss."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pml_center.checks import check_between, check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.margins import BeyondPi, additive_angular


class KappaFaceLoss(BaseSoftmaxLoss):
    """KappaFace: ArcFace with larger margins for classes that are scattered or have few samples.

    The target is ``cos(θ_y + m_0·w_y)`` with ``w = γ·w_κ + (1 − γ)·w_n``. With r the length of the mean direction of a
    class, ``κ = r·(D − r²) / (1 − r²)`` estimates the concentration of its von Mises-Fisher distribution. Then
    ``w_κ = 1 − sigmoid(T·κ̃)``, κ̃ being κ standardised over the classes, and
    ``w_n = (1 + cos(π·n / (1.05·n_max))) / 2``. Directions are gathered for an epoch, which is as many samples as
    ``class_counts`` has; w is 1 in the first.

    Args:
        num_classes: C.
        embedding_size: D.
        class_counts: n, (C,) samples of each class in the training data, or one number for all;
            ``torch.bincount(labels, minlength=num_classes)``.
        margin: m_0, radians in [0, π], the largest margin.
        scale: s > 0, the factor of all cosines.
        temperature: T ≥ 0, how much the concentrations count.
        balance: γ in [0, 1], the share of the concentrations; the rest is that of the numbers of samples.
        beyond_pi: where ``θ_y + m > π``, see :class:`ArcFaceLoss`.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``class_counts`` (C,); ``class_sums`` (C, D) and ``class_seen`` (C,), the directions of this epoch and their
        number; ``margin_shares`` (C,), w. They move only in training mode.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = KappaFaceLoss(2, 2, class_counts=[3, 1])
        >>> _ = loss(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]]), torch.tensor([0, 0, 0, 1]))
        >>> loss.margin_shares  # an epoch is over: the rare class has the larger margin
        tensor([0.3517, 0.5814])

    Source: Oinar et al., KappaFace, IEEE Access 2023, arXiv:2201.07394.

    Differs: the authors keep the last direction of every sample, or a second, slowly moving network; here the
        directions are those that training saw, which needs neither. A class seen less than twice, whose concentration
        nobody knows, counts as one of average concentration; theirs is then infinitely concentrated. They let the
        cosine turn beyond π: ``beyond_pi="rotate"``.
    """

    class_counts: Tensor
    class_sums: Tensor
    class_seen: Tensor
    margin_shares: Tensor

    per_class = (*BaseSoftmaxLoss.per_class, "class_sums", "class_seen", "margin_shares")

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        class_counts: Tensor | Sequence[int] | int,
        margin: float = 0.8,
        scale: float = 64,
        temperature: float = 0.4,
        balance: float = 0.7,
        beyond_pi: BeyondPi = "linear",
        **kwargs,
    ):
        check_between("in [0, π] radians", "The paper's margin is 0.8.", margin=margin)
        check_between("at least 0", "The paper's is 0.4.", temperature=temperature)
        check_between("in [0, 1]", "The paper's is 0.7.", balance=balance)
        super().__init__(num_classes, embedding_size, scale, class_counts=class_counts, **kwargs)
        check_choices(beyond_pi=(beyond_pi, BeyondPi))
        self.margin, self.temperature, self.balance = margin, temperature, balance
        self.beyond_pi = beyond_pi
        self.register_buffer("class_sums", torch.zeros(num_classes, embedding_size))
        self.register_buffer("class_seen", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("margin_shares", torch.ones(num_classes))
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)

    def observe(self, batch: Batch) -> None:
        """Gather directions; at the end of an epoch, new shares of the margin from them."""
        directions = batch.negatives.embeddings.to(self.class_sums)
        self.class_sums = self.class_sums.index_add(0, batch.labels, directions)
        self.class_seen = self.class_seen.index_add(0, batch.labels, torch.ones_like(batch.labels))
        is_over = self.class_seen.sum() >= self.class_counts.sum()
        if is_over.device.type == "cpu" and not is_over:  # elsewhere it is not worth waiting to know
            return
        scattered = 1 - torch.sigmoid(self.temperature * _concentration(self.class_sums, self.class_seen))
        counts = self.class_counts.to(scattered)
        rare = (1 + torch.cos(math.pi * counts / (1.05 * counts.max()))) / 2
        self.margin_shares = torch.where(is_over, torch.lerp(rare, scattered, self.balance), self.margin_shares)
        self.class_sums = self.class_sums.masked_fill(is_over, 0)
        self.class_seen = self.class_seen.masked_fill(is_over, 0)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m_0·w_y)``, continued."""
        margin = self.margin * self.margin_shares[batch.labels].to(batch.cosine)
        return additive_angular(batch.cosine, margin, self.beyond_pi)

    @torch.no_grad()
    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; new classes have not been seen."""
        before = self.num_classes
        super().resize_classes(num_classes)
        added = self.num_classes - before
        self.class_sums = F.pad(self.class_sums, (0, 0, 0, added))
        self.class_seen = F.pad(self.class_seen, (0, added))
        self.margin_shares = F.pad(self.margin_shares, (0, added), value=1)


def _concentration(sums: Tensor, seen: Tensor) -> Tensor:
    """κ̃ from the sums of directions (C, D) and their numbers (C,): κ with mean 0 and standard deviation 1."""
    length = sums.norm(dim=1) / seen.clamp_min(1)
    square = length.square()
    # Copies of one sample are infinitely concentrated; keep that a number.
    kappa = length * (sums.shape[1] - square) / (1 - square).clamp_min(torch.finfo(sums.dtype).eps)
    known = seen > 1
    number = known.sum()
    kappa = kappa - torch.where(known, kappa, 0.0).sum() / number
    variance = torch.where(known, kappa.square(), 0.0).sum() / (number - 1)
    std = variance.sqrt().clamp_min(torch.finfo(sums.dtype).tiny)
    return torch.where(known & (number > 1), kappa / std, 0.0)
