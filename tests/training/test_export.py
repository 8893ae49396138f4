"""A run as others load it: the same embeddings, or a refusal."""

import copy
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import pytest
import timm
import torch
from packaging.version import Version
from torch import nn

from pml_center.backbones import Embedder, create_embedder
from pml_center.data import digits, eval_transform
from pml_center.training import TrainConfig, export_onnx, export_timm
from pml_center.training.export import _affine, _with_head
from pml_center.training.run_folder import Run

needs_timm = pytest.mark.skipif(Version(timm.__version__) < Version("1.0.31"), reason="export needs timm 1.0.31")
SETTINGS = {"embedding_size": 16, "channels": 1, "image_size": 32, "workers": 0}


@dataclass
class Trained:
    """What is read of a run."""

    folder: Path
    config: TrainConfig
    model: Embedder
    classes: tuple[str, ...] = ("0", "1", "2")

    def load_model(self):
        return copy.deepcopy(self.model).eval()

    @property
    def report(self):
        return Run(self.folder).report


def trained(folder, model, **settings):
    """A model with random weights, whose BatchNorms have seen something."""
    torch.manual_seed(0)
    config = TrainConfig("digits", model=model, **SETTINGS | settings)
    embedder = create_embedder(model, config.embedding_size or None, config.neck, in_chans=1, image_size=32)
    for _ in range(2):
        embedder(torch.randn(16, 1, 32, 32) + 1)
    return Trained(folder / "run", config, embedder)


def embeddings(model, images):
    with torch.no_grad():
        return model.eval()(images)


@needs_timm
@pytest.mark.parametrize("neck", ["linear", "bnneck", "none"])
@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_timm_gives_the_same_embeddings(model, neck, tmp_path):
    run = trained(tmp_path, model, neck=neck, embedding_size=0 if neck == "none" else 16)
    folder = export_timm(run)
    files = {"config.json", "model.safetensors", "labels.json", "seen.csv", "README.md"}
    assert {file.name for file in folder.iterdir()} == files
    images = torch.randn(3, 1, 32, 32)
    wanted = embeddings(run.load_model(), images)
    ours = create_embedder(f"local-dir:{folder}", pretrained=True)  # as `pml-center eval local-dir:...` does
    torch.testing.assert_close(embeddings(ours, images), wanted, rtol=1e-4, atol=1e-4)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    torch.testing.assert_close(embeddings(loaded, images), wanted, rtol=1e-4, atol=1e-4)
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    torch.testing.assert_close(embeddings(features, images), embeddings(run.load_model().trunk, images))


def test_an_older_timm_writes_nothing_and_which_does_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "__version__", "1.0.16")
    with pytest.raises(ImportError, match=r"timm must be 1\.0\.31 or newer to write what timm loads, got 1\.0\.16"):
        export_timm(trained(tmp_path, "test_resnet"))
    assert not list(tmp_path.rglob("export*"))


@needs_timm
def test_timm_prepares_images_as_the_run_did(tmp_path):
    run = trained(tmp_path, "test_resnet")
    model = timm.create_model(f"local-dir:{export_timm(run)}", pretrained=True)
    data = timm.data.resolve_model_data_config(model)
    assert data["input_size"] == (1, 32, 32)
    image = digits()[3][0]
    own = run.load_model()
    wanted = eval_transform(own.image_size, own.in_chans, own.mean, own.std)(image)
    assert torch.equal(timm.data.create_transform(**data)(image), wanted)


@needs_timm
def test_a_timm_that_takes_safetensors_for_a_pickle_is_no_matter_here(tmp_path, monkeypatch):
    def broken(*_arguments, **_options):
        raise UnpicklingError("invalid load key")

    run, images = trained(tmp_path, "test_vit"), torch.randn(3, 1, 32, 32)
    folder = export_timm(run)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_path", broken)  # before 1.0.26
    ours = create_embedder(f"local-dir:{folder}", pretrained=True)
    wanted = embeddings(run.load_model(), images)
    torch.testing.assert_close(embeddings(ours, images), wanted, rtol=1e-4, atol=1e-4)


@needs_timm
def test_a_card_tells_the_loss_its_worth_and_whom_to_cite(tmp_path):
    run = trained(tmp_path, "test_resnet", loss="0.5 * ArcFaceLoss(margin=20) + TripletMarginLoss", epochs=7)
    card = (export_timm(run) / "README.md").read_text(encoding="utf-8")
    assert "`0.5 * ArcFaceLoss(margin=20) + TripletMarginLoss`" in card
    assert "for 7 epochs" in card
    assert "- ArcFaceLoss: Deng et al., ArcFace, CVPR 2019, arXiv:1801.07698.\n" in card  # and not which equation
    assert "TripletMarginLoss: pytorch-metric-learning" in card
    assert "What it is worth" not in card
    report = {"metrics": {"recall_at_1": 0.5}, "ci": {"recall_at_1": [0.25, 0.75]}, "ci_level": 0.95}
    report |= {"protocol": "exact cosine search", "counts": {"queries": 12}}
    (run.folder / "eval" / "held-out").mkdir(parents=True)
    (run.folder / "eval" / "held-out" / "report.json").write_text(json.dumps(report))
    folder = export_timm(run)  # over the first
    assert "| recall_at_1 | 0.5000 | 0.2500 … 0.7500 |" in (folder / "README.md").read_text(encoding="utf-8")
    assert json.loads((folder / "labels.json").read_text()) == list(run.classes)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # weights are read by whom all else is
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert config["license"] is None  # of ImageNet weights, which took no part


@needs_timm
def test_what_timm_cannot_say_is_refused_and_nothing_is_trained(tmp_path):
    run = trained(tmp_path, "convnet")
    with pytest.raises(ValueError, match=r"model must be one of timm's.*got 'convnet'. Use --format onnx"):
        export_timm(run)
    assert not (run.folder / "export").exists()
    trunk = timm.create_model("levit_128s", num_classes=0)
    levit = Embedder(trunk, 8, name="levit_128s", in_chans=3, image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ValueError, match=r"one linear layer as classifier.*levit_128s.*several"):
        _with_head(levit)


@needs_timm
def test_a_model_that_embeds_otherwise_is_refused(tmp_path, monkeypatch):
    run = trained(tmp_path, "test_resnet")
    halved = lambda neck, features: [part / 2 for part in _affine(neck, features)]  # noqa: E731
    monkeypatch.setattr("pml_center.training.export._affine", halved)
    with pytest.raises(ValueError, match="must embed images as the run does, got a difference of"):
        export_timm(run)
    assert not list(run.folder.glob("export*"))


@needs_timm
def test_a_folder_with_other_things_is_left_alone(tmp_path):
    run = trained(tmp_path, "test_resnet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"out must be a new folder, got .*mine, which holds other things"):
        export_timm(run, tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("neck", ["linear", "bnneck"])
def test_a_neck_is_an_affine_function_of_the_features(neck):
    model = create_embedder("convnet", 5, neck, width=8)
    for _ in range(3):
        model(torch.randn(8, 1, 8, 8) * 3 + 1)
    weight, bias = _affine(model.neck, 32)
    features = torch.randn(4, 32)
    wanted = embeddings(model.neck, features)
    torch.testing.assert_close(nn.functional.linear(features.double(), weight, bias).float(), wanted)


def test_onnx_says_which_torch_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.8.0")
    with pytest.raises(ImportError, match=r"torch must be 2\.9 or newer to write ONNX, got 2\.8\.0\. Upgrade"):
        export_onnx(trained(tmp_path, "convnet"))


@pytest.mark.parametrize("model", ["convnet", "test_resnet"])
def test_onnx_gives_the_same_embeddings(model, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = trained(tmp_path, model, neck="bnneck")
    path = export_onnx(run)
    session = runtime.InferenceSession(str(path))
    for images in (torch.randn(1, 1, 32, 32), torch.randn(5, 1, 32, 32)):
        [found] = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, embeddings(run.load_model(), images), rtol=1e-3, atol=1e-4)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["mean"]) == [0.5]
    assert json.loads(said["image_size"]) == 32


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.0")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"onnx must be installed to write ONNX. .*pip install 'pml-center\[onnx\]'"):
        export_onnx(trained(tmp_path, "convnet"))


@needs_timm
def test_what_lies_beside_an_export_is_not_deleted(tmp_path):
    run = trained(tmp_path, "test_resnet")
    (tmp_path / "mine.tmp").mkdir()
    (tmp_path / "mine.tmp" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.tmp"):
        export_timm(run, tmp_path / "mine")
    assert (tmp_path / "mine.tmp" / "notes.txt").read_text() == "mine"
