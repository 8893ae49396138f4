"""
The hardest mistakes, and labels that are wrong
===============================================

A number says how often a model is wrong; pictures say why. You train a small network on half of the digits, search the
other half, and look at what it gets most wrong. Then you spoil some labels on purpose, and see the report name them.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from pml_center import create_embedder, param_groups, plots
from pml_center.data import digits, split_images
from pml_center.evaluation import RetrievalEvaluator
from pml_center.losses import SoftmaxCenterLoss

data = digits()
pixels = np.stack([np.asarray(image) for image, _ in data])
images, labels = torch.from_numpy(pixels).unsqueeze(1) / 255, torch.from_numpy(data.labels)  # (N, 1, 8, 8), (N,)
train, test = map(torch.from_numpy, split_images(data.labels, held_out=0.5))

torch.manual_seed(0)
model = create_embedder("convnet", embedding_size=32, image_size=8, width=16)
loss = SoftmaxCenterLoss(10, 32, center_weight=0.01)
optimizer = torch.optim.AdamW(param_groups(model, loss, lr=3e-3))
for _ in range(10):
    for batch in train[torch.randperm(len(train))].split(64)[:-1]:  # the last one is small
        value = loss(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
with torch.no_grad():
    embeddings = model.eval()(images[test])

# %%
# Each image of the other half is searched for among all of that half.

evaluator = RetrievalEvaluator(recall_at=(1,), ci="query")
report = evaluator(embeddings, labels[test])
print(report)
assert report["recall_at_1"] > 0.94

# %%
# The hardest mistakes
# --------------------
#
# ``worst`` ranks queries by a metric, and of equal ones first those whose wrong neighbour is the most similar: the
# model is wrong and sure of it. Of each you see the query and its first neighbours, with their cosine. Some of these
# digits you would not read either.


def show(rows, report, count=6):
    """Queries and their first neighbours, as pictures."""
    found = report.neighbours.ids[rows, :count]
    tested = pixels[test.numpy()]
    return plots.retrieval_gallery(
        tested[rows], tested[found], report.hits[rows, :count], report.neighbours.scores[rows, :count]
    )


worst = report.worst(5)
show(worst, report)
print("read as:", [(int(labels[test[i]]), int(labels[test[report.neighbours.ids[i, 0]]])) for i in worst])
assert report.hits[worst, 0].mean() < report["recall_at_1"]

# %%
# Which digits are taken for which, and how each of them fares: the mistakes are not spread evenly.

for label, taken_for, count in report.confusions(4):
    print(f"{label} was nearest to a {taken_for} {count} times")
by_class = np.sort(report.per_class(), order="mean_average_precision_at_r")
scores = by_class["mean_average_precision_at_r"]
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
bars = ax.bar(
    [str(label) for label in by_class["label"]], by_class["mean_average_precision_at_r"], color=plots.BRIGHT[0]
)
ax.bar_label(bars, fmt="%.2f", fontsize=9)
ax.set(xlabel="digit", ylabel="MAP@R", ylim=(0, 1.1))
assert scores[-1] - scores[0] > 0.02

# %%
# Labels that are wrong
# ---------------------
#
# Twelve labels are changed to another digit. Two images that are each other's nearest neighbour and bear different
# labels are suspects: ``label_errors`` lists them, the most similar pair first.

random = np.random.default_rng(3)
spoiled = np.sort(random.choice(len(test), 12, replace=False))
wrong = labels[test].clone()
wrong[spoiled] = (wrong[spoiled] + torch.from_numpy(random.integers(1, 10, 12))) % 10
suspicious = evaluator(embeddings, wrong)
pairs = suspicious.label_errors()
named = np.unique([pairs["query"], pairs["reference"]])
caught = np.isin(spoiled, named)
print(f"{len(pairs)} pairs of suspects hold {caught.sum()} of 12 wrong labels")
print(f"of the first six pairs, {np.isin([pairs['query'][:6], pairs['reference'][:6]], spoiled).any(0).sum()} do")

figure, axes = plt.subplots(2, 6, figsize=(6.5, 2.9), layout="constrained")
for column, pair in enumerate(pairs[:6]):
    for ax, row in zip(axes[:, column], (pair["query"], pair["reference"]), strict=True):
        ax.imshow(pixels[test[row]], cmap="gray")
        ax.set_title(f"“{wrong[row]}”" + (" wrong" if row in spoiled else ""), fontsize=10)
        ax.set_axis_off()
figure.suptitle("labels of the first six pairs", fontsize=12)
plt.show()

# %%
# A wrong label is missed where its nearest neighbour has a nearer one of its own. Mend what you find, and look again.

assert caught.sum() >= 5
