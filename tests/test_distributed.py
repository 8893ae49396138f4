"""Two processes with ``prepare`` do what one process does with the joined batch, whatever the loss."""

import os
import re
import socket
import warnings
from contextlib import suppress
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, reducers
from pytorch_metric_learning import regularizers as pml_regularizers
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pml_center import distributed, losses, param_groups, regularizers
from pml_center.losses import CenterLoss, SoftmaxCenterLoss, SoftmaxLoss
from pml_center.training import parse_loss
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES

INPUTS = 6
UNEQUAL = ((3, 9), (1, 0), (0, 5), (12, 1))  # samples of the two processes, in each batch
TWICE = ((7, 5), (4, 8))

sizes = NUM_CLASSES, EMBEDDING_SIZE
center, softmax = partial(CenterLoss, *sizes), partial(SoftmaxLoss, *sizes)


def share_of(first, second):
    """The rows of this process in the joined batch; all of them for one process."""
    if distributed.world_size() == 1:
        return slice(None)
    return slice(first) if distributed.is_main() else slice(first, first + second)


def train(make, batches=TWICE, micro_batches=1, ignored=False):
    """Train a small network: by one process on all samples of each batch, or by each of two on its own.

    Args:
        make: the loss.
        batches: how many samples each of the two has.
        micro_batches: for one step of the optimizer.
        ignored: whether the samples of the second process have the label -1, and so take no part.

    Returns:
        The value, the gradients and the state after each batch.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, EMBEDDING_SIZE)).double()
    inner = make().double()
    torch.manual_seed(3 + distributed.rank())  # each process has a generator of its own
    model, loss = distributed.prepare(network, inner)
    optimizer = torch.optim.SGD(param_groups(network, inner, lr=0.1))
    generator = torch.Generator().manual_seed(1)
    found = []
    for number, (first, second) in enumerate(batches, 1):
        inputs = torch.randn(first + second, INPUTS, generator=generator, dtype=torch.double)
        labels = torch.randint(4, (first + second,), generator=generator)
        labels[first:] += 2  # each process has classes of its own
        if ignored:
            labels[first:] = -1
        own = share_of(first, second)
        value = loss(model(inputs[own]), labels[own])
        parts = {}
        if isinstance(value, tuple):
            value, parts = value
        value.backward()
        found.append({"value": value.detach(), **parts})
        found[-1] |= {f"state {name}": each.clone() for name, each in inner.state_dict().items()}
        for name, parameter in [*network.named_parameters("network"), *inner.named_parameters("loss")]:
            if parameter.grad is not None:
                found[-1][f"gradient of {name}"] = parameter.grad.to_dense().clone()
        if number % micro_batches == 0:
            optimizer.step()
            optimizer.zero_grad()
    return found


def formula(text):
    return partial(parse_loss, text, *sizes)


def several():
    """PML's sum of losses, with a miner."""
    return pml_losses.MultipleLosses(
        {"softmax": softmax(), "center": center(), "triplet": pml_losses.TripletMarginLoss()},
        miners={"triplet": miners.MultiSimilarityMiner()},
        weights={"softmax": 1, "center": 0.1, "triplet": 0.5},
    )


def mined(miner):
    return pml_losses.MultipleLosses([pml_losses.TripletMarginLoss()], miners=[miner])


def shared():
    """Centers that are the class weights of another loss."""
    loss = softmax()
    return pml_losses.MultipleLosses([loss, CenterLoss(*sizes, update="gradient", shared_with=loss)])


def with_memory():
    return pml_losses.CrossBatchMemory(pml_losses.ContrastiveLoss(), EMBEDDING_SIZE, memory_size=16)


ALONE = {
    "GenericPairLoss",
    "ManifoldLoss",
    "MultipleLosses",
    "P2SGradLoss",
    "RankedListLoss",
    "SmoothAPLoss",
    "VICRegLoss",
}
ALONE |= {"CrossBatchMemory", "SelfSupervisedLoss"}  # these take other arguments, or other batches
ALONE |= {"DynamicSoftMarginLoss"}  # cannot take a second batch, in one process either
OF_PML = [
    name for name in dir(pml_losses) if name.endswith("Loss") and name not in ALONE and not name.startswith("Base")
]
REDUCERS = {
    "mean": reducers.MeanReducer(),
    "sum": reducers.SumReducer(),
    "above 0": reducers.AvgNonZeroReducer(),
    "above a threshold": reducers.ThresholdReducer(low=1.9),
    "by class": reducers.ClassWeightedReducer(torch.arange(1.0, NUM_CLASSES + 1)),
    "of each anchor": reducers.PerAnchorReducer(),
    "divided": reducers.DivisorReducer(),
}
MINERS = [
    miners.BatchHardMiner(),
    miners.MultiSimilarityMiner(),
    miners.DistanceWeightedMiner(cutoff=0.1),
    miners.UniformHistogramMiner(),
]
CHECKS = {
    **{f"ours: {case}": {"make": case.build, "batches": UNEQUAL} for case in CASES},
    **{f"PML: {name}": {"make": formula(f"pml.{name}")} for name in OF_PML},
    "sampled": {"make": partial(softmax, sample_rate=0.7), "batches": UNEQUAL},
    "sampled, sparse": {"make": partial(softmax, sample_rate=0.7, sparse_gradient=True)},
    "sub-centers, smooth": {"make": partial(softmax, sub_centers=2, label_smoothing=0.1), "batches": UNEQUAL},
    "center, mean": {"make": partial(center, update="mean", init="first_batch"), "batches": UNEQUAL},
    "center, gradient": {"make": partial(center, update="gradient", init="first_batch"), "batches": UNEQUAL},
    "center, gradient, sparse": {"make": partial(center, update="gradient", init="normal", sparse_gradient=True)},
    "center, accumulated": {"make": partial(center, accumulation_steps=2), "batches": UNEQUAL, "micro_batches": 2},
    "center, shared": {"make": shared},
    "softmax, accumulated": {"make": softmax, "batches": UNEQUAL, "micro_batches": 2},
    "softmax, ignored": {"make": partial(softmax, ignore_index=-1), "ignored": True},
    "softmax, weights of classes": {"make": partial(softmax, loss_weights=range(1, NUM_CLASSES + 1))},
    "several": {"make": several},
    "memory": {"make": with_memory},
    "formula": {
        "make": formula("SoftmaxLoss + 0.01 * CenterLoss(alpha=0.9) + 2 * TripletMarginLoss @ MultiSimilarityMiner"),
        "batches": UNEQUAL[:2],
    },
    "triplets drawn": {"make": partial(pml_losses.TripletMarginLoss, triplets_per_anchor=3)},
    **{f"mined by {type(miner).__name__}": {"make": partial(mined, miner)} for miner in MINERS},
    **{f"softmax, {name}": {"make": partial(softmax, reducer=each)} for name, each in REDUCERS.items()},
    "triplets, above a threshold": {
        "make": partial(pml_losses.TripletMarginLoss, reducer=reducers.ThresholdReducer(low=0.05))
    },
    "ring": {"make": partial(softmax, embedding_regularizer=regularizers.RingRegularizer(), embedding_reg_weight=0.1)},
    "length": {
        "make": partial(
            pml_losses.ContrastiveLoss, embedding_regularizer=pml_regularizers.LpRegularizer(), embedding_reg_weight=0.1
        )
    },
    "class weights apart": {
        "make": partial(softmax, weight_regularizer=pml_regularizers.RegularFaceRegularizer(), weight_reg_weight=0.1)
    },
    "class weights of the batch": {
        "make": partial(softmax, weight_regularizer=regularizers.CenterInvariantRegularizer(), weight_reg_weight=0.1)
    },
}


def references():
    """Losses of two sets of embeddings, whose sizes differ in their own way."""
    generator = torch.Generator().manual_seed(1)
    first, second = (
        torch.randn(6, EMBEDDING_SIZE, generator=generator),
        torch.randn(9, EMBEDDING_SIZE, generator=generator),
    )
    found = {}
    for name, loss, rows in [
        ("hetero", losses.HeteroCenterLoss(), (2, 5)),
        ("contrastive", pml_losses.ContrastiveLoss(), (2, 5)),
    ]:
        _, joined = distributed.prepare(nn.Identity(), loss)
        own, other = share_of(rows[0], 6 - rows[0]), share_of(rows[1], 9 - rows[1])
        x, y = (each.clone().requires_grad_() for each in (first, second))
        labels, of_others = torch.arange(6) % 3, torch.arange(9) % 3
        value = joined(x[own], labels[own], ref_emb=y[other], ref_labels=of_others[other])
        value.backward()
        of_both = torch.stack([x.grad.square().sum(), y.grad.square().sum()])
        found[name] = {"value": value.detach(), "x": x.grad[own], "y": y.grad[other], "rows": of_both * 0}
    return found


def errors():
    """What ``prepare`` and what it returns say to a mistake."""
    model = nn.Linear(3, EMBEDDING_SIZE)
    embeddings, labels = torch.randn(4, EMBEDDING_SIZE), torch.arange(4)
    _, triplet, classes = distributed.prepare(model, pml_losses.TripletMarginLoss(), softmax())
    calls = {
        "prepared": lambda: distributed.prepare(model, triplet),
        "wrapped": lambda: distributed.prepare(model, DistributedLossWrapper(pml_losses.TripletMarginLoss())),
        "list": lambda: distributed.prepare(model, [softmax()]),
        "tuples": lambda: triplet(embeddings, labels, (labels, labels, labels)),
        "label": lambda: classes(embeddings, labels + 5 * distributed.rank()),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
        except (TypeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def warned(loss, call=lambda loss: loss):
    """What a loss warns of when two processes train with it."""
    embeddings, labels = torch.randn(4, EMBEDDING_SIZE, requires_grad=True), torch.arange(4)
    called = call(loss)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            called(embeddings, labels).backward()
    return [str(each.message) for each in caught]


def drift():
    """Warnings, by how a loss is used."""
    prepared = lambda loss: distributed.prepare(nn.Linear(3, 2), loss)[1]  # noqa: E731
    return {
        "bare softmax": warned(softmax()),
        "bare joint": warned(SoftmaxCenterLoss(*sizes)),
        "bare gradient": warned(center(update="gradient")),
        "bare ring": warned(losses.RangeLoss(embedding_regularizer=regularizers.RingRegularizer(1.0))),
        "bare center": warned(center()),
        "DDP": warned(softmax(), DistributedDataParallel),
        "prepared": warned(softmax(), prepared),
        "evaluated": warned(softmax().eval()),
        "frozen": warned(softmax().requires_grad_(False)),
    }


def sharded():
    """Rows that two processes took apart and put together."""
    found = {}
    for size in (0, 1, 5, 8):
        for kind in (np.float32, np.int16, np.bool_, np.int64):
            array = (np.arange(3 * size).reshape(size, 3) % 5).astype(kind)
            own = distributed.shard_rows(size)
            whole, tensor = distributed.gather_rows(array[own]), distributed.gather_rows(torch.from_numpy(array)[own])
            same = whole.dtype == array.dtype and np.array_equal(whole, array) and np.array_equal(tensor.numpy(), array)
            found[f"{size} {kind.__name__}"] = (len(own), bool(same))
    return found


def started_by_torchrun(rank, port):
    """What ``initialize`` makes of torchrun's environment, and leaves behind, when all goes well and when not."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with suppress(KeyError), distributed.initialize("cpu") as device:
        found = str(device), dist.get_backend(), distributed.gather_rows(torch.tensor([rank])).tolist()
        with distributed.initialize("cpu"):  # in use already
            pass
        found += (dist.is_initialized(),)
        raise KeyError
    try:
        with distributed.initialize("cuda"):
            pass
    except ValueError as error:
        found += (str(error),)
    return (*found, dist.is_initialized())


def work(rank, folder, port):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, timedelta(minutes=20), rank=rank, world_size=2)
    found = {name: train(**check) for name, check in CHECKS.items()}
    found |= {"references": references(), "errors": errors(), "drift": drift(), "sharded": sharded()}
    found["own"] = rank, distributed.rank(), distributed.world_size(), distributed.is_main()
    dist.destroy_process_group()
    found["torchrun"] = started_by_torchrun(rank, port)
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (folder, port), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:__array_wrap__")  # in losses of PML
@pytest.mark.parametrize("name", CHECKS)
def test_two_processes_equal_one_with_the_joined_batch(name, pair):
    alone = train(**CHECKS[name])
    first, second = (found[name] for found in pair)
    assert len(alone) >= 2
    torch.testing.assert_close(first, alone, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["hetero", "contrastive"])
def test_references_are_joined_too(name, pair):
    alone, first, second = references()[name], *(found["references"][name] for found in pair)
    assert first["value"] == second["value"]
    torch.testing.assert_close(first["value"], alone["value"])
    for rows in ("x", "y"):
        both = torch.cat([first[rows], second[rows]])
        torch.testing.assert_close(both / 2, alone[rows])  # their mean over the processes


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("prepared", r"TypeError: losses must be modules that nothing wraps, got JoinedLoss\."),
        ("wrapped", r"TypeError: losses must be modules that nothing wraps, got DistributedLossWrapper\."),
        ("list", r"TypeError: losses must be modules that nothing wraps, got list\..*one by one"),
        ("tuples", r"TypeError: argument 3 must be a tensor .*, got tuple\..*MultipleLosses\(\[loss\], miners="),
        ("label", r"ValueError: labels must be in \[0, 7\).*, got 7 at position 6\."),  # of the joined batch
    ],
)
def test_a_mistake_is_answered_on_both_processes(mistake, message, pair):
    for found in pair:
        assert re.match(message, found["errors"][mistake])


@pytest.mark.parametrize("use", ["bare softmax", "bare joint", "bare gradient", "bare ring"])
def test_parameters_that_would_drift_apart_are_reported_once(use, pair):
    for found in pair:
        (message,) = found["drift"][use]
        assert re.match(
            r"\w+Loss has parameters, and each of the 2 processes moves its own: they drift apart\.", message
        )
        assert "pml_center.distributed.prepare(model, loss)" in message


@pytest.mark.parametrize("use", ["bare center", "DDP", "prepared", "evaluated", "frozen"])
def test_there_is_no_false_alarm(use, pair):
    assert [found["drift"][use] for found in pair] == [[], []]


def test_rows_taken_apart_come_back_in_order(pair):
    first, second = (found["sharded"] for found in pair)
    assert len(first) == 16
    for name, (length, same) in first.items():
        size = int(name.split()[0])
        assert same
        assert second[name] == (size - length, True)
        assert length == size // 2


def test_each_process_knows_its_place(pair):
    assert [found["own"] for found in pair] == [(0, 0, 2, True), (1, 1, 2, False)]


def test_processes_of_torchrun_meet_and_part(pair):
    for found in pair:
        device, backend, rows, still_there, *_, after = found["torchrun"]
        assert (device, backend, rows, still_there, after) == ("cpu", "gloo", [0, 1], True, False)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="has a GPU for each of two processes")
def test_a_process_without_a_gpu_says_so(pair):
    gpus = torch.cuda.device_count()
    message = f"device must be a GPU for each process, got process 2 on a machine with {gpus}."
    assert pair[1]["torchrun"][4].startswith(message)


def test_one_process_is_left_alone():
    model, loss = nn.Linear(3, 2), SoftmaxLoss(10, 2)
    assert distributed.prepare(model, loss) == (model, loss)
    rows = torch.arange(3)
    assert distributed.gather_rows(rows) is rows
    assert distributed.shard_rows(3) == range(3)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    with distributed.initialize("cpu") as device:
        assert device == torch.device("cpu")
        assert not dist.is_initialized()
