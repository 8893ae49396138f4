"""export --push, and what the Hub gives back."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError
from packaging.version import Version

from pml_center.backbones import create_embedder
from pml_center.training import Run, hub
from pml_center.training.export import OWN


class Hub:
    """A stand-in of the Hub and its client: repositories are folders."""

    folder = Path()

    def __init__(self, library_name):
        assert library_name == "pml-center"

    def create_repo(self, name, private, exist_ok):
        assert exist_ok
        if name == "others/model":
            raise ConnectionError("403 Forbidden:\n  you may not")
        (self.folder / "me" / name).mkdir(parents=True)
        (self.folder / "me" / name / "private").write_text(str(private))
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
        for name in allow_patterns:
            shutil.copy(folder_path / name, self.folder / repo_id)

    @classmethod
    def download(cls, repo_id, filename, **others):
        if not (cls.folder / repo_id / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(cls.folder / repo_id / filename)


@pytest.mark.skipif(Version(timm.__version__) < Version("1.0.31"), reason="export needs timm 1.0.31")
def test_export_pushes_what_the_hub_gives_back(command, trained, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "folder", tmp_path / "hub")
    monkeypatch.setattr("timm.models._hub.hf_hub_download", Hub.download)
    export = ("export", trained / "timm", "--out", tmp_path / "export", "--push")
    monkeypatch.setattr(hub, "get_token", lambda: None)
    _, err, code = command(*export, "model")
    assert code == 2
    assert "push must come with a token of the Hugging Face Hub, got none for model. Run `hf auth login` with" in err
    assert not (tmp_path / "export").exists()
    monkeypatch.setattr(hub, "get_token", lambda: "secret")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.onnx").write_text("of an earlier export")
    out, _, code = command(*export, "model", "--private")
    assert code == 0
    assert 'timm.create_model("hf-hub:me/model", pretrained=True)' in out
    written = {path.name for path in (tmp_path / "hub" / "me" / "model").iterdir()}
    assert written == {*OWN, "private"}
    assert (tmp_path / "hub" / "me" / "model" / "private").read_text() == "True"
    model, images = create_embedder("hf-hub:me/model", pretrained=True, neck="none").eval(), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), Run.open(trained / "timm").load_model()(images), rtol=1e-3, atol=1e-4)
    _, err, code = command(*export, "others/model")
    assert code == 2
    assert (
        "the Hub must take 'others/model', got ConnectionError (403 Forbidden: you may not). What was exported" in err
    )
    assert "push must be a repository such as owner/model, got 'a/b/c'." in command(*export, "a/b/c")[1]
    assert "--private must come with --push" in command("export", trained / "timm", "--private")[1]
