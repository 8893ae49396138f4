"""NormalizedSoftmaxLoss."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pml_center.checks import check_between, check_flags
from pml_center.losses.base_softmax_loss import BaseSoftmaxLoss, Batch
from pml_center.losses.tuning import SCALE, TEMPERATURE, Range


class NormalizedSoftmaxLoss(BaseSoftmaxLoss):
    """Normalised softmax (NormFace): cross entropy over cosines, divided by a temperature.

    ``ℓ = −log softmax(cos θ / T)_y``: what remains of a margin loss when its margin is 0, and the base line
    to beat.

    Args:
        num_classes: C.
        embedding_size: D.
        temperature: T > 0; the scale of the cosines is 1 / T. Smaller is sharper.
        scale: s > 0, in place of 1 / T. ``"auto"`` takes the least at which separated classes can reach a
            probability of 0.9, ``(C − 1)/C · log(9(C − 1))``; None keeps the temperature.
        learn_scale: whether s is learned from there: its logarithm is then the parameter ``log_scale``. Give it no
            weight decay.
        normalize_weights: False is L2-softmax (Ranjan et al.): only the embeddings are normalised, their length is s,
            and the class weights keep theirs; add ``bias=True`` for the paper's linear layer.
        kwargs: ``distance=DotProductSimilarity(normalize_embeddings=False)`` leaves the embeddings their length;
            ``label_smoothing``, ``chunk_size`` and PML's arguments, see :class:`BaseSoftmaxLoss`.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    Raises:
        ValueError: labels outside [0, num_classes); temperature or scale not positive.

    Example:
        >>> import torch
        >>> loss = NormalizedSoftmaxLoss(2, 2, temperature=0.5, weight_init_func=torch.nn.init.eye_)
        >>> embeddings, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
        >>> loss.get_logits(embeddings).detach()  # 0.6 / 0.5, 0.8 / 0.5
        tensor([[1.2000, 1.6000]])
        >>> loss(embeddings, labels).detach()  # log(1 + e^(1.6 − 1.2))
        tensor(0.9130)

    Source: Wang et al., NormFace: L2 hypersphere embedding for face verification, ACM MM 2017,
        arXiv:1704.06369; Zhai and Wu, Classification is a strong baseline for deep metric learning, BMVC
        2019, arXiv:1811.12649; Ranjan et al., L2-constrained softmax loss, 2017, arXiv:1703.09507.

    Differs: NormFace learns s itself, which may then become negative; here its logarithm.
    """

    log_scale: nn.Parameter | None

    takes_lengths: ClassVar[bool] = True

    margin_unit = "cosine"
    tuned: ClassVar[dict[str, Range]] = {"temperature": TEMPERATURE, "scale": SCALE}

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        temperature: float = 0.05,
        scale: float | Literal["auto"] | None = None,
        learn_scale: bool = False,
        normalize_weights: bool = True,
        **kwargs,
    ):
        check_flags(learn_scale=learn_scale, normalize_weights=normalize_weights)
        check_between("positive", "Common values are 0.02 to 0.1.", temperature=temperature)
        if isinstance(scale, str) and scale != "auto":
            raise ValueError(
                f"scale must be a number, 'auto' or None, got {scale!r}. Leave it out for 1 / temperature."
            )
        number = 1 / temperature if scale is None or isinstance(scale, str) else scale
        self.normalizes = normalize_weights
        super().__init__(num_classes, embedding_size, number, **kwargs)
        self.is_automatic = scale == "auto"
        if self.is_automatic:
            self.scale = automatic_scale(num_classes)
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.scale))) if learn_scale else None
        self.add_to_recordable_attributes(list_of_names=["temperature"], is_stat=False)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.get_logits is not BaseSoftmaxLoss.get_logits:
            raise TypeError(
                f"get_logits must not be overridden in {cls.__name__}, because training does not call it, as PML's "
                "does. Override target_cosine, logit_scale or negative_margin, which both look at."
            )

    def __setattr__(self, name: str, value: Any) -> None:
        """Scale and temperature are one thing, and where it is learned it goes on from what is assigned."""
        other = {"scale": "temperature", "temperature": "scale"}.get(name)
        if other is not None:
            check_between("positive", "To learn it, build the loss with learn_scale=True.", **{name: value})
            self.__dict__[other] = 1 / value
            learned = vars(self).get("_parameters", {}).get("log_scale")
            if learned is not None:
                learned.data.fill_(math.log(value if name == "scale" else 1 / value))
        super().__setattr__(name, value)

    def target_cosine(self, batch: Batch) -> Tensor:
        """The cosine itself: no margin."""
        return batch.cosine

    def logit_scale(self, batch: Batch) -> float | Tensor:
        """s, fixed or learned."""
        return self.scale if self.log_scale is None else self.log_scale.exp().to(batch.cosine)

    def resize_classes(self, num_classes: int) -> None:
        """See :meth:`BaseSoftmaxLoss.resize_classes`; an automatic scale follows, a learned one stays."""
        super().resize_classes(num_classes)
        if self.is_automatic and self.log_scale is None:
            self.scale = automatic_scale(num_classes)


def automatic_scale(num_classes: int) -> float:
    """``(C − 1)/C · log(9(C − 1))``."""
    others = max(num_classes - 1, 1)
    return others / (others + 1) * math.log(9 * others)
