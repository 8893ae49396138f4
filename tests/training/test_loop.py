"""Training runs, small ones, to the end."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pml_center.data import LabeledImages, image_folder
from pml_center.training import Run, TrainConfig, fit, loop, resume, train_state
from pml_center.training.loop import choose_device, completed
from pml_center.training.splitting import split_data
from pml_center.training.train_state import TrainState

few_digits = pytest.mark.usefixtures("few_digits")
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


@few_digits
def test_a_saved_model_embeds_as_the_trained_one(tmp_path):
    run, measurement = fit(small(tmp_path))
    opened = Run.open(run.folder)
    assert opened.config == completed(small(tmp_path))
    from pml_center.data import digits
    from pml_center.training.measurement import measure

    again = measure(opened.load_model(), opened.held_out(digits()), opened.config)
    assert again.model.metrics == measurement.model.metrics


@few_digits
@pytest.mark.parametrize(
    "changes",
    [{"split": "images"}, {"held_out": 0}, {"per_class": 8}, {"amp": "bf16"}, {"amp": "fp16"}, {"micro_batch": 24}],
)
def test_the_ways_to_train_work(tmp_path, changes):
    run, measurement = fit(small(tmp_path, epochs=1, **changes))
    assert (measurement is None) == (changes.get("held_out") == 0)
    assert (run.folder / "checkpoints" / "last" / "loss.safetensors").is_file()


@few_digits
def test_the_same_seed_gives_the_same_run(tmp_path):
    formula = "ArcFaceLoss + TripletMarginLoss @ MultiSimilarityMiner"
    first, second = (
        fit(small(tmp_path / name, loss=formula, epochs=1, per_class=8))[0].load_model().state_dict() for name in "ab"
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_start_and_the_order_of_a_run_can_each_be_held():
    def start_and_order(**seeds):
        state = TrainState.build(dataclasses.replace(SMALL, crop_scale=0.5, **seeds), torch.device("cpu"))
        weights = torch.cat([value.flatten() for value in (*state.model.parameters(), *state.loss.parameters())])
        return weights.sum().item(), list(state.loader.batch_sampler)

    (start, order), (other_start, other_order) = start_and_order(), start_and_order(seed=1)
    assert start != other_start
    assert order != other_order
    assert start_and_order(seed=1, init_seed=0) == (start, other_order)
    assert start_and_order(seed=1, order_seed=0) == (other_start, order)


def test_runs_with_other_seeds_are_measured_on_the_same_images():
    held_out = [
        split_data(dataclasses.replace(SMALL, **changes)).test.classes
        for changes in ({}, {"seed": 1}, {"split_seed": 1}, {"split_seed": 1, "seed": 5})
    ]
    assert held_out[0] == held_out[1] != held_out[2] == held_out[3]


def test_a_timm_model_trains_on_a_folder(tmp_path, folder):
    config = small(tmp_path, data=str(folder), model="test_resnet", image_size=32, batch_size=8, held_out=0.5)
    run, measurement = fit(config)
    assert measurement.model.counts["queries"] == 12
    assert (run.folder / "checkpoints" / "last" / "model.safetensors").is_file()


def test_images_that_are_decoded_once_give_the_same_weights_to_the_bit(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("PML_CENTER_CACHE", str(tmp_path / "cache"))
    changes = {"epochs": 2, "batch_size": 4, "held_out": 0.25, "val": 0.5, "split": "images", "crop_scale": 0.5}
    found, decoded = [], []
    read = LabeledImages._read
    seen = lambda self, i, **how: decoded.append(self.name(i)) or read(self, i, **how)  # noqa: E731
    monkeypatch.setattr(LabeledImages, "_read", seen)
    for number, gib in enumerate((0.0, 2.0, 2.0)):
        decoded.clear()
        config = small(tmp_path / str(number), data=str(folder), hflip=0.5, decoded_gib=gib, **changes)
        run, measurement = fit(config)
        epochs = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in run.epochs]
        found.append((run.weights("model", "best"), epochs, measurement.model.metrics))
        training = set(split_data(config).train.images)
        assert max(decoded.count(str(path)) for path in training) == 2 - number
    for weights, *others in found[1:]:
        assert all(torch.equal(value, found[0][0][name]) for name, value in weights.items())
        assert others == list(found[0][1:])


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


@few_digits
def test_a_run_that_ended_before_it_had_weights_can_be_repeated(tmp_path):
    with pytest.raises((FloatingPointError, ValueError), match="must be finite, got"):
        fit(small(tmp_path, lr=1e12, epochs=5))
    fit(small(tmp_path, epochs=1))


def test_images_held_out_must_have_a_mate(tmp_path, folder):
    with pytest.raises(ValueError, match=r"held_out must leave two images of a class.* got 0.2 of 6 images"):
        fit(small(tmp_path, data=str(folder), split="images", held_out=0.2))
    assert not (tmp_path / "run").exists()


def test_the_advice_on_images_without_a_mate_is_none_that_was_followed(tmp_path):
    for i in range(8):
        (tmp_path / "data" / f"c{i}").mkdir(parents=True)
        Image.new("L", (8, 8), 9 * i).save(tmp_path / "data" / f"c{i}" / "1.png")
    with pytest.raises(
        ValueError, match=r"val must leave .*got 2 classes with one image each.* --val, or another"
    ) as error:
        fit(small(tmp_path, data=str(tmp_path / "data"), held_out=0, val=0.3))
    assert str(error.value).endswith("Use a larger --val, or another --split-seed.")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_skipped_in_training_and_listed(tmp_path, folder, workers, caplog):
    (folder / "class1" / "2.png").write_bytes(b"no image")
    config = small(tmp_path, data=str(folder), image_size=8, batch_size=8, held_out=0, workers=workers)
    run, _ = fit(config)
    skipped = [name for event in run.events("skipped") for name in event["images"]]
    assert set(skipped) == {str(folder / "class1" / "2.png")}
    assert f"skipped {folder}/class1/2.png, which cannot be read" in caplog.text


def test_an_unreadable_image_stops_a_measurement(tmp_path, folder):
    for number in range(4):
        (folder / f"class{number}" / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"image must be a readable image file, got .*2.png"):
        fit(small(tmp_path, data=str(folder), image_size=8, batch_size=8, held_out=0.5))


def test_a_batch_of_which_nothing_can_be_read_stops_the_run(tmp_path, folder):
    for path in folder.glob("*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a batch must have an image that can be read, got 8 that cannot, e.g. "):
        fit(small(tmp_path, data=str(folder), image_size=8, batch_size=8, held_out=0))


@few_digits
def test_the_best_epoch_on_validation_images_is_what_counts(tmp_path):
    run, measurement = fit(small(tmp_path, val=0.3, epochs=4, schedule="constant", lr=0.02))
    looks = run.events("val")
    assert [look["epoch"] for look in looks] == [1, 2, 3, 4]
    metric = run.config.metric
    assert run.best_epoch == max(looks, key=lambda look: look[metric])["epoch"]
    from pml_center.data import digits
    from pml_center.training.measurement import measure

    best = measure(run.load_model("best"), run.held_out(digits()), run.config)
    assert best.model.metrics == measurement.model.metrics
    assert run.load_model("best").state_dict().keys() == run.load_model().state_dict().keys()


@few_digits
def test_training_stops_when_nothing_gets_better(tmp_path):
    run, _ = fit(small(tmp_path, val=0.3, epochs=30, patience=2, lr=1e-9, eval_every=2))
    looks = run.events("val")
    best = [look["epoch"] for look in looks].index(run.best_epoch)
    assert len(looks) - best - 1 == 2
    assert len(run.epochs) < 30


@few_digits
def test_a_run_that_stopped_early_goes_on_if_asked(tmp_path):
    run, _ = fit(small(tmp_path, val=0.3, epochs=9, patience=1, lr=1e-9))
    stopped = len(run.epochs)
    assert stopped < 9
    assert len(resume(run.folder)[0].epochs) == stopped
    assert len(resume(run.folder, epochs=9)[0].epochs) > stopped


@few_digits
def test_images_of_the_classes_trained_on_are_classified_too(tmp_path):
    run, measurement = fit(small(tmp_path, split="images", epochs=3))
    assert measurement.accuracy["accuracy"] > 0.5
    assert json.loads((run.folder / "eval" / "held-out" / "accuracy.json").read_text())["metrics"]["accuracy"] > 0.5
    assert fit(small(tmp_path / "unseen", epochs=1))[1].accuracy is None


@few_digits
def test_training_starts_from_the_weights_of_a_run(tmp_path):
    first, _ = fit(small(tmp_path / "first", epochs=1))
    run, _ = fit(small(tmp_path / "second", epochs=1, lr=1e-12, init_from=str(first.folder)))
    before, after = first.load_model(), run.load_model()
    for (name, value), other in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(value, other, msg=name)
    with pytest.raises(ValueError, match=r"init_from must be a run of the same model, got .*--embedding-size"):
        fit(small(tmp_path / "third", embedding_size=16, init_from=str(first.folder)))


def test_batches_that_make_one_step_equal_a_large_batch(tmp_path):
    formula = "SoftmaxLoss + 0.1 * CenterLoss"  # a vision transformer has no BatchNorm, which would see the batches
    shared = {"model": "test_vit", "image_size": 160, "channels": 1, "epochs": 1, "held_out": 0, "loss": formula}
    shared |= {"optimizer": "sgd", "lr": 1e-2, "data": "digits"}
    images = train_state.split_data(small(tmp_path)).train.subset(range(0, 1400, 70))
    states = []
    for name, changes in {"one": {"batch_size": 16}, "two": {"batch_size": 8, "accumulate": 2}}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train_state, "split_data", lambda config: train_state.ImageSplits(images))
            run, _ = fit(small(tmp_path / name, **shared, **changes))
        states.append(run.weights("model") | run.weights("loss"))
    for name, value in states[0].items():
        if not value.is_floating_point():  # counts batches
            continue
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_run_by_parts_of_a_batch_is_that_of_the_batch(tmp_path):
    shared = {"model": "test_vit", "image_size": 32, "channels": 1, "epochs": 1, "held_out": 0, "batch_size": 16}
    shared |= {"loss": "TripletMarginLoss @ MultiSimilarityMiner + SoftmaxLoss + 0.1 * CenterLoss", "accumulate": 2}
    shared |= {"optimizer": "sgd", "lr": 1e-2, "clip_grad": 1.0, "ema": 0.9}
    images = split_data(small(tmp_path)).train.subset(range(0, 1400, 20))
    weights = []
    for name, changes in {"whole": {}, "parts": {"micro_batch": 5}}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train_state, "split_data", lambda config: train_state.ImageSplits(images))
            run, _ = fit(small(tmp_path / name, **shared, **changes))
        weights.append(run.weights("model") | run.weights("loss"))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


@few_digits
def test_embeddings_that_can_be_cut_are_trained_at_each_width(tmp_path):
    run, measurement = fit(small(tmp_path, split="images", epochs=1, widths=(2, 4), ema=0.5))
    assert {"SoftmaxLoss", "SoftmaxLoss:2", "CenterLoss:4"} <= set(run.events("epoch")[0])
    assert run.config.widths == "2x4"
    loss = run.load_loss(embedding_size=8)
    assert [formula.losses[1].centers.shape[1] for formula in (loss, *loss.shorter.values())] == [8, 2, 4]
    assert measurement.accuracy is not None
    with pytest.raises(ValueError, match=r"widths must ascend from 1 to the embedding_size of 8 at most, got 4, 16"):
        fit(small(tmp_path / "wide", widths="4x16"))


def test_a_part_that_is_larger_than_its_batch_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"micro_batch must be at most the batch_size of 64, got 65\. Leave it out"):
        small(tmp_path, micro_batch=65)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.25, 0.75, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.75, 11 / 12, 0.75, 7 / 12, 5 / 12, 0.25, 1 / 12]),
    ],
)
def test_learning_rates_rise_then_follow_their_schedule(schedule, rates):
    from pml_center.training.optimization import create_optimizer, create_schedule

    config = TrainConfig(schedule=schedule, epochs=4, optimizer="sgd")
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "weight_decay": 0.0} for lr in (0.1, 0.01)]
    optimizer = create_optimizer(groups, config)
    plan = create_schedule(optimizer, config, updates=2)
    for update, rate in enumerate(rates):
        plan.step_update(update + 0.5)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * rate, 0.01 * rate])


def test_an_unknown_optimizer_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"optimizer must be a known name, got 'adamww'. Did you mean 'adamw'"):
        fit(small(tmp_path, optimizer="adamww"))


def test_two_sources_of_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weights must be left out with init_from, got both"):
        small(tmp_path, init_from="runs/first", weights="model.safetensors")


def test_an_unknown_metric_is_answered_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"got 'recall_at_one'. Did you mean 'recall_at_"):
        fit(small(tmp_path, metric="recall_at_one"))
    assert not (tmp_path / "run").exists()


def test_more_batches_a_step_than_an_epoch_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match="accumulate must be at most the 22 batches of an epoch, got 30"):
        fit(small(tmp_path, accumulate=30))


@few_digits
def test_a_run_is_overwritten_only_if_asked(tmp_path):
    fit(small(tmp_path, epochs=1))
    with pytest.raises(FileExistsError, match=r"Go on with `pml-center resume .*run`, delete it with --overwrite, or"):
        fit(small(tmp_path, epochs=1))
    run, _ = fit(small(tmp_path, epochs=1, loss="ArcFaceLoss", overwrite=True))
    assert run.config.loss == "ArcFaceLoss"
    assert not run.config.overwrite
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"which holds mine.txt beside a run. Go on with .*, or choose another"):
        fit(small(tmp_path, overwrite=True))
    assert run.can_resume
    (tmp_path / "run" / "env.json").unlink()
    with pytest.raises(FileExistsError, match=r"which exists. Go on with .*, or choose another with --out"):
        fit(small(tmp_path, overwrite=True))  # no run: it may be anything


def test_a_folder_with_a_config_file_of_its_own_is_not_taken_for_a_run(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("loss: SoftmaxLoss")
    monkeypatch.chdir(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"out must be a new folder, got \., which exists\. Choose another"):
            fit(dataclasses.replace(SMALL, out=".", overwrite=overwrite))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@few_digits
def test_a_full_disk_leaves_what_is_known_of_a_run_as_it_was(tmp_path, monkeypatch):
    run, _ = fit(small(tmp_path, epochs=1))

    def fill(path, text, **_):
        path.write_bytes(text.encode()[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fill)
        with pytest.raises(OSError, match="No space"):
            resume(run.folder, epochs=2)
    assert run.config.epochs == 1
    assert len(resume(run.folder, epochs=2)[0].epochs) == 2


def test_a_dry_run_says_what_to_expect_and_leaves_nothing(tmp_path, monkeypatch):
    from pml_center.training.dry_run import estimate

    monkeypatch.chdir(tmp_path)
    found = estimate(small(tmp_path, epochs=7))
    assert found["config"]["epochs"] == 7
    assert found["steps_per_epoch"] == 1435 // 64
    assert found["checkpoint_mib"] > 1
    assert min(found["seconds_per_step"], found["memory_gib"], found["checkpoint_seconds"]) > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [("lr", -1), ("lr", 0), ("epochs", 0), ("weight_decay", -1), ("hflip", 2)])
def test_a_number_outside_its_range_is_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*, got {value}"):
        small(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("split", "class", "split must be 'classes' or 'images', got 'class'"),
        ("schedule", "cosin", "schedule must be 'cosine' or 'linear' or 'constant', got 'cosin'"),
        ("channels", 2, "channels must be 1 or 3, got 2"),
        ("lr", "2e-3", "lr must be a number, got '2e-3'"),
        ("epochs", 2.5, "epochs must be a whole number, got 2.5"),
        ("seed", True, "seed must be a whole number, got True"),
        ("data", None, "data must be a text, got None"),
        ("warmup_epochs", float("inf"), "warmup_epochs must be finite, got inf"),
    ],
)
def test_a_value_that_no_option_takes_is_refused_in_python_and_in_files_too(name, value, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        TrainConfig(**{name: value})
    with pytest.raises((TypeError, ValueError), match=f"^run/config.yaml: {message}"):
        TrainConfig.of({name: value}, "run/config.yaml")


def test_an_empty_file_is_no_configuration():
    with pytest.raises(TypeError, match=r"run/config.yaml must map options to values, got None"):
        TrainConfig.of(None, "run/config.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": 0.1}, r"val must leave at least 2 classes on each side, got 0.1 × 8 classes.* Use val=0.5"),
        ({"patience": 3}, "patience must be 0 without validation images, got 3. Take some with --val"),
    ],
)
def test_options_of_validation_are_answered_by_their_names(changes, message):
    with pytest.raises(ValueError, match=message):
        split_data(dataclasses.replace(SMALL, **changes))


def test_a_validation_split_that_is_there_takes_no_share(tmp_path, folder):
    for split in ("train", "val"):
        shutil.copytree(folder, tmp_path / "parts" / split)
    with pytest.raises(ValueError, match=r"val must be 0 because .*parts comes with validation images, got 0.2"):
        split_data(dataclasses.replace(SMALL, data=str(tmp_path / "parts"), val=0.2))


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
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of per_class .*got 32 with per_class=5"):
        fit(small(tmp_path, per_class=5, batch_size=32))
    state = TrainState.build(small(tmp_path, per_class=5), torch.device("cpu"))  # 64 would be more than the 8 classes
    assert state.batch_size == 40


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device must exist on this machine, got 'cuda'"):
        choose_device("cuda")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run must be a folder written by `pml-center train`, got"):
        Run.open(tmp_path)


class OnTheCPU(torch.Generator):
    """A generator for a device that has none."""

    def __new__(cls, device=None):
        return super().__new__(cls)


@few_digits
def test_steps_of_a_run_read_no_value_of_a_tensor_elsewhere(monkeypatch):
    """The meta device has none to read: the loss, what is clipped, averaged and summed waits for no GPU."""
    monkeypatch.setattr(torch, "Generator", OnTheCPU)  # which timm's moving average asks the device for
    changes = {"clip_grad": 1.0, "micro_batch": 20, "accumulate": 2, "ema": 0.9}
    config = dataclasses.replace(SMALL, data="digits", loss="ArcFaceLoss + 0.01 * CenterLoss", **changes)
    state = TrainState.build(config, torch.device("meta"))
    for group in state.optimizer.param_groups:
        group["fused"] = False  # there is no fused optimizer of the meta device
    batches = state.batches()
    for _ in range(3):
        assert loop.step(state, batches) == 2 * SMALL.batch_size
    assert state.progress.batches == 6
    with pytest.raises(RuntimeError, match="meta"):
        state.progress.means()  # is what waits, once in many steps
