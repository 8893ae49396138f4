"""PML's MultipleLosses with our losses: weights, miners, reducers."""

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, reducers

from pml_center import param_groups
from pml_center.losses import ArcFaceLoss, CenterLoss, SoftmaxLoss

SIZE = 16


def parts():
    """Softmax loss, center loss and a triplet loss, the same each time."""
    torch.manual_seed(0)
    return SoftmaxLoss(10, SIZE), CenterLoss(10, SIZE, init="normal"), pml_losses.TripletMarginLoss()


@pytest.fixture
def batch(generator):
    return torch.randn(20, SIZE, generator=generator), torch.arange(20) % 10


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_the_sum_is_weighted_and_each_loss_has_its_miner(kind, batch):
    miner, hard = miners.MultiSimilarityMiner(), miners.BatchHardMiner()
    if kind == "list":
        both = pml_losses.MultipleLosses(list(parts()), [None, hard, miner], [1, 0.01, 0.5])
    else:
        names = ["softmax", "center", "triplet"]
        weights = dict(zip(names, [1, 0.01, 0.5], strict=True))
        both = pml_losses.MultipleLosses(
            dict(zip(names, parts(), strict=True)), {"center": hard, "triplet": miner}, weights
        )
    softmax, center, triplet = parts()
    expected = softmax(*batch) + 0.01 * center(*batch, hard(*batch)) + 0.5 * triplet(*batch, miner(*batch))
    torch.testing.assert_close(both(*batch), expected)


def test_tuples_from_outside_are_for_every_loss(batch):
    tuples = miners.TripletMarginMiner(margin=0.5)(*batch)
    both = pml_losses.MultipleLosses(list(parts()))
    torch.testing.assert_close(both(*batch, tuples), sum(loss(*batch, tuples) for loss in parts()))


@pytest.mark.parametrize(
    "reducer", [reducers.AvgNonZeroReducer(), reducers.ThresholdReducer(low=1.0), reducers.SumReducer()]
)
def test_losses_may_share_one_reducer(reducer, batch):
    torch.manual_seed(0)
    softmax, center = SoftmaxLoss(10, SIZE, reducer=reducer), CenterLoss(10, SIZE, reducer=reducer, init="normal")
    alone = parts()
    each = [loss.set_reducer(reducers.DoNothingReducer()) or loss(*batch)["loss"]["losses"] for loss in alone[:2]]
    reduce = {
        "AvgNonZeroReducer": lambda losses: losses.mean(),
        "ThresholdReducer": lambda losses: losses[losses > 1].mean(),
        "SumReducer": torch.sum,
    }[type(reducer).__name__]
    both = pml_losses.MultipleLosses([softmax, center], weights=[1, 0.1])
    torch.testing.assert_close(both(*batch), reduce(each[0]) + 0.1 * reduce(each[1]))


def test_a_reducer_that_does_nothing_has_no_place_in_a_sum(batch):
    both = pml_losses.MultipleLosses([CenterLoss(10, SIZE, reducer=reducers.DoNothingReducer())])
    with pytest.raises(TypeError):
        both(*batch)


def test_the_optimizer_gets_the_parameters_of_every_loss_once(network):
    loss = pml_losses.MultipleLosses(
        [SoftmaxLoss(10, SIZE), ArcFaceLoss(10, SIZE), CenterLoss(10, SIZE, update="gradient")]
    )
    model = network()
    groups = param_groups(model, loss, lr=0.1)
    given = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(given) == sorted(map(id, [*model.parameters(), *loss.parameters()]))


def test_its_state_holds_the_centers(batch):
    both = pml_losses.MultipleLosses({"softmax": SoftmaxLoss(10, SIZE), "center": CenterLoss(10, SIZE)})
    both(*batch)
    other = pml_losses.MultipleLosses({"softmax": SoftmaxLoss(10, SIZE), "center": CenterLoss(10, SIZE)})
    other.load_state_dict(both.state_dict())
    assert torch.equal(other.losses["center"].centers, both.losses["center"].centers)
    assert other.losses["center"].centers.any()


def test_a_memory_of_past_batches_stands_beside_center_loss(batch):
    """PML's CrossBatchMemory goes around the loss of pairs."""
    memory = pml_losses.CrossBatchMemory(pml_losses.ContrastiveLoss(), SIZE, 64, miners.MultiSimilarityMiner())
    alone = pml_losses.CrossBatchMemory(pml_losses.ContrastiveLoss(), SIZE, 64, miners.MultiSimilarityMiner())
    both = pml_losses.MultipleLosses([memory, CenterLoss(10, SIZE)], weights=[1, 0.01])
    center = CenterLoss(10, SIZE)
    for _ in range(3):
        torch.testing.assert_close(both(*batch), alone(*batch) + 0.01 * center(*batch))


def test_together_they_train(digits, network):
    train, test = digits
    model, loss = (
        network(),
        pml_losses.MultipleLosses(list(parts()), [None, None, miners.MultiSimilarityMiner()], [1, 0.01, 1]),
    )
    optimizer = torch.optim.Adam(param_groups(model, loss, lr=1e-2))
    for _ in range(20):
        for pixels, labels in zip(*(each.split(90) for each in train.tensors), strict=True):
            optimizer.zero_grad()
            loss(model(pixels), labels).backward()
            optimizer.step()
    pixels, labels = test.tensors
    assert (loss.losses[0].predict(model(pixels)) == labels).double().mean() > 0.93
    centers = loss.losses[1].centers
    assert (torch.cdist(model(pixels), centers).argmin(1) == labels).double().mean() > 0.93
