"""Time and memory of retrieval evaluation, beside PML's and beside the one matrix product that exact search needs.

    python docs/benchmarks/retrieval.py --out docs/benchmarks/retrieval.json

The candidates of a work take turns (A B A B …) in one process; times are medians, and ratios are those of the medians.
"matrix product" is torch's, of all queries and all references, 2,048 queries at a time into one buffer. Memory is what
the resident set grows by at its peak, each time in a process of its own, after the imports and the data. Embeddings are
of length 1 and spread around the means of their classes so little that no two scores are too close for float32: the
values of PML and ours can then be compared, and the largest difference is given.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch
from measure import circumstances, measured_with, resident_peak, table, write
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from tqdm import tqdm

from pml_center.evaluation import RetrievalEvaluator, bootstrap_interval

FIRST_R = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
WHOLE = ("mean_average_precision",)
PRODUCT = "matrix product"
PACKAGES = ("torch", "pytorch-metric-learning", "faiss-cpu", "numpy", "scipy")
OURS = "RetrievalEvaluator"
WITH_INTERVALS = "RetrievalEvaluator, with intervals"


@dataclass(frozen=True)
class Work:
    """What is measured, on how many embeddings of how many classes, and which of the candidates are compared."""

    title: str
    rows: int
    width: int
    sizes: np.ndarray
    metrics: tuple
    candidates: tuple
    rounds: int = 7
    collapsed: bool = False

    def data(self):
        random = np.random.default_rng(0)
        labels = random.permutation(np.repeat(np.arange(len(self.sizes)), self.sizes))
        means = random.standard_normal((len(self.sizes), self.width), dtype=np.float32)
        embeddings = means[labels]
        embeddings += random.standard_normal((self.rows, self.width), dtype=np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        return (np.tile(embeddings[:1], (self.rows, 1)) if self.collapsed else embeddings), labels


def equal(rows, classes):
    return np.full(classes, rows // classes)


def long_tail(rows, classes, largest):
    """Sizes that fall as a power of the rank, from ``largest``."""
    low, high = 0.0, 3.0
    for _ in range(60):
        power = (low + high) / 2
        sizes = np.maximum(np.round(largest / np.arange(1, classes + 1) ** power), 2).astype(int)
        low, high = (power, high) if sizes.sum() > rows else (low, power)
    sizes[1 : 1 + abs(rows - sizes.sum())] += np.sign(rows - sizes.sum())
    return sizes


def products(rows, classes):
    """Two of each class and the others at random, as many as the test set of Stanford Online Products has."""
    return np.random.default_rng(0).multinomial(rows - 2 * classes, np.full(classes, 1 / classes)) + 2


def works():
    pml, whole_pml = "PML, k='max_bin_count'", "PML, k=None"
    ours = (OURS, WITH_INTERVALS, PRODUCT)
    alike, few, tail = equal(20_000, 1000), equal(5_000, 250), long_tail(20_000, 1000, 666)
    shop = products(60_502, 11_316)
    return [
        Work("First R neighbours, equal classes", 20_000, 128, alike, FIRST_R, (pml, *ours)),
        Work("First R neighbours, a long tail", 20_000, 128, tail, FIRST_R, (pml, *ours)),
        Work("First R neighbours, PML's defaults", 5_000, 128, few, FIRST_R, (whole_pml, *ours), rounds=5),
        Work("Average precision over the whole gallery", 5_000, 128, few, WHOLE, (whole_pml, *ours), rounds=5),
        Work("Average precision over a larger gallery", 20_000, 128, alike, WHOLE, ours),
        Work("The size of Stanford Online Products", 60_502, 512, shop, FIRST_R, (OURS, PRODUCT), rounds=3),
        Work("Collapsed embeddings: all are equal", 20_000, 128, alike, FIRST_R, (OURS, PRODUCT), collapsed=True),
    ]


def candidate(name, work, embeddings, labels):
    """What is timed, as a function that returns the metrics, if it has any."""
    if name == PRODUCT:
        rows = torch.from_numpy(embeddings)
        out = torch.empty(2048, len(rows))

        def product():
            for part in rows.split(2048):
                torch.mm(part, rows.T, out=out[: len(part)])
            return {}

        return product
    if name.startswith("PML"):
        k = None if name.endswith("None") else "max_bin_count"
        calculator = AccuracyCalculator(include=work.metrics, k=k, device=torch.device("cpu"))
        tensors = torch.from_numpy(embeddings), torch.from_numpy(labels)
        return lambda: calculator.get_accuracy(*tensors)
    evaluator = RetrievalEvaluator(work.metrics, recall_at=())
    if name == OURS:
        return lambda: evaluator.get_accuracy(embeddings, labels)
    return lambda: evaluator(embeddings, labels).metrics


def seconds(steps, rounds):
    """Median seconds of each candidate, which take turns; whoever asks has run them once before."""
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            before = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - before)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(work, name):
    """MiB that the resident set grows by. A small run before loads what is loaded on first use."""
    embeddings, labels = work.data()
    step = candidate(name, work, embeddings, labels)
    candidate(name, work, embeddings[:500].copy(), np.arange(500) % 50)()
    return resident_peak(step) / 2**20


def measured_memory(index, name, threads):
    """``peak_memory`` in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--memory", str(index), name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(index, work, threads):
    """The rows of a work's table, and how far the values of PML and ours are apart."""
    embeddings, labels = work.data()
    steps = {name: candidate(name, work, embeddings, labels) for name in work.candidates}
    values = {name: step() for name, step in steps.items()}
    medians = seconds(steps, work.rounds)
    first = work.candidates[0]
    rows = []
    for name, median in medians.items():
        row = {"name": name, "seconds": round(median, 4)}
        if first.startswith("PML"):
            row[f"of {first}"] = round(median / medians[first], 4)
        row[f"of the {PRODUCT}"] = round(median / medians[PRODUCT], 3)
        row["MiB"] = round(measured_memory(index, name, threads), 1)
        rows.append(row)
    found = {"title": work.title, "N": work.rows, "D": work.width, "classes": len(work.sizes), "rounds": work.rounds}
    found["largest class"] = int(work.sizes.max())
    if first.startswith("PML"):
        found["largest difference"] = max(abs(values[first][name] - values[OURS][name]) for name in work.metrics)
    return found | {"rows": rows}


def bootstrap(rounds=5):
    """Seconds of 1,000 resamples of 60,000 queries, for several numbers of metrics."""
    values = np.random.default_rng(0).random((8, 60_000))
    steps = {str(metrics): lambda m=metrics: bootstrap_interval(values[:m]) for metrics in (1, 3, 8)}
    seconds(steps, 1)
    return {name: round(median, 3) for name, median in seconds(steps, rounds).items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--works", type=int, nargs="*", help="numbers of the works to measure anew; all by default")
    parser.add_argument("--memory", nargs=2, metavar=("WORK", "NAME"), help="print the memory of one candidate")
    parser.add_argument("--out", help="JSON file for the results; the page is written beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    all_works = works()
    if arguments.memory:
        print(peak_memory(all_works[int(arguments.memory[0])], arguments.memory[1]))
        return
    path = Path(arguments.out or "retrieval.json")
    known = json.loads(path.read_text(encoding="utf-8"))["works"] if arguments.works and path.is_file() else []
    tables = {each["title"]: each for each in known}
    for index in tqdm(arguments.works or range(len(all_works)), unit="work"):
        found = measure(index, all_works[index], arguments.threads)
        tables[found["title"]] = found
        tqdm.write(json.dumps(found, indent=1))
    result = {
        **circumstances(__file__, "cpu", arguments.threads, PACKAGES),
        "command": "python docs/benchmarks/retrieval.py --out docs/benchmarks/retrieval.json",  # for all works
        "priority": "real time" if os.sched_getscheduler(0) == os.SCHED_FIFO else "normal",
        "works": [tables[work.title] for work in all_works if work.title in tables],
        "bootstrap": bootstrap(),
    }
    if arguments.out:
        write(result, page(result), path)


def page(result):
    """The results as a page of the documentation."""
    lines = ["# Retrieval: time and memory", "", __doc__.split("\n\n", 2)[2].strip(), ""]
    lines.append(
        f"{measured_with(result)}, at {result['priority']} priority, one work at a time with `--works`. The numbers "
        "are in `retrieval.json`."
    )
    for work in result["works"]:
        lines += ["", f"## {work['title']}", ""]
        sentence = (
            f"N = {work['N']:,}, D = {work['D']}, {work['classes']:,} classes of at most {work['largest class']}, "
        )
        sentence += f"medians of {work['rounds']} rounds."
        if "largest difference" in work:
            sentence += f" Values of PML and ours differ by at most {work['largest difference']:.1e}."
        lines += [sentence, "", *table(work["rows"])]
    lines += ["", "## Intervals", "", "1,000 bootstrap resamples of 60,000 queries.", ""]
    lines += ["| metrics | seconds |", "|---:|---:|"]
    lines += [f"| {metrics} | {median} |" for metrics, median in result["bootstrap"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
