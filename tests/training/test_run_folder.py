"""What a run writes down while it trains."""

import json
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import yaml

from pml_center.data import digits
from pml_center.pages.parts import history
from pml_center.training import Run, TrainConfig, export_timm, fit, resume
from pml_center.training.run_folder import start_of

CONFIG = TrainConfig(
    model="convnet", image_size=8, embedding_size=8, batch_size=128, val=0.3, epochs=2, workers=0, device="cpu"
)


@pytest.fixture
def run(tmp_path):
    """A run with a log of two epochs, the second of which was being written when the process died."""
    (tmp_path / "config.yaml").touch()
    run = Run(tmp_path)
    run.log(event="epoch", epoch=1, loss=2.5)
    run.log(event="epoch", epoch=2, loss=1.5)
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    return run


def test_a_line_that_was_not_written_to_its_end_does_not_count(run):
    assert run.epochs == [{"epoch": 1, "loss": 2.5}]
    run.log(event="eval", name="held-out")
    assert [len(run.events(kind)) for kind in ("epoch", "eval")] == [1, 1]


def test_finding_what_was_held_out_reads_the_settings_once(tmp_path, monkeypatch):
    run, data = Run(tmp_path), digits()
    run.record(replace(CONFIG, split="images"))
    (tmp_path / "held_out.json").write_text(json.dumps([data.name(i) for i in (3, 1000)]))
    read, seen = yaml.safe_load, []
    monkeypatch.setattr(yaml, "safe_load", lambda text: seen.append(text) or read(text))
    assert run.held_out(data).labels.tolist() == data.labels[[3, 1000]].tolist()
    assert len(seen) == 1  # and not for each of 1,797 images


@pytest.mark.parametrize(("name", "of"), [("env.json", "identity"), ("labels.json", "classes")])
def test_a_file_of_a_run_that_is_no_json_is_named(run, name, of):
    (run.folder / name).write_text('["ant", ')
    with pytest.raises(ValueError, match=rf"{name} must be what training wrote, got no JSON .*Restore it"):
        getattr(run, of)


def test_a_model_that_takes_images_otherwise_by_now_is_refused(tmp_path):
    """A folder of timm's says how images are prepared, and may be another by the time that a run is measured."""
    size = {
        "image_size": 32,
        "channels": 1,
        "data": "digits",
        "held_out": 0,
        "epochs": 1,
        "workers": 0,
        "device": "cpu",
    }
    first, _ = fit(TrainConfig(model="test_resnet", out=str(tmp_path / "first"), **size))
    model = export_timm(first, tmp_path / "mine")
    config = TrainConfig(model=f"local-dir:{model}", pretrained=True, out=str(tmp_path / "second"), **size)
    run, _ = fit(config)
    assert run.start == start_of(config) is not None
    assert run.load_model().mean == first.load_model().mean
    text = (model / "config.json").read_text()
    values = json.loads(text)
    values["pretrained_cfg"]["std"] = [0.125]
    (model / "config.json").write_text(json.dumps(values))
    for use in (run.load_model, lambda: resume(run.folder, epochs=2)):
        with pytest.raises(ValueError, match=r"model must take images as in training, got std .0.125. in place of"):
            use()
    (model / "config.json").write_text(text)
    assert resume(run.folder, epochs=2)[0].epochs[-1]["epoch"] == 2
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes() + b" ")
    assert start_of(config) != run.start


@pytest.fixture
def writers(monkeypatch):
    """The writers for TensorBoard that were made, in place of which stand these."""

    class Writer:
        def __init__(self, folder, purge_step):
            self.folder, self.purge_step, self.scalars, self.is_closed = folder, purge_step, {}, False
            made.append(self)

        def add_scalar(self, tag, value, step):
            self.scalars[tag, step] = value

        def flush(self):
            pass

        def close(self):
            self.is_closed = True

    made = []
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def numbers(run):
    """Those of all events in metrics.jsonl, by what TensorBoard calls them and the epoch."""
    found = {}
    for kind in ("epoch", "val", "eval"):
        for event in run.events(kind):
            epoch = event.pop("epoch", len(run.epochs))
            found |= {(f"{kind}/{name}", epoch): value for name, value in event.items() if not isinstance(value, str)}
    return found


def test_tensorboard_gets_what_is_logged(tmp_path, writers):
    run, _ = fit(replace(CONFIG, out=str(tmp_path / "run"), tensorboard=True))
    assert [(writer.folder, writer.purge_step) for writer in writers] == [(str(run.folder / "tb"), 1)]
    assert writers[0].scalars == numbers(run)
    assert {"epoch/loss", "epoch/CenterLoss", "epoch/lr", "val/recall_at_1", "eval/r_precision"} <= {
        tag for tag, _ in writers[0].scalars
    }
    assert writers[0].is_closed
    resume(run.folder, epochs=3)
    assert writers[1].purge_step == 3
    assert {step for _, step in writers[1].scalars} == {3}


def test_a_process_that_does_not_write_tells_tensorboard_nothing(tmp_path, writers):
    run = Run(tmp_path, writes=False)
    with run.with_board(1) as same:
        same.log(event="epoch", epoch=1)
    assert not writers
    assert not any(tmp_path.iterdir())


def test_tensorboard_that_is_missing_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "pml-center\[tensorboard\]"'):
        fit(replace(CONFIG, out=str(tmp_path / "run"), tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_a_resumed_run_as_one(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = fit(replace(CONFIG, out=str(tmp_path / "run"), tensorboard=True))
    with run.with_board(3) as logged:  # an epoch that was logged, and whose checkpoint was not written
        logged.log(event="epoch", epoch=3, loss=0.5)
    resume(run.folder, epochs=4)
    board = EventAccumulator(str(run.folder / "tb")).Reload()
    seen = {(tag, event.step): event.value for tag in board.Tags()["scalars"] for event in board.Scalars(tag)}
    logged = {place: value for place, value in numbers(run).items() if not place[0].startswith("eval/")}
    assert {place: value for place, value in seen.items() if place in logged} == pytest.approx(logged)
    losses = board.Scalars("epoch/loss")
    assert [event.step for event in losses] == [1, 2, 3, 4]


def test_the_page_of_a_run_shows_its_training(tmp_path):
    epochs = [{"epoch": epoch, "lr": 0.1, "seconds": 1.0, "loss": 1 / epoch} for epoch in (1, 2, 3)]
    (alone,) = history(epochs)
    (part,) = history(epochs, [{"event": "val", "epoch": 2, "recall_at_1": 0.5, "macro_recall_at_1": 0.4}])
    assert [plot.caption for plot in alone.plots] == ["Means over each epoch.", "At the end of each epoch."]
    assert [plot.caption for plot in part.plots] == [
        "Means over each epoch.",
        "On the validation images.",
        "At the end of each epoch.",
    ]
    assert "recall_at_1" in part.plots[1].svg
    assert "macro" not in part.plots[1].svg
    assert not history([])
