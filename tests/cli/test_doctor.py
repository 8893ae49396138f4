"""doctor: each thing that can be broken is found to be."""

import json
import sys
from importlib.metadata import PackageNotFoundError
from subprocess import CompletedProcess

import faiss
import pytest
import torch
from packaging.requirements import Requirement

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
    for name in ("torch", "timm", "torch and torchvision", "current folder", "cache of embeddings"):
        assert findings[name]["state"] == "ok"
    for name in ("faiss build", "OpenMP"):  # of this machine: a processor without AVX2, two libraries
        assert findings[name]["state"] in ("ok", "note")
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


@pytest.mark.parametrize(
    ("found_version", "state", "said"),
    [
        ("1.0.12", "broken", "1.0.12, must be >=1.0.16"),
        ("1.0.16", "ok", "1.0.16, tested from 1.0.16 to 1."),
        ("99.0", "ok", "99.0, newer than what was tested from 1.0.16 to 1."),
    ],
)
def test_a_version_is_held_against_those_that_were_tested(monkeypatch, found_version, state, said):
    monkeypatch.setattr(doctor, "version", lambda name: found_version)
    finding = doctor._package(Requirement("timm>=1.0.16"))
    assert finding.state == state
    assert finding.found.startswith(said)
    assert finding.remedy == ("pip install 'timm>=1.0.16'" if state == "broken" else "")


def test_torch_that_torchvision_was_not_built_for_is_broken(monkeypatch):
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "2.3.1" if name == "torch" else real(name))
    with pytest.raises(ImportError, match=r"needs torch.*, got 2\.3\.1"):
        doctor._torchvision()


@pytest.mark.parametrize(("cuda", "said"), [(None, "is built for CPUs"), ("13.2", "that CUDA 13.2 cannot use")])
def test_a_gpu_that_torch_does_not_use_is_noted(monkeypatch, cuda, said):
    monkeypatch.setattr(doctor, "_has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found, advice = doctor._torch()
    assert said in found
    assert "install" in advice


def test_faiss_without_avx2_is_noted(monkeypatch):
    monkeypatch.setattr(faiss, "get_compile_options", lambda: "OPTIMIZE GENERIC ")
    assert doctor._faiss()[0].endswith("without AVX2")
    assert "FAISS_OPT_LEVEL" in doctor._faiss()[1]


def test_two_openmp_libraries_are_noted(monkeypatch):
    ended = CompletedProcess([], 0, "libgomp.so.1 and libomp.so\n", "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: ended)
    assert "loaded twice" in doctor._openmp()[1]


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
