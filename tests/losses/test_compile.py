"""Every loss runs under torch.compile, with the same numbers, and is traced no more once it was."""

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters

from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch):
    torch._dynamo.reset()
    if kept := getattr(aot_eager, "kwargs", None):  # torch 2.4 wraps a function in it anew for each graph, without end
        monkeypatch.setattr(aot_eager, "kwargs", dict(kept))
    yield
    torch._dynamo.reset()


ONE_OF_EACH = {case.loss: case for case in reversed(CASES)}  # compiling takes seconds, and variants share their path


@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
@pytest.mark.parametrize("case", ONE_OF_EACH.values(), ids=str)
def test_compiled_equals_plain(case, generator):
    plain, compiled, traced = case.build(), torch.compile(case.build(), backend="aot_eager"), []
    for factor in (1, 2, 3):  # a second batch meets moved centers and statistics
        embeddings = torch.randn(12, EMBEDDING_SIZE, generator=generator, dtype=torch.double, requires_grad=True)
        labels = factor * torch.arange(12) % NUM_CLASSES  # of all classes: another number may be traced anew, once
        value, expected = compiled(embeddings, labels), plain(embeddings, labels)
        torch.testing.assert_close(value, expected)
        (gradient,), (other,) = torch.autograd.grad(value, embeddings), torch.autograd.grad(expected, embeddings)
        torch.testing.assert_close(gradient, other)
        traced.append(counters["frames"]["total"])
    assert traced[0] > 0
    assert traced[2] == traced[1]
