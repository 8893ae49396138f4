"""Centers: moved in closed form, and summed over without ever a (B, C) matrix."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import wrap_torch_function

from pml_center.ops.first_order import first_order
from pml_center.ops.in_place import in_place
from pml_center.ops.negative_logits import KEPT_ELEMENTS, SHORTEST, chunks, exponential

Rule = Literal["paper", "mean"]


class ClassSums(NamedTuple):
    """Sums of rows by class."""

    classes: Tensor
    """(U,) of each sum, in order."""
    sums: Tensor
    """(U, D)"""
    counts: Tensor
    """(U,) how many rows each sum has, as floating point."""

    @property
    def may_be_empty(self) -> bool:
        """Whether some sums may have no rows, and a class several places: nobody waits for a GPU to know which."""
        return self.sums.device.type != "cpu"


def class_places(
    labels: Tensor, counts: Tensor | None = None, num_classes: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A place for each class of a batch: the classes in order, (U,), the place of each label, (B,), and counts, (U,).

    On the CPU the U places are the classes present. Elsewhere that number is a value that nobody waits for: there are
    as many places as labels, or as classes where those are fewer, and the places that nobody has count 0.

    Args:
        labels: (B,).
        counts: (B,) how often each label counts; None is once.
        num_classes: C, if labels are in [0, C).

    Example:
        >>> import torch
        >>> class_places(torch.tensor([7, 3, 7]))
        (tensor([3, 7]), tensor([1, 0, 1]), tensor([1, 2]))
    """
    if labels.device.type == "cpu":
        if counts is None:
            return labels.unique(return_inverse=True, return_counts=True)
        classes, own = labels.unique(return_inverse=True)
    elif num_classes is not None and num_classes <= len(labels):
        classes, own = torch.arange(num_classes, device=labels.device), labels
    else:
        classes = labels.sort().values
        own = torch.searchsorted(classes, labels)
    counts = torch.ones_like(labels) if counts is None else counts
    return classes, own, in_place("index_add", counts.new_zeros(len(classes)), 0, own, counts)


def class_sums(rows: Tensor, labels: Tensor, counts: Tensor | None = None, num_classes: int | None = None) -> ClassSums:
    """Sum the rows of each class: O(B·D), whatever the number of classes.

    ``torch.searchsorted(classes, labels)`` is the place of each label.

    Args:
        rows: (B, D).
        labels: (B,).
        counts: (B,) how many rows each already is the sum of, 0 for a row of zeros that is none; None is one each.
        num_classes: C, if labels are in [0, C): there are then no more than C sums on any device.

    Example:
        >>> import torch
        >>> class_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([7, 3, 7]))
        ClassSums(classes=tensor([3, 7]), sums=tensor([[2.],
                [5.]]), counts=tensor([1., 2.]))
    """
    if counts is not None and rows.device.type == "cpu":
        is_row = counts > 0
        rows, labels, counts = rows[is_row], labels[is_row], counts[is_row]
    classes, own, counts = class_places(labels, counts, num_classes)
    sums = in_place("index_add", rows.new_zeros(len(classes), rows.shape[1]), 0, own, rows)
    return ClassSums(classes, sums, counts.to(rows.dtype))


def merge_class_sums(parts: Sequence[ClassSums], num_classes: int | None = None) -> ClassSums:
    """One sum per class from the sums of several batches, added in their order."""
    classes, sums, counts = (torch.cat(each) for each in zip(*parts, strict=True))
    return class_sums(sums, classes, counts, num_classes)


@torch.no_grad()
def center_step(centers: Tensor, differences: ClassSums, alpha: float, rule: Rule = "paper") -> None:
    """Move the center of each class present, in place.

    ``"paper"`` is ``c += α · Σ (x − c) / (1 + n)`` (Wen et al. 2016, eq. 4), ``"mean"`` is ``c += α · Σ (x − c) / n``.
    O(B·D): classes without an embedding are not touched.

    Args:
        centers: (C, D), changed in place.
        differences: the sums of ``x − c`` of each class; used up.
        alpha: the rate. With 1 and a single embedding of a class, its center moves half of the way by the paper's
            rule, and all of it by the mean.
        rule: which.

    Example:
        >>> import torch
        >>> centers, x, y = torch.zeros(3, 2), torch.tensor([[4.0, 8.0]]), torch.tensor([1])
        >>> center_step(centers, class_sums(x - centers[y], y), alpha=0.5)
        >>> centers
        tensor([[0., 0.],
                [1., 2.],
                [0., 0.]])
    """
    counts = differences.counts
    n = counts + 1 if rule == "paper" else torch.where(counts > 0, counts, 1.0)
    step = in_place("div", differences.sums, n.unsqueeze(1))
    centers.index_add_(0, differences.classes, step.to(centers.dtype), alpha=alpha)


def half_squared_distance(embeddings: Tensor, own: Tensor) -> Tensor:
    """``½‖x − c‖²`` of each pair of rows, (B, D) and (B, D) to (B,).

    Equals ``(embeddings - own).square().sum(1) / 2`` with one pass less in each direction.
    """
    return _HalfSquaredDistance.apply(embeddings, own)


class _HalfSquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, own: Tensor) -> Tensor:
        difference = embeddings - own
        ctx.save_for_backward(difference)
        return torch.linalg.vecdot(difference, difference) / 2

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (difference,) = ctx.saved_tensors
        pull = difference * gradient.unsqueeze(1)
        return pull, -pull if ctx.needs_input_grad[1] else None


ROWS = 1024  # centers that are looked at together where all are
ORIGIN_ROWS = 64  # centers that say where the middle of all is


UnitSum = tuple[Tensor, Tensor]


@wrap_torch_function(lambda centers, *_, **__: (centers,))
def pairwise_cosines(centers: Tensor, of_all: UnitSum | None = None) -> Tensor:
    """The sum of the cosines over ordered pairs of different centers, ``Σ_{j≠k} cos(c_j, c_k)``, 0-d.

    With u the centers at length 1 it is ``‖Σ u‖² − C``: O(C·D), where the (C, C) matrix of cosines takes O(C²·D). A
    center at 0 has no direction, and a cosine of 0 to all others.

    Args:
        centers: (C, D).
        of_all: what :func:`unit_sum` says of all centers, where these are a part of them.

    Example:
        >>> import torch
        >>> pairwise_cosines(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
        tensor(-2.)
    """
    return _PairwiseCosines.apply(centers, of_all)


@wrap_torch_function(lambda centers, *_, **__: (centers,))
@torch.no_grad()
def repulsion_step(centers: Tensor, rate: float, of_all: UnitSum | None = None) -> None:
    """Turn each center away from all others, in place: ``c_j −= rate · Σ_{k≠j} ∂cos(c_j, c_k) / ∂c_j``.

    Args:
        centers: (C, D), changed in place.
        rate: the rate.
        of_all: as for :func:`pairwise_cosines`.
    """
    total, _ = unit_sum(centers) if of_all is None else of_all
    for rows in centers.split(ROWS):
        rows -= rate * _turn(rows, total)


def unit_sum(centers: Tensor) -> UnitSum:
    """The sum of the centers at length 1, (D,), and how many have a direction, 0-d."""
    total, directed = centers.new_zeros(centers.shape[1]), centers.new_zeros((), dtype=torch.long)
    for rows in centers.split(ROWS):
        total = total + F.normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny).sum(0)
        directed = directed + rows.any(1).sum()
    return total, directed


def _turn(rows: Tensor, total: Tensor) -> Tensor:
    """The gradient of ``Σ_{k≠j} cos(c_j, c_k)`` at each row: what of the sum of all is across it, by its length."""
    length = rows.norm(dim=1, keepdim=True)
    unit = rows / length
    across = (total - (unit @ total).unsqueeze(1) * unit) / length
    return torch.where(length > 0, across, 0.0)


class _PairwiseCosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centers: Tensor, of_all: UnitSum | None) -> Tensor:
        total, directed = unit_sum(centers) if of_all is None else of_all
        ctx.save_for_backward(centers, total)
        return total.square().sum() - directed

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        centers, total = ctx.saved_tensors
        result = torch.empty_like(centers)
        for rows, out in zip(centers.split(ROWS), result.split(ROWS), strict=True):
            torch.mul(_turn(rows, total), 2 * gradient, out=out)
        return result, None


@wrap_torch_function(lambda table, index: (table,))
def with_rows(table: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Some rows of a table, and the table again, for everything else that reads it.

    Equals ``table[index]`` and ``table``, but the gradient of the rows is added into that of the table, where indexing
    would make a second (C, D) tensor for it.

    Args:
        table: (C, D).
        index: (B,).
    """
    return _WithRows.apply(table, index)


class _WithRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        return table.index_select(0, index), table.view_as(table)

    @staticmethod
    @first_order
    def backward(ctx: Any, of_rows: Tensor, of_table: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return in_place("index_add", of_table, 0, index, of_rows), None


@wrap_torch_function(lambda embeddings, centers, labels: (centers,))
def other_squared_distances(embeddings: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """The sum of the squared distances to the centers of all other classes, ``Σ_{j≠y} ‖x − c_j‖²``, (B,).

    Equals ``torch.cdist(embeddings, centers).square().scatter(1, labels.unsqueeze(1), 0).sum(1)`` in O((B + C)·D): with
    m the mean of the C − 1 others it is ``(C − 1)·‖x − m‖²`` plus their scatter ``Σ ‖c_j − m‖²``. Neither is a
    difference of large numbers, wherever the embeddings are; the scatter of the others is that of all centers less
    one share, and so exact to the rounding of the former.

    Args:
        embeddings: (B, D).
        centers: (C, D).
        labels: (B,).

    Example:
        >>> import torch
        >>> other_squared_distances(torch.zeros(1, 2), torch.tensor([[9.0, 9], [1, 0], [0, 2]]), torch.tensor([1]))
        tensor([166.])
    """
    return _OtherSquaredDistances.apply(embeddings, centers, labels)


class _OtherSquaredDistances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
        others = len(centers) - 1
        mean = centers.mean(0)
        scatter = sum(((rows - mean).square().sum() for rows in centers.split(ROWS)), centers.new_zeros(()))
        own = centers.index_select(0, labels) - mean
        share = (others + 1) / max(others, 1)
        scatter = (scatter - share * torch.linalg.vecdot(own, own)).clamp_min(0)
        away = embeddings - mean + own / max(others, 1)  # from the mean of the others
        ctx.others = others
        ctx.save_for_backward(away, *((embeddings, centers, labels, mean) if ctx.needs_input_grad[1] else ()))
        return scatter.add(torch.linalg.vecdot(away, away), alpha=others)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        away, *saved = ctx.saved_tensors
        gradient = 2 * gradient.unsqueeze(1)
        of_embeddings = ctx.others * gradient * away
        if not saved:
            return of_embeddings, None, None
        embeddings, centers, labels, mean = saved
        # Each center meets all embeddings, whose own centers then take their part back.
        of_centers = torch.empty_like(centers)
        total, pull = gradient.sum(), (gradient * (embeddings - mean)).sum(0)
        for rows, out in zip(centers.split(ROWS), of_centers.split(ROWS), strict=True):
            torch.sub(rows, mean, out=out).mul_(total).sub_(pull)
        own = gradient * (embeddings - centers.index_select(0, labels))
        return of_embeddings, in_place("index_add", of_centers, 0, labels, own), None


@wrap_torch_function(lambda embeddings, centers, *_, **__: (centers,))
@torch.no_grad()
def nearest_other(
    embeddings: Tensor,
    centers: Tensor,
    labels: Tensor,
    angular: bool = False,
    chunk_size: int | None = None,
    is_part: bool = False,
) -> Tensor:
    """The class of the nearest center among all other classes, (B,); with a single class, the label itself.

    Equals ``torch.cdist(embeddings, centers).scatter(1, labels.unsqueeze(1), torch.inf).argmin(1)``, a block of
    classes at a time. Distances are compared about the middle of the centers; of two that differ by no more than their
    rounding either may be found.

    Args:
        embeddings: (B, D).
        centers: (C, D).
        labels: (B,).
        angular: whether the nearest is that of the smallest angle; a center at 0 is then at 90 degrees from all.
        chunk_size: classes in a block; memory is O(chunk_size · (B + D)). None chooses.
        is_part: whether these are some of the classes, and a label is negative where it is none of them.

    Example:
        >>> import torch
        >>> nearest_other(torch.zeros(1, 2), torch.tensor([[0.0, 0], [3, 0], [0, 2]]), torch.tensor([0]))
        tensor([2])
    """
    origin = None if angular else _middle(centers)
    moved = embeddings if origin is None else embeddings - origin
    least = embeddings.new_full((len(embeddings),), torch.inf)
    nearest = labels
    for chunk in chunks(len(centers), max(embeddings.shape), chunk_size, is_part):
        rows = chunk.of(centers)
        if origin is None:
            scores = moved @ in_place("neg", F.normalize(rows, dim=1).t())
        else:  # half the squared distance, less what all classes share
            rows = rows - origin
            scores = torch.addmm(torch.linalg.vecdot(rows, rows) / 2, moved, rows.t(), alpha=-1)
        score, column = chunk.fill_own(scores, labels, torch.inf).min(1)
        nearest = torch.where(score < least, column + chunk.start, nearest)
        least = torch.minimum(least, score)
    return nearest


def _middle(centers: Tensor) -> Tensor:
    """A point among the centers, (D,): unlike their mean, it does not move with one that is far away from the rest."""
    some = centers[:: -(-len(centers) // ORIGIN_ROWS)]
    return some.sort(0).values[len(some) // 2]  # torch.median has no deterministic version on CUDA


def angle_between(first: Tensor, second: Tensor) -> Tensor:
    """The angle of each pair of rows, (B, D) and (B, D) to (B,), radians in [0, π].

    Equals ``F.cosine_similarity(first, second).acos()``, but keeps its digits near 0 and π, and has a slope of at most
    1 / length everywhere. At 0 and at π the slope is 0; a row of zeros is at π/2 from all others.

    Example:
        >>> import torch
        >>> angle_between(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
        tensor([1.5708])
    """
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    apart, together = (first - second).norm(dim=1), (first + second).norm(dim=1)
    return 2 * torch.atan2(apart, together.clamp_min(SHORTEST))


@wrap_torch_function(lambda embeddings, means, *_, **__: (means,))
def other_log_likelihoods(
    embeddings: Tensor,
    means: Tensor,
    labels: Tensor,
    log_variances: Tensor | None = None,
    chunk_size: int | None = None,
    is_part: bool = False,
) -> Tensor:
    """``logsumexp`` over every class but one's own of the logarithm of its Gaussian, (B,).

    The logarithm is ``−½ Σ_d ((x_d − μ_d)² / v_d + log v_d)``, without the ``−½ D log 2π`` that all classes share. For
    C = 1 the result is the lowest finite number. One block of classes is looked at at a time, about the middle of the
    means.

    Args:
        embeddings: (B, D).
        means: (C, D).
        labels: (B,).
        log_variances: (C, D) ``log v``; None are those of identity matrices, 0.
        chunk_size: classes in a block, and nothing is kept from forward to backward: memory is O(chunk_size · (B + D)).
            None chooses the size, and keeps blocks of up to 52 MiB in all, which saves computing them twice.
        is_part: as for :func:`nearest_other`.

    Example:
        >>> import torch
        >>> other_log_likelihoods(torch.zeros(1, 2), torch.tensor([[0.0, 0], [3, 0], [0, 2]]), torch.tensor([1]))
        tensor([0.1269])
    """
    return _OtherLogLikelihoods.apply(embeddings, means, labels, log_variances, chunk_size, is_part)


def log_likelihoods(embeddings: Tensor, means: Tensor, log_variances: Tensor | None = None) -> Tensor:
    """The logarithm of the Gaussian of each class, (B, C), as in :func:`other_log_likelihoods`."""
    center = _middle(means)
    moved = embeddings - center
    result = _gaussian_block(moved, means - center, log_variances)
    return result if log_variances is not None else result - torch.linalg.vecdot(moved, moved).unsqueeze(1) / 2


def _gaussian_block(moved: Tensor, rows: Tensor, log_variances: Tensor | None) -> Tensor:
    """Log likelihoods of K classes, (B, K), of centred embeddings and means; without ``−½‖x‖²`` for identities."""
    if log_variances is None:
        return torch.addmm(torch.linalg.vecdot(rows, rows) / -2, moved, rows.t())
    precision = exponential(-log_variances)
    weighted = rows * precision
    constant = (torch.linalg.vecdot(rows, weighted) + log_variances.sum(1)) / -2
    block = torch.addmm(constant, moved, weighted.t())
    return in_place("addmm", block, moved.square(), precision.t(), alpha=-0.5)


class _OtherLogLikelihoods(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeddings, means, labels, log_variances, chunk_size, is_part):
        center = _middle(means)
        moved = embeddings - center
        parts, kept = [], []
        room = KEPT_ELEMENTS if chunk_size is None else 0
        for chunk in chunks(len(means), max(embeddings.shape), chunk_size, is_part):
            variances = None if log_variances is None else chunk.of(log_variances)
            block = _gaussian_block(moved, chunk.of(means) - center, variances)
            block = chunk.fill_own(block, labels, torch.finfo(block.dtype).min)
            parts.append(_logsumexp(block))
            room -= block.numel()
            kept.extend([block] if room >= 0 else ())
        result = _logsumexp(torch.stack(parts, dim=1))
        needs_embeddings, needs_means, _, needs_variances, *_ = ctx.needs_input_grad
        ctx.chunk_size, ctx.is_part = chunk_size, is_part
        ctx.of_embeddings_alone = not needs_means and not needs_variances
        if ctx.of_embeddings_alone and needs_embeddings:  # taken now: backward may find the means moved
            saved = moved, means, labels, log_variances, center, result, *kept
            ctx.save_for_backward(_gaussian_gradients(ctx, saved, torch.ones_like(result))[0])
        elif not ctx.of_embeddings_alone:
            ctx.save_for_backward(moved, means, labels, log_variances, center, result, *kept)
        return result if log_variances is not None else result - torch.linalg.vecdot(moved, moved) / 2

    @staticmethod
    @first_order
    def backward(ctx, upstream):
        if ctx.of_embeddings_alone:
            return ctx.saved_tensors[0] * upstream.unsqueeze(1), None, None, None, None, None
        of_embeddings, of_means, of_variances = _gaussian_gradients(ctx, ctx.saved_tensors, upstream)
        return of_embeddings, of_means, None, of_variances, None, None


def _gaussian_gradients(ctx, saved, upstream) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Of embeddings, means and log-variances: one more walk over the blocks."""
    moved, means, labels, log_variances, center, result, *kept = saved
    _, needs_means, _, needs_variances, *_ = ctx.needs_input_grad
    of_embeddings = torch.zeros_like(moved)
    of_means = torch.empty_like(means) if needs_means else None
    of_variances = torch.empty_like(log_variances) if needs_variances else None
    total = torch.zeros_like(moved) if log_variances is not None else torch.zeros_like(result).unsqueeze(1)
    for number, chunk in enumerate(chunks(len(means), max(moved.shape), ctx.chunk_size, ctx.is_part)):
        rows, of_block = chunk.of(means) - center, None if log_variances is None else chunk.of(log_variances)
        block = kept[number] if number < len(kept) else _gaussian_block(moved, rows, of_block)
        share = in_place("mul", exponential(block - result.unsqueeze(1)), upstream.unsqueeze(1))
        share = chunk.fill_own(share, labels, 0.0)
        precision = None if of_block is None else exponential(-of_block)
        of_embeddings.addmm_(share, rows if precision is None else rows * precision)
        if precision is None:
            total += share.sum(1, keepdim=True)
        else:
            total.addmm_(share, precision)
        if of_means is None and of_variances is None:
            continue
        count = share.sum(0).unsqueeze(1)
        pull = torch.addcmul(share.t() @ moved, count, rows, value=-1)  # Σ share · (x − μ)
        if of_variances is not None and precision is not None:
            spread = share.t() @ moved.square()
            spread = in_place("sub", spread, rows * (2 * pull + count * rows))  # Σ share · (x − μ)²
            torch.mul(spread, precision, out=chunk.of(of_variances)).sub_(count).div_(2)
        if of_means is not None:
            chunk.of(of_means).copy_(pull if precision is None else in_place("mul", pull, precision))
    return in_place("addcmul", of_embeddings, moved, total, value=-1), of_means, of_variances


def _logsumexp(block: Tensor) -> Tensor:
    """``block.logsumexp(1)`` of finite entries, which are often so far apart that ``exp`` would be slow."""
    largest = block.amax(1, keepdim=True)
    return exponential(block - largest).sum(1).log() + largest.squeeze(1)
