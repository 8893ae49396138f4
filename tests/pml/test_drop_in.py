"""PML's losses and ours by the same code: the ways of ``ways.py``, each with both."""

import contextlib
import copy
import functools
import io
import math
import pickle
import re
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import timm.optim
import timm.utils
import torch
import torch.nn.functional as F
from packaging.requirements import Requirement
from pytorch_metric_learning import distances, miners, reducers, regularizers, testers, trainers
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.losses.mixins import WeightMixin
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import nn
from torch.utils.data import TensorDataset

import pml_center
from pml_center.losses import BaseSoftmaxLoss, pml_state
from tests.pml import ways


class Twice(nn.Module):
    """Two embeddings side by side."""

    def forward(self, rows):
        return torch.cat([rows, 2 * rows], 1)


MODULES = (copy, distances, functools, io, math, miners, nn, pickle, pml_center, pml_state, reducers, regularizers)
MODULES += (testers, timm, torch, trainers)
NAMES = {module.__name__.rpartition(".")[2]: module for module in MODULES}
NAMES |= {
    "F": F,
    "c_f": c_f,
    "np": np,
    "pml": pml_losses,
    "Twice": Twice,
    "AccuracyCalculator": AccuracyCalculator,
    "TensorDataset": TensorDataset,
}
NAMES["CPU"], NAMES["__name__"] = torch.device("cpu"), __name__  # the name is for classes that a code makes
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of PML


def fill(weight):
    """The start of all."""
    weight.data.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))


@pytest.fixture(autouse=True)
def _same_start(monkeypatch):
    """Weights that nobody gives a start begin from the same numbers."""
    for kind in (WeightMixin, BaseSoftmaxLoss):
        monkeypatch.setattr(kind, "get_default_weight_init_func", lambda self: fill)
    monkeypatch.setattr(c_f, "COLLECT_STATS", False)


def weights(loss):
    """The class weights as PML has them, and their gradient."""
    if isinstance(loss, BaseSoftmaxLoss):
        weight = loss.class_weights.weight
        return weight.detach().t(), None if weight.grad is None else weight.grad.t()
    weight = loss.W if hasattr(loss, "W") else loss.weight
    return weight.detach(), weight.grad


@functools.cache
def saved_by_pml(kind):
    """The states of PML's loss and of its optimizer after a step."""
    sizes = {"descriptors_dim" if kind == "P2SGradLoss" else "embedding_size": 8}
    loss = getattr(pml_losses, kind)(num_classes=5, **sizes)
    adam = torch.optim.Adam(loss.parameters())
    generator = torch.Generator().manual_seed(2)
    loss(torch.randn(20, 8, generator=generator), torch.arange(20) % 5).backward()
    adam.step()
    return {"saved": loss.state_dict(), "saved_adam": adam.state_dict()}


def run(code, losses, kind):
    """What the names of the code are in the end; where each code begins is in ``ways.py``."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model, Loss = nn.Linear(6, 8), getattr(losses, kind)
    sizes = {"descriptors_dim" if kind == "P2SGradLoss" else "embedding_size": 8}
    loss = Loss(num_classes=5, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x, e = torch.randn(20, 6, generator=generator), torch.randn(20, 8, generator=generator).requires_grad_()
    y = torch.arange(20) % 5
    space = NAMES | {"losses": losses, "Loss": Loss, "loss": loss, "model": model, "x": x, "e": e, "y": y}
    if "saved" in code:
        space |= copy.deepcopy(saved_by_pml(kind))
    if "trainer" in code:
        parts = {"trunk_optimizer": model, "metric_loss_optimizer": loss}
        space["optimizers"] = {name: torch.optim.SGD(part.parameters(), lr=0.1) for name, part in parts.items()}
        space |= {"data": TensorDataset(x, y), "models": {"trunk": model}, "loss_funcs": {"metric_loss": loss}}
    exec(code, space)
    return space


def left(space):
    """What is compared."""
    loss, e = space["loss"], space["e"]
    if "result" in space:
        return [space["result"], *(weights(module)[0] for module in loss.modules() if is_softmax(module))]
    value = space["value"] if "value" in space else loss(e, space["y"])
    value.backward()
    found = [value, e.grad, *weights(loss)]
    torch.optim.SGD(loss.parameters(), lr=0.1).step()
    return [*found, weights(loss)[0]]


def is_softmax(module):
    """Whether it has class weights that are compared; PML's P2SGrad shortens its own in the forward pass."""
    if type(module).__name__ == "P2SGradLoss":
        return False
    return isinstance(module, BaseSoftmaxLoss) or isinstance(getattr(module, "W", None), nn.Parameter)


def assert_same(found, expected):
    """Numbers to rounding, all else as it is."""
    assert type(found) is type(expected) or isinstance(found, torch.Tensor) or np.isscalar(found)
    if isinstance(found, torch.Tensor | float):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, check_dtype=False)
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected)
        for mine, other in zip(found, expected, strict=True):
            assert_same(mine, other)
    else:
        assert found == expected


@contextlib.contextmanager
def theirs():
    """PML's losses warn of torch's own changes, which is no matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pml_losses


def expected_of(way, kind):
    with theirs() as losses:
        return left(run(way.code, losses, kind))


def cases(*outcomes):
    found = [way for way in ways.WAYS if way.outcome in outcomes]
    marked = [pytest.param(way, id=str(way), marks=skip_below(way.needs)) for way in found]
    return pytest.mark.parametrize("way", marked)


def skip_below(needs):
    """The marks of what needs a version, such as ``"torch>=2.5"``, that may not be there."""
    wanted = Requirement(needs) if needs else None
    if wanted is None or wanted.specifier.contains(version(wanted.name), prereleases=True):
        return []
    return [pytest.mark.skip(reason=f"needs {needs}, got {version(wanted.name)}")]


DROPPED = re.compile("(reducer|regularizer|weight_init_func|collect_stats)=")


@cases("same")
def test_what_stays_the_same(way):
    for kind in way.kinds:
        if kind == "SubCenterArcFaceLoss" and skip_below("pytorch-metric-learning>=2.9") and DROPPED.search(way.code):
            continue  # PML's ignored them
        assert_same(left(run(way.code, pml_center.losses, kind)), expected_of(way, kind))


@cases("better")
def test_what_is_better(way):
    for kind in way.kinds:
        if way.says:
            with pytest.raises(Exception, match=way.says):
                run(way.code, pml_center.losses, kind)
        else:
            exec(way.check, run(way.code, pml_center.losses, kind))
        with theirs() as losses, pytest.raises(Exception) as caught:  # noqa: PT011, whatever PML or torch say
            exec(way.check or "raise ValueError('no error')", run(way.code, losses, kind))
        assert not (way.says and way.says in str(caught.value))


@cases("sentence", "warning")
def test_what_is_said(way):
    assert way.says
    for kind in way.kinds:
        said = pytest.raises(Exception, match=way.says)
        if way.outcome == "warning":
            said = pytest.warns(UserWarning, match=way.says)
        with said:
            run(way.code, pml_center.losses, kind)
        check_instead(way, kind)


@cases("page")
def test_what_the_page_says(way):
    assert way.here
    for kind in way.kinds:
        with pytest.raises(Exception):  # noqa: B017, PT011
            assert_same(left(run(way.code, pml_center.losses, kind)), expected_of(way, kind))
        check_instead(way, kind)


def check_instead(way, kind):
    """What the page says to write does here what the code does with PML's."""
    if way.instead:
        with warnings.catch_warnings():
            if way.outcome == "warning":
                warnings.simplefilter("ignore")
            assert_same(left(run(way.instead, pml_center.losses, kind)), expected_of(way, kind))


def test_the_page_is_made_from_the_ways():
    assert ways.written(ways.PAGE.read_text(encoding="utf-8")) == ways.PAGE.read_text(encoding="utf-8"), (
        "run python -m tests.pml.ways"
    )


def test_ways_were_found():
    names = [str(way) for way in ways.WAYS]
    assert len(set(names)) == len(names) >= 200
    assert {way.outcome for way in ways.WAYS} == {"same", "better", "sentence", "warning", "page"}
