"""A step of training reads no value of a tensor that is not on the CPU: it waits for no GPU, which none is needed to see.

Tensors of the ``meta`` device have no values to read and do not mix with those of the CPU, and a pretended GPU
(``FakeTensorMode``) answers every question for a value with an error; its backward needs a driver, so it goes forward.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pml_center import losses
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES, Case
from tests.regularizer_cases import REGULARIZER_CASES

B = 12


def of_options(case, *options):
    return [(case, option) for option in options]


ARCFACE = next(case for case in CASES if case.loss is losses.ArcFaceLoss)
CENTER = next(case for case in CASES if case.loss is losses.CenterLoss)
OPTIONS = [
    {"sub_centers": 3},
    {"sample_rate": 0.5},
    {"sample_rate": 0.5, "sparse_gradient": True},
    {"label_smoothing": 0.1},
    {"loss_weights": [1.0] * NUM_CLASSES},
    {"bias": True},
    {"margin_schedule": losses.LinearWarmup(2) if hasattr(losses, "LinearWarmup") else (lambda step: 0.5)},
    {"scale_schedule": lambda step: 1 / step},
]
EVERY = [
    *((case, {}) for case in CASES),
    *((case, case.chunks(4)) for case in CASES if case.chunks(4)),
    *((ARCFACE, option | chunks) for option in OPTIONS for chunks in ({}, {"chunk_size": 4})),
    *((CENTER, option) for option in ({"accumulation_steps": 2}, {"init": "first_batch"}, {"update": "gradient"})),
    (CENTER, {"init": "first_batch", "update": "gradient"}),
    *((ARCFACE, {"embedding_regularizer": case.build().float()}) for case in REGULARIZER_CASES),
    *((ARCFACE, {"weight_regularizer": case.build().float()}) for case in REGULARIZER_CASES),
]
each_step = pytest.mark.parametrize(("case", "options"), EVERY, ids=lambda each: str(each)[:60])


@each_step
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)  # the latter as under autocast
def test_three_steps_of_training_read_no_value(case, options, dtype):
    loss = case.make(**options).to("meta")
    parameters = list(loss.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9) if parameters else None
    for _ in range(3):
        embeddings = torch.randn(B, EMBEDDING_SIZE, device="meta", dtype=dtype, requires_grad=True)
        value = loss(embeddings, torch.zeros(B, dtype=torch.long, device="meta"))
        value.backward()
        assert embeddings.grad.shape == embeddings.shape
        if optimizer is not None and not options.get("sparse_gradient"):
            optimizer.step()
            optimizer.zero_grad()


class Pretended(FakeTensorMode):
    """A machine whose GPU is pretended, and whose numbers on the CPU are real."""

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)


class RealOnTheCPU(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [each for each in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if tensors and not any(isinstance(each, FakeTensor) for each in tensors):
            with _disable_current_modes():
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def pretend(module):
    """Its tensors on the pretended GPU, but for counts, which stay on the CPU."""
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None and not (isinstance(part, Counting) and not tensor.ndim and name != "x"):
                    moved = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    table[name] = torch.nn.Parameter(moved) if table is part._parameters else moved


from pml_center.losses.class_weights import Counting  # noqa: E402


@each_step
def test_three_passes_on_a_pretended_gpu_read_no_value(case, options):
    loss = case.make(**options)
    with Pretended(), RealOnTheCPU():
        pretend(loss)
        for _ in range(3):
            embeddings = torch.randn(B, EMBEDDING_SIZE, device="cuda", requires_grad=True)
            value = loss(embeddings, torch.zeros(B, dtype=torch.long, device="cuda"))
            assert value.device.type == "cuda"
