"""Features in the place of images, a trunk that stays as it is, and what a model was before training."""

import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from pml_center import create_embedder
from pml_center.cli.page import _title
from pml_center.comparison.search_space import Setting
from pml_center.data import digits, open_splits
from pml_center.data.open_images import open_images
from pml_center.evaluation import RetrievalEvaluator, Samples, load_samples, save_samples
from pml_center.training import Run, TrainConfig, compare, export_timm, fit, resume
from pml_center.training.data_record import listing, parts_of
from pml_center.training.loop import completed, keep_samples
from pml_center.training.run_folder import starting_model, untouched
from pml_center.training.train_state import TrainState
from tests.training.test_export import needs_timm

SMALL = TrainConfig(embedding_size=8, epochs=2, workers=0, batch_size=64, loss="CosFaceLoss")


def small(tmp_path, data="digits", **changes):
    return dataclasses.replace(SMALL, data=data, out=str(tmp_path / "run"), **changes)


def as_npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture(scope="module")
def arrays():
    images = digits()
    pixels = np.stack([np.asarray(image) for image in images.images]).reshape(len(images), -1)
    return pixels.astype(np.float32) / 255, np.array(images.classes)[images.labels]


@pytest.fixture
def table(tmp_path, arrays):
    """The same as files: an array, and a table of labels, groups and splits."""
    np.save(tmp_path / "features.npy", arrays[0])
    splits = ["train" if int(label) < 7 else "test" for label in arrays[1]]
    lines = [f"{i}.png,{label},{i % 3},{split}" for i, (label, split) in enumerate(zip(arrays[1], splits, strict=True))]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,group,split", *lines]))
    return tmp_path


def test_arrays_are_trained_on_beside_what_they_were_before(tmp_path, arrays):
    run, measured = fit(small(tmp_path, arrays, epochs=4))
    assert run.config.model == "linear"
    assert run.config.features == 64
    assert measured.pixels is None
    rows = [int(name.removeprefix("features[").removesuffix("]")) for name in run.held_out_names]
    wanted = RetrievalEvaluator()(arrays[0][rows], arrays[1][rows])
    assert measured.before.metrics == wanted.metrics
    kept = json.loads((run.folder / "eval" / "held-out" / "before.json").read_text())
    assert kept["metrics"] == wanted.metrics
    assert fit(dataclasses.replace(small(tmp_path, arrays), out=str(tmp_path / "b")))[0].config.data == run.config.data


def test_arrays_are_called_features_and_their_line_names_no_folder_of_a_run(tmp_path, arrays):
    config = small(tmp_path, keep_samples(arrays), model="linear", features=64, overwrite=True)
    assert _title(SimpleNamespace(config=config), "", {}) == "linear with CosFaceLoss, on held-out features"
    assert config.command == (
        f"pml-center train {config.data} --workers 0 --model linear --embedding-size 8 --loss CosFaceLoss "
        "--batch-size 64 --epochs 2"
    )


def test_a_head_starts_where_the_features_are(tmp_path, arrays):
    still = small(tmp_path, arrays, embedding_size=None, lr=1e-12, epochs=1, similarity="euclidean")
    run, measured = fit(still)
    assert run.config.embedding_size == 256
    assert run.config.neck_init == "pca"
    assert measured.model.metrics == pytest.approx(measured.before.metrics)
    spread = measured.embeddings.var(0)[:64]
    assert spread[:8].sum() > 0.3 * spread.sum()  # the directions in which they vary most come first
    narrow = dataclasses.replace(still, embedding_size=8, overwrite=True)
    metrics = {init: fit(dataclasses.replace(narrow, neck_init=init))[1].model.metrics for init in ("pca", "random")}
    assert metrics["pca"]["mean_average_precision_at_r"] > metrics["random"]["mean_average_precision_at_r"] + 0.02
    for others, size, init in (({"model": "mlp"}, 256, "random"), ({"neck": "bnneck"}, 256, "random")):
        asked = completed(small(tmp_path, arrays, embedding_size=None, **others))
        assert (asked.embedding_size, asked.neck_init) == (size, init)
    assert (completed(TrainConfig()).embedding_size, completed(TrainConfig()).neck_init) == (64, "random")


def test_a_neck_that_comes_along_is_kept_and_that_of_an_earlier_version_started_at_random(tmp_path, arrays):
    run, _ = fit(small(tmp_path, arrays, lr=0.02))
    still = dataclasses.replace(small(tmp_path, arrays), init_from=str(run.folder), lr=1e-12, out=str(tmp_path / "on"))
    on, _ = fit(still)
    assert torch.allclose(on.load_model("last").neck.weight, run.load_model("last").neck.weight, atol=1e-6)
    with pytest.raises(ValueError, match="neck_init must be 'random' with init_from"):
        dataclasses.replace(still, neck_init="pca")
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("neck_init: pca\n", ""))
    assert run.config.neck_init == "random"
    assert completed(small(tmp_path, arrays, neck="none", embedding_size=None)).embedding_size == 0


def test_what_knows_something_moves_less_unless_a_rate_is_given():
    tuned = TrainConfig("digits", model="resnet18", pretrained=True)
    rates = [(c.lr, c.trunk_lr, c.neck_lr) for c in map(completed, (tuned, dataclasses.replace(tuned, lr=0.01)))]
    assert rates == [(0.002, 0.0001, 0.001), (0.01, None, None)]
    assert completed(dataclasses.replace(tuned, neck="bnneck")).neck_lr is None
    assert completed(TrainConfig("digits")).trunk_lr is None
    moved = Setting("SoftmaxLoss", lr=0.004, loss_lr=None, per_class=0).applied(completed(tuned))
    assert (moved.lr, moved.trunk_lr, moved.neck_lr) == (0.004, 0.0002, 0.002)


def test_principal_components_are_for_a_linear_neck():
    with pytest.raises(ValueError, match="'random' but for a linear neck, got 'pca' with neck='none'"):
        TrainConfig(neck="none", neck_init="pca")
    with pytest.raises(ValueError, match="neck must be linear"):
        create_embedder("linear", neck="none", in_chans=4).start_neck(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"features must have shape \(rows, 4\), got \(3, 5\)"):
        create_embedder("linear", 2, in_chans=4).start_neck(torch.zeros(3, 5))


def test_a_run_on_features_goes_on_to_the_last_bit(tmp_path, arrays):
    asked = small(tmp_path, arrays, val=0.2, schedule="constant", warmup_epochs=0.0)
    part, same = (fit(dataclasses.replace(asked, out=str(tmp_path / f"{n}"), epochs=n))[0] for n in (2, 3))
    resume(part.folder, epochs=3)
    first, second = (run.load_model("last").state_dict() for run in (part, same))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_files_of_features_bring_labels_groups_and_splits(table, model):
    asked = small(table, f"{table}/features.npy", labels=f"{table}/labels.csv", model=model, mlp_widths=(16, 12))
    run, measured = fit(asked)
    assert run.classes == list("0123456")
    assert len(set(measured.model.clusters)) == 3
    assert set(run.data.names("test")) == {f"{i}.png" for i in np.flatnonzero(digits().labels >= 7)}
    assert {row.group for row in run.data.rows} == {"0", "1", "2"}
    assert Run.open(run.folder).load_model()(torch.zeros(1, 64)).shape == (1, 8)


def test_an_archive_and_a_folder_hold_the_same_as_a_table(table, arrays):
    rows = open_images(table / "features.npy", labels=str(table / "labels.csv"))
    np.savez(table / "some.npz", X=arrays[0], y=rows.labels, names=[rows.name(i) for i in range(len(rows))])
    archived = open_images(table / "some.npz")
    assert [archived.name(i) for i in (0, 5)] == ["0.png", "5.png"]
    save_samples(table / "embedded", Samples(*arrays), ["train"] * 900 + ["test"] * 897)
    splits = open_splits(table / "embedded")
    assert (len(splits.train), len(splits.test)) == (900, 897)
    assert torch.equal(splits.test[0][0], torch.from_numpy(arrays[0][900]))
    assert len(load_samples(table / "embedded").labels) == 1797
    assert len(open_images(f"{table}/embedded/test")) == 897


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 8}, "image_size must be left out, got features as data"),
        ({"freeze": "trunk", "hflip": 0.5}, "hflip and freeze must be left out"),
        ({"model": "convnet"}, "model must take features, which the data are, got 'convnet'"),
        ({"features": 3}, "features must be 64, as many numbers as each has, got 3"),
        ({"mlp_dropout": 1.0, "model": "mlp"}, "dropout must be in \\[0, 1\\)"),
    ],
)
def test_options_of_images_are_none_of_features(tmp_path, arrays, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(small(tmp_path, arrays, **arguments))
    assert not (tmp_path / "run").exists()


def test_images_need_a_model_of_images(tmp_path):
    with pytest.raises(ValueError, match="model must take images, which the data are, got 'mlp'"):
        fit(small(tmp_path, model="mlp"))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda x, y: (x[:5], y), "label must be one per row .5., got 1797"),
        (lambda x, y: (np.where(x > 0.9, np.nan, x), y), "features must be finite, got nan in row"),
        (lambda x, y: (x, ["one"] * len(x)), "label must name at least 2 classes"),
        (lambda x, y: (x,), "data must be features and their labels"),
        (lambda x, y: (x.astype(str), y), "features must be real numbers"),
    ],
)
def test_features_that_do_not_fit_are_refused(tmp_path, arrays, broken, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(small(tmp_path, broken(*arrays)))


def test_losses_are_compared_on_features(tmp_path, arrays):
    config = small(tmp_path, arrays, split="classes")
    found = compare(config, ["CosFaceLoss", "SoftmaxLoss"], seeds=(0, 1), jobs=1)
    assert set(found.beside) == {"before training"}
    values = found.before["mean_average_precision_at_r"]
    assert values.shape == found.rows[0].candidate.values["mean_average_precision_at_r"][0].shape
    assert "before" in found.content()


@needs_timm
def test_a_run_on_features_is_exported_behind_the_model_that_made_them(tmp_path, command):
    out = command("embed", "test_resnet", "digits", "--no-pretrained", "--image-size", 32, "--out", tmp_path / "rows")
    assert out[2] == 0
    # Random weights are others each time, so that the folder cannot name its model; those of a run are kept.
    base, _ = fit(small(tmp_path / "base", model="test_resnet", image_size=32, channels=1, epochs=1))
    command("embed", base.folder, "digits", "--out", tmp_path / "features", "--workers", 0)
    run, measured = fit(small(tmp_path / "head", str(tmp_path / "features")))
    images = run.held_out(open_images(run.config.data))
    model = timm.create_model(f"local-dir:{export_timm(run)}", pretrained=True).eval()
    pictures = digits().subset(images.indices[:4])
    from pml_center.evaluation import embed_samples

    found = embed_samples(base.load_model(), pictures).embeddings
    with torch.no_grad():
        wanted = run.load_model()(torch.from_numpy(found))
    rows = torch.stack([row for row, _ in pictures.with_transform(_transform(base))])
    torch.testing.assert_close(model(rows), wanted, rtol=1e-3, atol=1e-4)
    assert len(measured.embeddings) == len(images)


def _transform(run):
    from pml_center.evaluation.embed import transform_of

    return transform_of(run.load_model())


def test_a_frozen_trunk_is_computed_once_with_the_same_outcome(tmp_path, monkeypatch):
    asked = small(tmp_path, model="test_resnet", image_size=32, freeze="trunk", val=0.2, split="images")
    run, measured = fit(asked)
    monkeypatch.setattr(TrainState, "has_fixed_features", False)
    other, as_images = fit(dataclasses.replace(asked, out=str(tmp_path / "images")))
    np.testing.assert_allclose(measured.embeddings, as_images.embeddings, rtol=1e-5, atol=1e-6)
    assert [event["loss"] for event in run.epochs] == pytest.approx([event["loss"] for event in other.epochs])
    begun, ended = starting_model(run.config).trunk.state_dict(), run.load_model().trunk.state_dict()
    assert all(torch.equal(begun[name], ended[name]) for name in begun)  # BatchNorm's statistics, too


def test_what_was_frozen_is_trained_from_the_epoch_on_that_is_asked_for(tmp_path):
    asked = small(tmp_path, model="convnet", image_size=8, freeze=1, schedule="constant", warmup_epochs=0.0)
    frozen, _ = fit(dataclasses.replace(asked, unfreeze_at=3))
    begun = starting_model(frozen.config)
    after = frozen.load_model().state_dict()
    held = {id(parameter) for block in begun.blocks[:2] for parameter in block}
    names = {name: id(parameter) in held for name, parameter in begun.named_parameters()}
    assert any(names.values())
    for name, value in begun.state_dict().items():
        if name in names:
            assert torch.equal(value, after[name]) == names[name], name
    resume(frozen.folder, epochs=3)
    later = frozen.load_model().state_dict()
    assert not any(torch.equal(after[name], later[name]) for name in names)
    whole, _ = fit(dataclasses.replace(asked, unfreeze_at=3, epochs=3, out=str(tmp_path / "whole")))
    assert all(torch.equal(value, later[name]) for name, value in whole.load_model().state_dict().items())


def test_statistics_of_batchnorm_stay(tmp_path):
    run, _ = fit(small(tmp_path, model="convnet", image_size=8, freeze="batchnorm", epochs=1))
    begun, ended = starting_model(run.config).trunk.state_dict(), run.load_model().trunk.state_dict()
    for name in begun:
        assert torch.equal(begun[name], ended[name]) == ("running" in name or "num_batches" in name), name


def test_before_training_is_the_model_as_it_came(tmp_path, command, sketched):
    asked = small(tmp_path, model="convnet", image_size=8, epochs=1, lr=1e-9)
    run, measured = fit(asked)
    came, _ = untouched(run.config)
    held_out = run.held_out(digits())
    rows = torch.stack([row for row, _ in held_out.with_transform(_transform(run))])
    with torch.no_grad():
        wanted = RetrievalEvaluator(ci=None)(came(rows).numpy(), [held_out.classes[label] for label in held_out.labels])
    assert measured.before["r_precision"] == pytest.approx(wanted["r_precision"], abs=1e-3)
    assert set(measured.reports) == {"report", "before", "pixels"}
    went_on, again = fit(dataclasses.replace(asked, out=str(tmp_path / "on"), init_from=str(run.folder)))
    assert again.before.metrics == measured.model.metrics
    assert went_on.config.init_from == str(run.folder)
    resume(run.folder, epochs=2)
    gone = "before training is not measured: the weights that the run started from are others now"
    assert untouched(went_on.config, went_on.start) == (None, [gone])  # those of another training
    for asked in (("eval", "--json"), ("report",)):
        shown = command(asked[0], went_on.folder, "--workers", 0, *asked[1:])[0]
        assert asked[0] == "report" or gone in json.loads(shown)["reports"]["retrieval"]["warnings"]
    assert gone in (went_on.report_folder() / "report.html").read_text(encoding="utf-8")


def test_a_model_that_is_worse_than_before_says_so_first(tmp_path, arrays, command):
    noisy = arrays[0] * np.r_[np.ones(62), 0, 0].astype(np.float32)
    np.savez(tmp_path / "some.npz", X=noisy, y=arrays[1])
    said, _, code = command(
        "train",
        tmp_path / "some.npz",
        "--epochs",
        1,
        "--embedding-size",
        1,
        "--loss",
        "SoftmaxLoss",
        "--split",
        "images",  # over two new classes it may be chance
        "--out",
        tmp_path / "run",
    )
    assert code == 0
    assert "warning: training made it worse: mean_average_precision_at_r is" in said
    assert "Training lowered mean_average_precision_at_r from " in said
    page = (tmp_path / "run" / "eval" / "held-out" / "report.html").read_text(encoding="utf-8")
    assert "before training" in page
    assert "training made it worse" in page
    found, _, code = command("eval", tmp_path / "run", "--json")
    assert code == 0
    assert json.loads(found)["before"]["metrics"]["recall_at_1"] > 0.9


def test_features_of_another_model_are_not_taken_for_those_of_training(tmp_path, command):
    """Nor damaged ones, sorted ones, or features for images."""
    runs = [
        fit(small(tmp_path / name, model="convnet", image_size=8, epochs=1, seed=seed))[0]
        for seed, name in enumerate("ab")
    ]
    folder = tmp_path / "rows"
    pictures = tmp_path / "pictures"
    for i in range(40):
        image, label = digits()[i]
        (pictures / str(label)).mkdir(parents=True, exist_ok=True)
        image.save(pictures / str(label) / f"{i}.png")
    embed = ("embed", runs[0].folder, pictures, "--out", folder, "--workers", 0)
    assert command(*embed)[2] == 0
    run, _ = fit(small(tmp_path / "head", str(folder), batch_size=8, split="images", held_out=0.5))
    assert command("eval", run.folder, pictures, "--workers", 0)[2] == 0
    assert "takes, got features" in command("eval", runs[0].folder, folder)[1]
    assert "flip_test must be left out" in command("eval", run.folder, "--flip-test")[1]
    assert command("embed", runs[1].folder, *embed[2:])[2] == 0
    assert "features must be of the model that made those" in command("eval", run.folder, pictures)[1]
    assert command(*embed)[2] == 0
    lines = (folder / "samples.csv").read_text().splitlines()
    (folder / "samples.csv").write_text("\n".join([lines[0], *sorted(lines[1:], reverse=True)]))
    assert "samples.csv must have its rows in the order" in command("train", folder, "--out", tmp_path / "other")[1]


def test_what_the_run_before_was_trained_on_is_said_where_it_is_measured(tmp_path):
    before, _ = fit(small(tmp_path / "before", model="convnet", image_size=8, epochs=1))
    asked = small(tmp_path, model="convnet", image_size=8, epochs=1, init_from=str(before.folder), split_seed=1)
    assert any("was trained on, which this run started from" in warning for warning in fit(asked)[1].model.warnings)
    same = dataclasses.replace(asked, split_seed=0, out=str(tmp_path / "same"))
    assert not any("started from" in warning for warning in fit(same)[1].model.warnings)


def test_a_head_that_goes_on_was_before_what_it_goes_on_from(tmp_path, arrays):
    """And not the features; those of another model are none that it can take."""
    rows = {}
    for maker in "ab":
        rows[maker] = tmp_path / maker
        save_samples(rows[maker], Samples(*arrays))
        (rows[maker] / "model.json").write_text(json.dumps({"model": "any", "fingerprint": maker}))
    asked = small(tmp_path, str(rows["a"]), epochs=1)
    run, measured = fit(asked)
    _, again = fit(dataclasses.replace(asked, init_from=str(run.folder), out=str(tmp_path / "on")))
    assert again.before.metrics == measured.model.metrics
    assert again.before.metrics != measured.before.metrics
    with pytest.raises(ValueError, match="features must be of the model that made those that"):
        fit(dataclasses.replace(asked, data=str(rows["b"]), init_from=str(run.folder), out=str(tmp_path / "no")))
    assert not (tmp_path / "no").exists()


def test_features_without_names_are_known_by_what_they_are(tmp_path, arrays):
    """A row that comes in at the top must not give every row behind it the label of another."""
    rows, labels = arrays[0][:200] + np.arange(200, dtype=np.float32)[:, None] / 1e4, arrays[1][:200]
    np.savez(tmp_path / "some.npz", X=rows, y=labels)
    run, _ = fit(small(tmp_path, str(tmp_path / "some.npz"), batch_size=16, split="images", epochs=1))
    np.savez(tmp_path / "some.npz", X=np.r_[rows[-1:] * 2, rows], y=np.r_[labels[-1:], labels])
    with pytest.raises(ValueError, match="renamed: 19 images of class 1"):
        resume(run.folder, epochs=2)
    now = open_splits(tmp_path / "some.npz")
    found = run.data.found_in(listing(parts_of(now), run.config.data), ["test"])
    places = {row.path: path for row, path in found.pairs}
    assert places["features[3]"] == "features[4]"
    resume(run.folder, epochs=2, accept_changes=True)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, x, y: path.write_bytes(as_npy(x)), "features must be an .npz file"),
        (lambda path, x, y: np.savez(path, X=x, y=y, names=["one"] * len(y)), "path must come once, got 'one' twice"),
        (lambda path, x, y: np.savez(path, X=x), "features must hold arrays embeddings and labels"),
    ],
)
def test_archives_that_hold_no_features_are_refused(tmp_path, arrays, write, message):
    path = tmp_path / "some.npz"
    write(path, *arrays)
    with pytest.raises(ValueError, match=message):
        open_images(path)
