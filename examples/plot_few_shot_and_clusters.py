"""
New classes: one example of each, or none
=========================================

What has a model learned that helps with classes it has never seen? First it gets one example of each new class, or
three, and tells other images of them apart. Then it gets none, and k-means has to find the classes by itself. Pixels
are what there is to beat.
"""

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from pml_center import create_embedder, param_groups, plots
from pml_center.evaluation import ClusteringEvaluator, FewShotEvaluator, RetrievalEvaluator, sample_episodes
from pml_center.losses import NormalizedSoftmaxLoss

# %%
# Many classes from two photographs: a class is a place, its six images are views of it, turned and lit differently. You
# train on places of a temple; the new classes are places of a flower.

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
new, new_labels = places("flower.jpg", stride=14)

torch.manual_seed(0)
model = create_embedder("convnet", embedding_size=32, image_size=16, width=16)
loss = NormalizedSoftmaxLoss(int(labels.max()) + 1, 32, temperature=1 / 16)
optimizer = torch.optim.AdamW(param_groups(model, loss, lr=3e-3))
for _ in range(6):
    for batch in torch.randperm(len(images)).split(64)[:-1]:  # the last one is small
        value = loss(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
with torch.no_grad():
    learned = model.eval()(new)
pixels = (new - new.mean((2, 3), keepdim=True)).flatten(1)  # without their brightness: harder to beat
embeddings = {"pixels": pixels, "network": learned}

# %%
# One example, or three
# ---------------------
#
# An episode draws examples of twenty new places, and asks for the place of three more images of each: that of the
# nearest mean. The places are new to the network, so that intervals are over places, as is the test of the difference.

reports = {}
for shots in (1, 3):
    evaluator = FewShotEvaluator(ways=20, shots=shots, queries=3)
    for name, rows in embeddings.items():
        reports[name, shots] = evaluator(rows, new_labels)
    print(reports["network", shots])
    print("network − pixels:", reports["network", shots].compare(reports["pixels", shots])["accuracy"], end="\n\n")

figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
names = {key: f"{key[0]}, {key[1]}-shot" for key in reports}
values = {names[key]: report["accuracy"] for key, report in reports.items()}
plots.metric_intervals(values, {names[key]: report.ci["accuracy"] for key, report in reports.items()}, ax=ax)
ax.set(title="Twenty new places", xlabel="accuracy and 95 % interval over places")
assert reports["network", 1]["accuracy"] > reports["pixels", 1]["accuracy"] + 0.02
assert reports["network", 3]["accuracy"] > 0.9

# %%
# With one example the network is ahead; with three of them the mean of the pixels is nearly as good. Here is the first
# episode with one example: two queries that were given the right place, and two that were hardest. The nearest example
# decides.

episode = sample_episodes(new_labels, ways=20, shots=1, queries=3)[0]
nearest = RetrievalEvaluator(metrics=("mean_reciprocal_rank",), recall_at=(), ci=None)(
    learned[episode.queries], episode.query_classes, learned[episode.support], episode.support_classes
)
order = nearest.worst(len(episode.queries))
shown = order[[-1, -20, 1, 0]]
found = episode.support[nearest.neighbours.ids[shown, :5]]
plots.retrieval_gallery(new[episode.queries[shown], 0], new[found, 0], nearest.hits[shown, :5])

# %%
# No example
# ----------
#
# k-means knows no labels, only how many places there are: sixty here. AMI says how much clusters and labels have in
# common: 0 by chance, 1 if they are the same.

some = torch.from_numpy(np.isin(new_labels, random.choice(int(new_labels.max()) + 1, 60, replace=False)))
clustering = ClusteringEvaluator(runs=5)
ami = {}
for name, rows in embeddings.items():
    report = clustering(rows[some], new_labels[some])
    ami[name] = report["ami"]
    print(f"{name:<8} AMI {report['ami']:.3f} ± {report['ami_sd']:.3f}, pairwise F1 {report['pairwise_f1']:.3f}")

figure, ax = plt.subplots(figsize=(6, 2), layout="constrained")
ax.barh(list(ami), list(ami.values()), color=[plots.BRIGHT[0], plots.BRIGHT[1]], height=0.6)
ax.set(xlabel="AMI of clusters and places", xlim=(0, 1))
ax.invert_yaxis()
plt.show()
assert ami["network"] > 0.6
assert ami["pixels"] > 0.5
