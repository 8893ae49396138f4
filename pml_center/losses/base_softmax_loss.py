"""BaseSoftmaxLoss: the engine of the softmax family."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity
from pytorch_metric_learning.reducers import MeanReducer, SumReducer
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor

from pml_center.checks import (
    check_between,
    check_choices,
    check_chunk_size,
    check_class_counts,
    check_embeddings,
    check_flags,
    check_functions,
    check_labels,
    check_size,
)
from pml_center.distributed.collectives import join_parts, own_rows
from pml_center.losses.base_class_loss import BaseClassLoss
from pml_center.losses.base_element_loss import elsewhere
from pml_center.losses.class_weights import Chosen, ClassWeights, Counting
from pml_center.losses.placed_rows import Placed, check_length, placed_rows
from pml_center.losses.pml_layout import class_columns, keep_columns
from pml_center.losses.pml_names import PMLSoftmaxNames
from pml_center.losses.pml_state import from_pml, take_weights, to_pml
from pml_center.losses.tuning import SCALE, Range
from pml_center.ops.in_place import untraced
from pml_center.ops.margins import Gradient, approached, detached
from pml_center.ops.negative_logits import (
    Elementwise,
    NegativeLogits,
    compare,
    directions,
    hardest,
    nearest_row,
    negative_logsumexp,
    negative_sum,
    scaled,
)
from pml_center.ops.precision import ProductPrecision, full_precision, working_dtype

Schedule = Callable[[int], float]
MarginUnit = Literal["radians", "degrees", "cosine"]


@dataclass(frozen=True)
class Batch:
    """What a margin may look at."""

    cosine: Tensor
    """(B,) between each embedding and its class weights; the plain product where a loss normalises nothing."""
    norm: Tensor
    """(B,) length of each embedding."""
    labels: Tensor
    """(B,)"""
    compared: NegativeLogits | None = None
    """The cosines to all other classes, described and never held."""
    row_norm: Tensor = field(default_factory=lambda: torch.ones(()))
    """(B,) length of the weights of each sample's class, for losses that normalise nothing."""

    @property
    def negatives(self) -> NegativeLogits:
        """The cosines to all other classes, detached: for sums over them."""
        cosines = self.compared
        assert cosines is not None
        return replace(cosines, embeddings=cosines.embeddings.detach(), weight=cosines.weight.detach(), bias=None)


def _check_definition(loss: "BaseSoftmaxLoss", distance: Any) -> None:
    """A loss keeps to the distance that it is defined on, for it never calls it."""
    name, got = type(loss).__name__, type(distance).__name__
    if type(distance) in (CosineSimilarity, DotProductSimilarity):
        got += f" with p={distance.p}, power={distance.power}, normalize_embeddings={distance.normalize_embeddings}"
        lengths_fit = loss.takes_lengths or distance.normalize_embeddings is loss.normalizes
        if (distance.p, distance.power) == (2, 1) and lengths_fit:
            return
    raise TypeError(
        f"distance must be {type(loss.get_default_distance()).__name__} because {name} is defined on it, got {got}. "
        "Leave distance out."
    )


class BaseSoftmaxLoss(Counting, PMLSoftmaxNames, BaseClassLoss):
    """Softmax cross entropy over similarities to one row of weights per class, with a margin on the target: abstract.

    With t the cosine to one's own class and c to another, every loss of the family is
    ``softplus(logsumexp(s·ν(c)) − s·ψ(t))``. A final subclass states its paper through these hooks and nothing else. It
    must say

    - :meth:`target_cosine`: ψ,

    and may say

    - :meth:`negative_margin`: ν, and :meth:`negative_threshold`, what it compares with;
    - :meth:`logit_scale`: s;
    - :meth:`observe`: what moves its running statistics;
    - :meth:`prototypes`: what stands for the classes in training;
    - :meth:`combine`: for the rare loss that is no cross entropy;
    - :meth:`penalty`: a term beside it;
    - ``normalizes``: False if it compares by the plain product, and ``takes_lengths`` if its ``distance`` may say so;
    - ``margin_unit``: of its margin, ``"radians"``, ``"degrees"`` or ``"cosine"``;
    - ``default_gradient``: whether the paper differentiates its margin, None if nothing else is right;
    - ``from_pml_units``: for arguments that PML keeps in another unit, and ``pml_weight``: its name of the weights;
    - ``per_class``: its parameters and buffers with rows for each class, beside the weights.

    Blocks of logits are made a chunk of classes at a time.

    Args:
        num_classes: C.
        embedding_size: D.
        scale: s, the factor of all cosines.
        bias: whether each class has an additive bias.
        sub_centers: rows of weights per class; an embedding meets the nearest (Deng et al. 2020, Sub-center ArcFace).
        sample_rate: in (0, 1], the share of the classes that takes part in a training step: those of the batch and a
            random choice of the others (An et al. 2021, Partial FC). Evaluation always sees all.
        sample_correction: with ``sample_rate`` below 1, whether a class that was drawn with probability q counts 1/q
            times, so that sums over the classes estimate those over all: −log q is added to its logit in the softmax.
            False is Partial FC as published, a softmax over fewer classes. Running statistics see what was drawn.
        gradient: ``"full"`` differentiates the target; ``"detached"`` takes its margin, what it has beyond the cosine,
            for a constant, which is steadier at small angles; a loss whose margin cannot be one refuses it. None is the
            choice of the paper, ``"full"`` unless the loss says otherwise.
        update: ``"gradient"``: an optimizer moves the class weights. ``"fixed"``: they stay where ``init`` puts them,
            and have neither gradient nor state in an optimizer (Yang et al. 2022, where few samples or classes to come
            would bend learned ones).
        init: ``"simplex"``: class weights as far from each other as C ≤ D + 1 of them can be, where training would end
            (neural collapse); ``"axes"``: C ≤ D, one along each, and room for classes to come. None leaves the start to
            ``weight_init_func``.
        init_length: of each row of a simplex or along an axis, for losses that do not normalise them.
        sparse_gradient: with ``sample_rate`` below 1, whether the gradient of the weights is a sparse tensor of the
            rows that took part, for ``torch.optim.SGD`` or ``SparseAdam``; else it is dense, for any optimizer.
        label_smoothing: in [0, 1). The share of the target that is spread evenly over the classes.
        class_counts: n, (C,) samples of each class in the training data, or one number for all;
            ``torch.bincount(labels, minlength=num_classes)``. ``prior_weight`` reads them, and losses whose margins
            follow them.
        prior_weight: τ ≥ 0. In training ``τ·log n_j`` is added to the logit of each class, so that what is learned does
            not expect frequent classes more than rare ones: balanced softmax with 1 (Ren et al. 2020), logit adjustment
            (Menon et al. 2021). For data of a long tail that is tested evenly. A loss that is no cross entropy refuses
            it.
        hard_negatives: k, how many other classes, those nearest to a sample, come nearer by ``hard_negative_margin``:
            ``cos(θ_j − m')``, or ``cos θ_j + m'`` where the loss's own margin is a difference of cosines (Zhao et al.
            2021, inter-top-k). The k-th largest cosine is found in a pass of its own over the blocks of classes.
            0 is none.
        hard_negative_margin: m', in the unit of the loss's own margin: radians; degrees in :class:`ArcFaceLoss` and
            :class:`SubCenterArcFaceLoss`; a cosine in those whose margin is one. A common one is 0.3 of the margin.
        margin_schedule: from the number of the training batch, counted from 1, to the share in [0, 1] of the margin
            that is applied: ``t + share·(ψ(t) − t)``.
        scale_schedule: from the number of the training batch, counted from 1, to a factor of the scale.
        chunk_size: classes in a block of logits, with nothing kept between forward and backward: memory is
            O(B · chunk_size). None chooses, and keeps up to 52 MiB. The result does not depend on it.
        product_precision: of the matrix products of the loss with all classes. ``"autocast"``: bf16 or fp16 under such
            an autocast or with such embeddings, with sums in fp32, as all else is; on a CPU only if it has units for
            them. ``"float32"``: never. fp64 stays.
        kwargs: ``ignore_index``, ``loss_weights`` and PML's arguments, see
            :class:`~pml_center.losses.base_class_loss.BaseClassLoss`. ``weight_init_func`` is Xavier's by default,
            N(0, √(2 / (C + D))), where PML takes N(0, 1): a step of SGD turns a row by about lr / length², one of Adam
            by lr·√D / length. Short rows are thrown about by large steps, long rows hardly move.

    Shape: embeddings (B, D), labels (B,) in [0, C) -> loss per sample (B,), reduced by ``reducer``.

    State: ``class_weights.weight`` (C · sub_centers, D), fp32, ``class_counts`` (C,) where they are given, and what
        schedules and sampling count.

    Raises:
        ValueError: an argument outside its range; see :meth:`forward` for those of a batch.
        TypeError: a distance other than the one that the margin is defined on.
    """

    normalizes: bool = True  # embeddings and weights are compared by cosine, else by the plain product
    default_gradient: ClassVar[Gradient | None] = "full"  # None: a margin that cannot be taken for a constant
    takes_lengths: ClassVar[bool] = False  # embeddings may also keep their length, where the distance says so
    per_class = (*BaseClassLoss.per_class, "class_counts")
    margin_unit: MarginUnit = "radians"
    from_pml_units: ClassVar[dict[str, Callable]] = {}  # of attributes that PML stores in another unit than it takes
    tuned: ClassVar[dict[str, Range]] = {"scale": SCALE, "margin": Range("margin", 0, 0.7)}
    pml_weight: ClassVar[str] = "W"  # what PML calls the class weights, which are the transpose of ours

    _check_distance = _check_definition
    class_weights: ClassWeights
    class_counts: Tensor | None
    _step: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: float = 1.0,
        *,
        bias: bool = False,
        sub_centers: int = 1,
        sample_rate: float = 1.0,
        sample_correction: bool = True,
        gradient: Gradient | None = None,
        update: Literal["gradient", "fixed"] = "gradient",
        init: Placed | None = None,
        init_length: float = 1.0,
        sparse_gradient: bool = False,
        label_smoothing: float = 0.0,
        class_counts: Tensor | Sequence[int] | int | None = None,
        prior_weight: float = 0.0,
        hard_negatives: int = 0,
        hard_negative_margin: float = 0.0,
        margin_schedule: Schedule | None = None,
        scale_schedule: Schedule | None = None,
        chunk_size: int | None = None,
        product_precision: ProductPrecision = "autocast",
        **kwargs,
    ):
        super().__init__(num_classes, embedding_size, **kwargs)
        sub_centers = check_size("sub_centers", sub_centers, "Common values are 1 and 3.")
        _check_options(scale, sample_rate, label_smoothing, chunk_size, margin_schedule, scale_schedule)
        check_flags(bias=bias, sample_correction=sample_correction, sparse_gradient=sparse_gradient)
        check_choices(product_precision=(product_precision, ProductPrecision))
        _check_cross_entropy(self, label_smoothing=label_smoothing, prior_weight=prior_weight)
        _check_hard_negatives(self, hard_negatives, hard_negative_margin)
        self.prior_weight = prior_weight
        self.hard_negatives, self.hard_negative_margin = hard_negatives, hard_negative_margin
        if class_counts is None and prior_weight:
            raise _without_counts(prior_weight)
        if class_counts is not None:
            self.register_buffer("class_counts", check_class_counts(class_counts, num_classes))
        else:
            self.class_counts = None  # a buffer that is None would stop PML's record keeper
        _check_placement(update, init, init_length, sub_centers, kwargs)
        if update == "fixed" and sparse_gradient:
            raise ValueError(
                'sparse_gradient must be False with update="fixed", without gradient, got True. Leave it out.'
            )
        self.gradient = _checked_gradient(self, gradient)
        self.update, self.init, self.init_length = update, init, init_length
        self.scale, self.sub_centers, self.label_smoothing = scale, sub_centers, label_smoothing
        self._has_negative_margin = type(self).negative_margin is not BaseSoftmaxLoss.negative_margin
        self._observes = type(self).observe is not BaseSoftmaxLoss.observe  # whether it has running statistics
        self.margin_schedule, self.scale_schedule, self.chunk_size = margin_schedule, scale_schedule, chunk_size
        self.product_precision = product_precision
        self.sparse_gradient = sparse_gradient and sample_rate < 1
        self.class_weights = ClassWeights(
            num_classes,
            embedding_size,
            self._start,
            bias,
            sub_centers,
            float(sample_rate),
            sample_correction,
            sparse_gradient,
        )
        self.class_weights.weight.requires_grad_(update == "gradient")
        scheduled = margin_schedule is not None or scale_schedule is not None
        self._counts = self._moves = scheduled or sample_rate < 1 or self._observes
        self.add_count("_step", is_saved=scheduled)
        self.add_to_recordable_attributes(list_of_names=["scale"], is_stat=False)
        self.add_to_recordable_attributes(list_of_names=["avg_angle", "avg_norm", "avg_scale"], is_stat=True)

    def target_cosine(self, batch: Batch) -> Tensor:
        """ψ: what stands in place of the cosine to one's own class, (B,)."""
        raise NotImplementedError

    def negative_margin(self, target: Tensor) -> Elementwise | None:
        """ν: a function of (B, K) cosines to other classes, entry by entry; None leaves them alone.

        Args:
            target: (B,) what :meth:`negative_threshold` returned, detached.
        """
        return None

    def negative_threshold(self, batch: Batch, target: Tensor) -> Tensor:
        """What :meth:`negative_margin` compares with, (B,); ``target``, what :meth:`target_cosine` returned."""
        return target

    def prototypes(self, chosen: Chosen) -> Tensor:
        """What stands for the classes in training, (R · sub_centers, D); their weights."""
        return chosen.rows

    def logit_scale(self, batch: Batch) -> float | Tensor:
        """s: one factor for all, or (B,)."""
        return self.scale

    def observe(self, batch: Batch) -> None:
        """Move running statistics; called in training mode, without gradient. Replace buffers, never mutate them."""

    def combine(self, target: Tensor, negatives: NegativeLogits) -> Tensor:
        """The loss of each sample, (B,), from the logit of its own class (B,) and those of the others."""
        # Not logsumexp − target: softplus keeps the relative precision of tiny losses. Its default threshold of 20
        # becomes the identity with an error of 1e-9.
        losses = F.softplus(negative_logsumexp(negatives) - target, threshold=40)
        if not self.label_smoothing:
            return losses
        classes = len(negatives.weight) // self.sub_centers if negatives.drawn is None else self.num_classes
        return losses + self.label_smoothing * (target - (target + negative_sum(negatives)) / classes)

    def penalty(self, batch: Batch) -> Tensor | None:
        """What is added to the loss of each sample, (B,) or one for all; None is nothing."""
        return None

    W = property(class_columns, keep_columns, doc="The class weights in PML's layout, (D, C · sub_centers); a view.")

    def get_logits(self, embeddings: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of all classes, (B, C): scaled and without margin, or those of training if labels are given.

        Args:
            embeddings: (B, D).
            labels: (B,) in [0, num_classes), or None for inference.

        Raises:
            TypeError: as :meth:`forward`.
            ValueError: likewise; ``ignore_index``, too, is no class that could have a margin.
        """
        _check_embeddings(self, embeddings)
        if labels is not None:
            labels = check_labels(labels, self.num_classes, len(embeddings)).to(embeddings.device)
        embeddings = embeddings.to(working_dtype(embeddings, self.class_weights.weight))
        with full_precision(embeddings):
            rows, bias = self.class_weights.everything(embeddings.dtype)
            if labels is not None and self.training:
                rows = self.prototypes(Chosen(rows, bias, labels))
            unit, norm = directions(embeddings, self.distance.normalize_embeddings)
            similarity = F.linear(unit, F.normalize(rows, dim=1) if self.normalizes else rows)
            similarity = nearest_row(similarity, self.sub_centers)
            if labels is None:
                batch = Batch(similarity.amax(1), norm, similarity.argmax(1))
            else:
                batch = self._compare(embeddings, Chosen(rows, bias, labels), labels)
                target = self._target(batch)
                bias = batch.compared.bias  # type: ignore[union-attr]
                own, margin = labels.unsqueeze(1), self.negative_margin(self.negative_threshold(batch, target).detach())
                if self.hard_negatives:
                    others = similarity.detach().scatter(1, own, -math.inf)
                    margin = _nearer(
                        self, margin, others.topk(min(self.hard_negatives, self.num_classes)).values[:, -1]
                    )
                similarity = similarity if margin is None else margin(similarity)
                similarity = similarity.scatter(1, own, target.unsqueeze(1))
            logits = scaled(similarity, self._scale(batch))
            return logits if bias is None else logits + bias

    def predict(self, embeddings: Tensor) -> Tensor:
        """The most likely class of each embedding, (B, D) to (B,)."""
        return self.get_logits(embeddings).argmax(1)

    @torch.no_grad()
    def resize_classes(self, num_classes: int) -> None:
        """Add classes, or drop the last ones; those that stay keep their weights.

        New ones have a loss weight of 1 and count one sample: set ``class_counts``.

        The weights become a new parameter: give it to the optimizer again.

        Args:
            num_classes: C from now on, at least 1.
        """
        size = check_size("num_classes", num_classes)
        if self.init == "simplex" and self.update == "fixed" and size != self.num_classes:
            raise ValueError(
                f"num_classes must stay {self.num_classes} where class weights are the corners of a simplex, which "
                f'another one would move, got {size}. Build a new loss, or take init="axes".'
            )
        self.class_weights.resize(size, self._start)
        self.__dict__["num_classes"] = size
        self.class_weights.weight.requires_grad_(self.update == "gradient")
        if self.loss_weights is not None:
            self.loss_weights = F.pad(self.loss_weights, (0, num_classes - len(self.loss_weights)), value=1)
        if self.class_counts is not None:
            self.class_counts = F.pad(self.class_counts, (0, num_classes - len(self.class_counts)), value=1)

    @torch.no_grad()
    def get_outliers(
        self, embeddings: Tensor, labels: Tensor, threshold: float = 75.0, return_dominant_centers: bool = True
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Samples far from the dominant sub-center of their class: likely label errors.

        A class's dominant sub-center is the one that is nearest to most of its samples.

        Args:
            embeddings: (N, D).
            labels: (N,) in [0, C).
            threshold: degrees.
            return_dominant_centers: whether they come too.

        Returns:
            Rows of the outliers, and the dominant sub-centers in PML's layout, (D, C).
        """
        outliers, dominant = self.class_weights.outliers(embeddings, labels, threshold)
        return (outliers, dominant.t()) if return_dominant_centers else outliers

    @torch.no_grad()
    def drop_nondominant(self, embeddings: Tensor, labels: Tensor) -> None:
        """Keep only the dominant sub-center of each class; the loss then has one row per class.

        The weights become a new parameter: give it to the optimizer again.

        Args:
            embeddings: (N, D) of the training set.
            labels: (N,) in [0, C).
        """
        self.class_weights.keep_dominant(embeddings, labels)
        self.__dict__["sub_centers"] = 1

    @classmethod
    def from_pml(cls, loss: Any) -> "BaseSoftmaxLoss":
        """This loss with the arguments and weights of PML's loss of the same name.

        Raises:
            TypeError: a loss of another name, or one of ours.
        """
        return from_pml(cls, loss)

    def to_pml(self) -> Any:
        """PML's loss of the same name with these arguments and weights, the inverse of :meth:`from_pml`.

        Raises:
            TypeError: a loss that PML does not have.
            ValueError: an option that PML's loss does not have, such as ``label_smoothing``.
        """
        return to_pml(self)

    def element_losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, (B,)."""
        batch = self._compare(embeddings, self._chosen(labels, embeddings.dtype), labels)
        self._look_at(batch)
        losses = self._losses(batch)
        penalty = self.penalty(batch)
        return losses if penalty is None else losses + penalty

    def requires_grad_(self, requires_grad: bool = True) -> "BaseSoftmaxLoss":
        """As of any module; class weights that are fixed stay so."""
        super().requires_grad_(requires_grad)
        if self.update == "fixed":
            self.class_weights.weight.requires_grad_(False)
        return self

    def _start(self, columns: Tensor) -> object:
        """Fill (D, C · sub_centers), PML's layout, with the weights to begin with."""
        if self.init is None:
            return self.weight_init_func(columns)
        size, classes = columns.shape
        return columns.copy_(placed_rows(self.init, classes, size, self.init_length).t())

    def losses_of_both(
        self, embeddings: Tensor, labels: Tensor, other_labels: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By one draw of the classes, seen once by running statistics; in one pass where no margin is in the way."""
        chosen = self._chosen(torch.cat([labels, other_labels]), embeddings.dtype)
        first, second = chosen.own.chunk(2)
        batches = [
            self._compare(embeddings, chosen._replace(own=own), of_class)
            for own, of_class in ((first, labels), (second, other_labels))
        ]
        if self.collect_stats or (self.training and self._moves):
            is_first = share >= 0.5
            seen = chosen._replace(own=torch.where(is_first, first, second))
            self._look_at(self._compare(embeddings.detach(), seen, torch.where(is_first, labels, other_labels)))
        losses = _in_one_pass(self, *batches) if self._passes_once else tuple(map(self._losses, batches))
        penalties = [self.penalty(batch) for batch in batches]
        one, two = (of if more is None else of + more for of, more in zip(losses, penalties, strict=True))
        return one, two

    @property
    def _passes_once(self) -> bool:
        """Whether the sum over the classes that are neither of a sample's two is the same for both."""
        plain = type(self).combine is BaseSoftmaxLoss.combine and not self.label_smoothing
        return plain and not (self._has_negative_margin or self.hard_negatives)

    def class_rows(self) -> Tensor:
        """The class weights, (C · sub_centers, D)."""
        return self.class_weights.weight

    def get_default_distance(self):
        """PML's hook: cosine similarity, or the plain product."""
        return CosineSimilarity() if type(self).normalizes else DotProductSimilarity(normalize_embeddings=False)

    def get_default_weight_init_func(self):
        """PML's hook: Xavier's normal start, see the design notes."""
        return c_f.TorchInitWrapper(torch.nn.init.xavier_normal_)

    def _may_ignore_later(self, indices_tuple: object) -> bool:
        """Where nothing looks at the samples together, as weights of classes, statistics and most reducers do."""
        together = self.loss_weights, self.weight_regularizer, self.embedding_regularizer, indices_tuple
        is_summed = type(self.reducer) in (MeanReducer, SumReducer)
        return is_summed and not self._moves and not self.collect_stats and all(each is None for each in together)

    def _compare(self, embeddings: Tensor, chosen: Chosen, labels: Tensor) -> Batch:
        """What the hooks see."""
        compared = compare(
            embeddings,
            chosen.rows,
            chosen.own,
            self.distance.normalize_embeddings,
            self.normalizes,
            self.sub_centers,
        )
        negatives = NegativeLogits(
            compared.direction,
            compared.weight,
            chosen.own,
            bias=_with_prior(self, chosen) if self.training and self.prior_weight else chosen.bias,
            normalize=self.normalizes,
            sub_centers=self.sub_centers,
            drawn=chosen.drawn,
            chunk_size=self.chunk_size,
            product_dtype=self._product_dtype,
        )
        return Batch(compared.similarity, compared.norm, labels, negatives, compared.row_norm)

    def _chosen(self, labels: Tensor, dtype: torch.dtype) -> Chosen:
        """The classes that take part, and what stands for them."""
        chosen = self.class_weights.choose(labels, dtype)
        return chosen._replace(rows=self.prototypes(chosen)) if self.training else chosen

    def _look_at(self, batch: Batch) -> None:
        """Move what runs along, and record what is asked for."""
        if self.training and self._moves:
            _move(self, batch)
        if self.collect_stats:
            _record(self, batch)

    def _losses(self, batch: Batch) -> Tensor:
        """The loss of each embedding, (B,), from what :meth:`_compare` makes of it."""
        target, scale = self._target(batch), self._scale(batch)
        negatives = batch.compared
        assert negatives is not None
        logits = scale * target
        if negatives.bias is not None:
            logits = logits + negatives.bias.index_select(0, negatives.own)
        margin = None
        if self._has_negative_margin:
            margin = self.negative_margin(own_rows(self.negative_threshold(batch, target).detach()))
        negatives = _own_part(negatives, scale, margin=margin)
        if self.hard_negatives:
            negatives = replace(negatives, margin=_nearer(self, margin, hardest(negatives, self.hard_negatives)))
        return join_parts(self.combine(own_rows(logits), negatives), len(logits))

    def _target(self, batch: Batch) -> Tensor:
        """ψ(t), or the scheduled share of the way from t to it."""
        target = detached(batch.cosine, self.target_cosine(batch), self.gradient)
        if self.margin_schedule is None:
            return target
        share = _scheduled(self, "margin_schedule", "in [0, 1]", "It is the share of the margin that is applied.")
        return batch.cosine + share * (target - batch.cosine)

    def _scale(self, batch: Batch) -> float | Tensor:
        scale = self.logit_scale(batch)
        if self.scale_schedule is None:
            return scale
        return scale * _scheduled(self, "scale_schedule", "positive", "It is a factor of the scale.")

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Also takes PML's state: its weights are the transpose of ours."""
        take_weights(self, state_dict, prefix)
        if self.class_counts is not None:  # of the data, which a state may not know
            state_dict.setdefault(f"{prefix}class_counts", self.class_counts)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _own_part(negatives: NegativeLogits, scale: float | Tensor, **changes: Any) -> NegativeLogits:
    """Those of this process: of several with the same batch, each has a part of the products."""
    return replace(
        negatives,
        embeddings=own_rows(negatives.embeddings),
        own=own_rows(negatives.own),
        scale=own_rows(scale) if isinstance(scale, Tensor) and scale.ndim else scale,
        **changes,
    )


def _in_one_pass(loss: BaseSoftmaxLoss, first: Batch, second: Batch) -> tuple[Tensor, Tensor]:
    """The losses by either class: a class that is the other one has its cosine as it is, among all others."""
    scale = loss._scale(first)  # a function of the lengths at most, which are those of both
    targets, plain, described = [], [], []
    for batch in (first, second):
        negatives = batch.compared
        assert negatives is not None
        described.append(negatives)
        bias = 0.0 if negatives.bias is None else negatives.bias.index_select(0, negatives.own)
        targets.append(scale * loss._target(batch) + bias)
        plain.append(scale * batch.cosine + bias)
    own, other = (negatives.own for negatives in described)
    others = join_parts(negative_logsumexp(_own_part(described[0], scale, other=own_rows(other))), len(own))
    is_same, least = first.labels == second.labels, torch.finfo(others.dtype).min
    one, two = (
        F.softplus(torch.logaddexp(others, torch.where(is_same, least, neighbour)) - target, threshold=40)
        for target, neighbour in zip(targets, reversed(plain), strict=True)
    )
    return one, two


@torch.no_grad()
def _move(loss: BaseSoftmaxLoss, batch: Batch) -> None:
    """Count the batch and move running statistics; one that is not finite, which would stay in them, moves none."""
    loss._step = loss._step + 1
    if not loss._observes:
        return
    before = dict(loss.named_buffers(recurse=False)) | loss.counts
    loss.observe(batch)
    finite = (batch.cosine * batch.norm).sum().isfinite()
    if finite.device.type != "cpu" or torch.compiler.is_compiling() or not finite:
        for name, old in before.items():
            new = getattr(loss, name)
            if new is not old and new.device == finite.device:  # a count on the CPU cannot know of a GPU
                setattr(loss, name, torch.where(finite, new, old))


@untraced
def _scheduled(loss: BaseSoftmaxLoss, name: str, rule: str, remedy: str) -> Tensor:
    """What a schedule says of this batch: 0-d, on the CPU, for a number would be compiled anew with each value."""
    step = max(int(loss._step), 1)
    value = getattr(loss, name)(step)
    check_between(rule, remedy, **{f"{name}({step})": value})
    return torch.tensor(value, dtype=torch.double)


@torch.no_grad()
def _record(loss: BaseSoftmaxLoss, batch: Batch) -> None:
    """PML's recordable statistics: mean angle to one's own class in degrees, mean length, mean scale."""
    scale = loss._scale(batch)
    loss.avg_norm = batch.norm.mean().item()
    loss.avg_scale = float(scale.mean()) if isinstance(scale, Tensor) else scale
    if loss.normalizes:
        loss.avg_angle = batch.cosine.clamp(-1, 1).acos().mean().rad2deg().item()


def _without_counts(prior_weight: float) -> ValueError:
    return ValueError(
        f"class_counts must be given with a prior_weight, which weighs their logarithms, got None with {prior_weight}. "
        "Count them with torch.bincount(labels, minlength=num_classes)."
    )


def _with_prior(loss: BaseSoftmaxLoss, chosen: Chosen) -> Tensor:
    """What is added to the logits of the classes at hand, (R,): their bias, and the logarithms of their counts."""
    counts = loss.class_counts
    if counts is None:
        raise _without_counts(loss.prior_weight)
    counts = counts if chosen.classes is None else counts[chosen.classes]
    prior = loss.prior_weight * counts.to(chosen.rows.dtype).log()
    return prior if chosen.bias is None else chosen.bias + prior


def _nearer(loss: BaseSoftmaxLoss, margin: Elementwise | None, least: Tensor) -> Elementwise:
    """The margin of other classes, where those whose cosine is at ``least``, (B,), or above come nearer before it."""
    by, unit, bound = loss.hard_negative_margin, loss.margin_unit, least.unsqueeze(1)

    def of(cosine: Tensor) -> Tensor:
        nearer = cosine + by if unit == "cosine" else approached(cosine, math.radians(by) if unit == "degrees" else by)
        cosine = torch.where(cosine >= bound, nearer, cosine)
        return cosine if margin is None else margin(cosine)

    return of


def _check_options(scale, sample_rate, label_smoothing, chunk_size, margin_schedule, scale_schedule) -> None:
    remedy = "It is called with the number of the training batch."
    check_functions(remedy, margin_schedule=margin_schedule, scale_schedule=scale_schedule)
    check_between("positive", "Common values are 16 to 64.", scale=scale)
    check_between("in (0, 1]", "Common values are 1 and 0.1.", sample_rate=sample_rate)
    check_between("in [0, 1)", "Common values are 0 and 0.1.", label_smoothing=label_smoothing)
    check_chunk_size(chunk_size)


def _check_embeddings(loss: BaseSoftmaxLoss, embeddings: Tensor) -> None:
    """As :meth:`BaseSoftmaxLoss.forward` does."""
    check_embeddings(embeddings, loss.embedding_size)
    if loss.class_weights.weight.device != embeddings.device:
        raise elsewhere(loss, loss.class_weights.weight, embeddings)


def _check_cross_entropy(loss: BaseSoftmaxLoss, label_smoothing: float, prior_weight: float) -> None:
    check_between("at least 0", "Balanced softmax is 1.", prior_weight=prior_weight)
    for name, value in {"label_smoothing": label_smoothing, "prior_weight": prior_weight}.items():
        if value and type(loss).combine is not BaseSoftmaxLoss.combine:
            raise ValueError(
                f"{name} must be 0 because {type(loss).__name__} is no cross entropy, got {value}. Leave it out."
            )


def _check_hard_negatives(loss: BaseSoftmaxLoss, hard_negatives: int, hard_negative_margin: float) -> None:
    rule = f"an integer in [0, {loss.num_classes - 1}], the other classes"
    check_between(rule, "A common value is 5.", hard_negatives=hard_negatives)
    rule = {
        "radians": "in [0, π] radians",
        "degrees": "in [0, 180] degrees",
        "cosine": "in [0, 2], a difference of cosines",
    }[loss.margin_unit]
    check_between(rule, "A common one is 0.3 of the margin.", hard_negative_margin=hard_negative_margin)
    if bool(hard_negatives) != bool(hard_negative_margin):
        raise ValueError(
            "hard_negatives and hard_negative_margin must be given together, for neither does anything alone, got "
            f"{hard_negatives} and {hard_negative_margin}. Common are 5 and 0.3 of the margin."
        )
    if hard_negatives and not (loss.normalizes and loss.distance.normalize_embeddings):
        raise ValueError(
            f"hard_negatives must be 0 because {type(loss).__name__} compares lengths as well, and has no angles, got "
            f"{hard_negatives}. Leave it out."
        )


def _check_placement(update: str, init: str | None, init_length: float, sub_centers: int, arguments: dict) -> None:
    check_choices(update=(update, Literal["gradient", "fixed"]))
    check_length(init, init_length, usual=1.0)
    if init is None:
        return
    check_choices(init=(init, Placed))
    if sub_centers != 1:
        raise ValueError(
            f"sub_centers must be 1 with init={init!r}, which places a row a class, got {sub_centers}. "
            "Leave one of them out."
        )
    if arguments.get("weight_init_func") is not None:
        raise ValueError(f"init must be None with weight_init_func, got {init!r}. Leave one of them out.")


def _checked_gradient(loss: BaseSoftmaxLoss, gradient: Gradient | None) -> Gradient:
    """What was asked for, or the default of the loss."""
    if gradient is None:
        return loss.default_gradient or "full"
    check_choices(gradient=(gradient, Gradient))
    if gradient == "detached" and loss.default_gradient is None:
        raise ValueError(
            f'gradient must be "full" because the margin of {type(loss).__name__} cannot be taken for a constant, '
            f"got {gradient!r}. Leave it out."
        )
    return gradient
