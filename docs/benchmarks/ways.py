"""Ways to train from a pretrained network, and losses, on four data sets: what beats the network as it came?

    python docs/benchmarks/ways.py --sources data --weights tf_efficientnet_lite0_in1k_fp16.safetensors

``--sources`` is the folder of the data sets, as in the study of center loss. Only classes to train on are used: two
fifths of them, drawn by the seed, are held out to measure on. Each finished run is a line of
``ways/<data set>.jsonl``, written at once; the same command goes on where it stopped. ``--page`` writes the page.
"""

import argparse
import json
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np
import torch
from center_loss_study.data_sets import READERS, from_zip
from measure import circumstances, table, write
from tqdm import tqdm

from pml_center.backbones import create_embedder
from pml_center.data import open_images
from pml_center.evaluation import embed_samples, save_samples
from pml_center.training import TrainConfig, fit

COMMAND = "python docs/benchmarks/ways.py --sources data --weights tf_efficientnet_lite0_in1k_fp16.safetensors"
HERE = Path(__file__).parent / "ways"
MODEL = "tf_efficientnet_lite0"
METRIC = "mean_average_precision_at_r"
DATA = {  # classes, images of each, pixels of the pretrained network and of the one from nothing
    "digits": (10, 100, 64, 16),
    "omniglot": (200, 12, 64, 32),
    "faces": (180, 20, 112, 48),
    "cifar": (10, 200, 64, 32),
}
LOSSES = (
    "SoftmaxLoss + 0.01 * CenterLoss",
    "CosFaceLoss",
    "MultiSimilarityLoss",
    "SoftmaxLoss",
    "NormalizedSoftmaxLoss",
    "ArcFaceLoss",
    "SubCenterArcFaceLoss",
    "ProxyAnchorLoss",
    "SupConLoss",
    "TripletMarginLoss @ MultiSimilarityMiner",
)
FEATURES = {
    "features": {},
    "features, 4 of each class": {"per_class": 4},
    "features, random start": {"neck_init": "random"},
    "features, random start, 64 numbers": {"neck_init": "random", "embedding_size": 64},
    "features, hidden layer": {"model": "mlp"},
    "features, bnneck": {"neck": "bnneck"},
}
TRAINED = {
    "from nothing": {"model": "convnet", "epochs": 20},
    "fine-tuned": {"epochs": 5},
    "BatchNorm frozen": {"epochs": 5, "freeze": "batchnorm"},
    "trunk frozen, mirrored": {"epochs": 5, "freeze": "trunk", "hflip": 0.5},
    "fine-tuned, one rate, random start": {"epochs": 5, "trunk_lr": 2e-3, "neck_lr": 2e-3, "neck_init": "random"},
}
CPU_SECONDS = time.process_time  # other work on the machine does not count


def write_images(name, sources, folder):
    """The images of a data set, a folder per class."""
    classes, each, *_ = DATA[name]
    source = READERS[name](sources)
    if name == "faces":
        source = source._replace(open_image=lambda image: from_zip(image).convert("RGB"))
    random = np.random.default_rng(0)
    names = [label for label in sorted(source.seen) if len(source.seen[label]) >= 4]
    for label in random.permutation(names)[:classes]:
        (folder / label).mkdir(parents=True)
        images = source.seen[label]
        for number, place in enumerate(random.permutation(len(images))[:each]):
            source.open_image(images[place]).save(folder / label / f"{number:03}.png")


def prepare(name, sources, weights, work):
    """The folders of images and of features."""
    images, features = work / name / "images", work / name / "features"
    if not images.exists():
        write_images(name, sources, images)
    if not features.exists():
        trunk = create_embedder(MODEL, neck="none", image_size=DATA[name][2], weights=weights)
        save_samples(features, embed_samples(trunk.eval(), open_images(images)))
    return images, features


def plan():
    """Data set, way, loss and seed of each run: first what takes seconds."""
    few = LOSSES[:3]
    for ways, losses, seeds in (
        (list(FEATURES)[:1], LOSSES, range(3)),
        (list(TRAINED), few[:2], range(1)),
        (list(FEATURES)[1:], few, range(3)),
        (list(TRAINED), few, range(3)),
        (list(FEATURES)[:2], LOSSES, range(5)),
    ):
        yield from product(DATA, ways, losses, seeds)


def config_of(name, way, loss, seed, images, features, weights):
    """What a run is asked for: all else is the default."""
    size, small = DATA[name][2:]
    if way in FEATURES:
        options = {"data": str(features)} | FEATURES[way]
    else:
        options = {"data": str(images)} | TRAINED[way]
        own = options.get("model") != "convnet"
        options |= {"model": MODEL, "weights": weights, "image_size": size} if own else {"image_size": small}
    classes = round(0.6 * len(list(images.iterdir())))
    per_class = options.get("per_class", 0)
    batch = 64 if way in TRAINED else 128
    if per_class and batch > per_class * classes:
        per_class = batch // 2 ** int(np.log2(classes))  # few classes: more of each
    options |= {"per_class": per_class, "batch_size": batch}
    return TrainConfig(loss=loss, seed=seed, split_seed=seed, held_out=0.4, workers=0, **options)


def run_of(config):
    """What came of a run, and what the network as it came is worth on the same images."""
    started = CPU_SECONDS()
    with TemporaryDirectory() as folder:
        _, measured = fit(TrainConfig(**vars(config) | {"out": f"{folder}/run"}), verbose=False)
    report, before = measured.model, measured.before
    found = {"value": report[METRIC], "interval": report.ci[METRIC]}
    if before is not None:
        test = report.compare(before)[METRIC]
        found |= {"before": before[METRIC], "gain": test.difference, "p": test.p_value}
    if measured.pixels is not None:
        found["pixels"] = measured.pixels[METRIC]
    values, classes = np.asarray(report.per_unit[METRIC]), np.asarray(report.clusters)
    by_class = {str(label): round(float(values[classes == label].mean()), 4) for label in np.unique(classes)}
    return found | {"cpu_seconds": round(CPU_SECONDS() - started, 1), "by_class": by_class}


def finished(name):
    """The runs of a data set by way, loss and seed."""
    path = HERE / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(run["way"], run["loss"], run["seed"]): run for run in map(json.loads, lines)}


def page():
    """A table for each data set: ways, losses, and what each gained over the network as it came."""
    text = [
        "# Ways to train from a pretrained network",
        "",
        f"`{MODEL}` with the weights of ImageNet, on two fifths of the classes, drawn anew by each seed: MAP@R of",
        "the network as it came, and what training on the other three fifths added, as means over the seeds. *Really*",
        "counts the seeds whose difference is real by a paired test over the classes held out. Only those classes take",
        "part that a data set gives to train on. `from nothing` is a small network of our own, held against the",
        "pretrained one as it came. Seconds are those of one core; features are computed once, before them.",
    ]
    rows = []
    for name in DATA:
        groups = defaultdict(list)
        runs = finished(name)
        came = {run["seed"]: run["before"] for run in runs.values() if run["way"].startswith("features")}
        for run in runs.values():
            groups[run["way"], run["loss"]].append(run)
        for (way, loss), found in groups.items():
            tested = [run for run in found if "p" in run and way != "from nothing"]
            row = {
                "data": name,
                "way": way,
                "loss": loss,
                "seeds": len(found),
                "as it came": round(fmean(came[run["seed"]] for run in found), 4),
                "MAP@R": round(fmean(run["value"] for run in found), 4),
                "gain": round(fmean(run["value"] - came[run["seed"]] for run in found), 4),
                "really better": sum(run["gain"] > 0 and run["p"] < 0.05 for run in tested) if tested else "",
                "really worse": sum(run["gain"] < 0 and run["p"] < 0.05 for run in tested) if tested else "",
                "seconds": round(fmean(run["cpu_seconds"] for run in found), 1),
            }
            rows.append(row)
    text += ["", "## In short", ""]
    text += [line for name in DATA if (line := in_short(name, [row for row in rows if row["data"] == name]))]
    for name in DATA:
        text += ["", f"## {name}", ""]
        if of_this := [row for row in rows if row["data"] == name]:
            text += table(of_this, left_out=["data"])
    text += ["", f"Made by `{COMMAND}`; the runs are the lines of `docs/benchmarks/ways/`.", ""]
    write(circumstances(__file__, "cpu", 1) | {"command": COMMAND, "rows": rows}, "\n".join(text), f"{HERE}.json")


def in_short(name, rows):
    """A line on the default way of training on features."""
    rows = [row for row in rows if row["way"] == "features"]
    if not rows:
        return ""
    best = max(rows, key=lambda row: row["gain"])
    default = next(row for row in rows if row["loss"] == TrainConfig().loss)
    better, worse = (sum(row[side] == row["seeds"] for row in rows) for side in ("really better", "really worse"))
    return (
        f"- **{name}**: of {len(rows)} losses {better} are really better than the network as it came with every seed, "
        f"{worse} really worse. The default, `{default['loss']}`, goes from {default['as it came']:.3f} to "
        f"{default['MAP@R']:.3f}; the best is `{best['loss']}` with {best['MAP@R']:.3f}."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, help="folder of the data sets")
    parser.add_argument("--weights", type=Path, help=f"of {MODEL}")
    parser.add_argument("--work", type=Path, default=Path("runs/ways"), help="folder for images and features")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--page", action="store_true", help="write the page of what there is, and nothing else")
    arguments = parser.parse_args()
    if not arguments.page:
        torch.set_num_threads(1)
        HERE.mkdir(exist_ok=True)
        weights = str(arguments.weights.resolve())
        done = {name: finished(name) for name in DATA}
        todo = [run for run in dict.fromkeys(plan()) if run[0] in arguments.data and run[1:] not in done[run[0]]]
        for name, way, loss, seed in tqdm(todo):
            images, features = prepare(name, arguments.sources, weights, arguments.work)
            found = run_of(config_of(name, way, loss, seed, images, features, weights))
            with (HERE / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"way": way, "loss": loss, "seed": seed} | found) + "\n")
    page()


if __name__ == "__main__":
    main()
