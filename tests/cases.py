"""One entry per loss: how it is built, and its dense formula written from the paper, in fp64, sharing no code."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from pytorch_metric_learning import reducers
from torch import Tensor, nn

from pml_center import losses
from pml_center.losses.base_class_loss import BaseClassLoss
from pml_center.names import constructor_arguments

NUM_CLASSES, EMBEDDING_SIZE = 7, 8


@dataclass(frozen=True)
class Case:
    """A loss, and its formula: (loss, embeddings, labels) to the loss of each sample."""

    loss: type
    formula: Callable[..., Tensor]
    arguments: dict = field(default_factory=dict)
    differentiable: bool = True  # False where the gradient takes something for a constant that it is not

    def __str__(self):
        return "-".join([self.loss.__name__, *map(str, self.arguments.values())])

    @property
    def is_softmax(self) -> bool:
        """Whether it is of the softmax family, which has logits and chunks."""
        return issubclass(self.loss, losses.BaseSoftmaxLoss)

    @property
    def has_classes(self) -> bool:
        """Whether it has a row for each class; else its references are the batch's own."""
        return issubclass(self.loss, BaseClassLoss)

    @property
    def is_fixed(self) -> bool:
        """Whether its rows stay where a formula placed them."""
        return self.loss is losses.CACLoss or self.arguments.get("update") == "fixed"

    @property
    def takes_references(self) -> bool:
        """Whether it asks for a second set of embeddings; it is given :func:`references`."""
        return self.loss.takes_references

    @property
    def is_cross_entropy(self) -> bool:
        """Whether it is one of logits, not a sum over classes, and nothing beside."""
        engine = losses.BaseSoftmaxLoss
        return self.is_softmax and self.loss.combine is engine.combine and self.loss.penalty is engine.penalty

    def make(self, num_classes: int = NUM_CLASSES, embedding_size: int = EMBEDDING_SIZE, **arguments):
        """The loss as it is made."""
        sizes = {"num_classes": num_classes, "embedding_size": embedding_size} if self.has_classes else {}
        loss = self.loss(**sizes, **{**self.arguments, **arguments})
        if self.takes_references:
            loss.register_forward_pre_hook(with_references, with_kwargs=True)
        return loss

    def chunks(self, size: int) -> dict[str, int]:
        """The argument that makes blocks of so many classes, for losses that have blocks."""
        return {"chunk_size": size} if "chunk_size" in constructor_arguments(self.loss, stop=nn.Module) else {}

    def build(self, num_classes: int = NUM_CLASSES, embedding_size: int = EMBEDDING_SIZE, **arguments):
        """The loss in fp64 with rows of length about 1, so that every class matters."""
        loss = self.make(num_classes, embedding_size, **arguments).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in filter(torch.is_floating_point, [*loss.parameters(), *loss.buffers()]):
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.double))
        return loss


def each_reducer(classes: int):
    """Parametrizes a test by every reducer of PML that makes one number, for so many classes."""
    every = [
        reducers.MeanReducer(),
        reducers.SumReducer(),
        reducers.AvgNonZeroReducer(),
        reducers.ThresholdReducer(low=0.1),
        reducers.DivisorReducer(),
        reducers.ClassWeightedReducer(torch.arange(1.0, classes + 1)),
        reducers.PerAnchorReducer(),
    ]
    return pytest.mark.parametrize("reducer", every, ids=lambda reducer: type(reducer).__name__)


def references(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """A second set of embeddings as wide as the first, and its labels: two or three for each of four classes."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(10, embeddings.shape[-1], generator=generator, dtype=torch.double)
    return rows.to(rows if embeddings.dtype == torch.double else torch.float32), torch.arange(10) % 4


def with_references(loss, args, kwargs):
    """Hook: gives references to a call without any."""
    if len(args) > 3 and args[3] is not None:
        return args, kwargs
    return args[:3], kwargs | dict(zip(REFERENCES, references(args[0]), strict=True))


REFERENCES = ("ref_emb", "ref_labels")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``−log( e^{z_y} / Σ_j e^{z_j} )``, (B, C) and (B,) to (B,)."""
    return -(logits.exp() / logits.exp().sum(1, keepdim=True)).log()[torch.arange(len(labels)), labels]


def cosines(loss, embeddings: Tensor) -> Tensor:
    """Between each embedding and each row of weights, (B, C)."""
    rows = loss.class_weights.weight
    lengths = embeddings.square().sum(1).sqrt().unsqueeze(1) * rows.square().sum(1).sqrt()
    return embeddings @ rows.t() / lengths


def is_own(loss, labels: Tensor) -> Tensor:
    """(B, C), True at each sample's own class."""
    return labels.unsqueeze(1) == torch.arange(loss.num_classes)


def softmax(loss, embeddings, labels):
    logits = embeddings @ loss.class_weights.weight.t()
    return cross_entropy(logits + loss.class_weights.bias, labels)


def softmax_without_bias(loss, embeddings, labels):
    return cross_entropy(embeddings @ loss.class_weights.weight.t(), labels)


def smoothed_softmax(loss, embeddings, labels):
    logits = embeddings @ loss.class_weights.weight.t() + loss.class_weights.bias
    everywhere = sum(cross_entropy(logits, torch.full_like(labels, j)) for j in range(loss.num_classes))
    return 0.9 * cross_entropy(logits, labels) + 0.1 * everywhere / loss.num_classes


def normalized_softmax(loss, embeddings, labels):
    return cross_entropy(cosines(loss, embeddings) / 0.05, labels)


def l2_softmax(loss, embeddings, labels):
    unit = embeddings / embeddings.square().sum(1).sqrt().unsqueeze(1)
    return cross_entropy(12 * unit @ loss.class_weights.weight.t() + loss.class_weights.bias, labels)


def cosface(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    return cross_entropy(64 * torch.where(is_own(loss, labels), cosine - 0.35, cosine), labels)


def arcface(loss, embeddings, labels, degrees=28.6):
    margin = degrees / 180 * math.pi
    cosine = cosines(loss, embeddings)
    angle = cosine.clamp(-1, 1).acos()
    target = torch.where(angle + margin > math.pi, cosine - margin * math.sin(margin), (angle + margin).cos())
    return cross_entropy(64 * torch.where(is_own(loss, labels), target, cosine), labels)


def wide_arcface(loss, embeddings, labels):
    return arcface(loss, embeddings, labels, degrees=100)


def falling_cosine(angle: Tensor, factor: float) -> Tensor:
    """``(−1)^k·cos(mθ) − 2k`` of L-Softmax, piece by piece."""
    piece = sum((angle >= k * math.pi / factor).long() for k in range(1, math.ceil(factor)))
    return (-1.0) ** piece * (factor * angle).cos() - 2 * piece


def large_margin_softmax(loss, embeddings, labels):
    product = embeddings @ loss.class_weights.weight.t()
    lengths = product / cosines(loss, embeddings)
    target = lengths * falling_cosine(cosines(loss, embeddings).acos(), 4)
    return cross_entropy(torch.where(is_own(loss, labels), target, product), labels)


def sphereface(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    length = embeddings.square().sum(1).sqrt().unsqueeze(1)
    target = falling_cosine(cosine.acos(), 4)
    return cross_entropy(length * torch.where(is_own(loss, labels), target, cosine), labels)


def sphereface_r(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    shift = (falling_cosine(cosine.acos(), 1.7) - cosine).detach()
    return cross_entropy(30 * torch.where(is_own(loss, labels), cosine + shift, cosine), labels)


def arcface_in_radians(loss, embeddings, labels):
    return arcface(loss, embeddings, labels, degrees=math.degrees(0.5))


def circle_softmax(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    target = (1.25 - cosine).clamp_min(0).detach() * (cosine - 0.75)
    others = (cosine + 0.25).clamp_min(0).detach() * (cosine - 0.25)
    return cross_entropy(32 * torch.where(is_own(loss, labels), target, others), labels)


def binary_cross_entropies(target, others, own):
    """(B, C) logits of a positive and of a negative to their losses, the one or the other."""
    return torch.where(own, (1 + (-target).exp()).log(), (1 + others.exp()).log())


def uniface(loss, embeddings, labels):
    logits, threshold = 16 * cosines(loss, embeddings), loss.threshold
    if threshold is None:
        threshold = -loss.class_weights.bias
    own = is_own(loss, labels)
    elements = binary_cross_entropies(logits - 16 * 0.4 - threshold, logits - threshold, own)
    return (elements * torch.where(own, 1.0, 0.5)).sum(1)


def spread(cosine):
    return 2 * ((cosine + 1) / 2) ** 3 - 1


def sphereface2(loss, embeddings, labels, angular=False, is_detached=True):
    cosine = cosines(loss, embeddings)
    target, others = spread(cosine) - 0.4, spread(cosine) + 0.4
    if angular:
        target, others = spread((cosine.acos() + 0.4).clamp_max(math.pi).cos()), spread(cosine)
    if angular == "both":
        angle = cosine.acos()
        others = spread((angle - 0.4).cos())
        target = torch.where(angle + 0.4 > math.pi, spread(cosine - 1 + math.cos(0.4)), spread((angle + 0.4).cos()))
    if is_detached:
        target, others = (cosine + (of - cosine).detach() for of in (target, others))
    own = is_own(loss, labels)
    elements = binary_cross_entropies(40 * target + loss.threshold, 40 * others + loss.threshold, own)
    return 50 / 40 * torch.where(own, 0.7 * elements, (1 - 0.7) * elements).sum(1)


def differentiated_sphereface2(loss, embeddings, labels):
    return sphereface2(loss, embeddings, labels, is_detached=False)


def angular_sphereface2(loss, embeddings, labels):
    return sphereface2(loss, embeddings, labels, angular=True, is_detached=False)


def angular_sphereface2_of_both(loss, embeddings, labels):
    return sphereface2(loss, embeddings, labels, angular="both", is_detached=False)


def sface(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    angle = cosine.acos().detach()
    pull = 64 / (1 + (-80 * (angle - 0.8)).exp())
    push = 64 / (1 + (80 * (angle - 1.23)).exp())
    return torch.where(is_own(loss, labels), -pull * cosine, push * cosine).sum(1)


def arcnegface(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    angle = cosine.acos()
    target = torch.where(angle + 0.5 > math.pi, cosine - 0.5 * math.sin(0.5), (angle + 0.5).cos())
    own = target.gather(1, labels.unsqueeze(1))
    weight = (1.2 * (-((cosine - own) ** 2) / 2).exp()).detach()
    return cross_entropy(64 * torch.where(is_own(loss, labels), target, weight * cosine + weight - 1), labels)


def npcface(loss, embeddings, labels):
    cosine, own = cosines(loss, embeddings), is_own(loss, labels)
    angle = cosine.acos().gather(1, labels.unsqueeze(1))
    hard = (cosine > (angle + 0.5).cos()) & ~own
    mean = (cosine * hard).sum(1, keepdim=True) / hard.sum(1, keepdim=True).clamp_min(1)
    target = (angle + (0.4 + 0.2 * mean).detach()).cos()
    target = torch.where(angle < math.pi / 2, target, angle.cos())
    return cross_entropy(64 * torch.where(own, target, torch.where(hard, 1.1 * cosine + 0.2, cosine)), labels)


def p2sgrad(loss, embeddings, labels):
    return (cosines(loss, embeddings) - is_own(loss, labels).double()).square().sum(1) / 2


def combined_margin(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    reached = 0.9 * cosine.acos() + 0.4
    gained = math.pi - (math.pi - 0.4) / 0.9
    target = torch.where(reached > math.pi, cosine - gained * math.sin(gained), reached.cos()) - 0.15
    return cross_entropy(64 * torch.where(is_own(loss, labels), target, cosine), labels)


def filtered_margin(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    others = torch.where(cosine > 0.3, 0, cosine)
    return cross_entropy(10 * torch.where(is_own(loss, labels), (1.2 * cosine.acos()).cos() - 0.1, others), labels)


def subcenter_arcface(loss, embeddings, labels):
    cosine = cosines(loss, embeddings).unflatten(1, (loss.num_classes, 3)).max(2).values
    angle = cosine.acos()
    margin = 28.6 / 180 * math.pi
    target = torch.where(angle + margin > math.pi, cosine - margin * math.sin(margin), (angle + margin).cos())
    return cross_entropy(64 * torch.where(is_own(loss, labels), target, cosine), labels)


def li_arcface(loss, embeddings, labels):
    angle = cosines(loss, embeddings).acos()
    reached = torch.where(is_own(loss, labels), angle + 0.45, angle)
    return cross_entropy(64 * (math.pi - 2 * reached) / math.pi, labels)


def adacos(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    own = is_own(loss, labels)
    with torch.no_grad():
        average = (loss.running_scale * cosine).exp().masked_fill(own, 0).sum() / len(labels)
        median = cosine[own].acos().sort().values[(len(labels) - 1) // 2]
        scale = (average.log() / median.clamp(max=math.pi / 4).cos()).clamp(1, 256)
    return cross_entropy(scale * cosine, labels)


def fixed_adacos(loss, embeddings, labels):
    return cross_entropy(loss.running_scale * cosines(loss, embeddings), labels)


def coco(loss, embeddings, labels):
    return cross_entropy((math.log(6) / 2 + 3) * cosines(loss, embeddings), labels)


def automatic_scale(loss, embeddings, labels):
    return cross_entropy(6 / 7 * math.log(0.9 * 6 / 0.1) * cosines(loss, embeddings), labels)


def learned_scale(loss, embeddings, labels):
    return cross_entropy(loss.log_scale.exp() * cosines(loss, embeddings), labels)


def curricularface(loss, embeddings, labels, wide=False):
    margin = 1.5 if wide else 0.5
    cosine, own = cosines(loss, embeddings), is_own(loss, labels)
    angle = cosine.acos()
    difficulty = (loss.difficulty + 0.01 * (cosine[own].mean() - loss.difficulty)).detach()
    target = torch.where(angle + margin > math.pi, cosine - margin * math.sin(margin), (angle + margin).cos())
    hard = cosine > (angle[own] + margin).cos().unsqueeze(1)
    others = torch.where(hard, cosine * (difficulty + cosine), cosine)
    return cross_entropy(64 * torch.where(own, target, others), labels)


def wide_curricularface(loss, embeddings, labels):
    return curricularface(loss, embeddings, labels, wide=True)


def mv_am_softmax(loss, embeddings, labels, easy=False):
    cosine, own = cosines(loss, embeddings), is_own(loss, labels)
    threshold = cosine[own].unsqueeze(1) - 0.35
    target = torch.where(cosine > 0, cosine - 0.35, cosine) if easy else cosine - 0.35
    others = torch.where(cosine > threshold, 1.2 * cosine + 0.2, cosine)
    return cross_entropy(32 * torch.where(own, target, others), labels)


def easy_mv_am_softmax(loss, embeddings, labels):
    return mv_am_softmax(loss, embeddings, labels, easy=True)


def mv_arc_softmax(loss, embeddings, labels):
    cosine, own = cosines(loss, embeddings), is_own(loss, labels)
    moved = cosine.acos() + 0.5
    target = torch.where(moved > math.pi, cosine - 0.5 * math.sin(0.5), moved.cos())
    others = torch.where(cosine > moved[own].cos().unsqueeze(1), 1.3 * cosine + 0.3, cosine)
    return cross_entropy(32 * torch.where(own, target, others), labels)


def adaface(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    length = embeddings.detach().square().sum(1).sqrt()
    mean = 0.9 * loss.batch_mean + 0.1 * length.mean()
    std = 0.9 * loss.batch_std + 0.1 * ((length - length.mean()).square().sum() / (len(length) - 1)).sqrt()
    quality = (0.333 * (length - mean) / (std + 1e-3)).clamp(-1, 1).unsqueeze(1)
    moved = cosine.acos() - 0.4 * quality
    moved = torch.where(moved > math.pi, cosine - (0.4 * quality * (0.4 * quality).sin()), moved.cos())
    target = moved - 0.4 - 0.4 * quality
    return cross_entropy(64 * torch.where(is_own(loss, labels), target, cosine), labels)


def magface(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    length = embeddings.square().sum(1).sqrt().clamp(1, 3).unsqueeze(1)
    margin = 0.45 + (0.8 - 0.45) / (3 - 1) * (length - 1)
    angle = cosine.acos()
    target = torch.where(angle + margin > math.pi, cosine - margin * margin.sin(), (angle + margin).cos())
    return cross_entropy(64 * torch.where(is_own(loss, labels), target, cosine), labels) + 35 * (
        length / 3**2 + 1 / length
    ).squeeze(1)


def elastic_margins(loss, embeddings, mean, std):
    """What the first batch draws."""
    drawn = torch.randn(len(embeddings), generator=torch.Generator().manual_seed(int(loss.draws) + 1))
    return mean + std * drawn.double()


def elastic_arcface(loss, embeddings, labels):
    cosine = cosines(loss, embeddings)
    margin = elastic_margins(loss, embeddings, 0.5, 0.05).unsqueeze(1)
    angle = cosine.acos()
    target = torch.where(angle + margin > math.pi, cosine - margin * margin.sin(), (angle + margin).cos())
    return cross_entropy(64 * torch.where(is_own(loss, labels), target, cosine), labels)


def elastic_cosface_plus(loss, embeddings, labels):
    cosine, own = cosines(loss, embeddings), is_own(loss, labels)
    margins = sorted(elastic_margins(loss, embeddings, 0.35, 0.2).tolist())
    nearest_first = sorted(range(len(labels)), key=lambda i: -cosine[i, labels[i]].item())
    of_sample = dict(zip(nearest_first, margins, strict=True))
    margin = torch.tensor([of_sample[i] for i in range(len(labels))], dtype=torch.double).unsqueeze(1)
    return cross_entropy(64 * torch.where(own, cosine - margin, cosine), labels)


def adaptiveface(loss, embeddings, labels):
    cosine, margins = cosines(loss, embeddings), loss.margins
    inside, moves = margins.detach().clamp(0, 1), margins - margins.detach()
    # Cross entropy pulls a margin down, the other term up; neither pulls one out of [0, 1].
    target = cosine - inside - moves * (margins >= 0)
    penalty = 70 * (1 - (inside + moves * (margins <= 1)).sum() / loss.num_classes)
    return cross_entropy(30 * torch.where(is_own(loss, labels), target, cosine), labels) + penalty


def arcface_of_margins(loss, embeddings, labels, margins):
    """ArcFace with (C,) margins in radians."""
    cosine = cosines(loss, embeddings)
    moved = cosine.acos() + margins
    target = torch.where(moved > math.pi, cosine - margins * margins.sin(), moved.cos())
    return cross_entropy(64 * torch.where(is_own(loss, labels), target, cosine), labels)


def dynamic_arcface(loss, embeddings, labels):
    margins = [0.5 / count**0.25 + 0.05 for count in loss.class_counts.tolist()]
    return arcface_of_margins(loss, embeddings, labels, torch.tensor(margins, dtype=torch.double))


def ldam(loss, embeddings, labels):
    counts = loss.class_counts.tolist()
    margins = [0.5 / count**0.25 / max(1 / number**0.25 for number in counts) for count in counts]
    cosine = cosines(loss, embeddings)
    margined = cosine - is_own(loss, labels) * torch.tensor(margins, dtype=torch.double)
    return cross_entropy(30 * margined, labels)


def cac(loss, embeddings, labels):
    distances = (embeddings.unsqueeze(1) - loss.centers).square().sum(2).sqrt()
    own = distances.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = (own.unsqueeze(1) - distances).exp() * ~is_own(loss, labels)
    return (1 + others.sum(1)).log() + 0.1 * own


def kappaface(loss, embeddings, labels):
    return arcface_of_margins(loss, embeddings, labels, 0.8 * loss.margin_shares)


def kappaface_after_an_epoch(loss, embeddings, labels):
    size = embeddings.shape[1]
    sums = loss.class_sums.clone()
    for embedding, label in zip(embeddings.detach(), labels, strict=True):
        sums[label] += embedding / embedding.norm()
    kappas = {}
    for label in range(loss.num_classes):
        seen = int((labels == label).sum())
        if seen > 1:
            r = float(sums[label].norm()) / seen
            square = min(r * r, 1 - torch.finfo(torch.double).eps)
            kappas[label] = r * (size - r * r) / (1 - square)
    mean = sum(kappas.values()) / len(kappas)
    std = math.sqrt(sum((kappa - mean) ** 2 for kappa in kappas.values()) / (len(kappas) - 1))
    margins = []
    for label, count in enumerate(loss.class_counts.tolist()):
        scattered = 1 / (1 + math.exp(0.4 * (kappas.get(label, mean) - mean) / std))
        rare = (math.cos(math.pi * count / (1.05 * max(loss.class_counts.tolist()))) + 1) / 2
        margins.append(0.8 * (0.7 * scattered + 0.3 * rare))
    return arcface_of_margins(loss, embeddings, labels, torch.tensor(margins, dtype=torch.double))


def center(loss, embeddings, labels):
    return (embeddings - loss.centers.clone()[labels]).pow(2).sum(1) / 2


def center_with_radius(loss, embeddings, labels):
    distance = (embeddings - loss.centers.clone()[labels]).pow(2).sum(1).sqrt()
    return torch.where(distance > 1.5, (distance - 1.5) ** 2 / 2, 0) / embeddings.shape[1]


def island(loss, embeddings, labels):
    centers = loss.centers.clone()
    pairs = [(j, k) for j in range(len(centers)) for k in range(len(centers)) if j != k]
    cosines = [torch.cosine_similarity(centers[j], centers[k], dim=0) for j, k in pairs]
    return center(loss, embeddings, labels) + 10 * sum(cosine + 1 for cosine in cosines)


def softmax_center(loss, embeddings, labels):
    return softmax(loss.softmax, embeddings, labels) + 0.1 * center(loss.center, embeddings, labels)


def softmax_shared_center(loss, embeddings, labels):
    weights = loss.softmax.class_weights.weight
    own = (loss.center.length * weights / weights.pow(2).sum(1, keepdim=True).sqrt())[labels]
    return softmax(loss.softmax, embeddings, labels) + 0.1 * (embeddings - own).pow(2).sum(1) / 2


def squared_distances(loss, embeddings):
    """Between each embedding and each center, (B, C)."""
    return (embeddings.unsqueeze(1) - loss.centers.clone()).pow(2).sum(2)


def contrastive_center(loss, embeddings, labels, delta=1.0):
    distances, own = squared_distances(loss, embeddings), is_own(loss, labels)
    return distances[own] / (distances.masked_fill(own, 0).sum(1) + delta) / 2


def triplet_center(loss, embeddings, labels, squared=True):
    distances, own = squared_distances(loss, embeddings), is_own(loss, labels)
    distances = distances / 2 if squared else distances.sqrt()
    return (distances[own] + loss.margin - distances.masked_fill(own, torch.inf).amin(1)).clamp_min(0)


def triplet_center_of_lengths(loss, embeddings, labels):
    return triplet_center(loss, embeddings, labels, squared=False)


def cosines_to_centers(loss, embeddings):
    """Between each embedding and each center, (B, C)."""
    centers = loss.centers.clone()
    lengths = embeddings.square().sum(1).sqrt().unsqueeze(1) * centers.square().sum(1).sqrt()
    return embeddings @ centers.t() / lengths


def angular_center(loss, embeddings, labels):
    return 1 - cosines_to_centers(loss, embeddings)[is_own(loss, labels)]


def angular_triplet_center(loss, embeddings, labels):
    angles, own = cosines_to_centers(loss, embeddings).acos(), is_own(loss, labels)
    return (angles[own] + 0.7 - angles.masked_fill(own, torch.inf).amin(1)).clamp_min(0)


def lgm(loss, embeddings, labels, margin=0.3, weight=0.1):
    variances = torch.ones(1, dtype=torch.double) if loss.log_variances is None else loss.log_variances.exp()
    determinants = variances.log().sum(1) / 2 if variances.ndim > 1 else torch.zeros(loss.num_classes)
    difference = embeddings.unsqueeze(1) - loss.centers.clone()
    distances, own = (difference.pow(2) / variances).sum(2) / 2, is_own(loss, labels)
    logits = torch.where(own, -(1 + margin) * distances, -distances) - determinants
    return cross_entropy(logits, labels) + weight * (distances + determinants)[own]


def lgm_with_other_weights(loss, embeddings, labels):
    return lgm(loss, embeddings, labels, margin=1.0, weight=0.0)


def center_contrastive(loss, embeddings, labels):
    cosine, own = cosines_to_centers(loss, embeddings), is_own(loss, labels)
    centers = loss.centers.clone()
    apart = embeddings / embeddings.norm(dim=1, keepdim=True) - (centers / centers.norm(dim=1, keepdim=True))[labels]
    return cross_entropy(64 * torch.where(own, cosine - 0.2, cosine), labels) + apart.pow(2).sum(1)


def git(loss, embeddings, labels, same_class=False, repulsion=0.5):
    losses, centers = [], loss.centers.clone()
    for i, y in enumerate(labels.tolist()):
        total = (embeddings[i] - centers[y]).pow(2).sum() / 2
        for j, other in enumerate(labels.tolist()):
            if j != i and (same_class or other != y):
                total = total + repulsion / (1 + (embeddings[i] - centers[other]).pow(2).sum())
        losses.append(total)
    return torch.stack(losses)


def git_over_all_others(loss, embeddings, labels):
    return git(loss, embeddings, labels, same_class=True, repulsion=1)


def range_loss(loss, embeddings, labels, k=2, margin=2e4, alpha=5e-5, beta=1e-4, power=2):
    def distance(a, b):
        return (a - b).pow(2).sum() ** (power / 2)

    classes = sorted(set(labels.tolist()))
    members = {c: [x for x, y in zip(embeddings, labels.tolist(), strict=True) if y == c] for c in classes}
    intra = {}
    for c in classes:
        distances = [distance(a, b) for i, a in enumerate(members[c]) for b in members[c][:i]]
        longest = sorted(distances, key=Tensor.item, reverse=True)[:k]
        intra[c] = len(longest) / sum(1 / d for d in longest) if longest else 0 * embeddings.sum()
    means = {c: sum(members[c]) / len(members[c]) for c in classes}
    between = [distance(means[c], means[d]) for c in classes for d in classes if c < d]
    inter = (margin - min(between, key=Tensor.item)).clamp_min(0)
    shares = [alpha * intra[y] * len(labels) / len(members[y]) for y in labels.tolist()]
    return torch.stack(shares) + beta * inter


def euclidean_range_loss(loss, embeddings, labels):
    return range_loss(loss, embeddings, labels, k=3, margin=10, alpha=0.5, beta=0.7, power=1)


def marginal(loss, embeddings, labels):
    unit = [x / x.pow(2).sum().sqrt() for x in embeddings]
    size, losses = len(labels), []
    for i in range(size):
        total = torch.zeros((), dtype=torch.double)
        for j in set(range(size)) - {i}:
            sign = 1 if labels[i] == labels[j] else -1
            total = total + (0.3 - sign * (1.2 - (unit[i] - unit[j]).pow(2).sum())).clamp_min(0)
        losses.append(size * total / (size**2 - size))
    return torch.stack(losses)


def centroid_triplet(loss, embeddings, labels, power=2, everywhere=False):
    def mean(rows):
        return sum(rows) / len(rows)

    labels, losses = labels.tolist(), []
    for i, x in enumerate(embeddings):
        others = [embeddings[j] for j, y in enumerate(labels) if y == labels[i] and j != i]
        classes = sorted(set(labels) - {labels[i]})
        negatives = [mean([embeddings[j] for j, y in enumerate(labels) if y == c]) for c in classes]
        if not others:
            losses.append(0 * x.sum())
            continue
        positive = (x - mean(others)).pow(2).sum() ** (power / 2)
        hinges = [(positive - (x - c).pow(2).sum() ** (power / 2) + 0.5).clamp_min(0) for c in negatives]
        losses.append(mean(hinges) if everywhere else max(hinges, key=Tensor.item))
    return torch.stack(losses)


def euclidean_centroid_triplet(loss, embeddings, labels):
    return centroid_triplet(loss, embeddings, labels, power=1)


def centroid_triplet_with_all(loss, embeddings, labels):
    return centroid_triplet(loss, embeddings, labels, everywhere=True)


def euclidean_centroid_triplet_with_all(loss, embeddings, labels):
    return centroid_triplet(loss, embeddings, labels, power=1, everywhere=True)


def hetero_center(loss, embeddings, labels, margin=0.0):
    others, of_others = references(embeddings)
    losses = []
    for y in labels.tolist():
        second = [x for x, other in zip(others, of_others.tolist(), strict=True) if other == y]
        first = [x for x, other in zip(embeddings, labels.tolist(), strict=True) if other == y]
        if not second:
            losses.append(0 * embeddings.sum())
            continue
        square = (sum(first) / len(first) - sum(second) / len(second)).pow(2).sum()
        losses.append(len(labels) / len(first) * (square - margin).clamp_min(0))
    return torch.stack(losses)


def hetero_center_with_margin(loss, embeddings, labels):
    return hetero_center(loss, embeddings, labels, margin=2)


CASES = [
    Case(losses.SoftmaxLoss, softmax),
    Case(losses.SoftmaxLoss, softmax_without_bias, {"bias": False}),
    Case(losses.SoftmaxLoss, smoothed_softmax, {"label_smoothing": 0.1}),
    Case(losses.NormalizedSoftmaxLoss, normalized_softmax),
    Case(losses.NormalizedSoftmaxLoss, l2_softmax, {"scale": 12, "normalize_weights": False, "bias": True}),
    Case(losses.NormalizedSoftmaxLoss, automatic_scale, {"scale": "auto"}),
    Case(losses.NormalizedSoftmaxLoss, learned_scale, {"learn_scale": True}),
    Case(losses.CosFaceLoss, cosface),
    Case(losses.ArcFaceLoss, arcface),
    Case(losses.ArcFaceLoss, wide_arcface, {"margin": 100}),
    Case(losses.LargeMarginSoftmaxLoss, large_margin_softmax),
    Case(losses.SphereFaceLoss, sphereface),
    Case(losses.SphereFaceLoss, sphereface_r, {"version": "r"}, differentiable=False),
    Case(losses.CircleSoftmaxLoss, circle_softmax, {"scale": 32}, differentiable=False),
    Case(losses.UniFaceLoss, uniface, {"scale": 16, "negative_weight": 0.5}),
    Case(losses.UniFaceLoss, uniface, {"scale": 16, "negative_weight": 0.5, "thresholds": "separate"}),
    Case(losses.SphereFace2Loss, sphereface2, differentiable=False),
    Case(losses.SphereFace2Loss, differentiated_sphereface2, {"gradient": "full"}),
    Case(losses.SphereFace2Loss, angular_sphereface2, {"variant": "angular", "gradient": "full"}),
    Case(losses.SphereFace2Loss, angular_sphereface2_of_both, {"variant": "angular_both", "gradient": "full"}),
    Case(losses.SFaceLoss, sface, differentiable=False),
    Case(losses.ArcNegFaceLoss, arcnegface, differentiable=False),
    Case(losses.NPCFaceLoss, npcface, differentiable=False),
    Case(losses.P2SGradLoss, p2sgrad),
    Case(losses.VPLLoss, arcface_in_radians, {"start_step": 0}),
    Case(losses.BroadFaceLoss, arcface_in_radians, {"queue_size": 20}),
    Case(losses.CombinedMarginLoss, combined_margin, {"m1": 0.9, "m2": 0.4, "m3": 0.15}),
    Case(
        losses.CombinedMarginLoss,
        filtered_margin,
        {"m1": 1.2, "m2": 0, "m3": 0.1, "scale": 10, "beyond_pi": "rotate", "filter_threshold": 0.3},
    ),
    Case(losses.SubCenterArcFaceLoss, subcenter_arcface),
    Case(losses.LiArcFaceLoss, li_arcface),
    Case(losses.AdaCosLoss, adacos),
    Case(losses.AdaCosLoss, fixed_adacos, {"dynamic": False}),
    Case(losses.COCOLoss, coco),
    Case(losses.CurricularFaceLoss, curricularface),
    Case(losses.CurricularFaceLoss, wide_curricularface, {"margin": 1.5}),
    Case(losses.MVSoftmaxLoss, mv_am_softmax),
    Case(losses.MVSoftmaxLoss, easy_mv_am_softmax, {"easy_margin": True}),
    Case(losses.MVSoftmaxLoss, mv_arc_softmax, {"variant": "angular", "hardness": 0.3}),
    Case(losses.AdaFaceLoss, adaface, {"momentum": 0.1}, differentiable=False),
    Case(losses.MagFaceLoss, magface, {"lower_norm": 1, "upper_norm": 3}),
    Case(losses.ElasticFaceLoss, elastic_arcface),
    Case(losses.ElasticFaceLoss, elastic_cosface_plus, {"variant": "cosine", "std": 0.2, "plus": True}),
    Case(losses.AdaptiveFaceLoss, adaptiveface),
    Case(losses.DynamicArcFaceLoss, dynamic_arcface, {"class_counts": 20}),
    Case(losses.LDAMLoss, ldam, {"class_counts": 20}),
    Case(losses.KappaFaceLoss, kappaface, {"class_counts": 20}),
    Case(losses.KappaFaceLoss, kappaface_after_an_epoch, {"class_counts": 1}),
    Case(losses.CenterLoss, center),
    Case(losses.CenterLoss, center, {"update": "mean"}),
    Case(losses.CenterLoss, center, {"update": "fixed"}),
    Case(losses.CenterLoss, center, {"update": "gradient"}),
    Case(losses.CenterLoss, center_with_radius, {"radius": 1.5, "per_dim": True, "update": "gradient"}),
    Case(losses.IslandLoss, island),
    Case(losses.IslandLoss, island, {"update": "gradient"}),
    Case(losses.SoftmaxCenterLoss, softmax_center, {"center_weight": 0.1}),
    Case(losses.SoftmaxCenterLoss, softmax_shared_center, {"center_weight": 0.1, "shared": True, "update": "gradient"}),
    Case(losses.ContrastiveCenterLoss, contrastive_center),
    Case(losses.ContrastiveCenterLoss, contrastive_center, {"update": "paper"}),
    Case(losses.TripletCenterLoss, triplet_center, {"margin": 1}),
    Case(losses.TripletCenterLoss, triplet_center, {"update": "mean"}),
    Case(losses.TripletCenterLoss, triplet_center_of_lengths, {"margin": 1, "squared": False}),
    Case(losses.AngularCenterLoss, angular_center),
    Case(losses.AngularCenterLoss, angular_center, {"update": "gradient"}),
    Case(losses.AngularTripletCenterLoss, angular_triplet_center),
    Case(losses.AngularTripletCenterLoss, angular_triplet_center, {"update": "paper"}),
    Case(losses.LGMLoss, lgm),
    Case(losses.LGMLoss, lgm_with_other_weights, {"margin": 1, "likelihood_weight": 0, "covariance": "identity"}),
    Case(losses.LGMLoss, lgm, {"covariance": "identity", "update": "mean"}),
    Case(losses.CenterContrastiveLoss, center_contrastive),
    Case(losses.CenterContrastiveLoss, center_contrastive, {"update": "gradient"}),
    Case(losses.GitLoss, git, {"repulsion": 0.5}),
    Case(losses.GitLoss, git_over_all_others, {"same_class": True, "update": "gradient"}),
    Case(losses.RangeLoss, range_loss),
    Case(
        losses.RangeLoss,
        euclidean_range_loss,
        {"k": 3, "margin": 10, "intra_weight": 0.5, "inter_weight": 0.7, "squared": False},
    ),
    Case(losses.CACLoss, cac),
    Case(losses.MarginalLoss, marginal),
    Case(losses.CentroidTripletLoss, centroid_triplet),
    Case(losses.CentroidTripletLoss, euclidean_centroid_triplet, {"squared": False}),
    Case(losses.CentroidTripletLoss, centroid_triplet_with_all, {"negatives": "all"}),
    Case(losses.CentroidTripletLoss, euclidean_centroid_triplet_with_all, {"negatives": "all", "squared": False}),
    Case(losses.HeteroCenterLoss, hetero_center),
    Case(losses.HeteroCenterLoss, hetero_center_with_margin, {"margin": 2}),
]
