"""How often do 95 % intervals hold the true value, and how often does a test call two equally good models different?

    python docs/benchmarks/intervals.py --omniglot FOLDER --out docs/benchmarks/intervals.json

Classes are drawn, and images of them; the true value is the mean over all draws. Right is 0.95 for an interval and 0.05
for a test. *Drawn* classes are Gaussian, some wider than others; where these are known, the classes stay and only their
images are drawn anew. *Omniglot* is real: 659 characters that a small network was not trained on, some of which are
drawn each time; the folder holds the two zip files of the data set. For tests, two models that were trained with other
seeds are compared after the difference between them over all draws was taken off. ``--draws`` trades time for
precision; what the file already holds is not measured again.
"""

import argparse
import io
import json
import warnings
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import circumstances, write
from PIL import Image
from torch import nn
from tqdm import tqdm

from pml_center.evaluation import (
    FewShotEvaluator,
    IdentificationEvaluator,
    RetrievalEvaluator,
    VerificationEvaluator,
    paired_runs_test,
    runs_interval,
)
from pml_center.evaluation.class_intervals import Absence
from pml_center.losses import CosFaceLoss
from pml_center.training import Candidate, Comparison

DIMENSION = 16
METRICS = {"metrics": ("precision_at_1", "mean_average_precision_at_r"), "recall_at": ()}
GALLERY = {**METRICS, "metrics": ("mean_average_precision", "mean_reciprocal_rank", "mean_inverse_negative_penalty")}
CLASSES = (5, 10, 20, 50, 200)
EACH = {"drawn": 10, "omniglot": 20}
UNEQUAL = {"drawn": 60, "omniglot": 20}  # from 2 on
KNOWN = ((20, 5), (20, 20), (50, 10))
MODELS = 2


class Drawn:
    """Gaussian classes, of which some are wider than others."""

    def __init__(self, rng, classes=None):
        self.rng = rng
        self.known = None if classes is None else self._classes(classes)

    def _classes(self, classes):
        return self.rng.normal(size=(classes, DIMENSION)), self.rng.uniform(0.5, 1.3, classes)

    def __call__(self, sizes, models=1, seeds=1):
        """Rows of each model, and labels; models differ in which classes they have trouble with, and seeds a little."""
        means, spreads = self.known or self._classes(len(sizes))
        labels = np.repeat(np.arange(len(sizes)), sizes)
        rows = means[labels] + spreads[labels, None] * self.rng.normal(size=(len(labels), DIMENSION))
        if models == 1:
            return [rows.astype(np.float32)], labels
        trouble = self.rng.uniform(0, 0.7, (models, len(sizes)))
        if seeds > 1:
            of_seed = self.rng.uniform(0, 0.3, (models * seeds, len(sizes)))
            trouble = np.repeat(trouble, seeds, axis=0) + of_seed
        noise = trouble[:, labels, None] * self.rng.normal(size=(len(trouble), len(labels), DIMENSION))
        return list((rows + noise).astype(np.float32)), labels


class Omniglot:
    """Characters that networks were not trained on, embedded by them."""

    def __init__(self, rng, folder, cache):
        self.rng = rng
        if not cache.exists():
            images, self.labels = characters(folder / "images_evaluation.zip")
            rows = [embedded(folder, images, seed) for seed in range(MODELS)]
            np.savez(cache, rows=rows, labels=self.labels)
        with np.load(cache) as kept:
            self.rows, self.labels = kept["rows"], kept["labels"]

    def __call__(self, sizes, models=1):
        chosen = self.rng.permutation(self.labels.max() + 1)[: len(sizes)]
        of = [self.rng.permutation(np.flatnonzero(self.labels == c))[:n] for c, n in zip(chosen, sizes, strict=True)]
        labels = np.repeat(np.arange(len(sizes)), [len(rows) for rows in of])
        return [rows[np.concatenate(of)] for rows in self.rows[:models]], labels


def characters(path):
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        images = [Image.open(io.BytesIO(archive.read(name))).convert("L").resize((28, 28), Image.BOX) for name in names]
    _, labels = np.unique([name.rpartition("/")[0] for name in names], return_inverse=True)
    return torch.tensor(1 - np.stack(images) / 255, dtype=torch.float32).unsqueeze(1), labels


def embedded(folder, images, seed, epochs=4):
    """Rows by a network that was trained on the background characters."""
    torch.manual_seed(seed)
    train, labels = characters(folder / "images_background.zip")
    labels = torch.from_numpy(labels)
    layers, channels = [], 1
    for width in (32, 64, 64):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * channels, 64))
    loss = CosFaceLoss(964, 64, margin=0.2, scale=30)
    optimizer = torch.optim.AdamW([*net.parameters(), *loss.parameters()], 2e-3)
    for epoch in range(epochs):
        for batch in tqdm(torch.randperm(len(train)).split(128), desc=f"seed {seed}, epoch {epoch}"):
            optimizer.zero_grad()
            loss(net(train[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return torch.cat([net.eval()(some) for some in images.split(500)]).numpy()


def gallery_first(rows, labels):
    """The first image of each class, and the others."""
    first = np.unique(labels, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), first)
    return rows[others], labels[others], rows[first], labels[first]


def retrieval(ci):
    evaluator = RetrievalEvaluator(**METRICS, ci=ci, resamples=300)

    def measured(rows, labels):
        report = evaluator(rows, labels)
        if ci == "class":
            return report
        return replace(report, ci={name: report.ci[name] for name in METRICS["metrics"]})  # macro: over classes always

    return measured


def verification(rows, labels):
    return VerificationEvaluator(far=(0.1, 0.01), resamples=300)(rows, labels)


def identification(rows, labels):
    return IdentificationEvaluator(ranks=(1,), fpir=(), resamples=100)(*gallery_first(rows, labels))


def few_shot(ci, disjoint=True):
    evaluator = FewShotEvaluator(queries=5, disjoint=disjoint, episodes=None if disjoint else 600, ci=ci, resamples=300)
    return lambda rows, labels: evaluator(rows, labels)


def coverage(draw, sizes, evaluate, draws):
    """Of each metric, how often its interval held the mean of all draws."""
    reports = [evaluate(rows[0], labels) for rows, labels in (draw(sizes()) for _ in range(draws))]
    found = {}
    for name in reports[0].ci:
        true = np.mean([report[name] for report in reports])
        ends = np.array([report.ci[name] for report in reports])
        found[name] = float(np.mean((ends[:, 0] <= true) & (true <= ends[:, 1])))
    return found


def false_alarms(draw, sizes, evaluate, draws):
    """Of each metric, how often two models were called different, less what they differ by over all draws."""
    pairs = [[evaluate(rows, labels) for rows in models] for models, labels in (draw(sizes(), 2) for _ in range(draws))]
    found = {}
    for name in pairs[0][0].per_unit:
        ahead = np.mean([one[name] - other[name] for one, other in pairs])
        level = [replace(one, per_unit={name: one.per_unit[name] - ahead}) for one, _ in pairs]
        tests = [one.compare(other, resamples=1000)[name] for one, (_, other) in zip(level, pairs, strict=True)]
        found[name] = float(np.mean([test.p_value < 0.05 for test in tests]))
    return found


def verification_alarms(draw, sizes, draws):
    """The same of pairs, whose tests give intervals: how often these leave out the difference over all draws."""
    found = {}
    for _ in range(draws):
        models, labels = draw(sizes(), 2)
        one, other = (verification(rows, labels) for rows in models)
        for name, test in one.compare(other, resamples=300).items():
            found.setdefault(name, []).append((test.difference, test.low, test.high))
    alarms = {}
    for name, tests in found.items():
        differences, low, high = np.array(tests).T
        true = differences.mean()
        alarms[name] = float(np.mean((true < low) | (true > high)))
    return alarms


def called_real(draws, classes, seeds=3, each=10):
    """How often `compare` calls one of two equally good losses, trained with several seeds, really better."""
    draw, labels = Drawn(np.random.default_rng(10)), np.repeat(np.arange(classes), each)
    evaluate, found = retrieval("class"), dict.fromkeys(METRICS["metrics"], 0.0)
    for _ in range(draws):
        reports = [evaluate(rows, labels) for rows in draw([each] * classes, 2, seeds)[0]]
        for name in found:
            losses = [
                Candidate(
                    name=str(first),
                    seeds=range(seeds),
                    values={name: np.stack([report.per_unit[name] for report in reports[first:][:seeds]])},
                    absence={name: Absence.mean([report.absence[name] for report in reports[first:][:seeds]])},
                    options={},
                )
                for first in (0, seeds)
            ]
            given = {"metric": name, "candidates": losses, "pixels": {}, "classes": classes, "data": ""}
            found[name] += Comparison(**given, clusters=labels).is_real / draws
    return found


def runs(draws, classes, clusters, rng, seeds=3, each=10):
    """Intervals and tests of models that were trained with several seeds: seeds and classes both matter."""
    held, alarms = [], []
    labels = np.repeat(np.arange(classes), each)
    for _ in range(draws):
        of_class = rng.normal(scale=1, size=classes)[labels]  # how easy a class is, for every model
        tables = []
        for _ in range(2):
            liked = rng.normal(scale=0.5, size=classes)[labels]  # by one loss more than by the other
            of_seed = rng.normal(scale=0.1, size=(seeds, 1)) + rng.normal(scale=0.3, size=(seeds, classes))[:, labels]
            tables.append(of_class + liked + of_seed + rng.normal(size=(seeds, len(labels))))
        given = {"clusters": labels} if clusters else {}
        low, high = runs_interval(tables[0], **given)
        held.append(low <= 0 <= high)
        alarms.append(paired_runs_test(*tables, **given).p_value < 0.05)
    return {"interval": float(np.mean(held)), "false alarms": float(np.mean(alarms))}


class Sizes:
    """How many images each of some classes has: one number, or any between two."""

    def __init__(self, classes, least, most):
        self.classes, self.least, self.most = classes, least, most
        self.rng = np.random.default_rng(classes + (least < most))

    def __call__(self):
        return self.rng.integers(self.least, self.most + 1, self.classes)


def of_source(make, key, sizes, draws):
    """The cases of classes of one source and size: a name -> a function that measures it."""
    found = {}
    for ci in ("class", "query"):
        found[f"retrieval interval by {ci}: {key}"] = partial(coverage, make(0), sizes, retrieval(ci), draws)
        found[f"retrieval test by {ci}: {key}"] = partial(false_alarms, make(1), sizes, retrieval(ci), draws)
    if sizes.least < sizes.most or sizes.classes == 200:
        return found
    found[f"identification interval by identity: {key}"] = partial(coverage, make(2), sizes, identification, draws)
    found[f"identification test by identity: {key}"] = partial(false_alarms, make(3), sizes, identification, draws)
    if sizes.classes == 20:
        gallery = RetrievalEvaluator(**GALLERY)
        found[f"retrieval interval of the gallery by class: {key}"] = partial(
            coverage, make(8), sizes, lambda rows, labels: gallery(rows, labels), draws
        )
    if sizes.classes in (20, 50):
        third = draws // 3
        found[f"verification interval by identity: {key}"] = partial(coverage, make(4), sizes, verification, third)
        found[f"verification test by identity: {key}"] = partial(verification_alarms, make(5), sizes, third)
    for ci in ("class", "episode"):
        found[f"few-shot interval by {ci}: {key}"] = partial(coverage, make(6), sizes, few_shot(ci), draws)
    sharing = few_shot("class", disjoint=False)
    found[f"few-shot interval of 600 episodes by class: {key}"] = partial(coverage, make(7), sizes, sharing, draws // 4)
    return found


def cases(sources, draws):
    """What is measured: a name -> a function that measures it."""
    found = {}
    for source, make in sources.items():
        for classes in CLASSES:
            for kind, least in (("equal", EACH[source]), ("unequal", 2)):
                sizes = Sizes(classes, least, EACH[source] if kind == "equal" else UNEQUAL[source])
                few = draws // 4 if classes == 200 else draws
                key = f"{source} {classes} {kind}"
                found |= of_source(make, key, sizes, few)
                if source == "omniglot" and classes in (20, 50):  # what the promise is held against
                    by_class = partial(coverage, make(0), sizes, retrieval("class"), 4 * draws)
                    found[f"retrieval interval by class: {key}"] = by_class
    for classes, each in KNOWN:
        draw = Drawn(np.random.default_rng(8), classes)
        for ci in ("query", "class"):
            name = f"retrieval interval by {ci}: known {classes} of {each}"
            found[name] = partial(coverage, draw, Sizes(classes, each, each), retrieval(ci), draws)
    found["compare of three seeds: drawn 20 equal"] = partial(called_real, draws, 20)
    for classes in CLASSES[:-1]:
        for how in ("class", "query"):
            rng = np.random.default_rng(9)
            found[f"three seeds by {how}: drawn {classes} equal"] = partial(
                runs, 10 * draws, classes, how == "class", rng
            )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--omniglot", type=Path, help="folder with images_background.zip and images_evaluation.zip")
    parser.add_argument(
        "--embeddings", type=Path, default=Path("omniglot.npz"), help="where the networks' rows are kept"
    )
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sources = {"drawn": lambda seed: Drawn(np.random.default_rng(seed))}
    if arguments.omniglot is not None:
        where = arguments.omniglot, arguments.embeddings
        sources["omniglot"] = lambda seed: Omniglot(np.random.default_rng(seed), *where)
    found = {}
    if arguments.out and arguments.out.exists():
        found = json.loads(arguments.out.read_text(encoding="utf-8"))["found"]
    wanted = {name: case for name, case in cases(sources, arguments.draws).items() if arguments.only in name}
    for name, case in tqdm(wanted.items(), unit="case"):
        if name in found:
            continue
        found[name] = {metric: round(value, 4) for metric, value in case().items()}
        result = {**circumstances(__file__, "cpu", 1, ("numpy", "scipy", "faiss-cpu")), "draws": arguments.draws}
        result["command"] = f"{' '.join(result['command'].split()[:2])} --omniglot FOLDER --draws {arguments.draws}"
        result |= {"found": found}
        if arguments.out:
            write(result, page(result), arguments.out)
        else:
            print(name, found[name])


def page(result):
    """The results as the page "How sure a number is" of the documentation."""
    found, draws = result["found"], result["draws"]

    def cell(name, metric=None):
        if name not in found:
            return ""
        values = {key: value for key, value in found[name].items() if not key.startswith("macro_")}
        values = values if metric is None else {metric: values.get(metric)}
        return " / ".join("" if value is None else f"{100 * value:.0f}" for value in values.values())

    def table(head, rows, align="---:"):
        line = "|---" + f"|{align}" * (len(head) - 1) + "|"
        return ["", "| " + " | ".join(head) + " |", line, *rows, ""]

    def over_sizes(kind, hows, source, unequal=(False, True)):
        rows = []
        for classes in CLASSES:
            for sizes in unequal:
                key = f"{source} {classes} {'unequal' if sizes else 'equal'}"
                cells = [cell(f"{kind} by {how}: {key}") for how in hows]
                if f"retrieval interval by class: {key}" in found:
                    size = f"2 to {UNEQUAL[source]}" if sizes else EACH[source]
                    rows.append(f"| {classes} of {size} | " + " | ".join(cells) + " |")
        return rows

    new = [f"| {' | '.join(row)} |" for row in NEW]
    kinds = "\n".join(table(("what is new", "interval", "test"), new, "---")).strip()
    lines = ["# How sure a number is", "", *TEXT["start"].strip().replace("KINDS", kinds).split("\n")]
    for source, title in (("drawn", "Drawn classes"), ("omniglot", "Characters of Omniglot")):
        of_interval, of_test = (
            over_sizes(f"retrieval {kind}", ("class", "query"), source) for kind in ("interval", "test")
        )
        rows = [f"{one} {other.split('|', 2)[2].strip()}" for one, other in zip(of_interval, of_test, strict=True)]
        head = ["classes", "interval over classes", "over queries", "test over classes", "over queries"]
        lines += ["", f"## {title}, new to the model", *table(head, rows)]
        gallery = cell(f"retrieval interval of the gallery by class: {source} 20 equal")
        if gallery:
            lines += [
                f"mAP, MRR and mINP rank the whole gallery. With 20 classes their intervals held in {gallery} %.",
                "",
            ]
    lines += ["## Classes that the model knows", "", *TEXT["known"].strip().split("\n")]
    rows = [
        f"| {classes} of {each} | "
        + " | ".join(cell(f"retrieval interval by {how}: known {classes} of {each}") for how in ("query", "class"))
        + " |"
        for classes, each in KNOWN
    ]
    lines += table(["classes", "interval over queries", "over classes"], rows)
    lines += ["## Several seeds", "", *TEXT["seeds"].strip().split("\n")]
    rows = [
        f"| {classes} | "
        + " | ".join(
            cell(f"three seeds by {how}: drawn {classes} equal", what)
            for what in ("interval", "false alarms")
            for how in ("class", "query")
        )
        + " |"
        for classes in (5, 10, 20, 50)
    ]
    lines += table(["classes", "interval over classes", "over queries", "test over classes", "over queries"], rows)
    if called := cell("compare of three seeds: drawn 20 equal"):
        lines += [f"By drawn classes, 20 of 10, `compare` called {called} % of two equally good losses different.", ""]
    lines += ["## Pairs, people and episodes", "", *TEXT["others"].strip().split("\n")]
    rows = []
    for source in ("drawn", "omniglot"):
        for classes in CLASSES:
            key = f"{source} {classes} equal"
            cells = [
                cell(f"verification interval by identity: {key}"),
                cell(f"verification test by identity: {key}"),
                cell(f"identification interval by identity: {key}", "rank_1"),
                cell(f"identification test by identity: {key}", "rank_1"),
                cell(f"few-shot interval by class: {key}"),
                cell(f"few-shot interval by episode: {key}"),
                cell(f"few-shot interval of 600 episodes by class: {key}"),
            ]
            if any(cells):
                rows.append(f"| {source} {classes} | " + " | ".join(cells) + " |")
    head = ["people or classes", "pairs: interval", "pairs: test", "rank 1: interval", "rank 1: test"]
    lines += table([*head, "few-shot over classes", "over episodes", "600 sharing images, over classes"], rows)
    chance = [100 * (share * (1 - share) / draws) ** 0.5 for share in (0.95, 0.05)]
    lines += [
        f"Each number is of {draws} draws, intervals over 20 and 50 characters of four times as many, 200 classes of a "
        f"quarter and pairs of a third: where 95 is right, chance moves it by {chance[0]:.1f}, "
        "two and a half times that where it is 50. "
        f"Made by `{result['command']}`; the numbers are in `intervals.json`.",
        "",
    ]
    return "\n".join(lines)


NEW = (
    (
        'classes: retrieval, `ci="class"`, the default',
        "each class is left out in turn, of the queries and of the references; Wilson's, with Student's quantile",
        "Student's, with the same variance of the difference",
    ),
    ('images of known classes: retrieval, `ci="query"`', "percentile bootstrap over queries", "queries are exchanged"),
    ("people on pairs: verification", "two-sample bootstrap over people", "the same people are drawn for both models"),
    (
        'people in a gallery: identification, `ci="identity"`',
        "each person is left out in turn; a bootstrap over people where a threshold is found anew",
        "Student's, each person left out in turn",
    ),
    ('classes in episodes: few-shot, `ci="class"`', "each class is left out in turn", "Student's, likewise"),
    ("seeds and classes: `compare`", "both in one analysis of variance", "the same"),
)
TEXT = {
    "start": """
A 95 % interval should hold the true value in 95 of 100 cases, and a test at 5 % should call two equally good models
different in 5 of 100. Whether they do depends on what could have been otherwise. A model that is to recognise classes
that it was not trained on will meet **other classes**; one that knows its classes will meet **other images** of them.
What is called new is what is left out, drawn anew or exchanged:

KINDS

`train`, `eval` and `compare` choose between classes and queries by the split, and say over how many of what.

Other libraries of metric learning print no interval, or one over queries or episodes. The right-hand columns show
what that is worth where classes are new: the images of a class are alike, so that a hundred queries of five classes
are little more than five. Metrics of the whole gallery, and all with `ties="expected"`, leave a class out of the
queries alone: who stands behind whom in a gallery is not kept.

In each table, **95 is right for an interval and 5 for a test**; two numbers are recall at 1 and MAP@R; what is blank
was not measured. 200 characters are nearly a third of all, so that their intervals hold more than they have to.
""",
    "known": """
The classes stay, and other images of them are drawn. Here queries are right, and classes are far too careful: they
count as chance what does not move.
""",
    "seeds": """
Two losses that are equally good, each trained with three seeds; seeds, classes and both together move a number.
""",
    "others": """
Verification: equal error rate, TAR at FAR 0.1 and 0.01. Few-shot: accuracy of 5 ways and 1 shot. Episodes that share
images hold the chance of the draws alone, however many there are; over their classes they are as good as others, and
so there is no interval over such episodes.
""",
}


if __name__ == "__main__":
    main()
