"""What modifiers of the softmax family do: long tails, near classes, rows that stay.

    python docs/benchmarks/long_tail.py --omniglot features --out docs/benchmarks/long_tail.json

A long tail is made by leaving out images: the most frequent class keeps all, the rarest few, and those between lie on
a line of the logarithm. What is tested has as many images of each class. `features` is what `pml-center embed` wrote of
a folder of Omniglot's characters with a pretrained network.

Each seed draws the order of the classes, the images that are kept, the start and the batches, so that an interval over
seeds (Student's) is one over all of these. Each candidate has as many settings as any other, three; which is taken is
chosen on other seeds, by the accuracy of the rare third of the classes (of the nearest image, for unseen characters).
The setting is the margin, a cosine, or degrees for ArcFace; the largest margin of LDAM and DynamicArcFace is 1.5 times
it, as they give most classes less.
"""

import argparse

import numpy as np
import torch
from measure import circumstances, measured_with, write
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn
from tqdm import tqdm

from pml_center import losses, param_groups
from pml_center.evaluation import RetrievalEvaluator, load_samples

TUNING_SEEDS, SEEDS = range(100, 103), range(5)
MARGINS = (0.1, 0.2, 0.35)
DEGREES = (6.0, 12.0, 20.0)
TAIL = {
    "CosFace": lambda m, counts: losses.CosFaceLoss(**counts, margin=m, scale=16),
    "CosFace, prior_weight=1": lambda m, counts: losses.CosFaceLoss(**counts, margin=m, scale=16, prior_weight=1),
    "LDAM": lambda m, counts: losses.LDAMLoss(**counts, margin=1.5 * m, scale=16),
    "DynamicArcFace": lambda m, counts: losses.DynamicArcFaceLoss(**counts, factor=1.5 * m, scale=16),
}
NEAR = {
    "ArcFace": lambda m, counts: losses.ArcFaceLoss(**sizes(counts), margin=m, scale=16),
    "ArcFace, hard_negatives=5": lambda m, counts: losses.ArcFaceLoss(
        **sizes(counts), margin=m, scale=16, hard_negatives=5, hard_negative_margin=0.3 * m
    ),
}
FIXED = {
    "CosFace": lambda m, counts: losses.CosFaceLoss(**sizes(counts), margin=m, scale=16),
    "CosFace, fixed simplex": lambda m, counts: losses.CosFaceLoss(
        **sizes(counts), margin=m, scale=16, update="fixed", init="simplex"
    ),
}


def sizes(counts):
    return {name: counts[name] for name in ("num_classes", "embedding_size")}


def digits(_):
    x, y = load_digits(return_X_y=True)
    return x.astype(np.float32) / 16, y, 50  # images of each class that are tested


def omniglot(folder):
    samples = load_samples(folder)
    rows = np.asarray(samples.embeddings, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.unique(samples.labels, return_inverse=True)[1], 4


def drawn(x, y, tested, fewest, random):
    """Training and test images of a long tail, or of as many each where ``fewest`` is None; classes by frequency."""
    classes = random.permutation(y.max() + 1)
    most = np.bincount(y).min() - tested
    kept = np.full(len(classes), most)
    if fewest is not None:
        kept = np.geomspace(most, fewest, len(classes)).round().astype(int)
    train, test = [], []
    for label, (name, count) in enumerate(zip(classes, kept, strict=True)):
        places = random.permutation(np.flatnonzero(y == name))
        test += [(place, label) for place in places[:tested]]
        train += [(place, label) for place in places[tested : tested + count]]
    return [(torch.from_numpy(x[[p for p, _ in part]]), torch.tensor([n for _, n in part])) for part in (train, test)]


def trained(make, setting, images, labels, num_classes, width, seed, epochs):
    """A head, and its loss."""
    torch.manual_seed(seed)
    size = images.shape[1]
    model = (
        nn.Sequential(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, width)) if size < 500 else nn.Linear(size, width)
    )
    counts = torch.bincount(labels, minlength=num_classes)
    loss = make(setting, {"num_classes": num_classes, "embedding_size": width, "class_counts": counts})
    optimizer = torch.optim.AdamW(param_groups(model, loss, lr=3e-3))
    steps = epochs * max(1, len(labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(labels), (64,))
        optimizer.zero_grad()
        loss(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        schedule.step()
    return model.eval(), loss.eval()


@torch.no_grad()
def of_tail(data, make, setting, seed, fewest):
    x, y, tested = data
    (images, labels), (others, truth) = drawn(x, y, tested, fewest, np.random.default_rng(seed))
    classes = int(y.max()) + 1
    with torch.enable_grad():
        model, loss = trained(make, setting, images, labels, classes, 64, seed, epochs=60)
    right = (loss.predict(model(others)) == truth).double()
    third = classes - classes // 3
    return {"rare third": right[truth >= third].mean().item(), "all classes": right.mean().item()}


@torch.no_grad()
def of_unseen(data, make, setting, seed, _):
    x, y, _ = data
    random = np.random.default_rng(seed)
    classes = random.permutation(y.max() + 1)
    known = classes[: int(0.6 * len(classes))]
    number = np.full(len(classes), -1)
    number[known] = np.arange(len(known))
    is_known = number[y] >= 0
    with torch.enable_grad():
        model, _ = trained(
            make,
            setting,
            torch.from_numpy(x[is_known]),
            torch.from_numpy(number[y[is_known]]),
            len(known),
            256,
            seed,
            30,
        )
    report = RetrievalEvaluator()(model(torch.from_numpy(x[~is_known])), y[~is_known])
    return {"recall@1": report["precision_at_1"], "MAP@R": report["mean_average_precision_at_r"]}


STUDIES = {
    "digits, 124 to 2 images a class": (digits, of_tail, TAIL, 2, MARGINS),
    "Omniglot, 8 to 1 images a character": (omniglot, of_tail, TAIL, 1, MARGINS),
    "unseen characters of Omniglot": (omniglot, of_unseen, NEAR, None, DEGREES),
    "digits, 5 images a class": (digits, of_tail, FIXED, "few", MARGINS),
}


def study(name, folder, progress):
    reader, measure, candidates, fewest, settings = STUDIES[name]
    data = reader(folder)
    if fewest == "few":
        x, y, _ = data
        data, fewest = (x, y, int(np.bincount(y).min()) - 5), None
    found = {}
    for candidate, make in candidates.items():
        tried = {}
        for setting in settings:
            values = []
            for seed in TUNING_SEEDS:
                values.append(next(iter(measure(data, make, setting, seed, fewest).values())))
                progress.update()
            tried[setting] = round(float(np.mean(values)), 4)
        best = max(tried, key=tried.get)
        runs = []
        for seed in SEEDS:
            runs.append({key: round(value, 4) for key, value in measure(data, make, best, seed, fewest).items()})
            progress.update()
        found[candidate] = {"tried": tried, "setting": best, "runs": runs}
    return found


def difference(ours, base, metric):
    """Mean difference over the seeds, with Student's interval and the probability of one as large by chance."""
    values = np.array([one[metric] - other[metric] for one, other in zip(ours, base, strict=True)])
    if not values.any():
        return "0"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.3f} [{values.mean() - half:+.3f}, {values.mean() + half:+.3f}]"


def page(result):
    """The results as a page of the documentation."""
    lines = ["# Long tails, near classes, rows that stay", "", __doc__.split("\n\n", 2)[2].strip(), ""]
    for name, found in result["found"].items():
        base = next(iter(found))
        metrics = list(found[base]["runs"][0])
        lines += [f"## {name[0].upper()}{name[1:]}", ""]
        lines += ["| loss | setting | " + " | ".join(f"{metric} | against {base}" for metric in metrics) + " |"]
        lines += ["|---|---:|" + "---:|---|" * len(metrics)]
        for candidate, of in found.items():
            cells = []
            for metric in metrics:
                cells.append(f"{np.mean([run[metric] for run in of['runs']]):.3f}")
                cells.append("" if candidate == base else difference(of["runs"], found[base]["runs"], metric))
            lines.append(f"| {candidate} | {of['setting']} | " + " | ".join(cells) + " |")
        lines.append("")
    lines.append(f"{measured_with(result)}. All runs are in `long_tail.json`.")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--omniglot", required=True, help="what `pml-center embed` wrote")
    parser.add_argument("--out", help="JSON file for the results")
    arguments = parser.parse_args()
    runs = sum(len(of[2]) * (len(of[4]) * len(TUNING_SEEDS) + len(SEEDS)) for of in STUDIES.values())
    with tqdm(total=runs, unit="run") as progress:
        found = {name: study(name, arguments.omniglot, progress) for name in STUDIES}
    threads = torch.get_num_threads()
    packages = ("torch", "pytorch-metric-learning", "scikit-learn")
    result = {**circumstances(__file__, "cpu", threads, packages), "found": found}
    if arguments.out:
        write(result, page(result), arguments.out)
    else:
        print(page(result))


if __name__ == "__main__":
    main()
