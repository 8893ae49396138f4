"""What a release holds, and that it works where nothing else of the repository is."""

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pml_center

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FLOORS = {Requirement(line).name: Requirement(line).specifier for line in PROJECT["dependencies"]}


def pinned(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_the_version_is_one():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
    assert PROJECT["version"] == pml_center.__version__
    assert f"\nversion: {pml_center.__version__}\n" in citation
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == pml_center.__version__


def test_every_dependency_was_tested_at_its_floor_and_with_a_newer_version():
    oldest, newest = pinned(ROOT / ".ci" / "oldest.txt"), pinned(ROOT / "pml_center" / "cli" / "newest.txt")
    assert newest.keys() == FLOORS.keys() <= oldest.keys()
    for name, specifier in FLOORS.items():
        floor = next(each.version for each in specifier if each.operator == ">=")
        assert oldest[name] == floor or oldest[name].startswith(f"{floor}."), f"uv pip compile again: {name}"
        assert specifier.contains(newest[name]), name


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    return folder


DATA = ["py.typed", "pages/report.html.jinja", "training/model_card.md.jinja", "cli/newest.txt"]


@pytest.mark.slow
def test_wheel_and_sdist_are_whole(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pml_center").rglob("*") if path.is_file()}
    files = {file for file in files if "__pycache__" not in file}
    assert {f"pml_center/{name}" for name in DATA} < files
    assert len([file for file in files if file.startswith("pml_center/recipes/")]) >= 5
    assert files == {name for name in inside if name.startswith("pml_center/")}
    assert files <= source
    assert {
        ".ci/run",
        ".ci/oldest.txt",
        "tests/conftest.py",
        "docs/conf.py",
        "CITATION.cff",
        "pyproject.toml",
    } <= source


@pytest.mark.slow
def test_an_installed_wheel_works(built, tmp_path):
    """In an environment that has the wheel, and reads what it depends on from this one; nothing of the repository."""
    venv.create(tmp_path / "clean", with_pip=True)
    scripts = tmp_path / "clean" / ("Scripts" if sys.platform == "win32" else "bin")
    (site,) = (tmp_path / "clean").rglob("site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    (wheel,) = built.glob("*.whl")
    install = [scripts / "python", "-m", "pip", "install", "--no-deps", "--force-reinstall", wheel]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)

    def run(*words):
        command = [scripts / "python", "-I", "-m", "pml_center", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert json.loads(run("doctor", "--json"))["ok"]
    run("demo")
    run("train", "digits", "--model", "convnet", "--image-size", "8", "--epochs", "1", "--out", "run")
    assert "<html" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    where = [scripts / "python", "-I", "-c", "import pml_center; print(pml_center.__file__)"]
    assert str(site) in subprocess.run(where, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
