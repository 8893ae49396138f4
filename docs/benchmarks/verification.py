"""Time and memory of verification and of clustering metrics, beside what is commonly used, with equal results.

    python docs/benchmarks/verification.py --out docs/benchmarks/verification.json

The candidates of a work take turns (A B A B …) in one process; times are medians, and ratios are those of the medians.
Memory is how far the resident set of the process rises above where it was.

"Scan of thresholds" is the procedure of insightface and facenet, written from its description: squared distances, the
thresholds 0, 0.01, …, 3.99, and for each fold and threshold one comparison of the pairs of the nine folds to choose by
and one of the tenth; with VAL, 4,000 further thresholds, 0, 0.001, …, to find the one with FAR 0.001.
"""

import argparse
import ctypes
import gc
import os
from functools import partial

import faiss
import numpy as np
import torch
from measure import circumstances, measured_with, resident_peak, seconds, table, write
from sklearn.metrics import adjusted_mutual_info_score, roc_curve
from tqdm import tqdm

from pml_center.evaluation import (
    VerificationEvaluator,
    adjusted_mutual_information,
    cross_validated_accuracy,
    pair_scores,
)

FAR = (0.1, 0.01, 0.001, 0.0001)


def lfw_like():
    """Squared distances of 6,000 pairs of unit vectors in ten folds, genuine pairs first in each."""
    rng = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], 300), 10)
    first = rng.normal(size=(6000, 128))
    second = np.where(same[:, None], first, rng.normal(size=(6000, 128))) + 1.6 * rng.normal(size=(6000, 128))
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (first, second))
    return ((first - second) ** 2).sum(axis=1), same, np.repeat(np.arange(10), 600)


def rates(threshold, distance, same):
    """True accept rate, false accept rate and accuracy of one threshold."""
    accept = distance < threshold
    right = np.sum(accept & same)
    wrong = np.sum(accept & ~same)
    return right / np.sum(same), wrong / np.sum(~same), (right + np.sum(~accept & ~same)) / len(same)


def scan(distance, same, folds, thresholds):
    """Accuracy of each fold at the threshold that is best on the others, and the rates of every threshold on it."""
    accuracies, curves = [], []
    for fold in np.unique(folds):
        others, own = folds != fold, folds == fold
        best = np.argmax([rates(threshold, distance[others], same[others])[2] for threshold in thresholds])
        curves.append([rates(threshold, distance[own], same[own])[:2] for threshold in thresholds])
        accuracies.append(rates(thresholds[best], distance[own], same[own])[2])
    return np.array(accuracies), np.mean(curves, axis=0)


def scan_for_val(distance, same, folds, thresholds, far):
    """TAR of each fold at the threshold where the FAR of the others reaches a target, on a line between thresholds."""
    found = []
    for fold in np.unique(folds):
        others, own = folds != fold, folds == fold
        reached = np.array([rates(threshold, distance[others], same[others])[1] for threshold in thresholds])
        after = int(np.argmax(reached > far))
        share = (far - reached[after - 1]) / (reached[after] - reached[after - 1])
        found.append(rates(thresholds[after - 1] + share * 0.001, distance[own], same[own])[0])
    return float(np.mean(found))


def lfw():
    """The works of one list of pairs in ten folds."""
    distance, same, folds = lfw_like()
    coarse, fine = np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)

    def whole():
        return scan(distance, same, folds, coarse), scan_for_val(distance, same, folds, fine, 0.001)

    steps = {
        "scan of thresholds": lambda: scan(distance, same, folds, coarse)[0],
        "cross_validated_accuracy": lambda: cross_validated_accuracy(-distance, same, folds).accuracy,
    }
    theirs, ours = (step() for step in steps.values())
    pairs = np.rint((ours - theirs) * 600).astype(int).tolist()
    evaluator = VerificationEvaluator(far=FAR[:3], ci=None)
    more = {
        "scan of thresholds, with VAL": whole,
        "VerificationEvaluator: accuracy, EER, TAR@FAR, area": lambda: evaluator.of_scores(-distance, same, folds),
    }
    return [
        ("LFW: ten folds of 600 pairs, accuracy", steps, {"fold accuracy, difference in pairs": pairs}),
        ("LFW: ten folds of 600 pairs, all that is reported", more, {}),
    ]


def everybody(count, size, people):
    """Embeddings of people with as many images each."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(people), count // people))
    return (rng.normal(size=(people, size))[labels] + 1.5 * rng.normal(size=(count, size))).astype(np.float32), labels


def all_pairs():
    """The work of all pairs of 5,000 rows."""
    embeddings, labels = everybody(5000, 128, 500)

    def listed():
        first, second = np.triu_indices(len(labels), 1)
        far, tar, _ = roc_curve(labels[first] == labels[second], pair_scores(embeddings, first, second))
        return [float(tar[far <= target].max()) for target in FAR]

    first, second = np.triu_indices(len(labels), 1)
    same, scores = labels[first] == labels[second], pair_scores(embeddings, first, second)
    evaluator, with_intervals = VerificationEvaluator(far=FAR, ci=None), VerificationEvaluator(far=FAR)
    steps = {
        "scikit-learn roc_curve, scores given": lambda: roc_curve(same, scores),
        "scikit-learn roc_curve, with scores": listed,
        "VerificationEvaluator": lambda: evaluator(embeddings, labels),
        "VerificationEvaluator, with intervals of 1,000 resamples": lambda: with_intervals(embeddings, labels),
    }
    report = evaluator(embeddings, labels)
    difference = max(abs(report[f"tar_at_far_{far:g}"] - tar) for far, tar in zip(FAR, listed(), strict=True))
    return [("TAR@FAR over all pairs, N = 5,000, D = 128", steps, {"TAR@FAR, largest difference": difference})]


def clustering():
    """The work of AMI."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 20_000)
    found = np.where(rng.random(20_000) < 0.5, labels, rng.integers(0, 1000, 20_000))
    steps = {
        "scikit-learn": partial(adjusted_mutual_info_score, labels, found),
        "adjusted_mutual_information": partial(adjusted_mutual_information, labels, found),
    }
    theirs, ours = (step() for step in steps.values())
    return [("AMI, N = 20,000, 1,000 classes", steps, {"AMI, difference": abs(ours - theirs)})]


def peak_bytes(step):
    """How far the resident set rises during a step that has run before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident_peak(step)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each work")
    parser.add_argument("--out", help="JSON file for the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    works = []
    for make in (lfw, all_pairs, clustering):
        for title, steps, equal in tqdm(make(), desc=make.__name__, unit="work"):
            medians = seconds(steps, "cpu", arguments.budget)
            peer = next(iter(medians.values()))
            rows = [
                {
                    "name": name,
                    "milliseconds": round(medians[name] * 1e3, 3),
                    "times faster": round(peer / medians[name], 1),
                    "MiB": round(peak_bytes(step) / 2**20, 1),
                }
                for name, step in steps.items()
            ]
            for row in rows:
                tqdm.write(f"{title}: {row}")
            works.append({"title": title, "rows": rows, "equal": equal})
    packages = ("torch", "faiss-cpu", "scikit-learn", "numpy")
    result = circumstances(__file__, "cpu", arguments.threads, packages)
    result |= {"real time priority": os.sched_getscheduler(0) != os.SCHED_OTHER, "works": works}
    if arguments.out:
        write(result, page(result), arguments.out)


def page(result):
    """The results as a page of the documentation."""
    lines = [
        "# Verification: time and memory",
        "",
        __doc__.split("\n\n", 2)[2].strip(),
        "",
        f"{measured_with(result)}{', at real time priority' if result['real time priority'] else ''}. "
        "The numbers are in `verification.json`.",
    ]
    for work in result["works"]:
        lines += ["", f"## {work['title']}", "", *table(work["rows"])]
        for what, value in work["equal"].items():
            lines += ["", f"{what}: {value if isinstance(value, list) else f'{value:.1e}'}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
