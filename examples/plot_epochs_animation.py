"""
Watch features move, epoch by epoch
===================================

You train the same network twice on handwritten digits, with softmax loss and with center loss beside it, and look at
the features of new digits after every epoch. Both begin with one heap. Press play, or step through the epochs.
"""

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.animation import FuncAnimation

from pml_center import create_embedder, param_groups, plots
from pml_center.data import digits, split_images
from pml_center.evaluation import intra_inter_distance
from pml_center.losses import SoftmaxCenterLoss

data = digits()
pixels = np.stack([np.asarray(image) for image, _ in data])
images, labels = torch.from_numpy(pixels).unsqueeze(1) / 255, torch.from_numpy(data.labels)  # (N, 1, 8, 8), (N,)
train, test = map(torch.from_numpy, split_images(data.labels, held_out=0.25))

# %%
# Training gives back the features of the test digits before the first epoch and after each. The two runs differ in the
# weight of center loss alone: the network, the order of the images and the class weights start alike.

EPOCHS = 20


def features_by_epoch(center_weight):
    """Features of the test images, (EPOCHS + 1, N, 2)."""
    torch.manual_seed(0)
    model = create_embedder("convnet", embedding_size=2, image_size=8, width=16)
    loss = SoftmaxCenterLoss(10, 2, center_weight=center_weight, bias=False)
    optimizer = torch.optim.SGD(param_groups(model, loss, lr=0.05, weight_decay=5e-4), momentum=0.9)
    batches = len(train) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=EPOCHS * batches + 1)
    history = []
    for epoch in range(EPOCHS + 1):
        with torch.no_grad():
            history.append(model.eval()(images[test]))
        if epoch == EPOCHS:
            return torch.stack(history)
        model.train()
        for batch in train[torch.randperm(len(train))].tensor_split(batches):
            value = loss(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()


runs = {"softmax": features_by_epoch(0), "softmax + 0.1 · center": features_by_epoch(0.1)}

# %%
# Each picture shows all features of its epoch. The axes stay as the last epochs need them, so that you see rays grow,
# and where center loss stops them.

figure, axes = plt.subplots(1, 2, figsize=(7, 4.2), layout="constrained")


def draw(epoch):
    for ax, (name, history) in zip(axes, runs.items(), strict=True):
        ax.clear()
        plots.features(history[epoch], labels[test], ax=ax)
        reach = 1.05 * history.abs().max().item()
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), adjustable="box", title=name)
    figure.suptitle(f"epoch {epoch}")


animation = FuncAnimation(figure, draw, frames=EPOCHS + 1, interval=250)
page = animation.to_jshtml(default_mode="once")  # for a web page; for a file: animation.save("epochs.gif")
print(f"{len(page) / 2**20:.1f} MiB")

# %%
# The same in numbers: how far features of a class lie apart, as a share of how far its neighbours are.

ratios = {}
for name, history in runs.items():
    distances = [intra_inter_distance(features, labels[test]) for features in history]
    ratios[name] = [intra / inter for intra, inter in distances]
    print(f"{name:<22}  within / between classes:  {ratios[name][1]:.3f} after 1 epoch, {ratios[name][-1]:.3f} at last")

figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
plots.training_curves(range(1, EPOCHS + 1), {name: values[1:] for name, values in ratios.items()}, ax=ax)
ax.set(ylabel="within / between classes", title="Center loss packs the classes")
plt.show()

assert ratios["softmax + 0.1 · center"][-1] < 0.8 * ratios["softmax"][-1]
assert all(values[-1] < 0.5 * values[1] for values in ratios.values())
assert len(page) < 3 * 2**20
