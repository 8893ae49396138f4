"""
Ties, intervals, and two models compared
========================================

Numbers can be wrong without an error. You see what equal scores do to a metric, and how not to be fooled: first with
embeddings that have collapsed, then with embeddings of a few bits. Then you ask whether one model is better than
another, which two intervals do not tell.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA

from pml_center import plots
from pml_center.data import digits
from pml_center.evaluation import RetrievalEvaluator

data = digits()
pixels, labels = np.reshape(data.images, (len(data), -1)).astype(np.float32), data.labels
metric = "mean_average_precision_at_r"

# %%
# Collapsed embeddings
# --------------------
#
# A network has died and gives the same embedding for every image. All scores are equal, so that rows are found in their
# order. Folders are read class by class: then all of the first class is found first, which is right for the first class
# alone, and MAP@R is eight times what chance would give. The report warns you.

by_class = np.argsort(labels, kind="stable")
dead = np.ones((len(data), 8), dtype=np.float32)
by_row = RetrievalEvaluator(metrics=(metric,), recall_at=(1,), ci=None)
collapsed = by_row(dead, labels[by_class])
print(collapsed)

# %%
# ``ties="expected"`` takes the mean over all orders of equal scores. That is what chance gives, in any order.

expected = RetrievalEvaluator(metrics=(metric,), recall_at=(1,), ties="expected", ci=None)
chance = expected(dead, labels[by_class])
print(chance)
assert collapsed[metric] > 5 * chance[metric]
assert abs(chance["recall_at_1"] - 0.1) < 0.01
assert collapsed.warnings

# %%
# A few bits
# ----------
#
# Signs of eight principal components are eight bits: small to keep, quick to compare, and full of ties. You evaluate
# the same bits in sixteen orders of the rows, and class by class.

bits = np.sign(PCA(8, random_state=0).fit_transform(pixels))
random = np.random.default_rng(0)
orders = [random.permutation(len(data)) for _ in range(16)]
found = [by_row(bits[order], labels[order])[metric] for order in orders]
grouped = by_row(bits[by_class], labels[by_class])[metric]
truth = expected(bits, labels)
print(f"by row: {min(found):.4f} to {max(found):.4f} in sixteen orders, {grouped:.4f} class by class")
print(f"expected: {truth[metric]:.4f} in any order, ties may decide about {100 * truth.tie_rate:.0f} % of the queries")

figure, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
ax.plot(found, random.uniform(-0.3, 0.3, len(found)), "o", color=plots.BRIGHT[0], label="by row, any order")
ax.plot(grouped, 0, "s", color=plots.BRIGHT[1], markersize=9, label="by row, class by class")
ax.axvline(truth[metric], color="black", linewidth=1.5, label="expected")
ax.set(xlabel="MAP@R of the same bits", ylim=(-1, 1.4), yticks=[])
ax.legend(frameon=False, loc="upper center")
assert min(found) < truth[metric] < max(found)
assert grouped > max(found) + 0.01
assert abs(expected(bits[by_class], labels[by_class])[metric] - truth[metric]) < 1e-9

# %%
# Two models
# ----------
#
# Are eleven components better than ten? Each report has bootstrap intervals: they say how far its own number would
# move with other queries. The two overlap.

evaluator = RetrievalEvaluator(metrics=(metric,), recall_at=(1,), ci="query")  # the ten digits are all that there are
models = {n: evaluator(PCA(n, random_state=0).fit_transform(pixels), labels) for n in (10, 11)}
test = models[11].compare(models[10])[metric]
for n, report in models.items():
    low, high = report.ci[metric]
    print(f"{n} components: MAP@R {report[metric]:.4f}  [{low:.4f}, {high:.4f}]")
print(f"difference:    {test}")

# %%
# But both models met the same queries, and hard ones are hard for both. ``compare`` looks at the difference on each
# query, whose interval is much narrower, and tests it: if the models were alike, the sign of each difference could as
# well be the other one.

figure, (upper, lower) = plt.subplots(2, 1, figsize=(6, 4.2), layout="constrained", height_ratios=(2, 1.3))
plots.metric_intervals(
    {f"{n} components": report[metric] for n, report in models.items()},
    {f"{n} components": report.ci[metric] for n, report in models.items()},
    ax=upper,
)
plots.metric_intervals({"11 minus 10": test.difference}, {"11 minus 10": (test.low, test.high)}, ax=lower)
lower.axvline(0, color="black", linewidth=1)
width = np.ptp(upper.get_xlim())
lower.set_xlim(-0.3 * width, 0.7 * width)  # the same scale as above
upper.set(title="each by itself", xlabel="MAP@R")
lower.set(title="query by query", xlabel="difference of MAP@R")
plt.show()

(low, high), (other_low, other_high) = (models[n].ci[metric] for n in (10, 11))
assert low < other_high
assert other_low < high
assert test.p_value < 0.01
assert test.high - test.low < (high - low) / 2
