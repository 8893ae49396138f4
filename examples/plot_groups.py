"""
A query does not see its own camera
===================================

Re-identification asks whether one camera recognises what another has seen. Pictures that one camera took one after
the other are nearly the same, and finding them proves nothing. You give each query its camera as a group, and measure
what is left.
"""

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA

from pml_center import plots
from pml_center.evaluation import RetrievalEvaluator

# %%
# Three cameras look at 150 places of a photograph that comes with scikit-learn, and take three pictures of each, a
# pixel apart. One is dim and not sharp, one stands askew.

photo = Image.fromarray(load_sample_image("china.jpg")).convert("L")
cameras = {
    "plain": photo,
    "dim": photo.filter(ImageFilter.GaussianBlur(1.5)).point(lambda value: 40 + 0.4 * value),
    "askew": photo,
}
random = np.random.default_rng(0)
grid = np.stack(np.meshgrid(np.arange(30, 610, 16), np.arange(30, 397, 16)), axis=-1).reshape(-1, 2)
busy = [np.asarray(photo.crop((x - 16, y - 16, x + 16, y + 16))).std() > 25 for x, y in grid]
places = random.permutation(grid[busy])[:150]

pictures, labels, groups = [], [], []
for place, (x, y) in enumerate(places):
    for camera, view in cameras.items():
        for shift in range(3):
            x0, y0 = x + shift, y + shift // 2
            crop = view.crop((x0 - 24, y0 - 24, x0 + 24, y0 + 24))
            crop = crop.rotate(20 if camera == "askew" else 0, Image.Resampling.BILINEAR)
            pictures.append(np.asarray(crop.crop((8, 8, 40, 40)).resize((16, 16), Image.Resampling.BOX)))
            labels.append(place)
            groups.append(camera)

# %%
# The embedding: principal components of the pixels, without learning anything about places.

rows = np.reshape(pictures, (len(pictures), -1)).astype(np.float32)
embeddings = PCA(64, random_state=0).fit_transform(rows - rows.mean(axis=1, keepdims=True))
evaluator = RetrievalEvaluator(metrics=("mean_average_precision",), recall_at=(1,), ci="class")

easy = evaluator(embeddings, labels)
honest = evaluator(embeddings, labels, query_groups=groups)
print(easy, honest, sep="\n\n")

# %%
# Without groups the model seems to be good: the next picture of the same camera is always there. With groups, what
# has both the label and the camera of a query does not exist for it, while other places of that camera stay, and look
# more alike than the right place elsewhere. Intervals here are over places: pictures of one place are no independent
# queries.

figure, ax = plt.subplots(figsize=(6, 2.4), layout="constrained")
reports = {"all pictures": easy, "other cameras": honest}
plots.metric_intervals(
    {name: report["recall_at_1"] for name, report in reports.items()},
    {name: report.ci["recall_at_1"] for name, report in reports.items()},
    ax=ax,
)
ax.set(title="", xlabel="recall@1 and 95 % interval")

# %%
# The same queries, without groups and with them.

for camera in cameras:
    own = np.array(groups) == camera
    print(f"{camera:<6} recall@1 {honest.per_unit['recall_at_1'][own].mean():.3f}")
lost = np.flatnonzero((easy.per_unit["recall_at_1"] == 1) & (honest.per_unit["recall_at_1"] == 0))
shown = random.choice(lost, 3, replace=False)
figure, axes = plt.subplots(2, 1, figsize=(6, 8), layout="constrained")
for ax, (name, report) in zip(axes, reports.items(), strict=True):
    found = report.neighbours.ids[shown, :5]
    plots.retrieval_gallery(
        [pictures[i] for i in shown], [[pictures[i] for i in row] for row in found], report.hits[shown, :5], ax=ax
    )
    ax.set_title(name)
plt.show()

assert easy["recall_at_1"] > 0.94
assert honest["recall_at_1"] < easy["recall_at_1"] - 0.1
assert all(groups[i] != groups[j] or labels[i] != labels[j] for i in range(len(rows)) for j in honest.neighbours.ids[i])
