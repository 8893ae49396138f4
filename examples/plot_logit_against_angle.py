"""
The logit of one's own class against the angle
==============================================

What makes a loss of the softmax family is what it does to the similarity of an embedding and its own class. Here is
that curve for each of them: the logit that training sees, divided by the scale, against the angle θ. The dotted line
is cos θ, which is what remains without a margin.
"""

import math

import matplotlib.pyplot as plt
import torch

from pml_center import losses

# %%
# Two classes in three dimensions. The embedding turns away from its own class, always at a right angle to the other
# one, whose logit therefore stays what a cosine of 0 gives.

angles = torch.linspace(0, math.pi, 181)
embeddings = 20 * torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], dim=1)
labels = torch.zeros(len(angles), dtype=torch.long)
directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def build(name):
    """The loss at its defaults, its class weights set."""
    kind = getattr(losses, name)
    known = {"class_counts": [20, 20]} if name in ("DynamicArcFaceLoss", "KappaFaceLoss", "LDAMLoss") else {}
    loss = kind(num_classes=2, embedding_size=3, **known).eval()
    rows = loss.class_weights.weight
    with torch.no_grad():
        rows.copy_(directions.repeat_interleave(len(rows) // 2, dim=0))
    return loss


# %%
# Losses that normalise nothing are drawn by the length of the embedding, 20 here.

names = [
    name
    for name in losses.__all__
    if issubclass(getattr(losses, name), losses.BaseSoftmaxLoss) and name != "BaseSoftmaxLoss"
]
columns = 3
rows = math.ceil(len(names) / columns)
figure, axes = plt.subplots(rows, columns, figsize=(7, 1.9 * rows), sharex=True, layout="constrained")
slopes = {}
for ax, name in zip(axes.flat, names, strict=False):
    loss = build(name)
    with torch.no_grad():
        logit = loss.get_logits(embeddings, labels)[:, 0]
        size = (loss.get_logits(embeddings)[:1, 0]).abs()  # without margin at θ = 0
    curve = (logit / size).numpy()
    slopes[name] = float(curve[60] - curve[30])
    ax.plot(angles.rad2deg(), angles.cos(), color="0.6", linestyle=":", linewidth=1.5)
    ax.plot(angles.rad2deg(), curve, color="#332288", linewidth=1.8)
    ax.set_title(name.removesuffix("Loss"), fontsize=10)
    ax.set_xticks([0, 60, 120, 180])
    ax.grid(color="0.92")
for number, ax in enumerate(axes.flat):
    ax.tick_params(labelbottom=number >= len(names) - columns)  # the lowest of each column
    if number >= len(names):
        ax.set_axis_off()
figure.supxlabel("angle θ between the embedding and its own class, degrees")
figure.supylabel("logit of one's own class / scale")
plt.show()

# %%
# How far a curve falls from 30° to 60° is how hard it pulls there. SFace is no exception though it rises: it multiplies
# the cosine by a weight that has no gradient, so that its pull is that of the cosine, and fades at small angles.

for name, slope in sorted(slopes.items(), key=lambda item: item[1]):
    print(f"{name:24} {slope:6.2f}")
assert all(slope < 0 for name, slope in slopes.items() if name != "SFaceLoss")
