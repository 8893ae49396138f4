"""What weights were trained on goes wherever they go: from run to run, with embeddings and with exports."""

import json
import shutil
from dataclasses import replace

import pytest

from pml_center.data.seen_images import FILE
from pml_center.training import Run, TrainConfig, compare_runs, export_timm, fit
from pml_center.training.origin import seen_by
from tests.training.test_data_record import draw
from tests.training.test_export import needs_timm

CONFIG = TrainConfig(
    model="convnet", image_size=8, embedding_size=4, epochs=1, workers=0, batch_size=12, held_out=0.4, device="cpu"
)
OF_FEATURES = {"model": "linear", "image_size": None}
SAID = "images held out are among those that {} trained on, which this run started from"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six classes ``data``; three of them ``one``, three ``two``; a run on all, and its embeddings of all."""
    from pml_center.cli import main

    folder = tmp_path_factory.mktemp("made")
    draw(folder / "data")
    for place, classes in {"one": "012", "two": "345"}.items():
        for label in classes:
            shutil.copytree(folder / "data" / f"c{label}", folder / place / f"c{label}")
    run, _ = fit(replace(CONFIG, data=str(folder / "data"), out=str(folder / "run")), test=False)
    main(["embed", str(run.folder), str(folder / "data"), "--out", str(folder / "rows"), "--workers", "0", "--quiet"])
    return folder


def doubts_of(run, words="held out are among those"):
    return [doubt for doubt in run.accepted if words in doubt]


def test_features_of_a_run_say_which_images_it_was_trained_on(made, tmp_path):
    """A split that is drawn anew holds out what the model behind the features knows."""
    asked = replace(CONFIG, data=str(made / "rows"), split_seed=1, **OF_FEATURES)
    run, measured = fit(replace(asked, out=str(tmp_path / "head")))
    trained = set(Run.open(made / "run").classes)
    known = sum(row.label in trained for row in run.data.rows if row.split == "test")
    assert known
    [doubt] = doubts_of(run)
    assert doubt == f"{known} of the {len(run.held_out_names)} {SAID.format(f'{made}/run was')}"
    assert doubt in measured.model.warnings
    assert f"{run.folder}: {doubt}" in compare_runs([run.folder]).doubts
    same, _ = fit(replace(asked, split_seed=0, out=str(tmp_path / "same")), test=False)
    assert not doubts_of(same)


def test_what_was_seen_two_runs_ago_is_known_though_that_run_is_gone(made, tmp_path):
    one = replace(CONFIG, data=str(made / "one"), out=str(tmp_path / "1"), held_out=0)
    first, _ = fit(one, test=False)
    second, _ = fit(
        replace(one, data=str(made / "two"), init_from=str(first.folder), out=str(tmp_path / "2")), test=False
    )
    shutil.rmtree(first.folder)
    third, _ = fit(replace(one, held_out=0.4, split="images", init_from=str(second.folder), out=str(tmp_path / "3")))
    assert doubts_of(third) == [f"6 of the 6 {SAID.format(f'{first.folder} was')}"]
    assert third.data.digest == Run.open(third.folder).data.digest
    (third.folder / FILE).unlink()
    with pytest.raises(ValueError, match=r"data.csv, held_out.json and labels.json must be as training wrote them"):
        _ = third.data


def test_what_an_earlier_version_did_not_write_down_is_followed(made, tmp_path):
    """Runs named what they started from, and embeddings the run that made them."""
    shutil.copytree(made / "rows", tmp_path / "rows")
    (tmp_path / "rows" / FILE).unlink()
    seen = seen_by(str(tmp_path / "rows"))
    assert len(seen.rows) == 24
    (made / "run" / "data.csv").rename(tmp_path / "data.csv")
    (made / "run" / "checkpoints" / "last").rename(tmp_path / "last")
    try:
        assert seen_by(str(tmp_path / "rows")).labels == seen.labels  # of images nothing is known
    finally:
        (tmp_path / "data.csv").rename(made / "run" / "data.csv")
        (tmp_path / "last").rename(made / "run" / "checkpoints" / "last")
    run = Run.open(shutil.copytree(made / "run", tmp_path / "run"))
    run.record(replace(run.config, init_from=str(tmp_path / "run"), out=str(tmp_path / "run")))
    assert seen_by(str(tmp_path / "run")).labels == seen.labels  # one that took its own place asks itself once


def test_images_that_were_seen_are_counted_wherever_they_lie(made, tmp_path, command, monkeypatch):
    """By their names, or else by their bytes; of embeddings as of the model that made them."""
    said = "24 of the 36 images are among those that it was trained on"
    shutil.copytree(made / "data", tmp_path / "copied")
    monkeypatch.chdir(tmp_path)
    for asked in (("run", "data"), ("run", tmp_path / "copied"), ("rows",)):
        out, _, code = command("eval", *(made / each for each in asked), "--workers", 0)
        assert code == 0
        assert said in out
        assert "4 of the 6 classes have names that the model was trained on" in out
    assert command("embed", made / "run", "copied", "--out", "again", "--workers", 0)[2] == 0
    assert said in command("eval", "again")[0]


def test_what_was_left_out_and_accepted_goes_with_embeddings(made, tmp_path, command):
    """To whoever measures them, and to runs on them; of an earlier version as far as it wrote it down."""
    shutil.copytree(made / "data", tmp_path / "data")
    (tmp_path / "data" / "c0" / "0.png").write_bytes(b"none")
    run = Run.open(shutil.copytree(made / "run", tmp_path / "run"))
    run.log(event="data", what="gone: 1 image of class c9")
    embed = ("embed", run.folder, tmp_path / "data", "--out", tmp_path / "rows", "--workers", 0)
    assert command(*embed, "--skip-bad")[2] == 0
    said = ["which was accepted: gone: 1 image of class c9", "left out 1 of 36 images, which cannot be read: "]
    out = command("eval", tmp_path / "rows")[0]
    head, _ = fit(replace(CONFIG, data=str(tmp_path / "rows"), out=str(tmp_path / "head"), **OF_FEATURES), test=False)
    for words in said:
        assert "warning: " in out
        assert words in out.replace("\n", " ")
        assert doubts_of(head, words)
    path = tmp_path / "rows" / "model.json"
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "doubts"})
    )
    assert said[1] in command("eval", tmp_path / "rows")[0]


@needs_timm
def test_an_export_says_what_it_was_trained_on_and_not_where_that_lies(made, tmp_path, command):
    asked = replace(CONFIG, model="test_resnet", image_size=32, channels=1, data=str(made / "data"))
    run, _ = fit(replace(asked, out=str(tmp_path / "run")), test=False)
    model = f"local-dir:{export_timm(run, tmp_path / 'model')}"
    assert str(tmp_path) not in (tmp_path / "model" / FILE).read_text()
    asked = replace(asked, model=model, pretrained=True, split_seed=1, neck="none", embedding_size=None)
    other, _ = fit(replace(asked, out=str(tmp_path / "other")), test=False)
    assert doubts_of(other)
    measure = ("eval", model, made / "data", "--workers", 0)
    assert "24 of the 36 images are among" in command(*measure)[0]
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 4
    weights.write_bytes(content)
    assert f"weights must be as `pml-center export` wrote them, got other bytes in '{weights}'" in command(*measure)[1]
