"""What a notebook shows in place of long texts."""

import logging
import re
from pathlib import Path

import pytest
from tqdm.std import tqdm

from pml_center import notebooks
from pml_center.evaluation import RetrievalEvaluator
from pml_center.training import TrainConfig, fit

ROWS, LABELS = [[1, 0], [0.9, 0.3], [0, 1], [0.4, 0.8]], ["a", "a", "b", "b"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    events = []
    out = str(tmp_path_factory.mktemp("runs") / "run")
    config = TrainConfig(image_size=8, embedding_size=8, epochs=2, workers=0, val=0.2, out=out)
    return *fit(config, on_epoch=events.append), events


def test_a_report_is_a_table():
    report = RetrievalEvaluator(ci=None)(ROWS, LABELS)
    shown = report._repr_html_()
    assert '<td style="text-align: left">recall_at_1</td><td style="text-align: right">1.0000</td>' in shown
    assert len(repr(report).splitlines()) == 1
    pytest.importorskip("pandas")
    frame = report.to_dataframe()
    assert frame["label"].tolist() == LABELS
    assert frame["precision_at_1"].mean() == report["precision_at_1"]


def test_a_run_and_what_it_is_worth_are_tables(trained):
    run, measured, _ = trained
    assert run._repr_html_().count("<tr>") == 1 + len(run.epochs)
    shown = measured._repr_html_()
    assert "before training" in shown
    assert "raw pixels" in shown
    assert len(repr(measured).splitlines()) == 1
    pytest.importorskip("pandas")
    assert len(measured.to_dataframe()) == len(measured.embeddings)


def test_what_is_shown_is_no_markup():
    assert notebooks.html_table(["<b>"], [["<i>"]], "a & b", ["<u>"]).count("&lt;") == 3
    assert "<tr></tr>" in notebooks.html_table([], [])  # of a run before its first epoch


def test_a_tracker_is_told_of_every_epoch(trained):
    run, _, events = trained
    assert [event["epoch"] for event in events] == [1, 2]
    assert [event["loss"] for event in events] == [epoch["loss"] for epoch in run.epochs]
    validated = [event["val_mean_average_precision_at_r"] for event in events]
    assert validated == [event["mean_average_precision_at_r"] for event in run.events("val")]


def test_a_program_without_logging_is_told_what_happens(tmp_path, capsys, monkeypatch):
    log = logging.getLogger("pml_center")
    monkeypatch.setattr(log, "hasHandlers", lambda: False)
    monkeypatch.setattr(log, "propagate", False)
    config = TrainConfig(image_size=8, embedding_size=8, epochs=1, workers=0, held_out=0, out=str(tmp_path / "run"))
    fit(config)
    assert "epoch 1/1  loss" in capsys.readouterr().err
    fit(TrainConfig(image_size=8, epochs=1, workers=0, held_out=0, out=str(tmp_path / "quiet")), verbose=False)
    assert not capsys.readouterr().err
    assert not log.handlers


def test_bars_are_widgets_in_a_notebook_and_silent_in_a_file(monkeypatch):
    assert isinstance(bar := notebooks.progress_bar([1]), tqdm)
    assert bar.disable  # stderr is no terminal here
    monkeypatch.setattr(notebooks, "IN_NOTEBOOK", True)
    assert not notebooks.progress_bar([1]).disable
    assert notebooks.progress_bar([1], is_shown=False).disable


def test_no_bar_is_made_elsewhere():
    modules = [path for path in Path(notebooks.__file__).parent.rglob("*.py") if path.name != "notebooks.py"]
    making = r"^\s*(import tqdm|from tqdm(\.auto|\.notebook)? import)"  # tqdm.std names the type
    assert not [path for path in modules if re.search(making, path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert len(modules) >= 100
