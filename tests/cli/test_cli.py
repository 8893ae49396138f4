"""The commands, as a user types them."""

import json
import sys

import pytest
import yaml

from pml_center.cli import main


def run(capsys, *arguments):
    """What a command prints, (stdout, stderr), and its exit code."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return out, err, code


@pytest.mark.usefixtures("sketched")
def test_train_then_eval(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", "convnet", "--image-size", "8", "--epochs", "1", "--workers", "0", "--out", "first"]
    out, _, code = run(capsys, "train", "digits", *arguments, "--loss", "CosFaceLoss + 0.1 * CenterLoss")
    assert code == 0
    assert "recall_at_1" in out
    assert "raw pixels" in out
    held_out, _, code = run(capsys, "eval", "first")
    assert code == 0
    assert held_out.splitlines()[:8] == out.splitlines()[:8]
    assert "95 % interval" in held_out
    everything, _, code = run(capsys, "eval", "first", "digits")
    assert code == 0
    assert "1,797 queries" in everything
    assert "8 of the 10 classes have names that the model was trained on" in everything
    reports = sorted((tmp_path / "first" / "eval").glob("*/report.json"))
    assert [json.loads(report.read_text())["data"] for report in reports] == ["digits", "held out"]
    monkeypatch.chdir("/")
    assert run(capsys, "eval", str(tmp_path / "first"))[2] == 0  # from anywhere


def test_the_page_of_a_run_says_what_the_terminal_says_and_report_writes_it_again(
    tmp_path, monkeypatch, capsys, request
):
    monkeypatch.chdir(tmp_path)
    arguments = ["--image-size", "8", "--epochs", "2", "--workers", "0", "--lr", "1e-12", "--similarity", "euclidean"]
    arguments += ["--split", "images", "--val", "0.5", "--metric", "mean_reciprocal_rank", "--out", "first"]
    said, err, code = run(capsys, "train", "digits", *arguments)
    assert code == 0, err
    path = tmp_path / "first" / "eval" / "held-out" / "report.html"
    page, reports = path.read_text(), {file.name: file.read_text() for file in path.parent.glob("*.json")}
    pixels = json.loads(reports["pixels.json"])["metrics"]["mean_reciprocal_rank"]
    for words in ("best epoch 1 of 2 by mean_reciprocal_rank", f"and raw pixels reach {pixels:.4f}: train longer"):
        assert words in " ".join(said.split())
        assert words in page
    top = page[page.index("<h1>") : page.index("</header>")]
    assert top.startswith("<h1>convnet with SoftmaxLoss + 0.01 * CenterLoss, on held-out digits</h1>")
    in_order = ["raw pixels reach", "Training ", "Run first: pml-center train digits --val 0.5", "best epoch 1"]
    assert sorted(map(top.index, in_order)) == list(map(top.index, in_order))
    assert '<th scope="col">raw pixels</th>' in page
    assert f'<td class="number" data-column="raw pixels">{pixels:.4f}</td></tr>' in page
    assert "classified by the class weights of the loss" in said
    assert "classified by the class weights of the loss" in page
    assert "<td>lr</td><td>1e-12</td>" in page
    path.unlink()
    monkeypatch.setattr(sys, "argv", ["pml-center", "report", "first"])
    assert run(capsys, "report", "first")[2] == 0
    assert path.read_text() == page
    assert {file.name: file.read_text() for file in path.parent.glob("*.json")} == reports
    request.getfixturevalue("sketched")  # both pages above have their drawings
    said, _, code = run(capsys, "eval", "first", "digits", "--report", "page.html", "--ci", "none", "--workers", "0")
    assert code == 0
    note = "10 of the 10 classes have names that the model was trained on"
    page = (tmp_path / "page.html").read_text()
    for words in (note, "exact euclidean search", "raw pixels"):
        assert words in said
        assert words in page
    assert "<td>lr</td><td>1e-12</td>" in page
    assert "<td>pretrained</td><td>True</td>" not in page


@pytest.mark.usefixtures("sketched")
def test_a_run_is_repeated_from_its_file_with_flags_before_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--image-size", "8", "--epochs", "1", "--workers", "0", "--batch-size", "256"]
    out, _, code = run(capsys, "train", "digits", *small, "--loss", "CosFaceLoss", "--out", "first", "--json")
    first = json.loads(out)
    assert code == 0
    assert (first["command"], first["run"], first["best_epoch"]) == ("train", "first", None)
    out, _, code = run(capsys, "train", "--config", "first/config.yaml", "--out", "second", "--json")
    assert code == 0
    assert json.loads(out)["reports"] == first["reports"]
    out, _, code = run(capsys, "train", "--config", "first/config.yaml", "--out", "x", "--lr", "1e-4", "--dry-run")
    assert code == 0
    assert yaml.safe_load(out)["lr"] == 1e-4
    assert yaml.safe_load(out)["loss"] == "CosFaceLoss"
    assert not (tmp_path / "x").exists()
    out, _, code = run(capsys, "resume", "first", "--epochs", "2")
    assert code == 0
    assert "recall_at_1" in out
    assert len((tmp_path / "first" / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("command", ["demo", "train", "resume", "eval", "embed", "search", "data"])
def test_help_says_what_a_command_does(capsys, command):
    overview, _, _ = run(capsys, "--help")
    assert command in overview
    out, _, code = run(capsys, command, "--help")
    assert code == 0
    assert f"pml-center {command}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], 'Did you mean "train"?'),
        (["train", "digits", "--epoch", "3"], "--epochs"),
        (["train", "digits", "--loss", "CentreLoss"], "Did you mean 'CenterLoss'"),
        (["train", "digits", "--model", "resnt50"], "Did you mean 'resnet50'"),
        (["train", "nowhere"], "nowhere"),
        (["train", "digits", "--held-out", "2"], "held_out must be"),
        (["train", "digits", "--lr=-1"], "lr must be a positive number, got -1"),
        (["train", "digits", "--device", "foo"], "device must be 'cpu', 'cuda', 'cuda:1' or 'auto', got 'foo'"),
        (["train", "digits", "--model", "test_vit", "--image-size", "50"], "image_size must fit the model, got 50"),
        (["train", "digits", "--loss", "AngularLoss(distance=CosineSimilarity())"], "must be buildable, got Assertion"),
        (["train", "empty"], "empty"),
        (["train", "hollow"], "class_b"),
        (["train", "broken", "--held-out", "0", "--workers", "2", "--image-size", "8"], "got 2 that cannot, e.g."),
        (["train", "--config", "nowhere.yaml"], "config must be an existing YAML file, got 'nowhere.yaml'"),
        (["train", "--config", "list.yaml"], "config must map options to values, got 'list.yaml' with a list"),
        (
            ["train", "--config", "typo.yaml"],
            "key in typo.yaml must be a known name, got 'epocs'. Did you mean 'epochs",
        ),
        (["train", "--config", "text.yaml"], 'Invalid value for [epochs] from text.yaml: unable to convert "two"'),
        (["train", "--config", "data.yaml"], "/nowhere' (from"),
        (["train", "--config", "loss.yaml"], "loss must be a known name, got 'CentreLoss'. Did you mean 'CenterLoss'"),
        (
            ["train", "--config", "broken/class_a/0.png"],
            "config must map options to values, got 'broken/class_a/0.png'",
        ),
        (["resume", "empty"], "run must be a folder written by `pml-center train`, got empty"),
        (["train", "--epochs", "1.5"], "epochs must be a whole number, got '1.5'. See pml-center train --help."),
        (["train", "--epochs", "2_0"], "epochs must be a whole number, got '2_0'"),
        (["train", "--config", "half.yaml"], "epochs must be a whole number, got '1.5' in half.yaml"),
        (["eval", "runs/nowhere", "--far", "1e-3", "1_0"], "far must be a number, got '1_0'"),
        (["compare", "digits", "--losses", "SoftmaxLoss", "--seeds", "0", "1.5"], "seeds must be a whole number, got"),
        (["data", "check", "digits", "--workers", "0x1"], "workers must be a whole number, got '0x1'"),
        (["demo", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (["eval", "runs/nowhere"], "run must be a folder written by `pml-center train`, got runs/nowhere"),
        (["eval", "resnt18", "digits"], "Did you mean 'resnet18'"),
        (["eval", "test_vit", "--no-pretrained"], "data must be given for a model that is no run"),
        (["eval", "test_vit", "digits", "--weights", "nowhere.pth"], "weights must be an existing file"),
        (["eval", "test_vit", "digits", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["eval", "test_vit", "digits", "--protocol", "retreival"], "retreival"),
        (["eval", "test_vit", "digits", "--protocol", "retrieval", "--pairs", "p"], "--protocol verification"),
        (["embed", "convnet", "digits", "--out", "broken"], "out must be a new folder, got broken"),
        (["search", "empty", "nothing.png"], "images must be existing files, got nothing.png"),
        (["search", "empty", "broken/class_a/0.png"], "`pml-center embed RUN DATA --out empty`"),
    ],
)
def test_a_mistake_ends_in_one_message_and_no_traceback(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for image in ("hollow/class_a/0.png", "broken/class_a/0.png", "broken/class_b/0.png"):
        path = tmp_path / image
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no image")
    (tmp_path / "hollow" / "class_b").mkdir()
    (tmp_path / "empty").mkdir()
    files = {
        "list": "[1]",
        "typo": "epocs: 3",
        "text": "epochs: two",
        "half": "epochs: 1.5",
        "loss": "loss: CentreLoss",
        "data": "data: nowhere",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    out, err, code = run(capsys, *arguments)
    assert code == 2
    assert message in " ".join((out + err).split())
    assert "Traceback" not in out + err
