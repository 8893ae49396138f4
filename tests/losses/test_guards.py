"""Guards against the classic mistakes: each speaks once, and none in healthy training."""

import warnings
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pml_center import param_groups
from pml_center.losses import AdaFaceLoss, CenterLoss, IslandLoss, SoftmaxCenterLoss, SoftmaxLoss
from pml_center.losses.watch import BATCHES_AT_REST, BATCHES_COMPARED, BATCHES_UNLOOKED, CenterShare
from pml_center.training import parse_loss

SIZE = 8
FORGOTTEN, DWARFED, COLLAPSED = "no optimizer has moved", "times all other terms together", "have become one point"


def said(step, times):
    """The warnings of so many steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            step()
    return [str(each.message) for each in caught]


@pytest.fixture
def batch(generator):
    return 10 * torch.randn(12, SIZE, generator=generator), torch.arange(12) % 4


@pytest.mark.parametrize("kind", [SoftmaxLoss, SoftmaxCenterLoss])
def test_a_forgotten_optimizer_is_reported_once(kind, batch):
    loss = kind(4, SIZE)
    messages = said(lambda: loss(*batch).backward(), 5 * BATCHES_AT_REST)
    assert len(messages) == 1
    assert f"{kind.__name__} has parameters that {FORGOTTEN} in {BATCHES_AT_REST} training batches" in messages[0]


def test_a_batch_that_is_filled_anew_hides_no_forgotten_optimizer(generator):
    loss, embeddings, labels = SoftmaxLoss(4, SIZE), torch.zeros(12, SIZE), torch.zeros(12, dtype=torch.long)

    def step():
        embeddings.normal_(generator=generator)
        loss(embeddings, labels.random_(4, generator=generator)).backward()

    assert len(said(step, 3 * BATCHES_AT_REST)) == 1


@pytest.mark.parametrize("sparse_gradient", [False, True])
def test_a_center_that_starts_from_data_was_not_moved_by_an_optimizer(sparse_gradient, batch):
    loss = CenterLoss(4, SIZE, update="gradient", init="first_batch", sparse_gradient=sparse_gradient)
    messages = said(lambda: loss(*batch).backward(), 3 * BATCHES_AT_REST)
    assert len(messages) == 1
    assert FORGOTTEN in messages[0]


def test_centers_that_start_one_after_the_other_are_not_at_rest(batch):
    """At its start from a single embedding the gradient of a center is 0."""
    loss = CenterLoss(200, SIZE, update="gradient", init="first_batch")
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    labels = iter(torch.arange(196).split(4))

    def step():
        loss(batch[0][:4], next(labels)).backward()
        optimizer.step()

    assert not said(step, 2 * BATCHES_AT_REST)


FAR_TOO_HEAVY = {
    "joint loss": lambda: SoftmaxCenterLoss(4, SIZE, 0.5, alpha=0.001),
    "formula": lambda: parse_loss("SoftmaxLoss + 0.5 * CenterLoss(alpha=0.001)", 4, SIZE),
}


def value_and_parts(loss, *batch):
    """The loss, its softmax term, and its center term before the weight."""
    if isinstance(loss, SoftmaxCenterLoss):
        return loss(*batch), *loss.parts.values()
    value, parts = loss(*batch)
    return value, *parts.values()


@pytest.mark.parametrize("make", FAR_TOO_HEAVY.values(), ids=FAR_TOO_HEAVY)
def test_a_center_term_that_dwarfs_the_rest_is_reported_once_with_the_ratio(make, batch):
    loss, seen = make(), []
    optimizer = torch.optim.SGD(loss.parameters(), lr=1e-6)

    def step():
        value, *parts = value_and_parts(loss, *batch)
        seen.append(torch.stack(parts))
        value.backward()
        optimizer.step()

    messages = said(step, 3 * BATCHES_COMPARED)
    softmax, center = torch.stack(seen[:BATCHES_COMPARED]).mean(0).tolist()
    assert center > 20 * softmax
    assert len(messages) == 1
    assert f"with weight 0.5 is {0.5 * center / softmax:.3g} {DWARFED}" in messages[0]
    assert f"Try {softmax / center:.1g} or less" in messages[0]


def test_terms_that_are_no_numbers_dwarf_nothing():
    share = CenterShare("CenterLoss")
    assert not said(lambda: share.see(torch.tensor(torch.nan), torch.tensor(1.0), 0.1), 2 * BATCHES_COMPARED)


def test_terms_may_come_from_another_device():
    share = CenterShare("CenterLoss")
    for device in ("cpu", "meta"):
        share.see(torch.ones((), device=device), torch.ones((), device=device), 0.1)


@pytest.mark.parametrize(
    "formula",
    [
        "SoftmaxLoss + 0.001 * CenterLoss",  # small enough
        "CenterLoss",  # nothing beside it
        "CenterLoss + 0.1 * CenterLoss(update='mean')",
        "SoftmaxLoss + 0.5 * IslandLoss(alpha=0.001)",  # does not only pull
        "TripletMarginLoss(margin=1000) + 0.5 * CenterLoss",
    ],
)
def test_no_other_formula_is_reported(formula, batch):
    loss = parse_loss(formula, 4, SIZE)
    assert not said(lambda: loss(*batch), 2 * BATCHES_COMPARED + 10)


def test_each_of_two_center_terms_is_compared_with_what_separates(batch):
    loss = parse_loss("SoftmaxLoss + 5 * CenterLoss(alpha=0.001) + 0.0001 * CenterLoss", 4, SIZE)
    messages = said(lambda: loss(*batch), 2 * BATCHES_COMPARED)
    assert len(messages) == 1
    assert messages[0].startswith("CenterLoss_1 with weight 5 is")


def test_evaluation_is_not_watched(batch):
    loss = FAR_TOO_HEAVY["formula"]().eval()
    assert not said(lambda: loss(*batch), 2 * BATCHES_COMPARED)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (CenterLoss, "CenterLoss alone is smallest there: add a loss that separates classes"),
        (partial(CenterLoss, update="gradient"), "CenterLoss alone is smallest there: add a loss that separates"),
        (SoftmaxCenterLoss, "CenterLoss alone is smallest there: add a loss that separates classes"),
        (IslandLoss, "Lower the learning rate, or give IslandLoss a smaller weight"),
    ],
)
@pytest.mark.parametrize("point", [0.0, 5.0])
def test_embeddings_at_one_point_are_reported_once(make, remedy, point):
    loss, embeddings = make(4, SIZE), torch.full((12, SIZE), point)
    messages = said(lambda: loss(embeddings, torch.arange(12) % 4), 4 * BATCHES_UNLOOKED)
    assert len(messages) == 1
    assert COLLAPSED in messages[0]
    assert remedy in messages[0]


@pytest.mark.parametrize("first", [0, 70])
def test_lengths_beyond_what_adaface_tells_apart_are_reported_once(first, batch):
    loss, unit = AdaFaceLoss(4, SIZE), torch.nn.functional.normalize(batch[0])
    lengths = iter([20.0] * first + [150.0] * 3 * BATCHES_UNLOOKED)
    messages = said(lambda: loss(next(lengths) * unit, batch[1]), first + 3 * BATCHES_UNLOOKED)
    assert len(messages) == 1
    assert "100% of the embeddings of a batch are longer than 100, beyond which AdaFaceLoss takes all" in messages[0]


def test_some_long_embeddings_are_none_of_it(batch):
    loss = AdaFaceLoss(4, SIZE)
    lengths = torch.where(torch.arange(12) % 2 == 0, 150, 20).unsqueeze(1)
    assert not said(lambda: loss(lengths * torch.nn.functional.normalize(batch[0]), batch[1]), 2 * BATCHES_UNLOOKED)


def test_one_class_at_one_point_is_none_of_it():
    loss = CenterLoss(4, SIZE)
    assert not said(lambda: loss(torch.ones(12, SIZE), torch.full((12,), 2)), 2 * BATCHES_UNLOOKED)


def trained(loss, epochs):
    """What a loss says while it trains a small network on digits; their embeddings and labels."""
    torch.manual_seed(0)
    pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    pixels = pixels.float()
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, SIZE))
    optimizer = torch.optim.Adam(param_groups(model, loss, lr=1e-2))
    batches = iter([*zip(pixels.split(64), labels.split(64), strict=True)] * epochs)

    def step():
        optimizer.zero_grad()
        images, classes = next(batches)
        value = loss(model(images), classes)
        (value[0] if isinstance(value, tuple) else value).backward()
        optimizer.step()

    messages = said(step, epochs * len(pixels.split(64)))
    return messages, model(pixels), labels


@pytest.mark.parametrize(
    "make",
    [
        lambda: SoftmaxCenterLoss(10, SIZE, 0.01),
        lambda: SoftmaxCenterLoss(10, SIZE, 0.01, update="gradient"),
        lambda: parse_loss(
            "SoftmaxLoss + 0.01 * CenterLoss + 0.1 * TripletMarginLoss @ MultiSimilarityMiner", 10, SIZE
        ),
        lambda: parse_loss("ArcFaceLoss(scale=16) + 0.01 * IslandLoss", 10, SIZE),
    ],
    ids=["joint", "joint, gradient", "formula", "island"],
)
def test_healthy_training_hears_nothing(make):
    loss = make()
    messages, embeddings, labels = trained(loss, epochs=10)  # 290 batches
    assert not messages
    softmax = loss.softmax if isinstance(loss, SoftmaxCenterLoss) else loss.losses[0]
    assert (softmax.predict(embeddings) == labels).double().mean() > 0.95


def test_center_loss_alone_trains_to_one_point_and_says_so():
    messages, embeddings, _ = trained(CenterLoss(10, SIZE), epochs=40)
    assert len(messages) == 1
    assert COLLAPSED in messages[0]
    assert (embeddings - embeddings.mean(0)).norm() < 0.05
