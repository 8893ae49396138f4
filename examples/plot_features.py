"""
What center loss does
=====================

A small network with two-dimensional features is trained on handwritten digits, with softmax loss alone and with center
loss added. Features of digits that it has not seen are drawn as they are: there is nothing to project.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from pml_center import create_embedder, param_groups, plots
from pml_center.data import digits, split_images
from pml_center.evaluation import RetrievalEvaluator, intra_inter_distance
from pml_center.losses import CenterLoss, SoftmaxLoss

# %%
# The data: 8 × 8 pixels, three quarters of each class for training.

data = digits()
pixels = np.stack([np.asarray(image) for image, _ in data])
images, labels = torch.from_numpy(pixels).unsqueeze(1) / 255, torch.from_numpy(data.labels)  # (N, 1, 8, 8), (N,)
train, test = map(torch.from_numpy, split_images(data.labels, held_out=0.25))

# %%
# Training. The softmax has no bias, so that its classes are directions. The centers need no optimizer.


def train_features(weight, epochs=15):
    """Features of the test images, (N, 2), after training with center loss of this weight."""
    torch.manual_seed(0)
    model = create_embedder("convnet", embedding_size=2, image_size=8, width=16)
    softmax, center = SoftmaxLoss(10, 2, bias=False), CenterLoss(10, 2)
    groups = param_groups(model, softmax, center, lr=0.05, weight_decay=5e-4)
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    batches = len(train) // 64  # of about equal size: BatchNorm takes a small last batch badly
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * batches + 1)
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train))].tensor_split(batches):
            features = model(images[batch])
            loss = softmax(features, labels[batch]) + weight * center(features, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return model.eval()(images[test])


# %%
# Softmax alone spreads each digit along a ray from the origin. Center loss packs it.

evaluator = RetrievalEvaluator(similarity="euclidean")
figure, axes = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
tightness = {}
for ax, weight in zip(axes, (0.0, 0.1), strict=True):
    features = train_features(weight)
    plots.features(features, labels[test], ax=ax)
    ax.set_title(f"softmax + {weight:g} · center" if weight else "softmax")
    intra, inter = intra_inter_distance(features, labels[test])
    tightness[weight] = intra / inter
    precision = evaluator(features, labels[test])["precision_at_1"]
    print(f"weight {weight:<3g}  precision@1 {precision:.3f}  within / between classes {tightness[weight]:.3f}")

assert tightness[0.1] < 0.8 * tightness[0.0]
