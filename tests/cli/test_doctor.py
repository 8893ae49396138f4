"""doctor: each thing that can be broken is found to be."""

import json
import sys
from importlib.metadata import PackageNotFoundError
from subprocess import CompletedProcess

import pytest

from pml_center.cli import doctor
from pml_center.cli.doctor import examine, search_after_training


@pytest.fixture
def quick(monkeypatch):
    """Without the second process, which takes seconds."""
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: CompletedProcess([], 0, "libgomp\n", ""))


def found(name):
    return next(finding for finding in examine() if finding.name == name)


def test_this_installation_is_sound(command):
    out, _, code = command("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(out)["findings"]}
    assert code == 0, [finding for finding in findings.values() if finding["state"] == "broken"]
    for name in ("torch", "timm", "faiss build", "OpenMP", "current folder", "cache of embeddings"):
        assert findings[name]["state"] == "ok"
    assert "threads" in findings["threads and GPU"]["found"]
    assert "torch, then faiss, with" in findings["OpenMP"]["found"]
    assert findings["umap"]["state"] in ("ok", "note")


def test_the_search_names_what_it_runs_on():
    assert all("omp" in library for library in search_after_training())


@pytest.mark.usefixtures("quick")
def test_what_is_broken_is_said_and_ends_with_exit_code_1(command, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PML_CENTER_CACHE", str(tmp_path / "file" / "cache"))
    out, _, code = command("doctor")
    assert code == 1
    assert "1 broken: cache of embeddings" in out
    assert "choose another folder" in " ".join(out.split())


@pytest.mark.usefixtures("quick")
def test_a_package_that_is_missing_is_named_with_its_remedy(monkeypatch):
    real = doctor.version

    def version(name):
        if name in ("timm", "umap-learn"):
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    assert (found("timm").state, found("timm").remedy) == ("broken", "pip install timm")
    assert (found("umap").state, found("umap").remedy) == ("note", "for it: pip install 'pml-center[umap]'")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("owners", "said"), [([], "not installed"), (["faiss-cpu", "faiss-gpu"], "faiss-cpu, faiss-gpu")]
)
def test_no_faiss_or_two_of_it_are_broken(monkeypatch, owners, said):
    monkeypatch.setattr(doctor, "packages_distributions", lambda: {"faiss": owners})
    assert (found("faiss").state, found("faiss").found) == ("broken", said)


@pytest.mark.usefixtures("quick")
def test_faiss_that_does_not_import_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert found("faiss build").state == "broken"


@pytest.mark.parametrize(
    "ended", [CompletedProcess([], -11, "", ""), CompletedProcess([], 3, "", "OMP: Error #15: already initialized\n")]
)
def test_a_clash_of_openmp_is_broken(monkeypatch, ended):
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: ended)
    assert found("OpenMP").state == "broken"
    assert ("-11" if ended.returncode == -11 else "Error #15") in found("OpenMP").found
    assert "OMP_NUM_THREADS=1" in found("OpenMP").remedy


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_noted(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**20}))
    assert (found("disk").state, found("disk").remedy) == ("note", "make room before a long run")
