"""How long the rows of class weights should be when training starts.

    python docs/benchmarks/start.py --out docs/benchmarks/start.json

A loss that compares by cosine does not care how long a row of its class weights is, but its optimizer does: the
gradient is perpendicular to the row and grows as 1 / length. A step of SGD turns the row by about lr / length² and
makes it longer. A step of Adam moves every entry by about lr, whatever the gradient, and turns the row by about lr·√D
/ length. Short rows are thrown about by SGD until they are long; long rows hardly turn under either. So the start is
a choice for all optimizers and rates together, and is measured here: network and loss learn by the same optimizer,
the network at one rate, the loss at several.
"""

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path

import numpy as np
import torch
from measure import circumstances, measured_with, table, write
from pytorch_metric_learning.utils.common_functions import TorchInitWrapper
from sklearn.datasets import load_digits
from torch import nn
from tqdm import tqdm

from pml_center import losses
from pml_center.evaluation import RetrievalEvaluator

BATCH, SIZE, SEEDS = 128, 64, range(6)
FOUND = {"MAP@R": "mean_average_precision_at_r", "precision@1": "precision_at_1"}
OPTIMIZERS = {  # how it is made, the rate of the network, the rates of the loss
    "SGD": (lambda rows, lr: torch.optim.SGD(rows, lr, momentum=0.9), 0.01, (0.01, 0.1, 1.0)),
    "Adam": (lambda rows, lr: torch.optim.Adam(rows, lr), 0.001, (0.001, 0.01, 0.1)),
}
STARTS = {  # the standard deviation, of the number of classes
    "N(0, 0.01)": lambda classes: 0.01,
    "Xavier": lambda classes: math.sqrt(2 / (classes + SIZE)),
    "length 1": lambda classes: 1 / math.sqrt(SIZE),
    "N(0, 1)": lambda classes: 1.0,
}
COSINE = ("CosFaceLoss", "ArcFaceLoss", "NormalizedSoftmaxLoss")


def digits(seed):
    """1797 images of 8 x 8; a random half trains, the other is measured."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = torch.tensor(images[order] / 16).float(), torch.tensor(labels[order])
    return images[:897], labels[:897], images[897:], labels[897:]


def drawn(seed):
    """1,000 classes to train on and 200 others to measure: points around means, bent by a random layer."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(1200, 16, generator=generator)
    labels = torch.arange(1200).repeat_interleave(6)
    points = means[labels] + 0.7 * torch.randn(len(labels), 16, generator=generator)
    inputs = torch.tanh(points @ torch.randn(16, 64, generator=generator) / 4)
    known = labels < 1000
    return inputs[known], labels[known], inputs[~known], labels[~known]


PROBLEMS = {  # data, classes, epochs, losses
    "digits": (digits, 10, 25, (*COSINE, "SoftmaxLoss")),
    "1,000 classes": (drawn, 1000, 7, ("CosFaceLoss",)),
}
TITLES = {
    "digits": "Digits: 10 classes, images held out",
    "1,000 classes": "Points: 1,000 classes, 200 other classes held out",
}


def train(problem, name, optimizer, rate, start, seed):
    """One training: retrieval among what was held out, and the median length of a row at the end."""
    data, classes, epochs, _ = PROBLEMS[problem]
    make, of_network, _ = OPTIMIZERS[optimizer]
    inputs, labels, held_out, held_out_labels = data(seed)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, SIZE))
    loss = getattr(losses, name)(
        classes, SIZE, weight_init_func=TorchInitWrapper(nn.init.normal_, std=STARTS[start](classes))
    )
    steps = make(network.parameters(), of_network), make(loss.parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(BATCH):
            loss(network(inputs[batch]), labels[batch]).backward()
            for step in steps:
                step.step()
                step.zero_grad()
    with torch.no_grad():
        embeddings = network(held_out)
    report = RetrievalEvaluator(tuple(FOUND.values()), ci=None)(embeddings, held_out_labels)
    length = loss.class_weights.weight.detach().norm(dim=1).median().item()
    return {**{name: round(report[metric], 4) for name, metric in FOUND.items()}, "length": float(f"{length:.3g}")}


def settings():
    """Every problem, loss, optimizer, rate and start."""
    for problem, (_, _, _, names) in PROBLEMS.items():
        for name, (optimizer, (_, _, rates)) in itertools.product(names, OPTIMIZERS.items()):
            for rate, start in itertools.product(rates, STARTS):
                yield {"problem": problem, "loss": name, "optimizer": optimizer, "rate": rate, "start": start}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="JSON file for the results; what it has already is not run again")
    out = Path(parser.parse_args().out)
    torch.set_num_threads(1)
    result = {**circumstances(__file__, "cpu", 1), "rows": []}
    if out.exists():
        before = json.loads(out.read_text(encoding="utf-8"))
        rows = before.pop("rows")
        result["rows"] = rows if before == {name: result[name] for name in before} else []
    done = [{name: row[name] for name in ("problem", "loss", "optimizer", "rate", "start")} for row in result["rows"]]
    for setting in tqdm([setting for setting in settings() if setting not in done], unit="setting"):
        seeds = [train(*setting.values(), seed) for seed in SEEDS]
        result["rows"].append({**setting, **{name: [found[name] for found in seeds] for name in seeds[0]}})
        out.write_text(json.dumps(result), encoding="utf-8")
    write(result, page(result), out)


def mean_of(rows, metric, **setting):
    """The mean over the seeds of one setting, which must be there."""
    [row] = [row for row in rows if all(row[name] == value for name, value in setting.items())]
    return statistics.mean(row[metric])


def compared(rows, metric, problem, name):
    """A line for each optimizer and rate, a column for each start."""
    for optimizer, (_, _, rates) in OPTIMIZERS.items():
        for rate in rates:
            where = {"problem": problem, "loss": name, "optimizer": optimizer, "rate": rate}
            yield where, {start: mean_of(rows, metric, **where, start=start) for start in STARTS}


def shortfalls(rows, names, optimizer):
    """By how much each start misses the best start of the same setting, over all problems, losses and rates."""
    found = {start: [] for start in STARTS}
    for problem, (_, _, _, has) in PROBLEMS.items():
        for name in set(names) & set(has):
            for where, values in compared(rows, "MAP@R", problem, name):
                for start, value in values.items():
                    if where["optimizer"] == optimizer:
                        found[start].append(max(values.values()) - value)
    return found


def page(result):
    """The results as a page of the documentation."""
    rows = result["rows"]
    lines = ["# The start of the class weights", "", __doc__.split("\n\n", 2)[2].strip(), ""]
    lines += [
        f"MAP@R of what was held out, mean of {len(SEEDS)} seeds; D = {SIZE}, batches of {BATCH}, a network of two "
        "layers. SGD has momentum 0.9 and moves the network at 0.01, Adam at 0.001. "
        "Rows from N(0, 0.01) are 0.08 long, from N(0, 1) 8; length 1 is N(0, 1/√D); "
        "Xavier is N(0, √(2/(C+D))), 1.3 long with 10 classes and 0.35 with 1,000. "
        f"{measured_with(result)}.",
        "",
        "## How much each start misses the best",
        "",
        "MAP@R below the best start of the same problem, loss, optimizer and rate: mean, and largest.",
        "",
    ]
    for title, names in (("cosine", COSINE), ("SoftmaxLoss", ("SoftmaxLoss",))):
        for optimizer in OPTIMIZERS:
            missed = shortfalls(rows, names, optimizer)
            cells = {start: f"{statistics.mean(each):.3f}, {max(each):.3f}" for start, each in missed.items()}
            lines.append({"losses": title, "optimizer": optimizer, **cells})
    summary = [line for line in lines if isinstance(line, dict)]
    lines = [line for line in lines if not isinstance(line, dict)] + table(summary)
    for problem, (_, _, _, names) in PROBLEMS.items():
        lines += ["", f"## {TITLES[problem]}", ""]
        cells = []
        for name in names:
            for where, values in compared(rows, "MAP@R", problem, name):
                shown = {"loss": name, "optimizer": where["optimizer"], "rate": f"{where['rate']:g}"}
                cells.append(shown | {start: f"{value:.3f}" for start, value in values.items()})
        lines += [*table(cells), "", "How long a row was at the end, median of the rows, mean of the seeds:", ""]
        cells = []
        for name in names:
            for where, values in compared(rows, "length", problem, name):
                shown = {"loss": name, "optimizer": where["optimizer"], "rate": f"{where['rate']:g}"}
                cells.append(shown | {start: f"{value:.3g}" for start, value in values.items()})
        lines += table(cells)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
