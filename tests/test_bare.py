"""Losses, regularizers and distributed need torch, numpy and PML alone; whatever needs more names it."""

import subprocess
import sys

import pytest

from pml_center.names import forwarded, require

MORE = [
    "PIL",
    "cyclopts",
    "faiss",
    "filelock",
    "jinja2",
    "matplotlib",
    "packaging",
    "rich",
    "safetensors",
    "threadpoolctl",
]
MORE += ["timm", "torchvision", "yaml", "huggingface_hub"]

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MORE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in MORE else find_spec(name, *rest)
sys.meta_path.insert(0, Absent())

import torch
from pml_center import distributed, losses, param_groups, regularizers

loss = losses.MultipleLosses([
    losses.ArcFaceLoss(3, 4, embedding_regularizer=regularizers.RingRegularizer()), losses.CenterLoss(3, 4),
])
embeddings = torch.randn(6, 4, requires_grad=True)
loss(embeddings, torch.arange(6) % 3).backward()
assert embeddings.grad.isfinite().all()
assert len(param_groups(torch.nn.Linear(2, 2), loss, lr=0.1)) > 0

for room in ("evaluation", "data", "backbones", "plots", "pages", "comparison", "cli", "training.loop"):
    try:
        __import__(f"pml_center.{room}")
    except ModuleNotFoundError as error:
        print(error)
"""


def test_losses_work_beside_torch_and_pml_alone_and_the_rest_says_what_it_needs():
    program = PROGRAM.replace("MORE", repr(MORE))
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    for room, needed in {"evaluation": "faiss-cpu", "data": "timm", "plots": "matplotlib", "cli": "cyclopts"}.items():
        (line,) = {line for line in said if line.startswith(f"pml_center.{room} needs ")}
        assert f" {needed}" in line.partition("Run: python -m pip install")[2]


def test_a_room_names_all_that_it_lacks_as_it_is_installed():
    with pytest.raises(
        ModuleNotFoundError, match=r"here needs PIL0, no_such, which are not installed\. Run: .* PIL0 no_such$"
    ):
        require("here", "math", "PIL0", "no_such")


def test_a_name_whose_home_lacks_something_says_so(tmp_path, monkeypatch):
    (tmp_path / "made_home.py").write_text("import no_such_package", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"here\.fit needs no_such_package, .* pip install no_such_package$"):
        forwarded("here", {"fit": "made_home"})("fit")
