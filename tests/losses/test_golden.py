"""Losses against values that official code computed."""

from operator import attrgetter

import pytest
import torch

from tests import golden_io
from tests.golden_adapters import ADAPTERS

FILES = [
    (name, adapter)
    for (loss, implementation), adapter in ADAPTERS.items()
    for name in golden_io.names(f"{loss}__{implementation}__*")
]


@pytest.mark.parametrize(("name", "adapter"), FILES, ids=[name for name, _ in FILES])
def test_equals_the_official_code(name, adapter):
    golden = golden_io.load(name)
    loss = adapter.build(golden)
    if loss is None:
        assert adapter.why
        pytest.skip(adapter.why)
    arrays = golden.arrays
    state = {name: arrays[f"init/param/{name}"] for name in adapter.parameters}
    state |= {name: arrays[f"init/state/{name}"] for name in adapter.states}
    compared = 0
    for number in range(golden.meta["steps"]):
        step = golden.step(number)
        found = one_step(loss, adapter, state, step)
        expected = {"loss", "grad/embeddings"} | {f"grad/{name}" for name in adapter.parameters}
        expected |= {f"state_after/{name}" for name in adapter.states}
        expected = (expected & step.keys()) - set(adapter.leave_out)
        for key in expected:
            golden.assert_close(f"s{number}/{key}", found[key])
        compared += len(expected)
        state |= {name: step[f"param_after/{name}"] for name in adapter.parameters if f"param_after/{name}" in step}
        state |= {name: step[f"state_after/{name}"] for name in adapter.states if f"state_after/{name}" in step}
    assert compared >= golden.meta["steps"]


def one_step(loss, adapter, state, step):
    """Loss, gradients and new states of one batch, from given parameters and states."""
    for golden_name, path in {**adapter.parameters, **adapter.states}.items():
        own = attrgetter(path)(loss)
        own.data = torch.from_numpy(state[golden_name]).to(own).reshape(own.shape).clone()
    if adapter.inputs is not None:
        adapter.inputs(loss, step)
    loss.zero_grad()
    embeddings = torch.from_numpy(step["embeddings"]).requires_grad_()
    labels = torch.from_numpy(step["labels"])
    value = loss(embeddings, labels)
    value.backward()
    found = {"loss": value, "grad/embeddings": embeddings.grad}
    found |= {f"grad/{name}": attrgetter(path)(loss).grad for name, path in adapter.parameters.items()}
    found |= {f"state_after/{name}": attrgetter(path)(loss) for name, path in adapter.states.items()}
    return {key: tensor for key, tensor in found.items() if tensor is not None}
