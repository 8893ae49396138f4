"""How many seeds and classes show how large a difference: the table of the page on comparisons.

python docs/benchmarks/seeds_and_classes.py

What seeds and classes bring in is that which the study of center loss measured on 150 new characters of Omniglot with
five seeds, at width 64: softmax against softmax with center loss at a weight of 0.03. Its results keep the difference,
its interval, its p-value and the mean of each seed, which determine the parts of the variance.
"""

import json
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t

from pml_center.evaluation.paired_tests import VarianceParts

STUDY = Path(__file__).resolve().parent / "center_loss_study" / "results.json"
MAP = "mean_average_precision_at_r"
TASK, WIDTH, WEIGHT = "omniglot", 64, 0.03
SEEDS, CLASSES = (2, 3, 5, 10, 20), (5, 10, 20, 50, 100, 200)


def measured():
    """The parts of the variance of that difference."""
    task = json.loads(STUDY.read_text(encoding="utf-8"))["tasks"][TASK]
    cells = {cell["weight"]: cell["metrics"][MAP] for cell in task["cells"] if cell["width"] == WIDTH}
    test, classes = cells[WEIGHT]["minus_softmax"], task["counts"]["searched_classes"]
    low, high = test["interval"]

    def error(freedom):
        return (high - low) / 2 / t.ppf(0.975, freedom)

    freedom = brentq(lambda n: 2 * t.sf(abs(test["difference"]) / error(n), n) - test["p_value"], 2, classes)
    variance = error(freedom) ** 2
    seeds = [cells[weight]["of_seeds"] for weight in (WEIGHT, 0)]
    runs = tuple(float(np.var(each, ddof=1)) / len(each) for each in seeds)
    of_runs = sum(own**2 / (len(each) - 1) for own, each in zip(runs, seeds, strict=True))
    units = float(np.sqrt((variance**2 / freedom - of_runs) * (classes - 1)))
    both = (units + sum(runs) - variance) / 2
    return VarianceParts(units, runs, (both, both), classes, tuple(len(each) for each in seeds))


def table():
    """Lines of markdown: seeds of each loss by classes held out."""
    parts = measured()
    lines = [
        f"| seeds | {' | '.join(f'{classes} classes' for classes in CLASSES)} |",
        "|---:" * (len(CLASSES) + 1) + "|",
    ]
    for seeds in SEEDS:
        more = [parts.with_more(seeds / parts.counts[0], classes / parts.worth) for classes in CLASSES]
        lines.append(f"| {seeds} | {' | '.join(f'{each.detectable():.3f}' for each in more)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
