"""What a run trained on and held out is a part of it: changed data are named and stop it, wherever they are opened."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from pml_center.cli import main
from pml_center.data import ImageSplits, LabeledImages, StoredImage, archives, digits
from pml_center.evaluation import RetrievalEvaluator
from pml_center.training import Run, TrainConfig, fit, resume
from pml_center.training.data_record import DataRecord, Recorded, listing
from pml_center.training.owner import LOCK
from tests.training.test_processes import in_two_processes

CONFIG = TrainConfig(
    model="convnet", image_size=8, embedding_size=4, epochs=1, workers=0, batch_size=12, held_out=0.4, device="cpu"
)
CLASSES, IMAGES = range(6), range(6)
pytestmark = pytest.mark.usefixtures("sketched")


def draw(folder, root=""):
    """Six classes of six images."""
    data = digits()
    for label in CLASSES:
        for number, row in enumerate(np.flatnonzero(data.labels == label)[: len(IMAGES)]):
            path = folder / root / f"c{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            data[row][0].save(path)
    return folder


def table_of(folder, change=lambda rows: rows):
    """A table of the images of a folder."""
    rows = [[str(path.relative_to(folder)), path.parent.name] for path in sorted(folder.rglob("*.png"))]
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *change(rows)])
    return folder / "images.csv"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data beside a run of each way to divide them, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    draw(folder / "data")
    for name, changes in {
        "classes": {},
        "images": {"split": "images"},
        "val": {"split": "images", "val": 0.5},
        "table": {"split": "images", "data": str(table_of(folder / "data"))},
    }.items():
        fit(replace(CONFIG, **{"data": str(folder / "data"), "out": str(folder / name)} | changes))
    return folder


@pytest.fixture
def there(trained, tmp_path):
    """The same elsewhere: a function that gives a run of such data."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)

    def run_of(name):
        run = Run(tmp_path / name)
        run.record(replace(run.config, data=run.config.data.replace(str(trained), str(tmp_path))))
        return run

    return run_of


def held_out_class(run):
    return run.held_out_names[0].partition("/")[0]


def rename(folder, label):
    (folder / label).rename(folder / f"z{label}")


def add(folder, label):
    Image.new("L", (8, 8), 77).save(folder / label / "new.png")


def replace_in_place(folder, label):
    Image.new("L", (8, 8), 77).save(folder / label / "0.png")


CHANGES = {
    "a class is renamed": (rename, r"renamed: class {0} \(6 images\), now z{0}"),
    "an image is added": (add, r"added: 1 image of class {0}, e.g. {0}/new.png"),
    "an image is gone": (lambda folder, label: (folder / label / "0.png").unlink(), "gone: 1 image of class {0}, e.g."),
    "a class is gone": (lambda folder, label: shutil.rmtree(folder / label), r"gone: class {0} \(6 images\)"),
    "a class is added": (
        lambda folder, label: shutil.copytree(folder / label, folder / "new"),
        r"added: class new \(6 images\)",
    ),
    "an image is replaced": (replace_in_place, "replaced: 1 image of class {0}, e.g. {0}/0.png"),
    "an image is renamed": (
        lambda folder, label: (folder / label / "0.png").rename(folder / label / "x.png"),
        "renamed: 1 image of class {0}, e.g. {0}/0.png",
    ),
    "an image changes its class": (
        lambda folder, label: (folder / label / "0.png").rename(folder / "c5" / "x.png"),
        "renamed: 1 image of class {0}, now c5, e.g. {0}/0.png",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("name", ["classes", "images", "val"])
def test_a_run_does_not_go_on_with_other_data(there, name, what):
    change, said = CHANGES[what]
    run = there(name)
    label = next(label for label in run.classes if label != "c5")
    change(Path(run.config.data), label)
    before = times(run.folder)
    with pytest.raises(ValueError, match=rf"data must be those that .*, got .*{said.format(label)}") as raised:
        resume(run.folder, epochs=2)
    assert "--accept-changes" in str(raised.value)
    assert times(run.folder) == before


def times(folder):
    """When each file was written; the lock holds nothing, and an older filelock touches it."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != LOCK}


@pytest.mark.parametrize("what", [what for what in CHANGES if what not in ("an image is added", "a class is added")])
def test_a_run_is_not_measured_on_other_images_than_it_held_out(there, capsys, what):
    change, said = CHANGES[what]
    run = there("classes")
    label = held_out_class(run)
    change(Path(run.config.data), label)
    for command in ("eval", "report"):
        with pytest.raises(SystemExit) as stop:
            main([command, str(run.folder), "--workers", "0"])
        assert stop.value.code == 2
        assert f"must still hold the {len(run.held_out_names)} images that {run.folder}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=said.format(label)):
        resume(run.folder)


def test_new_images_are_not_measured(there, capsys):
    run = there("images")
    add(Path(run.config.data), "c0")
    main(["eval", str(run.folder), "--json", "--workers", "0", "--no-cache"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["images"] == len(run.held_out_names)
    said = "the data have changed since training, the images held out have not: added: 1 image of class c0"
    assert [each for each in shown["reports"]["retrieval"]["warnings"] if each.startswith(said)]
    assert shown["files"]["report"] == str(run.report_folder() / "report.json")  # it is the run's own measurement


def test_changes_that_are_accepted_are_said_in_every_report(there, capsys):
    run = there("images")
    first, *others = run.held_out_names
    (Path(run.config.data) / first).unlink()
    add(Path(run.config.data), "c1")
    rename(Path(run.config.data), "c3")
    _, measurement = resume(run.folder, accept_changes=True)
    of_training = ("training made it", "raw pixels reach")
    [warning] = [each for each in measurement.model.warnings if not any(words in each for words in of_training)]
    assert "which was accepted: renamed: class c3 (6 images), now zc3; gone: 1 image of class c0" in warning
    assert measurement.model.counts["queries"] + measurement.model.counts.get("skipped", 0) == len(others)
    main(["eval", str(run.folder), "--json", "--workers", "0", "--accept-changes"])
    report = json.loads(capsys.readouterr().out)["reports"]["retrieval"]
    assert warning in report["warnings"]
    assert report["metrics"]["r_precision"] == pytest.approx(measurement.model["r_precision"])
    with pytest.raises(SystemExit):
        main(["compare", str(run.folder), "--out", str(run.folder.parent / "compared")])
    assert f"measured on the {len(others) + 1} images that it held out, got {len(others)}" in capsys.readouterr().err


def weights(run):
    return run.weights("model", "last") | run.weights("loss", "last")


@pytest.mark.parametrize("change", [lambda rows: rows[::-1], lambda rows: sorted(rows, key=lambda row: row[0][::-1])])
def test_a_table_whose_rows_moved_is_the_same_data(there, tmp_path, change):
    run, other = there("table"), Run(shutil.copytree(there("table").folder, tmp_path / "other"))
    resume(other.folder, epochs=2)
    table_of(tmp_path / "data", change)
    resume(run.folder, epochs=2)
    for name, value in weights(other).items():
        assert torch.equal(weights(run)[name], value), name


def test_a_label_that_was_corrected_in_a_table_stops_a_run(there, tmp_path):
    run = there("table")
    table_of(tmp_path / "data", lambda rows: [[path, "c1" if path == "c0/0.png" else label] for path, label in rows])
    with pytest.raises(ValueError, match=r"got labelled anew: 1 image of class c0, now c1, e.g. c0/0.png"):
        resume(run.folder, epochs=2)
    assert not any(name.startswith("/") for name in run.held_out_names)  # nowhere does it matter where data lie


def test_a_table_that_moved_with_the_images_beside_its_folder_is_the_same_data(tmp_path):
    draw(tmp_path / "old" / "images")
    rows = [f"../images/{path.parent.name}/{path.name},{path.parent.name}" for path in tmp_path.rglob("*.png")]
    (tmp_path / "old" / "lists").mkdir()
    (tmp_path / "old" / "lists" / "all.csv").write_text("\n".join(["path,label", *rows]))
    config = replace(CONFIG, data=str(tmp_path / "old" / "lists" / "all.csv"), out=str(tmp_path / "run"))
    run, _ = fit(config)
    (tmp_path / "old").rename(tmp_path / "new")
    run.record(replace(run.config, data=str(tmp_path / "new" / "lists" / "all.csv")))
    resume(run.folder)
    main(["eval", str(run.folder), "--workers", "0"])
    replace_in_place(tmp_path / "new" / "images", "c2")
    with pytest.raises(ValueError, match=r"got replaced: 1 image of class c2, e.g. .*/c2/0.png\. Restore"):
        resume(run.folder)


@pytest.mark.parametrize("name", ["env.json", "labels.json", "held_out.json"])
def test_a_run_that_lacks_a_file_is_named(there, name):
    run = there("classes")
    (run.folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"run must be whole, got {run.folder} without {name}"):
        resume(run.folder)


def zipped(folder, archive, names):
    with ZipFile(archive, "w") as file:
        for name in names:
            file.write(folder / name, name)
    return archive


def test_a_zip_file_that_is_packed_anew_is_the_same_data(tmp_path):
    names = [str(path.relative_to(tmp_path / "data")) for path in draw(tmp_path / "data").rglob("*.png")]
    archive = zipped(tmp_path / "data", tmp_path / "data.zip", names)
    run, _ = fit(replace(CONFIG, data=str(archive), split="images", out=str(tmp_path / "run")))
    zipped(tmp_path / "data", archive, names[::-1])
    resume(run.folder)
    replace_in_place(tmp_path / "data", "c2")
    zipped(tmp_path / "data", archive, names)
    with pytest.raises(ValueError, match="got replaced: 1 image of class c2"):
        resume(run.folder)


def test_splits_that_come_with_the_data_are_recorded_too(tmp_path):
    data = draw(draw(tmp_path / "data", "train"), "test")
    run, _ = fit(replace(CONFIG, data=str(data), out=str(tmp_path / "run")))
    resume(run.folder)
    (data / "test" / "c0" / "0.png").rename(data / "train" / "c0" / "more.png")
    with pytest.raises(ValueError, match=r"image of class c0, e.g. test/c0/0.png"):
        resume(run.folder)


def as_an_earlier_version(run):
    """Without what is recorded since."""
    (run.folder / "data.csv").unlink()
    for path in run.checkpoints.glob("*/manifest.json"):
        path.write_text(
            json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "data"})
        )


@pytest.mark.parametrize("name", ["classes", "images"])
def test_a_run_of_an_earlier_version_goes_on_as_far_as_it_recorded_its_data(there, name):
    run = there(name)
    as_an_earlier_version(run)
    resume(run.folder)
    assert run.data.rows  # from now on
    (run.folder / "data.csv").unlink()
    change, said = (rename, r"renamed|gone: class c0|gone: .* c0") if name == "classes" else (add, "gone: |added: ")
    change(Path(run.config.data), "c0")
    with pytest.raises(ValueError, match=f"data must be those that .* got .*({said})"):
        resume(run.folder, epochs=2)


def test_groups_that_come_or_go_are_another_measurement(there, tmp_path, capsys):
    run = there("table")
    table_of(tmp_path / "data", lambda rows: rows)
    text = (tmp_path / "data" / "images.csv").read_text().splitlines()
    grouped = [f"{line},{'group' if not i else i % 2}" for i, line in enumerate(text)]
    (tmp_path / "data" / "images.csv").write_text("\n".join(grouped))
    with pytest.raises(ValueError, match=r"got grouped anew: 3 images of class c0, now in 1"):
        resume(run.folder)
    with_groups, _ = fit(replace(run.config, out=str(tmp_path / "grouped"), epochs=1))
    table_of(tmp_path / "data")
    for go_on in (lambda: resume(with_groups.folder), lambda: main(["eval", str(with_groups.folder)])):
        with pytest.raises((ValueError, SystemExit)) as stop:
            go_on()
        assert "grouped anew: " in f"{stop.value}{capsys.readouterr().err}"
    assert len(run.data.rows) == 36


def swap_labels(run):
    run._write("labels.json", json.dumps(run.classes[::-1]))


def swap_held_out(run):
    names = run.held_out_names
    text, other = (run.folder / "data.csv").read_text(), run.data.names("train")[0]
    lines = {line.split(",")[2]: line for line in text.splitlines()}
    lines[names[-1]], lines[other] = (
        lines[other].replace("train,", "test,"),
        lines[names[-1]].replace("test,", "train,"),
    )
    (run.folder / "data.csv").write_text("\n".join(lines.values()) + "\n")
    run._write("held_out.json", json.dumps([*names[:-1], other]))


@pytest.mark.parametrize("change", [swap_labels, swap_held_out, lambda run: (run.folder / "data.csv").unlink()])
def test_a_record_that_is_not_that_of_the_weights_is_refused(there, capsys, change):
    """An order of classes that is another one would give each its neighbour's weights."""
    run = there("images")
    change(run)
    for command in (["resume", run.folder, "--epochs", 2], ["eval", run.folder], ["report", run.folder]):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, command), "--workers", "0"])
        assert stop.value.code == 2
        assert "data.csv, held_out.json and labels.json must be as training wrote them" in capsys.readouterr().err


def test_what_was_measured_of_weights_that_training_left_behind_is_gone(there, monkeypatch, capsys):
    run = there("images")

    def stop(*_):
        raise KeyboardInterrupt

    assert (run.report_folder() / "report.csv").is_file()
    resume(run.folder, test=False)
    assert (run.report_folder() / "report.csv").is_file()  # nothing was left to train
    monkeypatch.setattr("pml_center.training.loop._measure", stop)
    with pytest.raises(KeyboardInterrupt):
        resume(run.folder, epochs=2)
    with pytest.raises(SystemExit):
        main(["compare", str(run.folder), "--out", str(run.folder.parent / "compared")])
    assert "run must have been measured" in capsys.readouterr().err


def test_a_report_that_a_kill_left_behind_is_not_taken_for_one_of_the_weights_of_now(there, monkeypatch, capsys):
    run = there("images")
    assert run.report["weights"] == run.weights_digest
    monkeypatch.setattr(Run, "forget_reports", lambda run: None)  # the process is killed before
    resume(run.folder, epochs=2, test=False)
    assert (run.report_folder() / "report.csv").is_file()
    assert run.report is None
    with pytest.raises(SystemExit):
        main(["compare", str(run.folder), "--out", str(run.folder.parent / "compared")])
    assert "whose report is of weights that have given way to others. Finish it" in capsys.readouterr().err
    main(["eval", str(run.folder), "--workers", "0"])
    assert run.report["weights"] == run.weights_digest


def test_a_measurement_of_weights_that_gave_way_meanwhile_says_so(there, monkeypatch, caplog):
    run, measure = there("images"), RetrievalEvaluator.__call__

    def train_on(*arguments, **others):
        if len(run.epochs) == 1:
            resume(run.folder, epochs=2, test=False)
        return measure(*arguments, **others)

    monkeypatch.setattr(RetrievalEvaluator, "__call__", train_on)
    main(["eval", str(run.folder), "--workers", "0", "--no-cache"])
    assert "the run was trained on meanwhile" in caplog.text
    assert run.report is None


def test_measurements_of_other_data_in_other_ways_stand_side_by_side(there, capsys):
    run = there("images")
    kept = {}
    verification = ["--protocol", "verification"]
    for options in ([], ["--similarity", "dot"], verification, [*verification, "--far", 0.2]):
        main([*map(str, ["eval", run.folder, run.config.data, "--json", "--workers", 0, *options])])
        path = Path(json.loads(capsys.readouterr().out)["files"]["report"])
        kept[path] = json.loads(path.read_text()).get("options", {})
    assert list(kept.values()) == [{}, {"similarity": "dot"}, {}, {"far": [0.2]}]
    first, dot, pairs, far = kept
    assert first.parent == pairs.parent
    assert len({first.parent, dot.parent, far.parent}) == 3


@pytest.mark.parametrize(
    "otherwise", [["--flip-test"], ["--similarity", "dot"], ["--metrics", "r_precision"], ["--groups", r"[0-9]\.png"]]
)
def test_a_measurement_of_another_kind_does_not_take_the_place_of_the_run_s_own(there, capsys, otherwise):
    run = there("images")
    before = {path: path.read_bytes() for path in run.report_folder().iterdir()}
    main(["eval", str(run.folder), "--json", "--workers", "0", *otherwise])
    path = Path(json.loads(capsys.readouterr().out)["files"]["report"])
    assert path.parent.name.startswith("held-out-")
    assert list(json.loads(path.read_text())["options"]) == [otherwise[0].strip("-").replace("-", "_")]
    assert {path: path.read_bytes() for path in run.report_folder().iterdir()} == before
    main(["eval", str(run.folder), "--json", "--workers", "0"])
    assert json.loads(capsys.readouterr().out)["files"]["report"] == str(run.report_folder() / "report.json")


@pytest.mark.parametrize("typed", ["data", "{}/data", "data/."])
def test_images_that_were_trained_on_are_counted_where_they_are_measured(there, tmp_path, monkeypatch, capsys, typed):
    run = there("images")
    monkeypatch.chdir(tmp_path)
    main(["eval", str(run.folder), typed.format(tmp_path), "--workers", "0"])
    assert "24 of the 36 images are among those that it was trained on" in capsys.readouterr().out


def test_what_was_accepted_when_it_was_measured_is_not_what_the_run_is_compared_by(there, capsys):
    run = there("images")
    before = (run.report_folder() / "report.csv").read_text()
    Image.new("L", (8, 8), 77).save(Path(run.config.data) / run.held_out_names[0])
    main(["eval", str(run.folder), "--json", "--workers", "0", "--accept-changes"])
    [warning] = json.loads(Path(json.loads(capsys.readouterr().out)["files"]["report"]).read_text())["options"][
        "warnings"
    ]
    assert "which was accepted: replaced: 1 image" in warning
    assert (run.report_folder() / "report.csv").read_text() == before


def test_the_best_epoch_is_the_one_whose_weights_are_kept(there, tmp_path, monkeypatch):
    """Who goes back before the best epoch, and then on otherwise, has lost what it was."""
    scores = iter([0.5, 0.9, 0.4, 0.3])
    monkeypatch.setattr("pml_center.training.loop.validate", lambda *_: {CONFIG.metric: next(scores)})
    run, _ = fit(replace(there("val").config, epochs=2, out=str(tmp_path / "again")), test=False)
    assert run.best_epoch == 2
    resume(run.folder, epochs=3, checkpoint="last-previous", test=False)
    assert run.best_epoch == 2
    for name, value in run.weights("model", "best").items():
        assert torch.equal(value, run.weights("model", "last-previous")[name]), name


def test_a_report_has_the_accuracy_where_a_class_has_no_test_image(tmp_path):
    data = draw(draw(tmp_path / "data", "train"), "test")
    shutil.rmtree(data / "test" / "c1")
    run, measurement = fit(replace(CONFIG, data=str(data), out=str(tmp_path / "run")))
    path = run.report_folder() / "accuracy.json"
    first = path.read_text()
    path.unlink()
    main(["report", str(run.folder), "--workers", "0"])
    assert path.read_text() == first
    assert measurement.accuracy is not None


def go_on_with_own_data(folder):
    try:
        run = Run(folder / "run", writes=os.environ["RANK"] == "0")
        own = folder / f"run-{os.environ['RANK']}"
        resume(own, epochs=2, accept_changes=True)
    except ValueError as error:
        (folder / f"said by {os.environ['RANK']}.txt").write_text(f"{run.folder} {error}")


def test_processes_that_accept_other_changes_all_say_so(there, tmp_path):
    for rank in ("0", "1"):
        data = shutil.copytree(tmp_path / "data", tmp_path / rank)
        run = Run(shutil.copytree(there("images").folder, tmp_path / f"run-{rank}"))
        run.record(replace(run.config, data=str(data)))
        (data / "c0" / "0.png").unlink()
    (tmp_path / "1" / "c0" / "1.png").unlink()
    assert in_two_processes(go_on_with_own_data, tmp_path) == [0, 0]
    for rank in ("0", "1"):
        said = (tmp_path / f"said by {rank}.txt").read_text()
        assert "same in every process, got other data in process 1 gone: 1 image of class c0" in said


def train_on_own_data(folder):
    try:
        fit(replace(CONFIG, data=str(folder / os.environ["RANK"]), out=str(folder / "run")))
    except ValueError as error:
        (folder / f"said by {os.environ['RANK']}.txt").write_text(str(error))


def test_processes_with_other_data_all_say_so(tmp_path):
    for rank in ("0", "1"):
        draw(tmp_path / rank)
    for number in (0, 1, 2):
        (tmp_path / "1" / "c0" / f"{number}.png").unlink()
    assert in_two_processes(train_on_own_data, tmp_path) == [0, 0]
    for rank in ("0", "1"):
        said = (tmp_path / f"said by {rank}.txt").read_text()
        assert "same in every process, got other data in process 1 gone: 3 images of class c0, e.g. c0/0.png" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("is_dry", [False, True])
def test_what_cannot_be_measured_is_said_before_the_first_step(tmp_path, capsys, split, is_dry):
    data = draw(draw(tmp_path / "data", "train"), split)
    path = data / split / "c2" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    where = ["train", str(data), "--out", str(tmp_path / "run"), *["--dry-run"] * is_dry]
    command = [*where, "--image-size", "8", "--epochs", "1", "--workers", "0", "--held-out", "0.4"]
    for message in (
        f"image must be a readable image file, got {path}",
        f"{split} must have two images of a class to find one by the other, got 6 images of 6 classes",
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert (stop.value.code, message in capsys.readouterr().err) == (2, True)
        assert not (tmp_path / "run").exists()
        for image in (data / split).glob("*/[!0].png"):
            image.unlink()


def test_a_run_whose_broken_test_image_was_removed_can_be_finished(tmp_path):
    data = draw(draw(tmp_path / "data", "train"), "test")
    run, _ = fit(replace(CONFIG, data=str(data), out=str(tmp_path / "run")), test=False)
    path = data / "test" / "c2" / "3.png"
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="got replaced: 1 image of class c2"):
        resume(run.folder)
    path.unlink()
    _, measurement = resume(run.folder, accept_changes=True)
    assert measurement.model.counts["queries"] == 35
    assert "gone: 1 image of class c2" in " ".join(measurement.model.warnings)


def test_changes_are_grouped_by_kind_and_class():
    rows = [Recorded("train", label, f"{label}/{i}.png", "", f"{label}{i}") for label in "ab" for i in range(3)]
    now = [row._replace(label="z", path=f"z/{row.path}") if row.label == "b" else row for row in rows[1:]]
    found = DataRecord("ab", rows).found_in({row.path: row for row in now})
    assert found.said() == "renamed: class b (3 images), now z; gone: 1 image of class a, e.g. a/0.png"
    assert found.said("test") == ""


def test_a_record_that_is_damaged_is_named(there):
    run = there("classes")
    text = (run.folder / "data.csv").read_text()
    (run.folder / "data.csv").write_text(text.replace("test,", "train,"))
    with pytest.raises(ValueError, match=r"held_out.json must name the images that data.csv has for testing"):
        resume(run.folder)
    (run.folder / "data.csv").write_text("nothing\n1\n")
    with pytest.raises(ValueError, match=r"data.csv must be as training wrote it, with columns split, label"):
        resume(run.folder)


def test_images_of_a_published_data_set_are_known_by_a_sample_of_their_pixels():
    class DataSet(list):
        reads = 0

        def __getitem__(self, i):
            self.reads += 1
            return super().__getitem__(i)

    def opened(value):
        data = DataSet((Image.new("L", (2, 2), (i + value) % 256), 0) for i in range(300))
        return LabeledImages([StoredImage(data, i) for i in range(300)], [0] * 300, ["a"], source="torchvision/A")

    images = opened(0)
    record = DataRecord.of(ImageSplits(images), "torchvision/A")
    assert images.images[0].data_set.reads == 100  # every third, at most 128
    assert not record.found_in(listing({"train": opened(0)}, "torchvision/A")).said()
    halves = {
        "train": opened(0).subset(range(150)),
        "test": opened(0).subset(range(150, 300)),
    }
    assert listing(halves, "torchvision/A")["torchvision/A[151]"].content == record.rows[151].content
    said = record.found_in(listing({"train": opened(1)}, "torchvision/A")).said()
    assert said.startswith("replaced: 100 images of class a")


def test_a_file_of_a_zip_file_that_would_fill_the_memory_is_an_image_that_cannot_be_read(tmp_path, monkeypatch):
    ZipFile(tmp_path / "photos.zip", "w").close()
    with ZipFile(tmp_path / "photos.zip", "a") as archive:
        archive.writestr("a/1.png", bytes(2**10))
    monkeypatch.setattr(archives, "MOST_BYTES", 2**9)
    images = LabeledImages([str(tmp_path / "photos.zip" / "a" / "1.png")], [0], ["a"])
    assert DataRecord.of(ImageSplits(images), str(tmp_path)).rows[0].content == ""
