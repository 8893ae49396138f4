"""
Thousands of classes, a tenth of them in each step
==================================================

A softmax loss compares each image with every class. Where there are very many, ``sample_rate`` lets each step see the
classes of its batch and a random choice of the others. You make thousands of classes from a photograph: each place in
it is a class, and its images are views of that place, turned, zoomed and lit in other ways. What is learned must find
places again in another photograph.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image

from pml_center import create_embedder, param_groups, plots
from pml_center.evaluation import RetrievalEvaluator
from pml_center.losses import NormalizedSoftmaxLoss

# %%
# Places and views
# ----------------
#
# Two photographs come with scikit-learn. A place is a point of a grid, unless there is nothing to see around it, such
# as the sky.


def views(photo, places, change=1.0):
    """Grey views of 16 × 16 pixels, each with a change of its own, (N, 1, 16, 16)."""
    height, width = photo.shape

    def drawn(most):
        return torch.empty(len(places), 1, 1).uniform_(-most, most) * change

    y, x = torch.meshgrid(torch.linspace(-15, 15, 16), torch.linspace(-15, 15, 16), indexing="ij")
    angle, zoom = drawn(0.35), drawn(0.2).exp()
    across = places[:, :1, None] + zoom * (angle.cos() * x - angle.sin() * y)
    down = places[:, 1:, None] + zoom * (angle.sin() * x + angle.cos() * y)
    where = torch.stack([2 * across / (width - 1) - 1, 2 * down / (height - 1) - 1], dim=-1)  # (N, 16, 16, 2)
    seen = F.grid_sample(photo[None, None], where.view(1, -1, 16, 2), align_corners=True).view(-1, 1, 16, 16)
    return seen * drawn(0.3).exp()[:, None] + drawn(0.1)[:, None] + 0.02 * change * torch.randn_like(seen)


def places_of(photo, stride):
    """Where there is something to see, (C, 2) pixels from the left and from the top."""
    down, across = (torch.arange(24, size - 24, stride) for size in photo.shape)
    grid = torch.cartesian_prod(across, down).float()
    return grid[views(photo, grid, change=0).flatten(1).std(1) > 0.05]


torch.manual_seed(0)
colour = load_sample_image("china.jpg")
temple = torch.tensor(colour).float().mean(2) / 255
flower = torch.tensor(load_sample_image("flower.jpg")).float().mean(2) / 255
classes, unseen = places_of(temple, stride=8), places_of(flower, stride=16)
print(f"{len(classes):,} classes to train on, {len(unseen):,} places of the other photograph to find")

shown = classes[[70, 700, 1250, 1800]]
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.9), layout="constrained", width_ratios=(1.5, 1))
left.imshow(colour)
for number, (x, y) in enumerate(shown):
    left.add_patch(plt.Rectangle((x - 16, y - 16), 32, 32, fill=False, edgecolor="white", linewidth=2))
    left.annotate(str(number), (x, y - 20), color="white", weight="bold", ha="center", fontsize=12)
tiles = F.pad(views(temple, shown.repeat_interleave(4, dim=0)), (1, 1, 1, 1), value=1)  # a white line around each
right.imshow(tiles.view(4, 4, 18, 18).transpose(1, 2).reshape(72, 72).numpy(), cmap="gray", vmin=0, vmax=1)
right.set_yticks(9 + 18 * np.arange(4), range(4))
right.set_xticks([])
left.set_axis_off()
left.set_title("four of the classes")
right.set_title("views of each")

# %%
# Training with all classes, and with a tenth
# -------------------------------------------
#
# Each step draws 128 places and looks at them anew. ``sample_correction=False`` is the softmax over what was drawn. By
# default a class that was drawn counts for those that were not, which is right in the mean and noisier: in the few
# steps here it finds fewer places.


def fit(sample_rate, steps=200):
    torch.manual_seed(0)
    model = create_embedder("convnet", embedding_size=64, image_size=16, width=16)
    sampling = {"sample_rate": sample_rate, "sample_correction": False}
    loss = NormalizedSoftmaxLoss(len(classes), 64, temperature=1 / 16, **sampling)
    optimizer = torch.optim.AdamW(param_groups(model, loss, lr=3e-3))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(classes), (128,))
        value = loss(model(views(temple, classes[batch])), batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


torch.manual_seed(1)
queries, references, names = views(flower, unseen), views(flower, unseen, change=0), np.arange(len(unseen))
evaluator = RetrievalEvaluator(metrics=("mean_reciprocal_rank",), recall_at=(1,))
reports = {}
with torch.no_grad():
    centred = [(seen - seen.mean((2, 3), keepdim=True)).flatten(1) for seen in (queries, references)]
    reports["pixels"] = evaluator(centred[0], names, centred[1], names)
    for name, rate in {"all classes": 1.0, "a tenth": 0.1}.items():
        with torch.enable_grad():
            model = fit(rate)
        reports[name] = evaluator(model(queries), names, model(references), names)

for name, report in reports.items():
    low, high = report.ci["recall_at_1"]
    print(f"{name:<12}  recall@1 {report['recall_at_1']:.3f}  [{low:.3f}, {high:.3f}]")
print("all − a tenth:", reports["all classes"].compare(reports["a tenth"])["recall_at_1"])

figure, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
values = {name: report["recall_at_1"] for name, report in reports.items()}
plots.metric_intervals(values, {name: report.ci["recall_at_1"] for name, report in reports.items()}, ax=ax)
ax.set(title="Places of the other photograph, found at once", xlabel="recall@1 and 95 % interval")
assert values["a tenth"] > values["pixels"]
assert values["a tenth"] > values["all classes"] - 0.1

# %%
# Places that the model of sampled classes found, but not at once: what it took for them looks alike indeed.

second = np.flatnonzero(np.isin(report.per_unit["mean_reciprocal_rank"], (1 / 2, 1 / 3)))[:4]
found = report.neighbours.ids[second, :5]
plots.retrieval_gallery(list(queries[second, 0]), [list(references[row, 0]) for row in found], report.hits[second, :5])

# %%
# What it saves
# -------------
#
# The time of the loss, forward and backward, for a batch of 128. With few classes there is nothing to save; a network
# takes its own time besides.

embeddings = torch.randn(128, 64, requires_grad=True)
milliseconds = {"all classes": [], "a tenth": []}
counts = [2_000, 10_000, 50_000]
for count in counts:
    for name, rate in {"all classes": 1.0, "a tenth": 0.1}.items():
        loss = NormalizedSoftmaxLoss(count, 64, temperature=1 / 16, sample_rate=rate, sparse_gradient=rate < 1)
        taken = []
        for _ in range(4):
            start = time.process_time()
            loss(embeddings, torch.arange(128)).backward()
            loss.zero_grad()
            taken.append(time.process_time() - start)
        milliseconds[name].append(1000 * min(taken))
    print(f"{count:>7,} classes:", ", ".join(f"{name} {taken[-1]:.1f} ms" for name, taken in milliseconds.items()))

figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for (name, taken), style in zip(milliseconds.items(), ("o-", "s--"), strict=True):
    ax.plot(counts, taken, style, label=name, color=plots.BRIGHT[style == "s--"], linewidth=1.8)
ax.set(xscale="log", yscale="log", xlabel="classes", ylabel="ms a step", title="Time of the loss")
ax.set_xticks(counts, [f"{count:,}" for count in counts])
ax.minorticks_off()
ax.grid(color=plots.GREY, alpha=0.25)
ax.legend(frameon=False)
plt.show()
assert milliseconds["a tenth"][-1] < milliseconds["all classes"][-1]
