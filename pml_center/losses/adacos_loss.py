"""AdaCosLoss."""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from pml_center.checks import check_flags
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import Range
from pml_center.ops.margins import angle
from pml_center.ops.negative_logits import negative_logsumexp

SCALES = 1.0, 256.0  # with few classes the update can run to −∞ or ∞


class AdaCosLoss(BaseSoftmaxLoss):
    """AdaCos: normalised softmax that finds its scale by itself.

    ``ℓ = −log( e^{s·cos θ_y} / Σ_j e^{s·cos θ_j} )``. s starts from ``√2·log(C − 1)`` and becomes
    ``log(B_avg) / cos(min(π/4, θ_med))`` before each training batch is looked at, where ``B_avg`` is the mean over the
    batch of ``Σ_{j≠y} e^{s·cos θ_j}`` and ``θ_med`` the median of ``θ_y``. No hyperparameter to tune: a good first try.

    Args:
        num_classes: C.
        embedding_size: D.
        dynamic: whether s follows the batches; else it stays at its start, the paper's fixed AdaCos.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``running_scale``, a 0-d buffer; moves only in training mode.

    Raises:
        ValueError: labels outside [0, num_classes).

    Example:
        >>> import torch
        >>> loss = AdaCosLoss(2, 2, weight_init_func=torch.nn.init.eye_)
        >>> _ = loss(torch.tensor([[0.6, 0.8]]), torch.tensor([0]))
        >>> loss.running_scale  # log(e^0.8) / cos(π/4)
        tensor(1.1314)

    Source: Zhang et al., AdaCos: adaptively scaling cosine logits for effectively learning deep face representations,
        CVPR 2019, arXiv:1905.00292.

    Differs: public codes move s in evaluation too, and let it become 0 for two classes, negative, or infinite; here
        it stays in [1, 256]. Where the batch is even, the median is the lower one, as in theirs.
    """

    running_scale: Tensor

    margin_unit = "cosine"
    tuned: ClassVar[dict[str, Range]] = {}  # its scale follows the angles

    def __init__(self, num_classes: int, embedding_size: int, dynamic: bool = True, **kwargs):
        check_flags(dynamic=dynamic)
        super().__init__(num_classes, embedding_size, **kwargs)
        self.scale = max(math.sqrt(2) * math.log(max(num_classes - 1, 1)), SCALES[0])
        self.dynamic = dynamic
        if not dynamic:
            self._observes = False
            self._moves = "step" not in self._non_persistent_buffers_set or self.class_weights.sample_rate < 1
        self.register_buffer("running_scale", torch.tensor(self.scale))

    def target_cosine(self, batch: Batch) -> Tensor:
        """The cosine itself: no margin."""
        return batch.cosine

    def logit_scale(self, batch: Batch) -> Tensor:
        """The running s."""
        return self.running_scale.to(batch.cosine)

    def observe(self, batch: Batch) -> None:
        """Move s to where the probability of the median sample changes fastest."""
        seen = dataclasses.replace(batch.negatives, scale=self.running_scale, drawn=None)
        sums = negative_logsumexp(seen)
        mean = sums.logsumexp(0) - math.log(len(sums))  # log(B_avg)
        median = angle(batch.cosine).median().clamp_max(math.pi / 4)
        self.running_scale = (mean / median.cos()).clamp(*SCALES).to(self.running_scale)
