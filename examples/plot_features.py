"""
What eight losses do to features
================================

You train one small network, with two-dimensional features, on handwritten digits: with softmax loss and what may stand
beside it, which you see in the plane, and with losses of angles, which you see on the circle. All digits that you see
are new to the network, and drawn as they are: there is nothing to project.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from pytorch_metric_learning.losses import MultipleLosses

from pml_center import create_embedder, param_groups, plots
from pml_center.data import digits, split_images
from pml_center.evaluation import RetrievalEvaluator, intra_inter_distance
from pml_center.losses import (
    ArcFaceLoss,
    CenterLoss,
    CosFaceLoss,
    IslandLoss,
    NormalizedSoftmaxLoss,
    SoftmaxLoss,
    SphereFaceLoss,
)
from pml_center.regularizers import RingRegularizer

# %%
# The data: 8 × 8 pixels, three quarters of each class for training.

data = digits()
pixels = np.stack([np.asarray(image) for image, _ in data])
images, labels = torch.from_numpy(pixels).unsqueeze(1) / 255, torch.from_numpy(data.labels)  # (N, 1, 8, 8), (N,)
train, test = map(torch.from_numpy, split_images(data.labels, held_out=0.25))


def fit(model, loss, epochs, lr):
    """Train on the training images; return features of the others, (N, 2)."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(param_groups(model, loss, lr=lr, weight_decay=5e-4), momentum=0.9)
    batches = len(train) // 64  # of about equal size: BatchNorm takes a small last batch badly
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * batches + 1)
    model.train()
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train))].tensor_split(batches):
            value = loss(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return model.eval()(images[test])


# %%
# In the plane
# ------------
#
# The softmax has no bias, so that its classes are directions. The centers of center loss and island loss need no
# optimizer. Ring loss looks at lengths alone: it stands in PML's place for a regularizer of embeddings.

torch.manual_seed(0)
softmax = SoftmaxLoss(10, 2, bias=False)
in_plane = {
    "softmax": softmax,
    "softmax + 0.1 · center": MultipleLosses([SoftmaxLoss(10, 2, bias=False), CenterLoss(10, 2)], weights=[1, 0.1]),
    "softmax + 0.1 · island": MultipleLosses([SoftmaxLoss(10, 2, bias=False), IslandLoss(10, 2)], weights=[1, 0.1]),
    "softmax + ring": SoftmaxLoss(10, 2, bias=False, embedding_regularizer=RingRegularizer()),
}

evaluator = RetrievalEvaluator(similarity="euclidean", ci=None)
figure, axes = plt.subplots(2, 2, figsize=(7, 8), layout="constrained")
models, tightness, roundness = {}, {}, {}
for ax, (name, loss) in zip(axes.flat, in_plane.items(), strict=True):
    torch.manual_seed(0)
    models[name] = create_embedder("convnet", embedding_size=2, image_size=8, width=16)
    features = fit(models[name], loss, epochs=15, lr=0.05)
    plots.features(features, labels[test], ax=ax)
    intra, inter = intra_inter_distance(features, labels[test])
    lengths = features.norm(dim=1)
    tightness[name], roundness[name] = intra / inter, (lengths.std() / lengths.mean()).item()
    precision = evaluator(features, labels[test])["precision_at_1"]
    ax.set_title(f"{name}\nwithin / between {tightness[name]:.3f}", fontsize=12)
    print(
        f"{name:<22}  precision@1 {precision:.3f}  within / between classes {tightness[name]:.3f}  "
        f"lengths vary by {roundness[name]:.2f}"
    )

# %%
# Softmax alone spreads each digit along a ray from the origin. Center loss packs it, and so does island loss, which
# also spreads the directions of the centers. Ring loss gives all features one length, and leaves their angles alone.

assert tightness["softmax + 0.1 · center"] < 0.8 * tightness["softmax"]
assert tightness["softmax + 0.1 · island"] < 0.8 * tightness["softmax"]
assert roundness["softmax + ring"] < 0.5 * roundness["softmax"]

# %%
# On the circle
# -------------
#
# Losses of angles see directions alone. On a circle a class cannot get past another one, and ten of them that start
# anywhere get stuck. So you let each loss go on from the network and the class vectors that softmax has trained. In
# more dimensions there is room, and no need for this.

on_circle = {
    "normalized softmax": NormalizedSoftmaxLoss(10, 2, temperature=1 / 16),
    "SphereFace, m = 2": SphereFaceLoss(10, 2, margin=2),
    "CosFace, m = 0.2": CosFaceLoss(10, 2, margin=0.2, scale=16),
    "ArcFace, m = 20°": ArcFaceLoss(10, 2, margin=20, scale=16),
}

evaluator = RetrievalEvaluator(similarity="cosine", ci=None)
figure, axes = plt.subplots(2, 2, figsize=(7, 8), layout="constrained")
angles = {}
for ax, (name, loss) in zip(axes.flat, on_circle.items(), strict=True):
    loss.class_weights.load_state_dict(softmax.class_weights.state_dict())
    features = fit(copy.deepcopy(models["softmax"]), loss, epochs=6, lr=0.003)
    weights = loss.class_weights.weight.detach()
    plots.directions(features, labels[test], weights, ax=ax)
    cosine = torch.cosine_similarity(features, weights[labels[test]])
    angles[name] = cosine.clamp(-1, 1).acos().rad2deg().median().item()
    precision = evaluator(features, labels[test])["precision_at_1"]
    ax.set_title(f"{name}\nangle to own class {angles[name]:.1f}°", fontsize=12)
    print(f"{name:<22}  precision@1 {precision:.3f}  median angle to one's own class {angles[name]:.1f}°")

# %%
# Ten classes have 36° each. With a margin, features must come nearer to the vector of their class than without.
# Distances outside the circle mean nothing: they only keep points from hiding each other.

without = angles.pop("normalized softmax")
assert all(angle < without for angle in angles.values())
plt.show()
