"""
What center loss and its family do
==================================

The same small network, with two-dimensional features, is trained on handwritten digits with softmax loss alone, and
with center loss, island loss, ring loss, and a triplet loss with a miner beside it. Features of digits that it has not
seen are drawn as they are: there is nothing to project.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from pytorch_metric_learning import distances, miners
from pytorch_metric_learning.losses import MultipleLosses, TripletMarginLoss

from pml_center import create_embedder, param_groups, plots
from pml_center.data import digits, split_images
from pml_center.evaluation import RetrievalEvaluator, intra_inter_distance
from pml_center.losses import CenterLoss, IslandLoss, SoftmaxLoss
from pml_center.regularizers import RingRegularizer

# %%
# The data: 8 × 8 pixels, three quarters of each class for training.

data = digits()
pixels = np.stack([np.asarray(image) for image, _ in data])
images, labels = torch.from_numpy(pixels).unsqueeze(1) / 255, torch.from_numpy(data.labels)  # (N, 1, 8, 8), (N,)
train, test = map(torch.from_numpy, split_images(data.labels, held_out=0.25))

# %%
# The losses. The softmax has no bias, so that its classes are directions. The centers of center loss and island loss
# need no optimizer. Ring loss looks at lengths alone: it stands in PML's place for a regularizer of embeddings. The
# triplet loss measures plain distances, which the picture shows, and its miner picks the hard triplets.


def softmax(**arguments):
    return SoftmaxLoss(10, 2, bias=False, **arguments)


euclidean = distances.LpDistance(normalize_embeddings=False)
triplet = TripletMarginLoss(margin=1.0, distance=euclidean)
miner = miners.TripletMarginMiner(margin=1.0, distance=euclidean)
candidates = {
    "softmax": softmax,
    "softmax + 0.1 · center": lambda: MultipleLosses([softmax(), CenterLoss(10, 2)], weights=[1, 0.1]),
    "softmax + 0.1 · island": lambda: MultipleLosses([softmax(), IslandLoss(10, 2)], weights=[1, 0.1]),
    "softmax + ring": lambda: softmax(embedding_regularizer=RingRegularizer()),
    "softmax + triplet": lambda: MultipleLosses([softmax(), triplet], miners=[None, miner]),
    "softmax + 0.1 · center + triplet": lambda: MultipleLosses(
        [softmax(), CenterLoss(10, 2), triplet], miners=[None, None, miner], weights=[1, 0.1, 1]
    ),
}

# %%
# Training.


def train_features(loss, epochs=15):
    """Features of the test images, (N, 2)."""
    model = create_embedder("convnet", embedding_size=2, image_size=8, width=16)
    optimizer = torch.optim.SGD(param_groups(model, loss, lr=0.05, weight_decay=5e-4), momentum=0.9)
    batches = len(train) // 64  # of about equal size: BatchNorm takes a small last batch badly
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * batches + 1)
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
# Softmax alone spreads each digit along a ray from the origin. Center loss packs it, and so does island loss, which
# also spreads the directions of the centers evenly. Ring loss gives all features one length, and leaves their angles
# alone. The triplet loss keeps digits at a distance from each other, and cares little how tight each is.

evaluator = RetrievalEvaluator(similarity="euclidean")
figure, axes = plt.subplots(2, 3, figsize=(12, 9), layout="constrained")
tightness, roundness = {}, {}
for ax, (name, make) in zip(axes.flat, candidates.items(), strict=True):
    torch.manual_seed(0)
    features = train_features(make())
    plots.features(features, labels[test], ax=ax)
    intra, inter = intra_inter_distance(features, labels[test])
    lengths = features.norm(dim=1)
    tightness[name], roundness[name] = intra / inter, (lengths.std() / lengths.mean()).item()
    precision = evaluator(features, labels[test])["precision_at_1"]
    ax.set_title(f"{name}\nprecision@1 {precision:.3f}\nwithin / between {tightness[name]:.3f}")
    print(
        f"{name:<32} precision@1 {precision:.3f}  within / between classes {tightness[name]:.3f}  "
        f"lengths vary by {roundness[name]:.2f}"
    )

for packed in ("center", "island", "center + triplet"):
    assert tightness[f"softmax + 0.1 · {packed}"] < 0.8 * tightness["softmax"]
assert roundness["softmax + ring"] < 0.5 * roundness["softmax"]
