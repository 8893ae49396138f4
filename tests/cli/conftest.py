"""Runs that were trained once, and how commands are tried: in the folder that a module calls ``where``."""

import pytest

from pml_center.cli import main
from pml_center.training import TrainConfig, fit


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Two run folders: ``timm`` of a model of timm with a BatchNorm neck, and ``small`` of our own network."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {"epochs": 1, "workers": 0, "channels": 1, "embedding_size": 16, "batch_size": 128, "held_out": 0}
    fit(TrainConfig("digits", model="test_resnet", neck="bnneck", image_size=32, out=str(folder / "timm"), **settings))
    fit(TrainConfig("digits", model="convnet", image_size=8, out=str(folder / "small"), **settings))
    return folder


@pytest.fixture
def called(where, monkeypatch, capsys):
    """A function that runs a command there, which must end with a code: (stdout, stderr)."""
    monkeypatch.chdir(where)
    capsys.readouterr()

    def command(*arguments, code=0):
        found = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            found = stop.code
        out, err = capsys.readouterr()
        assert found == code, err
        return out, err

    return command


@pytest.fixture
def run(called):
    """The same: what it prints, or says on stderr where it fails."""
    return lambda *arguments, code=0: called(*arguments, code=code)[code != 0]
