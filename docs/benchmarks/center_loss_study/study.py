"""Does center loss help? Train, measure and write the page, by `pml-center compare`.

python docs/benchmarks/center_loss_study/study.py --sources data --work runs/study

It goes on where it stopped. With --page it only writes tables and plots anew, from results.json.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from data_sets import write_task
from page import write_page

from pml_center.cli import main as pml_center
from pml_center.comparison.measured_run import MeasuredRun
from pml_center.comparison.result import Candidate, interval
from pml_center.data import eval_transform, open_images
from pml_center.evaluation import (
    RetrievalEvaluator,
    VerificationEvaluator,
    holm,
    intra_inter_distance,
    lfw_pairs,
    paired_runs_test,
)
from pml_center.training import compare_runs
from pml_center.training.loss_formula import parse_loss
from pml_center.training.run_folder import Run

sys.path.append(str(Path(__file__).resolve().parent.parent))
from measure import processor

HERE = Path(__file__).resolve().parent
MAP = "mean_average_precision_at_r"
PACKAGES = ("pml-center", "torch", "pytorch-metric-learning", "timm", "faiss-cpu", "numpy")


class Study(NamedTuple):
    """What is asked for, and where it is kept."""

    config: dict[str, Any]
    sources: Path
    work: Path
    jobs: int

    def task(self, name: str) -> dict[str, Any]:
        """An entry of ``tasks`` with what all have in common."""
        task = self.config["tasks"][name]
        shared = {"widths": self.config["widths"], "weights": self.config["weights"]}
        return shared | task | {"options": self.config["options"] | task["options"] | {"image_size": task["side"]}}

    def images(self, task: str) -> Path:
        """Where the images of a task are."""
        return self.work / "images" / task

    def compare(self, task: str, out: str, losses: list[str], seeds: list[int], **options: Any) -> list[str]:
        """Run ``pml-center compare``, and return it as one would type it."""
        options = self.task(task)["options"] | options
        if "weights" in options:
            options["weights"] = self.sources / options["weights"]
        command = ["compare", str(self.images(task) / "images"), "--losses", *losses, "--seeds", *map(str, seeds)]
        for option, value in options.items():
            command += [f"--{option.replace('_', '-')}", str(value)]
        command += ["--out", str(self.work / out), "--jobs", str(self.jobs)]
        pml_center([*command, "--quiet"])  # trains what is missing, and refuses other options than before
        typed = shlex.join(["pml-center", *command[:-2]])
        return typed.replace(str(self.work), "runs/study").replace(str(self.sources), "data")


def main() -> None:
    """Everything, or the page alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, default="data", help="the folder of the data sets")
    parser.add_argument("--work", type=Path, default="runs/study", help="the folder of all runs")
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml")
    parser.add_argument("--out", type=Path, default=HERE, help="where results.json, tables and plots go")
    parser.add_argument("--tasks", nargs="*", help="train some of the tasks, and write no page; by default all")
    parser.add_argument("--jobs", type=int, default=torch.get_num_threads(), help="runs at a time")
    parser.add_argument("--page", action="store_true", help="train nothing: write the page from results.json")
    arguments = parser.parse_args()
    if not arguments.page:
        config = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
        study = Study(config, arguments.sources.resolve(), arguments.work.resolve(), arguments.jobs)
        results = carry_out(study, arguments.tasks or list(config["tasks"]))
        if arguments.tasks:
            return
        (arguments.out / "results.json").write_text(as_json(results), encoding="utf-8")
    write_page(json.loads((arguments.out / "results.json").read_text(encoding="utf-8")), arguments.out)


def carry_out(study: Study, names: list[str]) -> dict[str, Any]:
    """Train and measure what is left to do."""
    for name in names:
        write_task(study.task(name), study.sources, study.images(name))
    tasks = {name: grid(study, name) for name in names}
    leading, again, control = (study.config[name] for name in ("leading", "again", "control"))
    controls = {name: controlled(study, name, tasks[name]["cells"]) for name in control["tasks"] if name in names}
    for cell in (cell for task in tasks.values() for cell in task["cells"]):
        del cell["values"]
    return {
        "command": "python docs/benchmarks/center_loss_study/study.py --sources data --work runs/study",
        "machine": f"{processor()}, {os.cpu_count()} cores, one thread a run",
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in PACKAGES},
        "config": study.config,
        "tasks": tasks,
        "control": controls,
        "leading": {name: leaders(study, name) for name in leading["tasks"] if name in names},
        "again": [once_more(study, cell, tasks) for cell in again["cells"] if cell["task"] in names],
    }


def grid(study: Study, name: str) -> dict[str, Any]:
    """All widths and weights of a task."""
    task = study.task(name)
    commands, cells = {}, []
    for width in task["widths"]:
        out = f"{name}/width-{width}"
        losses = {formula(weight): weight for weight in task["weights"]}
        commands[width] = study.compare(name, out, list(losses), study.config["seeds"], embedding_size=width)
        found = compare_runs([study.work / out]).candidates
        assert {candidate.name for candidate in found} == set(losses)
        cells += [
            {"width": width, "weight": losses[candidate.name], **measured_cell(study, name, candidate)}
            for candidate in found
        ]
    cells.sort(key=lambda cell: (cell["width"], cell["weight"]))
    judge(cells)
    pixels = compare_runs([study.work / out]).pixels
    return {
        "title": task["title"],
        "counts": counts(study.images(name)),
        "pixels": {metric: float(np.nanmean(pixels[metric])) for metric in (MAP, "recall_at_1")},
        "commands": commands,
        "cells": cells,
    }


def measured_cell(study: Study, name: str, candidate: Candidate) -> dict[str, Any]:
    """All that is measured of the runs of one loss.

    Where classes are unseen, it is they that could have been others: values are averaged over the images of each.
    """
    task, runs = study.task(name), list(candidate.runs)
    measured = measure_all(study, name, runs)
    of_runs = [measured[run] for run in runs]
    values = {metric: candidate.values[metric] for metric in (MAP, "recall_at_1")}
    values["euclidean_map_at_r"] = np.stack([each["euclidean_map_at_r"] for each in of_runs])
    if "unseen" in task:
        images = open_images(study.images(name) / "images" / "test")
        labels = np.array(images.classes)[images.labels]
        assert labels.tolist() == [label for _, label in MeasuredRun(Run.open(runs[0])).queries]
        values = {metric: by_class(table, labels) for metric, table in values.items()}
    values |= {metric: np.stack([each[metric] for each in of_runs]) for metric in measures(task)}
    seconds = [second for second in candidate.cpu_seconds if second is not None]
    return {
        "values": values,
        "metrics": {metric: summary(table) for metric, table in values.items()},
        "shape": {key: [float(each[key]) for each in of_runs] for key in SHAPE},
        "cpu_seconds": float(np.mean(seconds)) if seconds else None,
    }


def by_class(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean of each class, (runs, classes), of the values of images, (runs, images)."""
    return np.stack([np.nanmean(table[:, labels == label], axis=1) for label in np.unique(labels)], axis=1)


def formula(weight: float, loss: str = "CenterLoss") -> str:
    """Softmax, with a loss of this weight beside it."""
    return f"SoftmaxLoss + {weight:g} * {loss}" if weight else "SoftmaxLoss"


def judge(cells: list[dict[str, Any]]) -> None:
    """Test each metric of each cell against softmax alone at the same width.

    p-values are corrected for all such tests of a metric in the task: all widths and weights.
    """
    alone = {cell["width"]: cell["values"] for cell in cells if not cell["weight"]}
    others = [cell for cell in cells if cell["weight"]]
    for name in cells[0]["values"]:
        compared(others, [alone[cell["width"]] for cell in others], name, "minus_softmax")


def compared(cells: list[dict[str, Any]], others: list[dict[str, Any]], name: str, key: str) -> None:
    """Test a metric of each cell against the values beside it, corrected for all of them."""
    tests = [paired_runs_test(cell["values"][name], other[name]) for cell, other in zip(cells, others, strict=True)]
    for cell, test, corrected in zip(cells, tests, holm([test.p_value for test in tests]), strict=True):
        cell["metrics"][name][key] = {
            "difference": test.difference,
            "interval": [test.low, test.high],
            "p_value": test.p_value,
            "p_corrected": corrected,
        }


def controlled(study: Study, name: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Center loss whose centers never leave the origin, against softmax alone and against center loss."""
    control = study.config["control"]
    width, losses = control["width"], {formula(weight, control["loss"]): weight for weight in control["weights"]}
    out = f"{name}/control"
    command = study.compare(name, out, list(losses), study.config["seeds"], embedding_size=width)
    found = [
        {"weight": losses[candidate.name], **measured_cell(study, name, candidate)}
        for candidate in compare_runs([study.work / out]).candidates
    ]
    found.sort(key=lambda cell: cell["weight"])
    of_width = {cell["weight"]: cell["values"] for cell in cells if cell["width"] == width}
    for metric in found[0]["values"]:
        compared(found, [of_width[0] for _ in found], metric, "minus_softmax")
        compared(found, [of_width[cell["weight"]] for cell in found], metric, "minus_center")
    for cell in found:
        del cell["values"]
    return {"command": command, "cells": found}


def summary(table: np.ndarray) -> dict[str, Any]:
    """The mean over seeds and units, its interval, and the mean of each seed."""
    return {
        "value": float(np.nanmean(table)),
        "interval": list(interval(table)),
        "of_seeds": np.nanmean(table, axis=1).tolist(),
    }


def leaders(study: Study, name: str) -> dict[str, Any]:
    """The leading losses, each with as many settings tried on validation classes."""
    leading = study.config["leading"]
    options = {"search": leading["search"], "embedding_size": leading["width"], **leading["options"]}
    out = f"{name}/leading"
    command = study.compare(name, out, leading["losses"], study.config["seeds"], **options)
    content = json.loads((study.work / out / "compare.json").read_text(encoding="utf-8"))
    kept = ("rank", "loss", "value", "interval", "of_seeds", "behind_the_best", "metrics", "error")
    rows = [{key: row.get(key) for key in kept} for row in content["candidates"]]
    for row, full in zip(rows, content["candidates"], strict=True):
        if not row["error"]:
            run = Run.open(full["runs"][0]).config
            row["chosen"] = {"loss": run.loss, "lr": run.lr}
    kept = {"verdict": content["verdict"], "ci_method": content["ci_method"]}
    return {"command": command, "pixels": content["pixels"][MAP], **kept, "rows": rows}


def once_more(study: Study, cell: dict[str, Any], tasks: dict[str, Any]) -> dict[str, Any]:
    """A cell trained again with other seeds, beside what it was first."""
    again, (name, width, weight) = study.config["again"], cell.values()
    out = f"{name}/again-width-{width}"
    command = study.compare(name, out, [formula(weight)], again["seeds"], embedding_size=width)
    runs = compare_runs([study.work / out]).candidates[0]
    measured = measured_cell(study, name, runs)
    values = {metric: measured["values"][metric] for metric in (MAP, "accuracy")}
    first = next(each for each in tasks[name]["cells"] if (each["width"], each["weight"]) == (width, weight))
    found = {}
    for metric, table in values.items():
        before, after = first["metrics"][metric], summary(table)
        found[metric] = {
            "first": before["value"],
            "first_interval": before["interval"],
            "again": after["value"],
            "again_interval": after["interval"],
            "agree": overlap(before["interval"], after["interval"]),
        }
    return cell | {"command": command, "metrics": found}


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two intervals share a point."""
    return max(one[0], other[0]) <= min(one[1], other[1])


SHAPE = ("intra", "inter", "spread", "unseen_spread", "length")


def measures(task: dict[str, Any]) -> list[str]:
    """What is measured beside retrieval."""
    return ["accuracy", *(["verification"] if task["source"] == "faces" else [])]


def measure_all(study: Study, name: str, runs: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """What each run is worth beyond what compare measured; kept in its folder."""
    left = [run for run in runs if not (Path(run) / "study.npz").exists()]
    if left:
        with ProcessPoolExecutor(study.jobs, get_context("forkserver")) as pool:
            list(pool.map(measure, left, [str(study.images(name))] * len(left)))
    return {run: dict(np.load(Path(run) / "study.npz")) for run in runs}


def measure(folder: str, images: str) -> None:
    """Classify the known images, and look at the shape of the embeddings.

    ``accuracy`` is 0 or 1 for each known image, ``euclidean_map_at_r`` MAP@R of each query by distance where compare
    measured it by cosine, ``verification`` the accuracy of each fold of LFW's pairs. ``intra`` is the mean distance of
    known images to the mean of their class, ``inter`` that between those means, ``spread`` their ratio,
    ``unseen_spread`` the ratio for the images searched, ``length`` the mean length of an embedding.
    """
    torch.set_num_threads(1)
    run = Run.open(folder)
    model = run.load_model()
    recipe = (model.image_size, model.in_chans, model.mean, model.std)
    known, known_labels, names, _ = pixels(f"{images}/known", recipe)
    searched, labels, _, _ = pixels(f"{images}/images/test", recipe)
    assert names == run.classes
    embedded, found = rows(model, known), rows(model, searched)
    loss = parse_loss(run.config.loss, len(names), model.embedding_size)
    loss.load_state_dict(run.weights("loss"))
    with torch.no_grad():
        predicted = loss.eval().classifier(torch.from_numpy(embedded)).numpy()
    intra, inter = intra_inter_distance(embedded, known_labels)
    unseen_intra, unseen_inter = intra_inter_distance(found, labels)
    by_distance = RetrievalEvaluator((MAP,), recall_at=(), similarity="euclidean", ci=None)(found, labels)
    values = {
        "accuracy": (predicted == known_labels).astype(float),
        "euclidean_map_at_r": by_distance.per_unit[MAP],
        "intra": intra,
        "inter": inter,
        "spread": intra / inter,
        "unseen_spread": unseen_intra / unseen_inter,
        "length": np.linalg.norm(embedded, axis=1).mean(),
    }
    protocol = Path(images, "pairs.txt")
    if protocol.exists():
        faces, _, _, files = pixels(f"{images}/pairs", recipe)
        pairs = lfw_pairs(protocol, files)
        values["verification"] = VerificationEvaluator(ci=None)(rows(model, faces), pairs=pairs).per_unit["accuracy"]
    whole = Path(folder) / "study.npz"
    np.savez(whole.with_suffix(".partial.npz"), **values)
    whole.with_suffix(".partial.npz").replace(whole)


@cache
def pixels(folder: str, recipe: tuple) -> tuple[torch.Tensor, np.ndarray, list[str], list[str]]:
    """The images of a folder as the model takes them, their labels, the classes, and the files."""
    images = open_images(folder).with_transform(eval_transform(*recipe))
    stacked = torch.stack([image for image, _ in images])
    return stacked, images.labels, images.classes, [images.name(i) for i in range(len(images))]


def rows(model: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    """The embeddings of images."""
    with torch.no_grad():
        return torch.cat([model(batch) for batch in images.split(128)]).numpy()


def counts(images: Path) -> dict[str, int]:
    """How many images and classes there are in each part."""
    parts = {"train": "images/train", "known": "known", "searched": "images/test"}
    found = {}
    for part, folder in parts.items():
        found[part] = len(list((images / folder).glob("*/*.png")))
        found[f"{part}_classes"] = len(list((images / folder).iterdir()))
    return found


def as_json(results: dict[str, Any]) -> str:
    """Numbers to six digits, a cell a line."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): rounded(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [rounded(each) for each in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    tasks = {
        name: {key: "CELLS" if key == "cells" else value for key, value in task.items()}
        for name, task in results["tasks"].items()
    }
    text = json.dumps(rounded(results | {"tasks": tasks}), indent=1, ensure_ascii=False)
    for task in results["tasks"].values():
        lines = ",\n".join("    " + json.dumps(rounded(cell)) for cell in task["cells"])
        text = text.replace('"CELLS"', f"[\n{lines}\n   ]", 1)
    return text + "\n"


if __name__ == "__main__":
    main()
