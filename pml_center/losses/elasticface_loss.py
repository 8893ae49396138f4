"""ElasticFaceLoss."""

from typing import Literal

import torch
from torch import Tensor

from pml_center.checks import check_between, check_choices, check_flags, check_seed
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.ops.draws import drawn
from pml_center.ops.in_place import untraced
from pml_center.ops.margins import BeyondPi, additive_angular, additive_cosine

Variant = Literal["angular", "cosine"]


class ElasticFaceLoss(BaseSoftmaxLoss):
    """ElasticFace: ArcFace or CosFace whose margin is drawn anew for each sample.

    The target is ``cos(θ_y + E)`` or ``cos θ_y − E`` with ``E ~ N(m, σ²)``: no single margin has to fit all classes.
    With ``plus``, the margins drawn for a batch go to its samples by their distance: the farther from its class, the
    larger. In evaluation every margin is m.

    Args:
        num_classes: C.
        embedding_size: D.
        variant: ``"angular"`` adds the margin to the angle (ElasticFace-Arc), ``"cosine"`` subtracts it from the cosine
            (ElasticFace-Cos).
        margin: m, radians or a cosine; None is the paper's 0.5, or 0.35. Larger is stricter.
        std: σ ≥ 0, in the unit of the margin; None is the paper's 0.05 or, with ``plus``, 0.0175 for an angle and 0.025
            for a cosine. 0 is :class:`ArcFaceLoss` or :class:`CosFaceLoss`.
        scale: s > 0, the factor of all cosines.
        plus: whether far samples get the large margins (ElasticFace+).
        beyond_pi: of ``"angular"``: where ``θ_y + E > π``, see :class:`ArcFaceLoss`.
        seed: of the margins.
        kwargs: ``gradient``, ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``draws``, how many batches drew; with ``seed`` it says the margins of the next one, so that a resumed run
        draws as if never stopped. Moves only in training mode.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = ElasticFaceLoss(2, 2, margin=0.5, scale=1, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss(embeddings, labels) == loss(embeddings, labels)  # each with a margin of its own
        tensor(False)
        >>> loss.eval().get_logits(embeddings, labels).detach()  # cos(θ + 0.5)
        tensor([[0.1430, 0.8000]])

    Source: Boutros et al., ElasticFace, CVPR workshops 2022, arXiv:2109.09416.

    Differs: the authors' ElasticFace+ sorts the margins but then takes them by the index of the k-th nearest sample
        instead of by each sample's rank, so that they go to other samples than the paper says. Their ``"angular"`` is
        ``beyond_pi="rotate"``.
    """

    draws: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        variant: Variant = "angular",
        margin: float | None = None,
        std: float | None = None,
        scale: float = 64,
        plus: bool = False,
        beyond_pi: BeyondPi = "linear",
        seed: int = 0,
        **kwargs,
    ):
        check_choices(variant=(variant, Variant), beyond_pi=(beyond_pi, BeyondPi))
        check_flags(plus=plus)
        usual_margin, usual_std = {"angular": (0.5, 0.0175), "cosine": (0.35, 0.025)}[variant]
        std = (usual_std if plus else 0.05) if std is None else std
        margin, seed = usual_margin if margin is None else margin, check_seed(seed)
        rule = {"angular": "in [0, π] radians", "cosine": "in [0, 2], a difference of cosines"}[variant]
        check_between(rule, f"The paper's margin is {usual_margin}.", margin=margin)
        check_between("at least 0", "The paper's is 0.05.", std=std)
        self.margin_unit = "cosine" if variant == "cosine" else "radians"
        super().__init__(num_classes, embedding_size, scale, **kwargs)
        self.variant, self.margin, self.std = variant, margin, std
        self.plus, self.beyond_pi, self.seed = plus, beyond_pi, seed
        self.add_count("draws")
        self.add_to_recordable_attributes(list_of_names=["margin", "std"], is_stat=False)

    def observe(self, batch: Batch) -> None:
        """Another draw."""
        self.draws = self.draws + 1

    def target_cosine(self, batch: Batch) -> Tensor:
        """``cos(θ + E)`` or ``cos θ − E``."""
        cosine, margin = batch.cosine, self.margin + torch.zeros_like(batch.cosine)
        if self.training:
            margin = margin + self.std * _drawn(self, cosine).to(cosine)
        if self.plus:
            rank = cosine.detach().argsort(descending=True).argsort()
            margin = margin.sort().values[rank]
        if self.variant == "cosine":
            return additive_cosine(cosine, margin)
        return additive_angular(cosine, margin, self.beyond_pi)


@untraced
def _drawn(loss: ElasticFaceLoss, cosine: Tensor) -> Tensor:
    """Standard normal numbers, (B,), in fp32 so that every type draws the same."""
    return drawn(torch.randn, len(cosine), loss.seed + int(loss.draws), cosine.device)
