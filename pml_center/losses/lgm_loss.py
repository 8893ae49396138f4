"""LGMLoss."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pml_center.checks import check_between, check_choices, check_chunk_size, check_embeddings, check_labels
from pml_center.losses.base_center_loss import BaseCenterLoss, CenterBatch, Init, Update
from pml_center.losses.tuning import Range
from pml_center.ops.centers import half_squared_distance, log_likelihoods, other_log_likelihoods, with_rows
from pml_center.ops.precision import full_precision, working_dtype

Covariance = Literal["diagonal", "identity"]


class LGMLoss(BaseCenterLoss):
    """Large-margin Gaussian mixture loss: a classifier whose classes are Gaussians, and the likelihood of the features.

    With the half squared Mahalanobis distance ``d_j = ½ Σ_d (x_d − μ_jd)² / v_jd`` and ``l_j = ½ Σ_d log v_jd``,
    ``ℓ = −log( e^{−(1 + α)·d_y − l_y} / (e^{−(1 + α)·d_y − l_y} + Σ_{j≠y} e^{−d_j − l_j}) ) + λ · (d_y + l_y)``. The
    first term is softmax cross entropy with a margin that grows with the distance; the second is the negative log
    likelihood of the embedding in its class, without its constant. It needs no softmax loss beside it: :meth:`predict`
    classifies. Nothing is normalised. The sum over all classes is taken in blocks of matrix products, whose rounding is
    that of the squared lengths: where embeddings are hundreds of times as far from the other means as classes are wide,
    fp32 leaves few digits to the difference of two neighbours. Then pass embeddings in fp64.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: α, at least 0. The authors' code raises it in steps.
        likelihood_weight: λ, at least 0. With learned variances the likelihood has no upper bound: they shrink with the
            embeddings' spread. Then keep λ small, or give ``log_variances`` a smaller learning rate.
        covariance: ``"diagonal"`` learns ``log v`` of each class and dimension, from 0; ``"identity"`` has v = 1, as
            in the authors' TensorFlow code.
        alpha: in (0, 1], the rate of the center step, not the margin; unused by ``update="gradient"``.
        update: ``"gradient"`` makes the means parameters, as in the paper on this loss. With
            ``covariance="identity"`` ``"paper"`` and ``"mean"`` step them towards the embeddings of their class, as in
            :class:`CenterLoss`.
        chunk_size: classes in a block, with nothing kept between forward and backward: memory is
            O(chunk_size · (B + D)). None chooses, and keeps up to 52 MiB. The result does not depend on it.
        kwargs: ``init``, ``accumulation_steps``, ``process_group`` and PML's arguments, see :class:`BaseCenterLoss`.
            Means start from N(0, 1) by default.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``. It may be negative
        where variances are below 1.

    State: ``centers`` (C, D), fp32, the means; a parameter, or a buffer that moves only in training mode.
        ``log_variances`` (C, D), a parameter, or None. ``last_seen``, ``step``.

    Raises:
        ValueError: labels outside [0, num_classes); an argument outside its range.

    Example:
        >>> import torch
        >>> loss = LGMLoss(num_classes=2, embedding_size=2, margin=0.5, likelihood_weight=0.1, init="zeros")
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))  # log(1 + e^(0.5 · 2)) + 0.1 · 2
        tensor(1.5133, grad_fn=<MeanBackward0>)

    Source: Wan et al., Rethinking feature distribution for loss functions in image classification, CVPR 2018,
        arXiv:1803.02988. α = 0.3 and λ = 0.1 are those of the authors' network for CIFAR-100, WeitaoVan/L-GM-loss,
        where α starts from 0.1.

    Differs: YirongMao/softmax_variants takes the Euclidean distance in the likelihood, whatever the covariance.
    """

    default_init: ClassVar[Init] = "normal"
    reaches_all_centers = True

    per_class = (*BaseCenterLoss.per_class, "log_variances")
    tuned: ClassVar[dict[str, Range]] = {
        "margin": Range("margin", 0, 1),
        "likelihood_weight": Range("weight", 0.1, 10, log=True, relative=True),
    }

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.3,
        likelihood_weight: float = 0.1,
        covariance: Covariance = "diagonal",
        alpha: float = 0.5,
        update: Update = "gradient",
        *,
        chunk_size: int | None = None,
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, alpha, update, **kwargs)
        check_choices(covariance=(covariance, Covariance))
        check_chunk_size(chunk_size)
        if covariance == "diagonal" and update != "gradient":
            raise ValueError(
                f'update must be "gradient" with covariance="diagonal", which is learned beside the means, '
                f'got {update!r}. Leave it out, or pass covariance="identity".'
            )
        usual = "The authors have 0.3 and 0.1."
        check_between("finite and at least 0", usual, margin=margin, likelihood_weight=likelihood_weight)
        self.margin, self.likelihood_weight, self.chunk_size = margin, likelihood_weight, chunk_size
        is_learned = covariance == "diagonal"
        self.log_variances = nn.Parameter(torch.zeros(num_classes, embedding_size)) if is_learned else None
        self.add_to_recordable_attributes(list_of_names=["margin", "likelihood_weight"], is_stat=False)

    def pull(self, batch: CenterBatch) -> Tensor:
        """Cross entropy with a margin, and the likelihood."""
        x, labels = batch.embeddings, batch.labels
        own_variances = variances = None
        log_determinant: float | Tensor = 0.0
        if self.log_variances is not None:
            own_variances, variances = with_rows(self.log_variances.to(x.dtype), labels)
            log_determinant = own_variances.sum(1) / 2
        distance = _half_distance(x, batch.own, own_variances)
        others = other_log_likelihoods(x, batch.centers, labels, variances, self.chunk_size)
        target = -(1 + self.margin) * distance - log_determinant
        likelihood = distance + log_determinant
        return F.softplus(others - target, threshold=40) + self.likelihood_weight * likelihood

    def get_logits(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log likelihoods of all classes without their constant, (B, D) to (B, C): with margin if labels are given.

        Args:
            embeddings: (B, D).
            labels: (B,), or None for inference.
        """
        check_embeddings(embeddings, self.embedding_size)
        x = embeddings.to(working_dtype(embeddings, self.centers))
        means = self.centers.to(x.dtype)
        variances = None if self.log_variances is None else self.log_variances.to(x.dtype)
        with full_precision(x):
            logits = log_likelihoods(x, means, variances)
            if labels is None:
                return logits
            labels = check_labels(labels, self.num_classes, len(x))
            distance = _half_distance(x, means[labels], None if variances is None else variances[labels])
            return logits.scatter_add(1, labels.unsqueeze(1), -self.margin * distance.unsqueeze(1))

    def predict(self, embeddings: Tensor) -> Tensor:
        """The most likely class of each embedding, (B, D) to (B,)."""
        return self.get_logits(embeddings).argmax(1)


def _half_distance(embeddings: Tensor, own: Tensor, log_variances: Tensor | None) -> Tensor:
    """Half the squared Mahalanobis distance of each pair of rows, (B,)."""
    if log_variances is None:
        return half_squared_distance(embeddings, own)
    return torch.linalg.vecdot((embeddings - own).square(), log_variances.neg().exp()) / 2
