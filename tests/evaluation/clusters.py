"""Embeddings to evaluate."""

import numpy as np

PML_METRICS = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
ALL_METRICS = {"recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", *PML_METRICS}


def clusters(classes=20, per_class=15, width=16, spread=1.0, seed=0):
    """Overlapping classes: (N, width) float32 and (N,) labels, in mixed order."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(classes), per_class))
    embeddings = random.normal(size=(classes, width))[labels] + spread * random.normal(size=(len(labels), width))
    return embeddings.astype(np.float32), labels


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
