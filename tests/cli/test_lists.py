"""losses, models and recipes: what there is."""

import json
from dataclasses import fields

import pytest
import timm
import yaml
from pytorch_metric_learning import losses as pml_losses

from pml_center import losses
from pml_center.cli.recipes import texts
from pml_center.training import TrainConfig, parse_loss
from pml_center.training.loss_catalog import list_losses

OURS = sorted(set(losses.__all__) - {"BaseSoftmaxLoss", "BaseCenterLoss"})


def test_every_loss_is_listed_once_with_what_it_adds(command):
    out, _, code = command("losses", "--json")
    assert code == 0
    listed = json.loads(out)["losses"]
    names = [loss["name"] for loss in listed]
    assert len(names) == len(set(names))
    assert set(OURS) <= set(names)
    assert {"TripletMarginLoss", "pml.ArcFaceLoss"} <= set(names)
    assert all(loss["summary"] for loss in listed if loss["name"] in OURS)
    out, _, _ = command("losses")
    assert "center losses (" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2] != " "] == names


def test_one_loss_in_full(command):
    out, _, code = command("losses", "ArcFaceLoss")
    assert code == 0
    for words in ("margin = 28.6", "degrees in [0, 180]", "num_classes (required)", "(num_classes, embedding_size)"):
        assert words in out
    for words in ("cos(θ_y + m)", "label_smoothing = 0.0", "'LOSS @ MINER'", "arXiv:1801.07698"):
        assert words in out
    assert ":class:" not in out
    loss = json.loads(command("losses", "CenterLoss", "--json")[0])["loss"]
    assert loss["family"] == "center losses"
    assert loss["parameters"] == {}
    assert "centers (C, D)" in loss["state"]
    assert {"name": "alpha", "default": "0.5"}.items() <= loss["arguments"][2].items()


def test_a_loss_of_pml_is_described_as_far_as_it_describes_itself(command):
    loss = json.loads(command("losses", "SubCenterArcFaceLoss", "--json")[0])["loss"]
    theirs = json.loads(command("losses", "pml.SubCenterArcFaceLoss", "--json")[0])["loss"]
    assert loss["parameters"]["class_weights.weight"] == ["3·num_classes", "embedding_size"]
    assert theirs["parameters"] == {"W": ["embedding_size", "3·num_classes"]}
    assert theirs["source"].startswith("https://")
    needs = command("losses", "KappaFaceLoss")[0]
    assert "cannot be built without" in needs
    assert "class_counts" in needs
    assert "takes none" in command("losses", "VICRegLoss")[0]


def test_models_are_listed_by_a_pattern(command):
    out, _, code = command("models", "test_*", "--json")
    assert code == 0
    found = {model["name"]: model["input"] for model in json.loads(out)["models"]}
    assert found["test_vit"] == "3×160×160"
    assert all(name.startswith("test_") for name in found)
    assert "convnet" in command("models", "convnet")[0]
    out, _, _ = command("models", "TEST_VIT", "--pretrained")
    assert "test_vit.r160_in1k" in out
    assert "pretrained weights" in out


def test_models_whose_input_an_older_timm_does_not_know_are_listed(command, monkeypatch):
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: None)
    assert "unknown" in command("models", "test_vit")[0]


def test_recipes_are_listed_and_copied_but_never_over_a_file(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = json.loads(command("recipes", "ls", "--json")[0])["recipes"]
    assert len(listed) >= 5
    for name, title in listed.items():
        assert title.endswith((".", "?"))
        assert name in command("recipes", "ls")[0]
    assert command("recipes", "cp", "digits-center")[2] == 0
    assert (tmp_path / "digits-center.yaml").read_text() == texts()["digits-center"]
    (tmp_path / "digits-center.yaml").write_text("mine")
    _, err, code = command("recipes", "cp", "digits-center")
    assert code == 2
    assert "to must be a file that does not exist, got digits-center.yaml" in err
    assert (tmp_path / "digits-center.yaml").read_text() == "mine"
    assert json.loads(command("recipes", "cp", "fine-tune-timm", "new/a.yaml", "--json")[0])["file"] == "new/a.yaml"
    assert (tmp_path / "new" / "a.yaml").is_file()


@pytest.mark.parametrize("name", texts())
def test_a_recipe_says_what_training_takes(name):
    text = texts()[name]
    values = yaml.safe_load(text)
    assert values.keys() <= {field.name for field in fields(TrainConfig)}
    config = TrainConfig(**values)
    assert parse_loss(config.loss, num_classes=4, embedding_size=8).names
    assert config.model in ["convnet", *timm.list_models(), *timm.list_pretrained()]
    assert f"{name}.yaml" in text  # its first lines say how to use it


def test_what_is_not_there_is_answered_with_the_nearest(command):
    for arguments, message in [
        (["losses", "CentreLoss"], "Did you mean 'CenterLoss'"),
        (["models", "resnt50"], "Did you mean 'resnet50'"),
        (["recipes", "cp", "digit-center"], "Did you mean 'digits-center'"),
    ]:
        _, err, code = command(*arguments)
        assert code == 2
        assert message in err


def test_the_list_knows_the_losses_of_pml_that_can_stand_alone():
    theirs = {name.removeprefix("pml.") for name in list_losses()["pytorch-metric-learning"]}
    assert theirs >= {"TripletMarginLoss", "ProxyAnchorLoss", "SupConLoss"}
    assert all(hasattr(pml_losses, name) for name in theirs)
    assert "MultipleLosses" not in theirs
