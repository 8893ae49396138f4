"""Two processes that train together do what one process does with the joined batch."""

import re
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pml_center import losses
from pml_center.distributed.collectives import processes
from pml_center.losses import CenterLoss, SoftmaxCenterLoss, SoftmaxLoss
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES

INPUTS = 6
EQUAL = ((6, 6),) * 4  # samples of the two processes, in each batch
UNEQUAL = ((3, 9), (12, 1), (0, 5), (4, 0), (7, 5))

sizes = NUM_CLASSES, EMBEDDING_SIZE
center, island, joint = (partial(kind, *sizes) for kind in (CenterLoss, losses.IslandLoss, SoftmaxCenterLoss))


def train(make, wrap=None, batches=EQUAL, micro_batches=1):
    """Train a small network: by one process on all samples of each batch, or by each of two on its own.

    Args:
        make: the loss.
        wrap: what two processes put around it.
        batches: how many samples each of the two has.
        micro_batches: for one step of the optimizer.

    Returns:
        The gradients of the network, and gradient and state of the loss, after each batch.
    """
    together = processes() > 1
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, EMBEDDING_SIZE)).double()
    inner = make().double()
    model = DistributedDataParallel(network) if together else network
    loss = wrap(inner) if together and wrap else inner
    optimizer = torch.optim.SGD([*network.parameters(), *inner.parameters()], lr=0.1)
    generator = torch.Generator().manual_seed(1)
    found = []
    for number, (first, second) in enumerate(batches, 1):
        inputs = torch.randn(first + second, INPUTS, generator=generator, dtype=torch.double)
        labels = torch.randint(4, (first + second,), generator=generator)
        labels[first:] += 2  # each process has classes of its own
        own = slice(None) if not together else slice(first) if dist.get_rank() == 0 else slice(first, None)
        value = loss(model(inputs[own]), labels[own])
        share = len(labels[own]) * processes() / len(labels)  # so that the mean of processes is that of samples
        (share * value).backward()
        found.append({name: value.clone() for name, value in inner.state_dict().items()})
        for name, parameter in [*network.named_parameters("network"), *inner.named_parameters("loss")]:
            found[-1][f"gradient of {name}"] = parameter.grad.clone()
        if number % micro_batches == 0:
            optimizer.step()
            optimizer.zero_grad()
    return found


STEPPING_BY_THEMSELVES = {
    "paper": {"make": center},
    "mean": {"make": partial(center, update="mean")},
    "first batch": {"make": partial(center, init="first_batch")},
    "island": {"make": partial(island, init="normal")},
    "island, mean": {"make": partial(island, init="normal", update="mean")},
    "accumulated": {"make": partial(center, accumulation_steps=2), "micro_batches": 2},
}
WITH_OTHER_SIZES = {  # PML's wrapper needs equal sizes
    "unequal": {"make": center, "batches": UNEQUAL},
    "unequal, mean, first batch": {"make": partial(center, update="mean", init="first_batch"), "batches": UNEQUAL},
    "unequal, accumulated, first batch": {
        "make": partial(center, init="first_batch", accumulation_steps=2),
        "batches": UNEQUAL[:4],
        "micro_batches": 2,
    },
}
MOVED_BY_AN_OPTIMIZER = {
    "gradient": {"make": partial(center, update="gradient", init="normal")},
    "gradient, first batch": {"make": partial(center, update="gradient", init="first_batch")},
    "gradient, accumulated": {"make": partial(center, update="gradient", init="normal"), "micro_batches": 2},
    "gradient, unequal": {"make": partial(center, update="gradient", init="first_batch"), "batches": UNEQUAL},
    "island, gradient": {"make": partial(island, init="normal", update="gradient")},
    "softmax": {"make": partial(SoftmaxLoss, *sizes)},
    "softmax and center": {"make": joint},
    "softmax and center, mean, first batch": {"make": partial(joint, update="mean", init="first_batch")},
    "softmax and center, unequal": {"make": joint, "batches": UNEQUAL},
    "softmax and center, accumulated": {"make": partial(joint, accumulation_steps=2), "micro_batches": 2},
    "softmax and center, gradient": {"make": partial(joint, update="gradient", init="normal")},
    "softmax and center, shared": {"make": partial(joint, update="gradient", shared=True)},
}
WITHOUT_PARAMETERS = [case for case in CASES if not list(case.make().parameters())]
LOOK_AT_THEIR_BATCH = {"AdaCosLoss", "AdaFaceLoss", "CurricularFaceLoss", "ElasticFaceLoss", "KappaFaceLoss"}
LOOK_AT_THEIR_BATCH |= {"BroadFaceLoss", "VPLLoss"}  # these remember it
TWICE = {"batches": EQUAL[:2]}
WITH_PARAMETERS = [case for case in CASES if case not in WITHOUT_PARAMETERS]
EQUAL_TO_ONE_PROCESS = {
    **{f"alone: {name}": check for name, check in {**STEPPING_BY_THEMSELVES, **WITH_OTHER_SIZES}.items()},
    **{f"DDP: {name}": {**check, "wrap": DistributedDataParallel} for name, check in MOVED_BY_AN_OPTIMIZER.items()},
    **{f"wrapper: {name}": {**check, "wrap": DistributedLossWrapper} for name, check in STEPPING_BY_THEMSELVES.items()},
    **{f"wrapper: {case}": {"make": case.build, "wrap": DistributedLossWrapper} for case in WITHOUT_PARAMETERS},
    **{
        f"DDP: {case}": {"make": case.build, "wrap": DistributedDataParallel, **TWICE}
        for case in WITH_PARAMETERS
        if case.is_softmax and case.loss.__name__ not in LOOK_AT_THEIR_BATCH
    },
}
SAME_ON_BOTH = {
    **{f"DDP: {case}": {"make": case.build, "wrap": DistributedDataParallel, **TWICE} for case in WITH_PARAMETERS},
    **{f"alone: {case}": {"make": case.build, **TWICE} for case in WITHOUT_PARAMETERS if case.has_classes},
}


def refused(loss, *batch):
    """What a loss says to a mistake."""
    try:
        loss(*batch)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def mistakes():
    """What losses say to a wrapper that is not for them."""
    embeddings, labels = torch.randn(6, EMBEDDING_SIZE, dtype=torch.double), torch.arange(6)
    batch = embeddings.requires_grad_(), labels
    said = {f"wrapper: {case}": refused(DistributedLossWrapper(case.build()), *batch) for case in WITH_PARAMETERS}
    sparse = {
        "center": center(update="gradient", sparse_gradient=True),
        "softmax and center": joint(update="gradient", sparse_gradient=True),
        "sampled softmax": SoftmaxLoss(*sizes, sample_rate=0.9, sparse_gradient=True),
    }
    said |= {
        f"sparse: {name}": refused(DistributedDataParallel(loss.double()), *batch) for name, loss in sparse.items()
    }
    said["efficient"] = refused(DistributedLossWrapper(center().double(), efficient=True), *batch)
    joined = get_all_pairs_indices(torch.arange(12) % 6)
    said["tuples of the joined batch"] = refused(center().double(), *batch, joined)
    return said


def nothing_for_one(rank):
    """The gradients of class weights in three batches; the second process has only ignored labels in one."""
    softmax = SoftmaxLoss(*sizes, ignore_index=-1, weight_init_func=nn.init.zeros_).double()
    loss, embeddings = DistributedDataParallel(softmax), torch.ones(6, EMBEDDING_SIZE, dtype=torch.double)
    gradients = []
    for labels in (torch.arange(6), torch.full((6,), -rank), torch.arange(6)):
        softmax.zero_grad()
        loss(embeddings, labels).backward()
        gradients.append(softmax.class_weights.weight.grad)
    return gradients


def work(rank, folder):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, timedelta(minutes=20), rank=rank, world_size=2)
    found = {name: train(**check) for name, check in {**EQUAL_TO_ONE_PROCESS, **SAME_ON_BOTH}.items()}
    found |= {"mistakes": mistakes(), "nothing for one": nothing_for_one(rank)}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("pair")
    mp.spawn(work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", EQUAL_TO_ONE_PROCESS)
def test_two_processes_equal_one_with_the_joined_batch(name, pair):
    alone = train(**EQUAL_TO_ONE_PROCESS[name])
    first, second = (found[name] for found in pair)
    assert len(alone) >= 2
    torch.testing.assert_close(first, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize("name", SAME_ON_BOTH)
def test_two_processes_never_drift(name, pair):
    first, second = (found[name] for found in pair)
    for one, other in zip(first, second, strict=True):
        shared = [key for key in one if "gradient of" in key or "centers" in key or "last_seen" in key]
        assert "gradient of network.0.weight" in shared
        assert all(torch.equal(one[key], other[key]) for key in shared)
        assert all(value.isfinite().all() for value in one.values())


@pytest.mark.parametrize("case", WITH_PARAMETERS, ids=str)
def test_the_wrapper_that_would_multiply_a_gradient_is_refused(case, pair):
    for found in pair:
        expected = rf"TypeError: {case.loss.__name__} must not be inside DistributedLossWrapper, which multiplies the"
        assert re.match(expected, found["mistakes"][f"wrapper: {case}"])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("sparse: center", r"TypeError: sparse_gradient must be False for CenterLoss inside DistributedDataParallel"),
        ("sparse: softmax and center", r"TypeError: sparse_gradient must be False for SoftmaxCenterLoss inside Dis"),
        ("sparse: sampled softmax", r"TypeError: sparse_gradient must be False for SoftmaxLoss inside Distributed"),
        ("efficient", r"ValueError: ref_emb must be None for CenterLoss.* efficient=True of DistributedLossWrapper"),
        ("tuples of the joined batch", r"ValueError: indices_tuple must index the 6 samples of the batch, got 6"),
    ],
)
def test_another_mistake_of_several_processes_is_answered(mistake, message, pair):
    for found in pair:
        assert re.match(message, found["mistakes"][mistake])


def test_a_process_whose_labels_are_all_ignored_holds_up_nobody(pair):
    first, second = (found["nothing for one"] for found in pair)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    towards = (1 / NUM_CLASSES - torch.tensor([1.0, 0, 0, 0, 0, 0, 0], dtype=torch.double)) / 2  # half of it is 0
    torch.testing.assert_close(first[1], towards.unsqueeze(1).expand(sizes))
    assert first[2].any()


@pytest.mark.parametrize("wrap", [nn.Identity(), DistributedLossWrapper], ids=["alone", "wrapper"])
def test_a_process_that_is_the_only_one_is_as_any_other(wrap, generator, tmp_path):
    batch = torch.randn(6, EMBEDDING_SIZE, generator=generator, dtype=torch.double), torch.arange(6)
    expected = [case.build() for case in CASES]
    values = [loss(*batch) for loss in expected]
    dist.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        for case, other, value in zip(CASES, expected, values, strict=True):
            loss = case.build()
            assert torch.equal(wrap(loss)(*batch), value)
            assert all(torch.equal(loss.state_dict()[name], each) for name, each in other.state_dict().items())
    finally:
        dist.destroy_process_group()
