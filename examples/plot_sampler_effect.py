"""
What a sampler does for a loss of pairs
=======================================

A loss of pairs learns from images of one class that meet in a batch. With many classes and a shuffled data set they
hardly ever meet. PML's ``MPerClassSampler`` draws several images of each class. You count the pairs, and see what they
are worth: for a loss of pairs, and for a softmax loss, which needs none.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from sklearn.datasets import load_sample_image
from torch.utils.data import DataLoader, TensorDataset

from pml_center import create_embedder, param_groups, plots
from pml_center.evaluation import RetrievalEvaluator
from pml_center.losses import NormalizedSoftmaxLoss

# %%
# Many classes from two photographs: a class is a place, its six images are views of it, turned and lit differently. You
# train on places of a temple and search for places of a flower.

random = np.random.default_rng(0)


def places(name, stride, views=6):
    """Images (N, 1, 16, 16) and their places (N,), without those where there is nothing to see."""
    photo = Image.fromarray(load_sample_image(name)).convert("L")
    images, labels = [], []
    for x in range(32, photo.width - 32, stride):
        for y in range(32, photo.height - 32, stride):
            crop = photo.crop((x - 28, y - 28, x + 28, y + 28))
            if np.std(crop) < 25:
                continue
            labels += [len(images) // views] * views
            for _ in range(views):
                turned = crop.rotate(random.uniform(-20, 20), Image.Resampling.BILINEAR).crop((12, 12, 44, 44))
                seen = np.asarray(turned.resize((16, 16), Image.Resampling.BOX)) / 255
                images.append(seen * random.uniform(0.7, 1.3) + random.uniform(-0.1, 0.1))
    return torch.tensor(np.array(images), dtype=torch.float32).unsqueeze(1), torch.tensor(labels)


images, labels = places("china.jpg", stride=16)
unseen, unseen_labels = places("flower.jpg", stride=14)
train = TensorDataset(images, labels)
classes = int(labels.max()) + 1
print(
    f"{classes} classes, {len(train):,} images; {len(unseen):,} images of {int(unseen_labels.max()) + 1} other places"
)

# %%
# The two ways to fill a batch of 32. Eight classes with four images each have 48 pairs.


def batches(sampled):
    sampler = MPerClassSampler(labels, m=4, batch_size=32, length_before_new_iter=len(train)) if sampled else None
    return DataLoader(train, batch_size=32, sampler=sampler, shuffle=not sampled, drop_last=True)


def count_pairs(of_batch):
    same = of_batch.unsqueeze(0) == of_batch.unsqueeze(1)
    return (int(same.sum()) - len(of_batch)) // 2


torch.manual_seed(0)
np.random.seed(0)  # noqa: NPY002 (the global generator is the one that PML draws from)
samplers = {"shuffled": False, "4 per class": True}
pairs = {name: [count_pairs(of_batch) for _, of_batch in batches(sampled)] for name, sampled in samplers.items()}
for name, counts in pairs.items():
    print(f"{name:<12} {np.mean(counts):5.1f} pairs of a class in a batch, none in {counts.count(0)} of {len(counts)}")
assert np.mean(pairs["shuffled"]) < 3
assert min(pairs["4 per class"]) >= 48

# %%
# Two losses, each with both.

makers = {
    "contrastive": lambda: ContrastiveLoss(pos_margin=0, neg_margin=1),
    "normalized softmax": lambda: NormalizedSoftmaxLoss(classes, 32, temperature=1 / 16),
}


def fit(loss, sampled, epochs=3):
    model = create_embedder("convnet", embedding_size=32, image_size=16, width=16)
    optimizer = torch.optim.AdamW(param_groups(model, loss, lr=3e-3))
    for _ in range(epochs):
        for seen, of_batch in batches(sampled):
            value = loss(model(seen), of_batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    with torch.no_grad():
        return model.eval()(unseen)


metric = "mean_average_precision_at_r"
evaluator = RetrievalEvaluator(metrics=(metric,), recall_at=(), ci="class")
reports = {}
for loss, make in makers.items():
    for name, sampled in samplers.items():
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        reports[loss, name] = evaluator(fit(make(), sampled), unseen_labels)
    difference = reports[loss, "4 per class"].compare(reports[loss, "shuffled"])[metric]
    print(f"{loss:<18}  MAP@R, 4 per class minus shuffled: {difference}")

# %%
# The loss of pairs needs the sampler. The softmax loss compares each image with all classes, whatever the batch holds.
# A batch of eight places tells it less than one of thirty, and in as many steps it gets less far.

figure, (left, right) = plt.subplots(2, 1, figsize=(6, 5.6), layout="constrained", height_ratios=(1, 1.3))
for name, style in {"shuffled": 0, "4 per class": 1}.items():
    share = np.bincount(pairs[name], minlength=60)[:60] / len(pairs[name])
    left.bar(range(60), 100 * share, color=plots.BRIGHT[style], label=name, hatch=("", "//")[style], edgecolor="white")
left.set(xlabel="pairs of a class in a batch", ylabel="batches, %")
left.legend(frameon=False)
names = {key: f"{key[0]}\n{key[1]}" for key in reports}
values = {names[key]: report[metric] for key, report in reports.items()}
plots.metric_intervals(values, {names[key]: report.ci[metric] for key, report in reports.items()}, ax=right)
right.set(title="", xlabel="MAP@R on new places, 95 % interval over places")
plt.show()

assert reports["contrastive", "4 per class"][metric] > reports["contrastive", "shuffled"][metric] + 0.03
assert reports["normalized softmax", "4 per class"][metric] < reports["normalized softmax", "shuffled"][metric]
