"""The picture of each loss, drawn when its page is read: curves of the softmax family, features of the others."""

import math
from functools import cache
from pathlib import Path

import loss_pages
import matplotlib.pyplot as plt
import numpy as np
import torch
from docutils import nodes
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners
from pytorch_metric_learning.distances import LpDistance
from sphinx.util.docutils import SphinxDirective

from pml_center import create_embedder, losses, param_groups, plots
from pml_center.data import digits, split_images

EPOCHS = 12
EUCLIDEAN = LpDistance(normalize_embeddings=False)
LENGTHS = {"AdaFaceLoss": (2, 20, 320), "MagFaceLoss": (10, 60, 110)}


def draw_curve(name: str):
    """The logit of one's own class against the angle, and its slope."""
    angles = torch.linspace(0, math.pi, 361)
    labels = torch.zeros(len(angles), dtype=torch.long)
    loss = loss_pages.Loss(name).build(num_classes=2, embedding_size=3, class_counts=20).eval()
    rows = loss.class_weights.weight
    with torch.no_grad():  # two classes; embeddings turn from one, at a right angle to the other
        directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        rows.copy_(directions.repeat_interleave(len(rows) // 2, dim=0))
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.8), layout="constrained")
    degrees = angles.rad2deg()
    plain = {"color": plots.GREY, "linestyle": ":", "linewidth": 1.5, "zorder": 3}  # seen where curves are the same
    left.plot(degrees, angles.cos(), label="no margin", **plain)
    right.plot(degrees, angles.sin(), **plain)
    for number, length in enumerate(LENGTHS.get(name, (20,))):
        turned = angles.clone().requires_grad_()
        embeddings = length * torch.stack([turned.cos(), turned.sin(), torch.zeros_like(turned)], dim=1)
        logit = loss.get_logits(embeddings, labels)[:, 0]
        size = loss.get_logits(embeddings)[:1, 0].abs().detach()
        (slope,) = torch.autograd.grad((logit / size).sum(), turned)
        label = f"length {length}" if name in LENGTHS else name.removesuffix("Loss")
        style = {"color": plots.BRIGHT[number], "linestyle": plots.LINES[number], "linewidth": 2}
        left.plot(degrees, (logit / size).detach(), label=label, **style)
        right.plot(degrees[1:-1], -slope[1:-1], **style)
    draw_other_class(loss, left)
    for ax, title in ((left, "logit / scale"), (right, "pull")):
        ax.set(xlabel="angle θ to the class, degrees", title=title, xticks=[0, 45, 90, 135, 180])
        ax.grid(color="0.92")
    left.legend(frameon=False, fontsize="small", handlelength=1.5)
    right.set_ylim(bottom=min(0, right.get_ylim()[0]))
    return figure


def draw_other_class(loss, ax) -> None:
    """The logit of another class against the angle to it, its own class at 60 degrees, where it is not the cosine."""
    angles = torch.linspace(math.pi / 6, 5 * math.pi / 6, 241)
    own, other = torch.full_like(angles, 0.5), angles.cos()
    embeddings = 20 * torch.stack([own, (1 - own.square() - other.square()).clamp_min(0).sqrt(), other], dim=1)
    with torch.no_grad():
        size = loss.get_logits(torch.tensor([[20.0, 0, 0]]))[0, 0].abs()
        logit = loss.get_logits(embeddings, torch.zeros(len(angles), dtype=torch.long))[:, 1] / size
    if not torch.allclose(logit, other, atol=1e-3):
        style = {"color": plots.BRIGHT[1], "linestyle": "--", "linewidth": 2}
        ax.plot(angles.rad2deg(), logit, label="another class,\nown at 60°", **style)


@cache
def images() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Digits, their labels, and which are for training and which for the picture."""
    data = digits()
    pixels = np.stack([np.asarray(image) for image, _ in data])
    train, shown = split_images(data.labels, held_out=0.25)
    return torch.from_numpy(pixels).unsqueeze(1) / 255, torch.from_numpy(data.labels), train, shown


@cache
def features(name: str, weight: float | None) -> np.ndarray:
    """Of the digits that the network has not seen, (N, 2): trained by softmax plus a loss, or by the loss alone."""
    torch.manual_seed(0)
    if name == "SoftmaxLoss":  # without bias, so that rays start from the origin
        return train(losses.SoftmaxLoss(10, 2, bias=False))
    loss = loss_pages.Loss(name).build(embedding_size=2)
    return train(loss) if weight is None else train(losses.SoftmaxLoss(10, 2, bias=False), (weight, loss))


def train(first, *others: tuple) -> np.ndarray:
    """Features of the test images, (N, 2), trained by one loss and others with a weight and perhaps a miner."""
    pixels, labels, train, shown = images()
    torch.manual_seed(0)
    model = create_embedder("convnet", embedding_size=2, image_size=8, width=16)
    parameters = param_groups(model, first, *(loss for _, loss, *_ in others), lr=0.05, weight_decay=5e-4)
    optimizer = torch.optim.SGD(parameters, momentum=0.9)
    batches = len(train) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=EPOCHS * batches + 1)
    for _ in range(EPOCHS):
        for batch in torch.from_numpy(train)[torch.randperm(len(train))].tensor_split(batches):
            own, seen = labels[batch], pixels[batch]
            references = any(getattr(loss, "takes_references", False) for _, loss, *_ in others)
            if references:  # the second modality is a dark copy of each image
                seen = torch.cat([seen, seen / 3])
            embeddings = model(seen)
            value = first(embeddings, own.repeat(2) if references else own)
            for weight, loss, *miner in others:
                if references:
                    one, other = embeddings.chunk(2)
                    value = value + weight * loss(one, own, ref_emb=other, ref_labels=own)
                else:
                    value = value + weight * loss(embeddings, own, *(mine(embeddings, own) for mine in miner))
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return model.eval()(pixels[torch.from_numpy(shown)]).numpy()


def draw_features(panels: dict[str, np.ndarray]):
    """Features side by side, each under its title."""
    _, labels, _, shown = images()
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6, 3.1), layout="constrained")
    for ax, (title, points) in zip(axes, panels.items(), strict=True):
        plots.features(points, labels[shown], ax=ax)
        ax.set_title(title, fontsize=10)
    return figure


def draw_loss(name: str):
    """Curves of a loss of the softmax family; features by softmax alone and with any other loss."""
    if loss_pages.Loss(name).family == "softmax":
        return draw_curve(name)
    head, _, _ = loss_pages.split(loss_pages.written(name))
    title = name.removesuffix("Loss")
    title = f"softmax + {head['weight']} · {title}" if head["weight"] else title
    return draw_features({"softmax": features("SoftmaxLoss", None), title: features(name, head["weight"])})


def draw_softmax():
    """Plain scores and cosines."""
    cosines = train(losses.NormalizedSoftmaxLoss(10, 2, scale=16))
    directions = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    return draw_features({"softmax": features("SoftmaxLoss", None), "softmax of cosines, directions": directions})


def draw_cross_entropy():
    """The loss of two classes against the probability of the truth, and its gradient to the score."""
    probability = np.linspace(1e-3, 1 - 1e-3, 500)
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.8), layout="constrained")
    for number, smoothing in enumerate((0, 0.1, 0.3)):
        truth = 1 - smoothing / 2
        style = {"color": plots.BRIGHT[number], "linestyle": plots.LINES[number], "linewidth": 2}
        value = -truth * np.log(probability) - (1 - truth) * np.log(1 - probability)
        left.plot(probability, value, label=f"smoothing {smoothing}", **style)
        right.plot(probability, probability - truth, **style)
    left.set(xlabel="probability of the truth", title="cross entropy of two classes", ylim=(0, 5))
    right.set(xlabel="probability of the truth", title="gradient to its score")
    right.axhline(0, color=plots.GREY, linewidth=0.8)
    left.legend(frameon=False, fontsize="small")
    for ax in (left, right):
        ax.grid(color="0.92")
    return figure


def draw_contrastive():
    """The loss of a pair, and features by it."""
    points = train(pml_losses.ContrastiveLoss(neg_margin=4, distance=EUCLIDEAN))
    _, labels, _, shown = images()
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 3.1), layout="constrained")
    distance = np.linspace(0, 2, 200)
    left.plot(distance, distance, color=plots.BRIGHT[0], linewidth=2, label="one class")
    other = np.maximum(0, 1 - distance)
    left.plot(distance, other, color=plots.BRIGHT[1], linewidth=2, linestyle="--", label="two classes")
    left.set_xlabel("distance of the pair")
    left.set_title("loss of a pair", fontsize=10)
    left.grid(color="0.92")
    left.legend(frameon=False)
    plots.features(points, labels[shown], ax=right)
    right.set_title("contrastive", fontsize=10)
    return figure


def draw_triplet():
    """Triplets alone, and with softmax and center loss."""
    triplet = pml_losses.TripletMarginLoss(margin=1.0, distance=EUCLIDEAN)
    miner = miners.TripletMarginMiner(margin=1.0, distance=EUCLIDEAN)
    mined = MinedLoss(triplet, miner)
    mixed = train(losses.SoftmaxLoss(10, 2, bias=False), (0.1, losses.CenterLoss(10, 2)), (1.0, triplet, miner))
    return draw_features({"triplet": train(mined), "softmax + 0.1 · center + triplet": mixed})


class MinedLoss(torch.nn.Module):
    """A loss of pairs or triplets on what a miner finds."""

    def __init__(self, loss, miner):
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings, labels):
        """The loss."""
        return self.loss(embeddings, labels, self.miner(embeddings, labels))


SURVEY = {
    "softmax": draw_softmax,
    "cross_entropy": draw_cross_entropy,
    "contrastive": draw_contrastive,
    "triplet": draw_triplet,
}


class Picture(SphinxDirective):
    """An image that is drawn when its page is read, if pictures are wanted."""

    required_arguments = 1

    def figure(self, name: str):
        """What is drawn, and what it shows, in words."""
        raise NotImplementedError

    def run(self):
        """The image."""
        if not self.config.loss_pictures:
            return []
        name = self.arguments[0]
        figure, alt = self.figure(name)
        place = f"losses/pictures/{name}.png"
        path = Path(self.env.srcdir, place)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=160, bbox_inches="tight", pad_inches=0.08)
        plt.close(figure)
        self.env.note_dependency(loss_pages.__file__)
        self.env.note_dependency(__file__)
        return [nodes.image(uri=f"/{place}", alt=alt)]


class LossPicture(Picture):
    """``{loss-picture} ArcFaceLoss``."""

    def figure(self, name):
        """See :class:`Picture`."""
        curve = loss_pages.Loss(name).family == "softmax"
        shows = "Logit and pull against the angle" if curve else "Features of digits in two dimensions"
        return draw_loss(name), f"{shows}, {name}"


class SurveyPicture(Picture):
    """``{survey-picture} triplet``."""

    def figure(self, name):
        """See :class:`Picture`."""
        return SURVEY[name](), (SURVEY[name].__doc__ or "").rstrip(".")


def setup(app):
    """Sphinx's hook."""
    app.add_config_value("loss_pictures", True, "env", bool)
    app.add_directive("loss-picture", LossPicture)
    app.add_directive("survey-picture", SurveyPicture)
    return {"parallel_read_safe": True}
