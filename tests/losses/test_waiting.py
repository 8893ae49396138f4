"""A step of training reads no value of a tensor that is not on the CPU, so that it waits for no GPU.

No GPU is needed to see it. Tensors of the ``meta`` device have no values to read, and do not mix with those of the CPU.
A pretended GPU (torch's fake tensors) answers whoever asks for a value with an error; backward needs a driver there.
What is computed otherwise there is compared with what is computed on the CPU by tensors that deny that they are on it.
"""

import copy

import pytest
import torch
from pytorch_metric_learning.reducers import SumReducer
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from pml_center import losses
from pml_center.losses.schedules import LinearWarmup
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES
from tests.regularizer_cases import REGULARIZER_CASES

B = 12
ARCFACE = next(case for case in CASES if case.loss is losses.ArcFaceLoss)
CENTER = next(case for case in CASES if case.loss is losses.CenterLoss)
OPTIONS = [
    {"sub_centers": 3},
    {"sample_rate": 0.5},
    {"sample_rate": 0.5, "sparse_gradient": True},
    {"label_smoothing": 0.1},
    {"loss_weights": [1.0] * NUM_CLASSES},
    {"bias": True},
    {"class_counts": 20, "prior_weight": 1.0},
    {"hard_negatives": 2, "hard_negative_margin": 0.1},
    {"ignore_index": -1},
    {"ignore_index": -1, "reducer": SumReducer()},
    {"margin_schedule": LinearWarmup(2), "scale_schedule": lambda step: 1 / step},
]
OF_CENTERS = [
    {"accumulation_steps": 2},
    {"accumulation_steps": None},
    {"init": "first_batch"},
    {"init": "first_batch", "update": "gradient"},
    {"update": "gradient", "sparse_gradient": True},
]
REGULARIZED = [
    {f"{of}_regularizer": case.build().float()} for of in ("embedding", "weight") for case in REGULARIZER_CASES
]
EVERY = [
    *((case, {}) for case in CASES),
    *((case, case.chunks(4)) for case in CASES if case.chunks(4)),
    *((ARCFACE, option | chunks) for option in OPTIONS for chunks in ({}, {"chunk_size": 4})),
    *((CENTER, option) for option in OF_CENTERS),
    *((ARCFACE, option) for option in REGULARIZED),
]
each_step = pytest.mark.parametrize(("case", "options"), EVERY, ids=lambda each: str(each)[:60])


def batch_on(device, case, dtype=torch.float32):
    """Embeddings, labels, and what stands for references and theirs."""
    embeddings = torch.randn(B, EMBEDDING_SIZE, device=device, dtype=dtype, requires_grad=True)
    labels = torch.zeros(B, dtype=torch.long, device=device)
    return (embeddings, labels, None, embeddings + 1, labels) if case.takes_references else (embeddings, labels)


@each_step
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)  # the latter as under autocast
def test_three_steps_of_training_read_no_value(case, options, dtype):
    loss = case.make(**copy.deepcopy(options)).to("meta")
    parameters = list(loss.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1) if parameters and not loss.sparse_gradient else None
    for _ in range(3):
        batch = batch_on("meta", case, dtype)
        loss(*batch).backward()
        assert batch[0].grad.shape == batch[0].shape
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()


class RealOnTheCPU(TorchDispatchMode):
    """Numbers on the CPU are real, beside a pretended GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if tensors and not any(isinstance(each, FakeTensor) for each in tensors):
            with _disable_current_modes():
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def move_to_pretended_gpu(module):
    """What ``module.to("meta")`` moves, ahead of a real move, is what a GPU would have."""
    there = {id(part): part for part in module.to("meta").modules()}
    for part in there.values():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None and tensor.device.type == "meta":
                    moved = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    table[name] = torch.nn.Parameter(moved) if table is part._parameters else moved


@each_step
def test_three_passes_on_a_pretended_gpu_read_no_value(case, options):
    loss = case.make(**copy.deepcopy(options))
    with FakeTensorMode(allow_non_fake_inputs=True), RealOnTheCPU():
        move_to_pretended_gpu(loss)
        for _ in range(3):
            assert loss(*batch_on("cuda", case)).device.type == "cuda"


def numbers_of_three_steps(loss):
    """Values, gradients and the state."""
    generator, found = torch.Generator().manual_seed(3), []
    for _ in range(3):
        embeddings = torch.randn(B, EMBEDDING_SIZE, generator=generator, dtype=torch.double, requires_grad=True)
        value = loss(embeddings, torch.randint(NUM_CLASSES - 2, (B,), generator=generator))
        loss.zero_grad()
        value.backward()
        found += [value.detach(), embeddings.grad, *(each.grad.to_dense() for each in loss.parameters())]
    if getattr(loss, "accumulation_steps", 1) != 1:
        loss.step_centers()
    return [*found, *loss.state_dict().values()]


@each_step
def test_the_numbers_are_those_of_the_cpu(case, options, elsewhere):
    loss = case.build(**copy.deepcopy(options))
    other = copy.deepcopy(loss)
    expected = numbers_of_three_steps(loss)
    elsewhere()
    torch.testing.assert_close(numbers_of_three_steps(other), expected)
