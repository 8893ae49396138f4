"""AdaFaceLoss."""

import torch
from torch import Tensor

from pml_center.checks import check_between
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.watch import ClampedLengths
from pml_center.ops.margins import additive_angular, additive_cosine

SMALLEST_NORM, LARGEST_NORM = 1e-3, 100.0  # of an embedding, for the statistics
LEAST_STD = 1e-3  # added to the standard deviation


class AdaFaceLoss(BaseSoftmaxLoss):
    """AdaFace: a margin that asks much of hard samples of good quality and little of those of poor quality.

    The length of an embedding stands for the quality of its image: ``z = clip(h·(‖x‖ − μ) / σ, −1, 1)`` with running
    mean μ and standard deviation σ of the lengths. The target is ``cos(θ_y − m·z) − m·(1 + z)``: CosFace at z = 0,
    ArcFace at z = −1, and a negative angle beyond that at z = 1, which stops at 0: where θ_y < m·z the target is the
    constant ``1 − m·(1 + z)``, and the sample has no pull of its own. For images of mixed quality. No gradient goes
    through z, so the lengths are free.

    As in the authors' code, lengths are taken to be in [0.001, 100] for z and for the statistics, and σ stands for
    ``σ + 0.001``. Where all embeddings are longer than 100, z goes to 0 for all, and the loss becomes CosFace: it
    warns, once, where most of a batch are.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, radians and cosine, in [0, π/2]. Larger is stricter.
        scale: s > 0, the factor of all cosines.
        concentration: h ≥ 0, how soon z reaches its ends; 0 is :class:`CosFaceLoss`.
        momentum: in [0, 1], the weight of the newest batch in μ and σ.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), not normalised; labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``batch_mean`` and ``batch_std``, μ and σ, from 20 and 100; they move before use, and only in training mode.
        A batch of one leaves σ alone.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = AdaFaceLoss(2, 2, margin=0.5, scale=1, concentration=2, weight_init_func=torch.nn.init.eye_)
        >>> embeddings = torch.tensor([[12.0, 16.0], [60.0, 80.0]])  # of length 20, the mean, and 100
        >>> loss.get_logits(embeddings, torch.tensor([0, 0])).detach()  # 0.6 − 0.5, cos(θ − 0.5) − 1
        tensor([[ 0.1000,  0.8000],
                [-0.0899,  0.8000]])

    Source: Kim et al., AdaFace, CVPR 2022, arXiv:2204.00964 (section 3.3).

    Differs: the authors' code clamps all cosines to ±(1 − 1e-3) and all angles to [1e-3, π − 1e-3], beyond which a
        sample has no gradient; the paper has no such clamps, nor has this. The code also moves the statistics in
        evaluation, and its σ is NaN after a batch of one.
    """

    batch_mean: Tensor
    batch_std: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.4,
        scale: float = 64,
        concentration: float = 0.333,
        momentum: float = 0.01,
        **kwargs,
    ):
        check_between("in [0, π/2] radians", "The paper's margin is 0.4.", margin=margin)
        check_between("at least 0", "The paper's is 0.333.", concentration=concentration)
        check_between("in [0, 1]", "The paper's is 0.01.", momentum=momentum)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.margin, self.concentration, self.momentum = margin, concentration, momentum
        self.register_buffer("batch_mean", torch.tensor(20.0))
        self.register_buffer("batch_std", torch.tensor(100.0))
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)
        self._clamped = ClampedLengths(type(self).__name__)

    def observe(self, batch: Batch) -> None:
        """μ and σ move towards those of the batch."""
        self._clamped.see(batch.norm, LARGEST_NORM)
        norm = batch.norm.clamp(SMALLEST_NORM, LARGEST_NORM).to(self.batch_mean)
        self.batch_mean = self.batch_mean.lerp(norm.mean(), self.momentum)
        if len(norm) > 1:
            self.batch_std = self.batch_std.lerp(norm.std(), self.momentum)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ − m·z) − m·(1 + z)``."""
        # A constant: else embeddings would grow or shrink to choose their margin.
        norm = batch.norm.detach().clamp(SMALLEST_NORM, LARGEST_NORM)
        quality = (norm - self.batch_mean) / (self.batch_std + LEAST_STD)
        shift = self.margin * (self.concentration * quality).clamp(-1, 1).to(batch.cosine)
        return additive_cosine(additive_angular(batch.cosine, -shift), self.margin + shift)
