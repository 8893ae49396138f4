"""
Mix center loss and a triplet loss with a miner
===============================================

Softmax loss, center loss and PML's triplet loss share one batch. A miner of PML picks the triplets; the other two look
at every image. You train them as one loss and search for digits that none of them has seen.
"""

import matplotlib.pyplot as plt
import torch
from pytorch_metric_learning import losses, miners
from torch.utils.data import DataLoader

from pml_center import create_embedder, param_groups
from pml_center.data import digits, eval_transform, split_classes
from pml_center.evaluation import RetrievalEvaluator, embed
from pml_center.losses import CenterLoss, SoftmaxLoss

# %%
# Three of the ten digits are held out: the model is measured on classes that it has never seen.

torch.manual_seed(0)
data = digits()
train, test = split_classes(data.labels, held_out=0.3)
train, test = data.subset(train, renumber=True), data.subset(test)
print("trained on", train.classes)

# %%
# The losses, and one optimizer for the model and for the weights of the softmax.

model = create_embedder("convnet", embedding_size=32, image_size=16)
loss = losses.MultipleLosses(
    {
        "softmax": SoftmaxLoss(train.num_classes, 32),
        "center": CenterLoss(train.num_classes, 32),
        "triplet": losses.TripletMarginLoss(),
    },
    miners={"triplet": miners.MultiSimilarityMiner()},
    weights={"softmax": 1, "center": 0.01, "triplet": 1},
)
optimizer = torch.optim.AdamW(param_groups(model, loss, lr=2e-3))

# %%
# Five epochs.

transform = eval_transform(model.image_size, model.in_chans, model.mean, model.std)
batches = DataLoader(train.with_transform(transform), batch_size=64, shuffle=True, drop_last=True)
history = []
for _ in range(5):
    for images, labels in batches:
        value = loss(model(images), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        history.append(value.item())

fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(history)
ax.set(xlabel="batch", ylabel="loss", yscale="log")

# %%
# Each image of the held-out digits is searched for among the others.

report = RetrievalEvaluator()(*embed(model, DataLoader(test.with_transform(transform), batch_size=256)))
print(report)

assert report["precision_at_1"] > 0.95
assert history[-1] < history[0] / 2
