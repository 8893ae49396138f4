"""
Measure embeddings that you have
================================

Any array of embeddings with a label per row can be measured: no model, no files. Here the embeddings are pixels of
digits, and twelve principal components of them, compared by cosine.
"""

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA

from pml_center import plots
from pml_center.data import digits
from pml_center.evaluation import RetrievalEvaluator

data = digits()
pixels = np.reshape(data.images, (len(data), -1)).astype(np.float32)
components = PCA(12, random_state=0).fit_transform(pixels)

# %%
# Each image is searched for among all others. Ten digits are all that there are: with ``ci="query"`` intervals say how
# far the numbers would move with other images of them. By default they say so of other classes.

evaluator = RetrievalEvaluator(recall_at=(1, 5), ci="query")
report = evaluator(components, data.labels)
print(report)

figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
plots.metric_intervals(report.metrics, report.ci, ax=ax)

# %%
# Are twelve numbers as good as sixty-four? The same queries were measured twice, so that the difference can be tested
# query by query.

difference = report.compare(evaluator(pixels, data.labels))["mean_average_precision_at_r"]
print(f"MAP@R, components minus pixels: {difference}")
assert difference.difference > 0
assert difference.p_value < 0.01

# %%
# The queries that fared worst, with what was found for them. Red and dashed: another digit.

worst = report.worst(5)
found = report.neighbours.ids[worst, :6]
plots.retrieval_gallery(
    [data[i][0] for i in worst],
    [[data[i][0] for i in row] for row in found],
    report.hits[worst, :6],
    report.neighbours.scores[worst, :6],
)
plt.show()

# %%
# ``write_html("report.html", {"Digits": report}, images=data, embeddings=components)`` writes all of this and more to
# one page.
