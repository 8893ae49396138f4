"""MagFaceLoss."""

from typing import ClassVar

from torch import Tensor

from pml_center.checks import check_between, check_choices
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import SCALE, Range
from pml_center.ops.lengths import magnitude_penalty
from pml_center.ops.margins import BeyondPi, additive_angular


class MagFaceLoss(BaseSoftmaxLoss):
    """MagFace: ArcFace whose margin grows with the length of the embedding, so that the length becomes a quality.

    ``ℓ = −log( e^{s·cos(θ_y + m(a))} / (e^{s·cos(θ_y + m(a))} + Σ_{j≠y} e^{s·cos θ_j}) ) + λ_g·g(a)`` with
    ``a = clip(‖x‖, l_a, u_a)``, ``m(a)`` linear from l_m at l_a to u_m at u_a, and ``g(a) = a/u_a² + 1/a``, which draws
    lengths towards u_a. Easy samples afford long embeddings, hard ones do not. The gradient goes through a; beyond its
    ends there is none: watch ``clipped_share``.

    Args:
        num_classes: C.
        embedding_size: D.
        scale: s > 0, the factor of all cosines.
        lower_norm: l_a > 0.
        upper_norm: u_a > l_a.
        lower_margin: l_m, radians in [0, π].
        upper_margin: u_m, radians in [l_m, π].
        regularizer_weight: λ_g ≥ 0.
        beyond_pi: where ``θ_y + m > π``, see :class:`ArcFaceLoss`.
        kwargs: ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), not normalised; labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = MagFaceLoss(2, 2, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> embeddings = torch.tensor([[6.0, 8.0], [66.0, 88.0]])  # of length 10 and 110
        >>> loss.get_logits(embeddings, torch.tensor([0, 0])).detach()  # cos(θ + 0.45), cos(θ + 0.8)
        tensor([[ 0.1923,  0.8000],
                [-0.1559,  0.8000]])

    Source: Meng et al., MagFace, CVPR 2021, arXiv:2103.06627 (section 3.2).

    Differs: the authors' code is ``beyond_pi="easy"`` by default, and has λ_g = 20 in the program, 35 in the
        instructions. FaceX-Zoo's target jumps where ``θ_y + m > π``.
    """

    default_gradient = None  # lengths learn through the target

    tuned: ClassVar[dict[str, Range]] = {
        "scale": SCALE,
        "regularizer_weight": Range("weight", 0.1, 10, log=True, relative=True),
    }

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: float = 64,
        lower_norm: float = 10,
        upper_norm: float = 110,
        lower_margin: float = 0.45,
        upper_margin: float = 0.8,
        regularizer_weight: float = 35,
        beyond_pi: BeyondPi = "linear",
        **kwargs,
    ):
        check_between("positive", "The paper has 10 and 110.", upper_norm=upper_norm)
        check_between(f"positive and below upper_norm={upper_norm}", "The paper has 10 and 110.", lower_norm=lower_norm)
        check_between("in [0, π] radians", "The paper has 0.45 and 0.8.", upper_margin=upper_margin)
        rule = f"in [0, upper_margin={upper_margin}] radians"
        check_between(rule, "The paper has 0.45 and 0.8.", lower_margin=lower_margin)
        check_between("at least 0", "The paper's is 35.", regularizer_weight=regularizer_weight)
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        check_choices(beyond_pi=(beyond_pi, BeyondPi))
        self.lower_norm, self.upper_norm = lower_norm, upper_norm
        self.lower_margin, self.upper_margin = lower_margin, upper_margin
        self.regularizer_weight, self.beyond_pi = regularizer_weight, beyond_pi
        self.clipped_share = 0.0
        self.add_to_recordable_attributes(list_of_names=["clipped_share"], is_stat=True)

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + m(a))``, continued."""
        norm = batch.norm.clamp(self.lower_norm, self.upper_norm)
        slope = (self.upper_margin - self.lower_margin) / (self.upper_norm - self.lower_norm)
        margin = self.lower_margin + slope * (norm - self.lower_norm)
        return additive_angular(batch.cosine, margin, self.beyond_pi)

    def penalty(self, batch: Batch) -> Tensor:
        """``λ_g·g(a)``."""
        norm = batch.norm.clamp(self.lower_norm, self.upper_norm)
        if self.collect_stats:
            self.clipped_share = (norm != batch.norm).double().mean().item()
        return self.regularizer_weight * magnitude_penalty(norm, self.upper_norm)
