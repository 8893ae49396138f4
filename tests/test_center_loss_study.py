"""The study of center loss: its page says what its results say, and one command makes both."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

STUDY = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "center_loss_study"
MAP = "mean_average_precision_at_r"
TINY = {
    "seeds": [0, 1],
    "weights": [0, 1],
    "widths": [2],
    "options": {"model": "convnet", "batch_size": 32},
    "tasks": {
        "known": {
            "title": "Known", "source": "digits", "side": 8, "classes": 10, "train": 6, "known": 4,
            "options": {"epochs": 1},
        },
        "unseen": {
            "title": "Unseen", "source": "digits", "side": 8, "classes": 5, "train": 8, "known": 4, "unseen": 6,
            "options": {"epochs": 1},
        },
    },
    "leading": {
        "losses": ["SoftmaxLoss", "CosFaceLoss"], "search": 2, "width": 4, "options": {"per_class": 4, "batch_size": 8},
        "tasks": ["unseen"],
    },
    "control": {"loss": "CenterLoss(alpha=1e-9)", "width": 2, "weights": [1], "tasks": ["known"]},
    "again": {"seeds": [7, 8], "cells": [{"task": "known", "width": 2, "weight": 1}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(STUDY))
    yield importlib.import_module("study")
    sys.path.remove(str(STUDY))


@pytest.fixture(scope="module")
def carried_out(study, tmp_path_factory):
    work = tmp_path_factory.mktemp("study")
    asked = study.Study(TINY, sources=work, work=work, jobs=2)
    return asked, study.carry_out(asked, list(TINY["tasks"]))


def files(folder):
    return {path.read_bytes() for path in folder.rglob("*.png")}


def size(path):
    with Image.open(path) as image:
        return image.size


def test_no_image_is_in_two_parts(carried_out):
    asked, _ = carried_out
    for name in TINY["tasks"]:
        images = asked.images(name)
        trained, known, searched = (files(images / part) for part in ("images/train", "known", "images/test"))
        assert not trained & (known | searched)
        assert (known == searched) == (name == "known")
        names = [{path.name for path in (images / part).iterdir()} for part in ("images/train", "images/test")]
        assert (not names[0] & names[1]) == (name == "unseen")
        assert {size(path) for path in images.rglob("*.png")} == {(8, 8)}


def test_cells_hold_what_compare_found(carried_out):
    asked, results = carried_out
    for name, task in results["tasks"].items():
        content = json.loads((asked.work / name / "width-2" / "compare.json").read_text())
        found = {row["loss"]: row for row in content["candidates"]}
        for cell, loss in zip(task["cells"], ("SoftmaxLoss", "SoftmaxLoss + 1 * CenterLoss"), strict=True):
            assert cell["metrics"][MAP]["value"] == pytest.approx(found[loss]["value"], abs=1e-12)
            assert cell["metrics"][MAP]["of_seeds"] == pytest.approx(found[loss]["of_seeds"], abs=1e-12)
            assert ("minus_softmax" in cell["metrics"][MAP]) == (cell["weight"] == 1)


def test_accuracy_is_that_which_the_run_reports(carried_out):
    asked, results = carried_out
    cell = results["tasks"]["known"]["cells"][0]
    reports = [asked.work / "known" / "width-2" / "SoftmaxLoss" / f"seed-{seed}" / "eval/held-out" for seed in (0, 1)]
    found = [json.loads((folder / "accuracy.json").read_text())["metrics"]["accuracy"] for folder in reports]
    assert cell["metrics"]["accuracy"]["of_seeds"] == pytest.approx(found)


def test_values_of_unseen_classes_are_averaged_over_each_class(study):
    table, labels = study.np.array([[1.0, 0.0, 0.5, 0.1], [1.0, 1.0, 0.5, 0.3]]), study.np.array(["b", "b", "a", "a"])
    assert study.by_class(table, labels).tolist() == [[0.3, 0.5], [0.4, 1.0]]


def test_images_of_another_task_are_refused(carried_out, study):
    asked, _ = carried_out
    changed = asked.task("known") | {"train": 5}
    with pytest.raises(ValueError, match=r"task must be as it was when .*known was written"):
        study.write_task(changed, asked.sources, asked.images("known"))


def test_images_serve_other_options(carried_out, study):
    asked, _ = carried_out
    changed = asked.task("known") | {"title": "Longer", "widths": [8], "weights": [0, 2], "options": {"epochs": 2}}
    written = asked.images("known") / "task.json"
    before = written.stat().st_mtime_ns
    study.write_task(changed, asked.sources, asked.images("known"))
    assert written.stat().st_mtime_ns == before


def test_differences_are_those_of_the_values(carried_out):
    for task in carried_out[1]["tasks"].values():
        alone, center = task["cells"]
        for name, metric in center["metrics"].items():
            difference = metric["value"] - alone["metrics"][name]["value"]
            assert metric["minus_softmax"]["difference"] == pytest.approx(difference, abs=1e-12)


def test_what_is_done_is_not_done_again(carried_out, study):
    asked, results = carried_out
    runs = {path: path.stat().st_mtime_ns for path in asked.work.rglob("metrics.jsonl")}
    assert study.as_json(study.carry_out(asked, list(TINY["tasks"]))) == study.as_json(results)
    assert {path: path.stat().st_mtime_ns for path in asked.work.rglob("metrics.jsonl")} == runs


def test_page_of_any_results(carried_out, study, tmp_path):
    results = json.loads(study.as_json(carried_out[1]))
    study.write_page(results, tmp_path)
    text = (tmp_path / "index.md").read_text(encoding="utf-8")
    value = results["tasks"]["unseen"]["cells"][1]["metrics"][MAP]["value"]
    assert f"{value:.3f}" in text
    for picture in ("accuracy.png", f"{MAP}.png", "spread.png"):
        assert size(tmp_path / picture)[0] > 1000


def test_the_page_says_what_the_results_say(study, tmp_path):
    results = json.loads((STUDY / "results.json").read_text(encoding="utf-8"))
    study.write_page(results, tmp_path)
    assert (tmp_path / "index.md").read_text(encoding="utf-8") == (STUDY / "index.md").read_text(encoding="utf-8")
    assert results["config"] == yaml.safe_load((STUDY / "config.yaml").read_text(encoding="utf-8"))
    config = results["config"]
    assert results["tasks"].keys() == config["tasks"].keys()
    for name, task in results["tasks"].items():
        asked = config | config["tasks"][name]
        cells = [(cell["width"], cell["weight"]) for cell in task["cells"]]
        assert cells == [(width, weight) for width in asked["widths"] for weight in asked["weights"]]
        assert all(len(cell["metrics"][MAP]["of_seeds"]) == len(config["seeds"]) for cell in task["cells"])
    assert list(results["control"]) == config["control"]["tasks"]
    assert list(results["leading"]) == config["leading"]["tasks"]
    assert len(results["again"]) == len(config["again"]["cells"])
