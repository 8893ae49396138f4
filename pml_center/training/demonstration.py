"""The well-known figure: two-dimensional features of digits under softmax, and under center loss as λ grows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pml_center import plots
from pml_center.backbones import create_embedder
from pml_center.data import digits, split_images
from pml_center.evaluation import RetrievalEvaluator, intra_inter_distance
from pml_center.losses import CenterLoss, SoftmaxLoss
from pml_center.notebooks import progress_bar
from pml_center.training.parameter_groups import param_groups
from pml_center.training.seeding import seed_everything

WEIGHTS = (0.0, 0.01, 0.1, 1.0)  # λ, the weight of center loss


@dataclass(frozen=True)
class Features:
    """Features of the test digits, (N, 2), after training with one λ, and what they are worth."""

    weight: float
    points: np.ndarray
    labels: np.ndarray
    metrics: dict[str, float]


def train_with_each_weight(epochs: int = 30, seed: int = 0) -> list[Features]:
    """Train one network for each λ, from the same start, on three quarters of the digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a network this small gains nothing by a second, and loses much where a machine is busy
    try:
        return _train_all(epochs, seed)
    finally:
        torch.set_num_threads(threads)


def _train_all(epochs: int, seed: int) -> list[Features]:
    images, labels = _digits_as_tensors()
    train, test = (torch.from_numpy(indices) for indices in split_images(labels.numpy(), 0.25, seed))
    bar = progress_bar(total=len(WEIGHTS) * epochs, unit="epoch")
    results = []
    for weight in WEIGHTS:
        bar.set_description(f"λ = {weight:g}")
        model, softmax = _train(images[train], labels[train], weight, epochs, seed, bar)
        with torch.no_grad():
            points = model(images[test])
            accuracy = (softmax.predict(points) == labels[test]).double().mean().item()
        results.append(Features(weight, points.numpy(), labels[test].numpy(), _metrics(points, labels[test], accuracy)))
    bar.close()
    return results


def draw(results: list[Features], path: Path) -> Path:
    """The features side by side, one panel a λ, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(results), 4.4), layout="constrained")
    for ax, result in zip(np.atleast_1d(figure.subplots(1, len(results))), results, strict=True):
        plots.features(result.points, result.labels, ax=ax)
        name = "softmax" if result.weight == 0 else f"softmax + {result.weight:g} · center"
        ax.set_title(f"{name}\naccuracy {result.metrics['accuracy']:.3f}, MAP@R {result.metrics['MAP@R']:.3f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _train(images: Tensor, labels: Tensor, weight: float, epochs: int, seed: int, bar) -> tuple[nn.Module, SoftmaxLoss]:
    seed_everything(seed)
    model = create_embedder("convnet", embedding_size=2, image_size=8, width=16)
    softmax, center = SoftmaxLoss(10, 2, bias=False), CenterLoss(10, 2)  # a bias would move the rays off the origin
    optimizer = torch.optim.SGD(param_groups(model, softmax, center, lr=0.05, weight_decay=5e-4), momentum=0.9)
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * batches + 1)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).tensor_split(batches):
            features = model(images[batch])
            loss = softmax(features, labels[batch]) + weight * center(features, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        bar.update()
    return model.eval(), softmax


def _digits_as_tensors() -> tuple[Tensor, Tensor]:
    """(N, 1, 8, 8) in [0, 1] and (N,)."""
    data = digits()
    images = np.stack([np.asarray(data[i][0]) for i in range(len(data))])
    return torch.from_numpy(images).float().unsqueeze(1) / 255, torch.from_numpy(data.labels)


def _metrics(points: Tensor, labels: Tensor, accuracy: float) -> dict[str, float]:
    report = RetrievalEvaluator(recall_at=(1,), similarity="euclidean")(points, labels)
    intra, inter = intra_inter_distance(points, labels)
    return {
        "accuracy": accuracy,
        "precision@1": report["precision_at_1"],
        "MAP@R": report["mean_average_precision_at_r"],
        "intra": intra,
        "inter": inter,
        "intra/inter": intra / inter,
    }
