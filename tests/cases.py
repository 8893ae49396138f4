"""One entry per loss: how it is built, and its dense formula written from the paper, in fp64, sharing no code."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pml_center import losses

NUM_CLASSES, EMBEDDING_SIZE = 7, 5


@dataclass(frozen=True)
class Case:
    """A loss, and its formula: (loss, embeddings, labels) to the loss of each sample."""

    loss: type
    formula: Callable[..., Tensor]
    arguments: dict = field(default_factory=dict)

    def __str__(self):
        return "-".join([self.loss.__name__, *map(str, self.arguments.values())])

    @property
    def is_softmax(self) -> bool:
        """Whether it is of the softmax family, which has logits and chunks."""
        return issubclass(self.loss, losses.MarginSoftmaxLoss)

    def build(self, num_classes: int = NUM_CLASSES, embedding_size: int = EMBEDDING_SIZE, **arguments):
        """The loss in fp64 with rows of length about 1, so that every class matters."""
        loss = self.loss(num_classes, embedding_size, **{**self.arguments, **arguments}).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in filter(torch.is_floating_point, [*loss.parameters(), *loss.buffers()]):
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.double))
        return loss


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


def center(loss, embeddings, labels):
    return (embeddings - loss.centers.clone()[labels]).pow(2).sum(1) / 2


CASES = [
    Case(losses.SoftmaxLoss, softmax),
    Case(losses.SoftmaxLoss, softmax_without_bias, {"bias": False}),
    Case(losses.SoftmaxLoss, smoothed_softmax, {"label_smoothing": 0.1}),
    Case(losses.NormalizedSoftmaxLoss, normalized_softmax),
    Case(losses.CosFaceLoss, cosface),
    Case(losses.ArcFaceLoss, arcface),
    Case(losses.ArcFaceLoss, wide_arcface, {"margin": 100}),
    Case(losses.CenterLoss, center),
    Case(losses.CenterLoss, center, {"update": "gradient"}),
]
