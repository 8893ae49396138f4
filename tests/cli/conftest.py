"""Runs that were trained once."""

import pytest

from pml_center.training import TrainConfig, fit


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Two run folders: ``timm`` of a model of timm with a BatchNorm neck, and ``small`` of our own network."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {"epochs": 1, "workers": 0, "channels": 1, "embedding_size": 16, "batch_size": 128, "held_out": 0}
    fit(TrainConfig("digits", model="test_resnet", neck="bnneck", image_size=32, out=str(folder / "timm"), **settings))
    fit(TrainConfig("digits", model="convnet", image_size=8, out=str(folder / "small"), **settings))
    return folder
