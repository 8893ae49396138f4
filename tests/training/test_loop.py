"""Training runs, small ones, to the end."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pml_center.data import image_folder
from pml_center.training import Run, TrainConfig, fit, loop
from pml_center.training.images import divide
from pml_center.training.loop import choose_device

SMALL = TrainConfig(model="convnet", image_size=8, embedding_size=8, epochs=2, workers=0, batch_size=64)


def small(tmp_path, **changes):
    return dataclasses.replace(SMALL, out=str(tmp_path / "run"), **changes)


@pytest.fixture
def folder(tmp_path):
    """Four classes of six grey images, told apart by their brightness."""
    for number in range(4):
        (tmp_path / "images" / f"class{number}").mkdir(parents=True)
        for image in range(6):
            pixels = np.random.default_rng(image).integers(60 * number, 60 * number + 40, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"class{number}" / f"{image}.png")
    return tmp_path / "images"


def test_a_run_learns_and_leaves_what_it_did(tmp_path):
    run, measurement = fit(small(tmp_path, epochs=4))
    assert measurement.model["recall_at_1"] > 0.9  # two digits that it has never seen
    assert set(measurement.model.metrics) == {
        *(f"recall_at_{k}" for k in (1, 2, 4, 8)),
        "precision_at_1",
        "r_precision",
        "mean_average_precision_at_r",
    }
    events = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["epoch"] * 4 + ["eval"]
    assert events[3]["loss"] < events[0]["loss"]
    assert {"SoftmaxLoss", "CenterLoss"} <= set(events[0])
    assert len(json.loads((run.folder / "labels.json").read_text())) == 8
    assert json.loads((run.folder / "env.json").read_text())["torch"]
    assert json.loads((run.folder / "eval" / "held-out" / "report.json").read_text())["schema"] == 1


def test_a_saved_model_embeds_as_the_trained_one(tmp_path):
    run, measurement = fit(small(tmp_path))
    opened = Run.open(run.folder)
    assert opened.config == small(tmp_path)
    from pml_center.data import digits
    from pml_center.training.measurement import measure

    again = measure(opened.load_model(), opened.held_out(digits()), opened.config)
    assert again.model.metrics == measurement.model.metrics


@pytest.mark.parametrize("changes", [{"split": "images"}, {"held_out": 0}, {"per_class": 8}, {"bf16": True}])
def test_the_ways_to_train_work(tmp_path, changes):
    run, measurement = fit(small(tmp_path, epochs=1, **changes))
    assert (measurement is None) == (changes.get("held_out") == 0)
    assert (run.folder / "checkpoints" / "last" / "loss.safetensors").is_file()


def test_the_same_seed_gives_the_same_run(tmp_path):
    formula = "ArcFaceLoss + TripletMarginLoss @ MultiSimilarityMiner"
    first, second = (
        fit(small(tmp_path / name, loss=formula, epochs=1, per_class=8))[0].load_model().state_dict() for name in "ab"
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_runs_with_other_seeds_are_measured_on_the_same_images():
    held_out = [
        divide(dataclasses.replace(SMALL, **changes)).test.classes
        for changes in ({}, {"seed": 1}, {"split_seed": 1}, {"split_seed": 1, "seed": 5})
    ]
    assert held_out[0] == held_out[1] != held_out[2] == held_out[3]


def test_a_timm_model_trains_on_a_folder(tmp_path, folder):
    config = small(tmp_path, data=str(folder), model="test_resnet", image_size=32, batch_size=8, held_out=0.5)
    run, measurement = fit(config)
    assert measurement.model.counts["queries"] == 12
    assert (run.folder / "checkpoints" / "last" / "model.safetensors").is_file()


def test_what_was_held_out_stays_so_when_the_data_grow(tmp_path, folder):
    config = small(tmp_path, data=str(folder), image_size=8, batch_size=8, held_out=0.5)
    run, measurement = fit(config)
    (folder / "class9").mkdir()
    for name in ("0.png", "1.png"):
        (folder / "class9" / name).write_bytes((folder / "class0" / name).read_bytes())
    held_out = run.held_out(image_folder(folder))
    assert not set(held_out.classes) & set(run.classes)
    assert len(held_out) == measurement.model.counts["queries"]
    (folder / held_out.classes[0] / "3.png").unlink()
    with pytest.raises(ValueError, match=r"must still hold the 12 images that .*run held out, got 1 fewer, e.g. class"):
        run.held_out(image_folder(folder))


def test_a_run_that_ended_before_it_had_weights_can_be_repeated(tmp_path):
    with pytest.raises((FloatingPointError, ValueError), match="must be finite, got"):
        fit(small(tmp_path, lr=1e12, epochs=5))
    fit(small(tmp_path, epochs=1))


def test_images_held_out_must_have_a_mate(tmp_path, folder):
    with pytest.raises(ValueError, match=r"held_out must leave two images of a class.* got 0.2 of 6 images"):
        fit(small(tmp_path, data=str(folder), split="images", held_out=0.2))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(tmp_path, folder, workers):
    (folder / "class1" / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"image must be a readable image file, got .*class1/2.png"):
        fit(small(tmp_path, data=str(folder), image_size=8, batch_size=8, held_out=0, workers=workers))


@pytest.mark.parametrize(("name", "value"), [("lr", -1), ("lr", 0), ("epochs", 0), ("weight_decay", -1), ("hflip", 2)])
def test_a_number_outside_its_range_is_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*, got {value}"):
        small(tmp_path, **{name: value})


def test_images_held_out_are_left_alone_where_settings_are_only_tried(tmp_path):
    run, measurement = fit(small(tmp_path, epochs=1, val=0.4), test=False)
    assert measurement is None
    assert run.events("val")
    assert not (run.folder / "eval").exists()
    assert loop.resume(run.folder, test=False)[1] is None
    assert loop.resume(run.folder)[1].model.counts["queries"] == 362


def test_an_existing_run_is_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"out must be a new folder, got .*run, which exists"):
        fit(small(tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises((FloatingPointError, ValueError), match="must be finite, got"):
        fit(small(tmp_path, lr=1e12, epochs=5))


def test_a_batch_by_class_must_fit_the_classes(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of per_class .*got 64 with per_class=5"):
        fit(small(tmp_path, per_class=5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device must exist on this machine, got 'cuda'"):
        choose_device("cuda")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run must be a folder written by `pml-center train`, got"):
        Run.open(tmp_path)
