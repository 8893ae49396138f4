"""Processes with a part of the classes each do what one process with all does, whatever the loss."""

import re
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, reducers
from pytorch_metric_learning import regularizers as pml_regularizers
from timm.optim import create_optimizer_v2
from torch import nn

from pml_center import distributed, losses, param_groups, regularizers
from pml_center.losses import CenterLoss, SoftmaxLoss
from pml_center.losses.base_class_loss import BaseClassLoss
from pml_center.losses.schedules import Annealing
from pml_center.training import parse_loss
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES

INPUTS = 6
BATCHES = ((3, 9, 2), (1, 0, 4), (12, 1, 0))  # samples of each of three processes; the last of two has those of both
CLASSES = [case for case in CASES if case.has_classes and case.loss is not losses.CACLoss]  # has few

sizes = NUM_CLASSES, EMBEDDING_SIZE
center, softmax, arcface = (partial(kind, *sizes) for kind in (CenterLoss, SoftmaxLoss, losses.ArcFaceLoss))


def train(make, kind=torch.double, drawn=None, optimizer=None, longest=None, is_mixed=False):
    """Train a small network with three batches: one process on all samples, or each of several on its own.

    Args:
        make: the loss.
        kind: of all numbers.
        drawn: the classes that each batch is to see, and their probabilities, for one process; several put in what
            they drew.
        optimizer: of the parameters; None is SGD with momentum.
        longest: gradient of all together.
        is_mixed: whether each sample is of two classes.

    Returns:
        The values, the gradients of the network, and the state in the end, whole.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, EMBEDDING_SIZE)).to(kind)
    inner = make().to(kind)
    model, loss = distributed.prepare(network, inner, shard_classes=True)
    step = (optimizer or partial(torch.optim.SGD, momentum=0.9))(param_groups(network, inner, lr=0.01))
    generator = torch.Generator().manual_seed(1)
    world, found = distributed.world_size(), {}
    if drawn is not None:
        for name in ("_sample", "_probability"):
            draw = (
                partial(recorded, getattr(inner.class_weights, name), drawn) if world > 1 else lambda *_: drawn.pop(0)
            )
            setattr(inner.class_weights, name, draw)
    for number, samples in enumerate(BATCHES):
        inputs = torch.randn(sum(samples), INPUTS, generator=generator, dtype=torch.double).to(kind)
        labels = torch.randint(getattr(inner, "num_classes", NUM_CLASSES), (len(inputs),), generator=generator)
        first = [sum(samples[:rank]) for rank in range(world)] + [len(inputs)]
        own = slice(first[distributed.rank()], first[distributed.rank() + 1])
        mixture = {}
        if is_mixed:
            share = torch.rand(len(inputs), generator=generator, dtype=torch.double).to(kind)
            mixture = {"other_labels": labels.roll(1)[own], "share": share[own]}
        value = loss(model(inputs[own]), labels[own], **mixture)
        value = value[0] if isinstance(value, tuple) else value  # a formula says its parts, too
        value.backward()
        found[f"value {number}"] = value.detach()
        for name, parameter in network.named_parameters():
            found[f"gradient {number} of {name}"] = parameter.grad.clone()
        if longest is not None:
            parameters = [*network.parameters(), *inner.parameters()]
            found[f"length {number}"] = distributed.clip_gradients(parameters, longest)
        step.step()
        step.zero_grad()
    return found | {name: each.clone() for name, each in distributed.whole_state(inner).items()}


def recorded(draw, drawn, *args):
    table = draw(*args)
    drawn.append(distributed.gather_rows(table.rows))
    return table


def several():
    return pml_losses.MultipleLosses(
        {"softmax": softmax(), "center": center(), "triplet": pml_losses.TripletMarginLoss()},
        miners={"triplet": miners.MultiSimilarityMiner()},
        weights={"softmax": 1, "center": 0.1, "triplet": 0.5},
    )


def mined():
    return pml_losses.MultipleLosses([arcface()], miners=[miners.BatchHardMiner()])


def regularized(make):
    return softmax(weight_regularizer=make(), weight_reg_weight=0.1)


REGULARIZERS = {
    "ring": regularizers.RingRegularizer,
    "ring of a radius": partial(regularizers.RingRegularizer, 1.5, "l1"),
    "magnitude": partial(regularizers.MagnitudeRegularizer, 0.5, 3),
    "repulsion": regularizers.CenterRepulsionRegularizer,
    "invariant": regularizers.CenterInvariantRegularizer,
    "invariant, sum": partial(regularizers.CenterInvariantRegularizer, reducer=reducers.SumReducer()),
    "PML's length": pml_regularizers.LpRegularizer,
    "PML's invariant": pml_regularizers.CenterInvariantRegularizer,
}
CHECKS = {
    **{f"{case}": {"make": case.build} for case in CLASSES},
    **{f"{case}, fp32": {"make": case.build, "kind": torch.float} for case in CLASSES},
    "bias, sub-centers, smooth": {"make": partial(arcface, bias=True, sub_centers=2, label_smoothing=0.1)},
    "sub-centers, mixed": {"make": partial(losses.VPLLoss, *sizes, start_step=0, sub_centers=2)},
    "prior": {"make": partial(softmax, class_counts=range(1, NUM_CLASSES + 1), prior_weight=0.5, bias=False)},
    "near": {"make": partial(arcface, hard_negatives=3, hard_negative_margin=5)},
    "nearest, chunks": {"make": partial(arcface, hard_negatives=1, hard_negative_margin=5, chunk_size=2)},
    "counts": {"make": partial(losses.LDAMLoss, *sizes, class_counts=range(1, NUM_CLASSES + 1))},
    "fixed": {"make": partial(arcface, update="fixed", init="simplex")},
    "fixed centers": {"make": partial(center, update="fixed", init="axes")},
    "of two classes": {"make": partial(arcface, bias=True), "is_mixed": True},
    "of two classes, margins": {"make": partial(losses.MVSoftmaxLoss, *sizes), "is_mixed": True},
    "centers of two classes": {"make": partial(center, update="mean"), "is_mixed": True},
    "chunks": {"make": partial(arcface, chunk_size=2, label_smoothing=0.1)},
    "chunks of one": {"make": partial(losses.LGMLoss, *sizes, chunk_size=1)},
    "schedules": {"make": partial(arcface, margin_schedule=Annealing(), scale_schedule=lambda step: 1 / step)},
    "weights of classes": {"make": partial(softmax, loss_weights=range(1, NUM_CLASSES + 1))},
    "ignored": {"make": partial(softmax, ignore_index=2)},
    "frozen": {"make": lambda: arcface().requires_grad_(False)},
    "AdamW": {"make": partial(softmax, sub_centers=2), "optimizer": torch.optim.AdamW},
    "fused": {"make": partial(softmax, sub_centers=2), "optimizer": partial(torch.optim.AdamW, fused=True)},
    "timm's": {"make": softmax, "optimizer": partial(create_optimizer_v2, opt="nadamw", filter_bias_and_bn=False)},
    "clipped": {"make": partial(arcface, sub_centers=2, bias=True), "longest": 0.1},
    "by anchor": {"make": partial(softmax, reducer=reducers.PerAnchorReducer())},
    "by class": {"make": partial(softmax, reducer=reducers.ClassWeightedReducer(torch.arange(1.0, 8)))},
    "center, first batch": {"make": partial(center, init="first_batch")},
    "center, learned from the first batch": {"make": partial(center, update="gradient", init="first_batch")},
    "center, accumulated": {"make": partial(center, accumulation_steps=2)},
    "several": {"make": several},
    "mined": {"make": mined},
    "formula": {"make": partial(parse_loss, "CosFaceLoss + 0.1 * IslandLoss(init='normal')", *sizes)},
    "queue of all classes": {"make": partial(losses.BroadFaceLoss, *sizes, queue_size=NUM_CLASSES)},
    **{f"{name} regularizer": {"make": partial(regularized, make)} for name, make in REGULARIZERS.items()},
    "regularized centers": {
        "make": partial(center, weight_regularizer=regularizers.CenterRepulsionRegularizer(), update="gradient")
    },
}
MANY = {"num_classes": 89, "embedding_size": EMBEDDING_SIZE, "sample_rate": 0.6}
SAMPLED = {
    "sampled": partial(losses.ArcFaceLoss, **MANY),
    "sampled, bias, sub-centers": partial(SoftmaxLoss, **MANY, sub_centers=2, label_smoothing=0.1),
    "sampled, mixed": partial(losses.VPLLoss, **MANY, start_step=0),
    "sampled, binary": partial(losses.UniFaceLoss, **MANY, thresholds="separate"),
    "sampled, one threshold": partial(losses.SphereFace2Loss, **MANY),
}


def carried(num_classes, samples=10, width=16):
    """Bytes that a step of one process gives to the others, and what of them are embeddings and their gradients."""
    loss = losses.ArcFaceLoss(num_classes, width, label_smoothing=0.1)
    _, joined = distributed.prepare(nn.Identity(), loss, shard_classes=True)
    embeddings, labels = torch.randn(samples, width, requires_grad=True), torch.arange(samples)
    given = 0

    def counted(collective, place, *args, **kwargs):
        nonlocal given
        given += args[place].nbytes
        return collective(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name, place in (("all_reduce", 0), ("all_gather", 1), ("broadcast", 0)):
            patch.setattr(dist, name, partial(counted, getattr(dist, name), place))
        joined(embeddings, labels).backward()
    return given, embeddings.nbytes * (1 + distributed.world_size())


def said(call):
    try:
        call()
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def mistakes():
    """What is said to a mistake, on each process."""
    model, batch = nn.Linear(3, EMBEDDING_SIZE), (torch.randn(4, EMBEDDING_SIZE, requires_grad=True), torch.arange(4))
    split = partial(distributed.prepare, model, shard_classes=True)
    loss = softmax()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    _, joined = split(loss)
    _, apart = split(softmax(weight_regularizer=pml_regularizers.RegularFaceRegularizer()))
    joined(*batch).backward()
    return {
        "PML": said(lambda: split(pml_losses.ArcFaceLoss(*sizes))),
        "nothing to split": said(lambda: split(pml_losses.TripletMarginLoss())),
        "few": said(lambda: split(SoftmaxLoss(distributed.world_size() - 1, EMBEDDING_SIZE))),
        "sparse": said(lambda: split(center(update="gradient", init="normal", sparse_gradient=True))),
        "called": said(lambda: loss(*batch)),
        "optimizer": said(optimizer.step),
        "whole": said(lambda: apart(*batch)),
    }


def work(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", timedelta(minutes=20), rank=rank, world_size=world)
    found = {name: train(**check) for name, check in CHECKS.items()}
    for name, make in SAMPLED.items():
        found[f"drawn: {name}"] = []
        found[name] = train(make, drawn=found[f"drawn: {name}"])
    found["mistakes"] = mistakes()
    found["carried"] = carried(20), carried(20_000)
    dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module", params=[2, 3], ids="{} processes".format)
def processes(request, tmp_path_factory):
    """What each of several processes found."""
    folder = tmp_path_factory.mktemp("split")
    mp.spawn(work, (request.param, folder), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


def check_equal(several, one, near):
    assert several.keys() == one.keys()
    for name, value in one.items():
        found = several[name]
        assert (found.shape, found.dtype) == (value.shape, value.dtype), name
        value = value.double()
        assert float((found - value).norm()) <= near * max(1, float(value.norm())), name


@pytest.mark.parametrize("name", CHECKS)
def test_a_part_of_the_classes_each_is_one_process_with_all(name, processes):
    alone = train(**CHECKS[name])
    for found in processes:
        check_equal(found[name], alone, 1e-10 if CHECKS[name].get("kind") is None else 1e-5)


@pytest.mark.parametrize("name", SAMPLED)
def test_each_draws_among_its_own_and_the_loss_is_that_of_all_that_were_drawn(name, processes):
    drawn = processes[0][f"drawn: {name}"]
    assert all(torch.equal(classes, classes.unique()) for classes in drawn[::2])
    assert [len(each) for each in drawn] == [53] * 6
    for probability in drawn[1::2]:  # the classes that were drawn stand for all
        torch.testing.assert_close(probability.reciprocal().sum().item(), 89.0)
    alone = train(SAMPLED[name], drawn=list(drawn))
    for found in processes:
        check_equal(found[name] | {"class_weights.draws": alone["class_weights.draws"]}, alone, 1e-10)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("PML", r"TypeError: losses must be of pml_center with shard_classes.*, got PML's ArcFaceLoss\."),
        ("nothing to split", r"ValueError: losses must have classes with shard_classes, got TripletMarginLoss\."),
        ("few", r"ValueError: num_classes must leave each of the (2|3) processes a class .*, got (1|2) for"),
        ("sparse", r"ValueError: sparse_gradient must be False for CenterLoss with shard_classes"),
        ("called", r"RuntimeError: SoftmaxLoss must be called by way of what prepare returned"),
        ("optimizer", r"ValueError: optimizer must be made after prepare\(.*, got SGD with those of before\."),
        ("whole", r"TypeError: a table of classes must be looked at row by row, or by labels, .* got \w+ of it\."),
    ],
)
def test_what_cannot_be_split_says_so(mistake, message, processes):
    for found in processes:
        assert re.match(message, found["mistakes"][mistake]), found["mistakes"][mistake]


def test_what_crosses_the_wire_in_a_step_does_not_depend_on_the_number_of_classes(processes):
    for (few, embeddings), many in (found["carried"] for found in processes):
        assert many == (few, embeddings)
        of_samples = 10 * len(processes) * 8 * 10  # a few numbers for each, and labels
        assert embeddings < few < embeddings + of_samples + 6000  # the state of torch's generator


@pytest.mark.parametrize("case", CLASSES, ids=str)
def test_every_table_with_a_row_for_each_class_is_known(case):
    """A table that is not would be held whole by every process, and each would average its gradient."""
    loss = case.make(13)
    for module in loss.modules():
        tensors = {**module._parameters, **module._buffers}
        of_classes = {name for name, each in tensors.items() if each is not None and each.ndim and len(each) % 13 == 0}
        assert of_classes <= set(getattr(module, "per_class", ()))
    assert issubclass(type(loss), BaseClassLoss)
