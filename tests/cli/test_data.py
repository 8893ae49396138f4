"""data check, and data sets of every form given to eval and embed."""

import json
import shutil

import pytest

from pml_center.cli import main
from pml_center.data import digits
from pml_center.evaluation import load_samples

QUICK = ("--ci", "none", "--workers", "0")


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A folder with images of digits in splits, the same as a table, and a small run."""
    folder = tmp_path_factory.mktemp("where")
    rows = ["path,label,group,split"]
    for i in range(160):
        image, label = digits()[i]
        split = "train" if i < 100 else "test"
        path = folder / "photos" / split / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        rows.append(f"{path.relative_to(folder)},{label},{i % 2},{split}")
    (folder / "images.csv").write_text("\n".join(rows))
    shutil.make_archive(str(folder / "photos"), "zip", folder / "photos")
    arguments = ["--model", "convnet", "--image-size", "8", "--epochs", "1", "--workers", "0", "--held-out", "0"]
    main(["train", "digits", *arguments, "--out", str(folder / "run")])
    return folder


@pytest.fixture
def run(called):
    """A function that runs a command there: (stdout, stderr)."""
    return called


@pytest.fixture
def asked(run):
    """A function that runs a command with --json, and reads the one object that it prints."""
    return lambda *arguments, code=0: json.loads(run(*arguments, "--json", code=code)[0])


@pytest.fixture
def flawed(where):
    """A copy of the images with flaws."""
    shutil.rmtree(where / "flawed", ignore_errors=True)
    shutil.copytree(where / "photos", where / "flawed")
    (where / "flawed" / "test" / "3" / "bad.png").write_text("no image")
    (where / "flawed" / "test" / "zzz").mkdir()
    shutil.copy(where / "flawed" / "test" / "7" / "108.png", where / "flawed" / "train" / "7" / "copy.png")
    shutil.copy(where / "flawed" / "test" / "7" / "108.png", where / "flawed" / "train" / "7" / "again.png")
    shutil.copy(where / "flawed" / "train" / "2" / "2.png", where / "flawed" / "train" / "5" / "two.png")
    return where / "flawed"


def test_a_sound_data_set_is_described(run, asked):
    for source in ("photos", "photos.zip", "images.csv"):
        out, _ = run("data", "check", source, "--workers", "0")
        assert "problems: none" in out
        assert "images per class, all splits together" in out
        assert "8 × 8 (160)" in out
        assert "L (160)" in out
        found = asked("data", "check", source, "--workers", "0")
        assert sum(found["class_sizes"]["train"].values()) == 100
        assert found["problems"] == 0
    assert "images per class\n" in run("data", "check", "images.csv/test", "--workers", "0")[0]


def test_flaws_are_listed_and_written_to_a_file(run, asked, flawed):
    out, _ = run("data", "check", "flawed", "--workers", "0", "--fix-list", "fix.txt", code=2)
    assert "images that cannot be read: 1\n  test/3/bad.png  no image format that is known" in out
    assert "folders without an image: 1\n  test/zzz" in out
    assert "images with several labels: 1\n  train/2/2.png (2) = train/5/two.png (5)" in out
    assert "images in several splits: 1\n" in out
    assert "train/7/again.png (train) = train/7/copy.png (train) = test/7/108.png (test)" in out
    assert "problems: 4" in out
    listed = (flawed.parent / "fix.txt").read_text().splitlines()
    names = ["test/3/bad.png", "train/2/2.png", "train/5/two.png", "train/7/again.png", "train/7/copy.png", "test/zzz"]
    assert sorted(listed) == sorted(f"{flawed}/{name}" for name in names)
    assert "6 paths to remove" in out
    found = asked("data", "check", "flawed", code=2)
    assert found["schema"] == 1
    assert found["data"] == str(flawed)
    assert [same["two_labels"] for same in found["same"]] == [True, False]
    assert list(found["unreadable"]) == [f"{flawed}/test/3/bad.png"]


def test_only_some_flaws_of_a_kind_are_shown(run, flawed):
    for i in range(14):
        (flawed / "train" / "1" / f"bad{i}.png").touch()
    out, _ = run("data", "check", "flawed/train", "--workers", "0", code=2)
    assert "images that cannot be read: 14" in out
    assert "and 4 more, see --json" in out


def test_a_folder_of_one_class_is_told_from_a_folder_of_classes(run, flawed):
    out, _ = run("data", "check", "flawed/train/1", "--workers", "0", code=2)
    assert "images in no class (move them to the folder of one, or check the folder above): " in out
    assert "sizes" not in out


def test_no_data_set_at_all_is_a_mistake(run):
    assert "nowhere' (from " in run("data", "check", "nowhere", code=2)[1]
    assert "workers must be at least 0, got -1" in run("data", "check", "digits", "--workers", "-1", code=2)[1]


def test_every_form_of_the_same_images_scores_the_same(asked, where):
    found = [
        asked("eval", "run", source, *QUICK, "--groups", r"([0-9])\.png")
        for source in ("photos/test", "photos.zip/test", "images.csv/test")
    ]
    assert [each["images"] for each in found] == [60] * 3
    assert found[0]["reports"] == found[1]["reports"] == found[2]["reports"]
    assert found[2]["data"] == f"{where}/images.csv/test"
    assert asked("eval", "run", "photos", *QUICK)["images"] == 160
    assert asked("eval", "run", "photos", *QUICK)["classes"] == 10


def test_groups_of_a_table_are_used_by_themselves(run, asked, where, caplog):
    by_table = asked("eval", "run", "images.csv", *QUICK)["reports"]["retrieval"]
    assert "same label and group" in by_table["protocol"]
    assert by_table["metrics"] != asked("eval", "run", "photos", *QUICK)["reports"]["retrieval"]["metrics"]
    run("embed", "run", "images.csv", "--out", "rows", "--workers", "0")
    assert load_samples("rows").groups[:4] == ["0", "1", "0", "1"]
    assert asked("eval", "rows", *QUICK)["reports"]["retrieval"]["metrics"] == by_table["metrics"]
    searched = ("--gallery", "images.csv/train", "--protocol", "retrieval", *QUICK)
    both = asked("eval", "run", "images.csv/test", *searched)["reports"]["retrieval"]
    assert "same label and group" in both["protocol"]
    caplog.clear()
    one = asked("eval", "run", "photos/test", *searched)["reports"]["retrieval"]
    assert "same label and group" not in one["protocol"]
    assert "groups  not used: the queries have none" in caplog.text


def test_images_that_cannot_be_read_stop_an_evaluation_or_are_left_out_on_request(run, asked, flawed, caplog):
    _, err = run("eval", "run", "flawed/train", "--gallery", "photos/train", *QUICK)
    (flawed / "train" / "4" / "bad.png").write_text("no image")
    for source, gallery in (("flawed/train", "photos/train"), ("photos/train", "flawed/train")):
        _, err = run("eval", "run", source, "--gallery", gallery, *QUICK, code=2)
        assert "image must be a readable image file, got" in err
        assert "train/4/bad.png" in err
        caplog.clear()
        found = asked("eval", "run", source, "--gallery", gallery, *QUICK, "--skip-bad")
        assert "left out 1 of 104 images, which cannot be read: " in caplog.text
        skipped = found["skipped"] + found["gallery"]["skipped"]
        assert skipped == ["flawed/train/4/bad.png"]
        assert found["images"] + found["gallery"]["images"] == 103 + 100
    facts = asked("embed", "run", "flawed/train", "--out", "kept", "--workers", "0", "--skip-bad")
    assert facts["shape"][0] == 103
    assert facts["skipped"] == [f"{flawed}/train/4/bad.png"]


def test_only_the_first_names_of_many_are_told(run, flawed, caplog):
    for i in range(8):
        (flawed / "train" / "1" / f"bad{i}.png").touch()
    run("eval", "run", "flawed/train", *QUICK, "--skip-bad")
    assert "left out 8 of 111 images" in caplog.text
    assert "bad4.png and 3 more" in caplog.text


def test_a_data_set_by_name_needs_its_files_or_a_network(run, where, monkeypatch):
    import urllib.request

    pytest.importorskip("pytorch_metric_learning.datasets", reason="needs pytorch-metric-learning 2.8.1")

    def refuse(*_arguments, **_options):
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    _, err = run("eval", "run", "pml/CUB", "--data-root", "library", *QUICK, code=2)
    assert err.endswith("say with --data-root (root) where they are.\n")
    assert "pml/CUB must be in 'library' or 'library/CUB' or be downloaded, got OSError: no network" in err
    assert "is not installed" in run("eval", "run", "wds/shards", *QUICK, code=3)[1]
