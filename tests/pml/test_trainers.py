"""PML's trainers with our losses."""

import copy

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, trainers
from torch import nn
from torch.utils.data import DataLoader, Subset

from pml_center.losses import CenterLoss, SoftmaxCenterLoss, SoftmaxLoss
from tests.cases import CASES

SIZE, BATCH, ITERATIONS = 16, 32, 5
CPU = torch.device("cpu")


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.05)


def trainer(trunk, loss, data, kind=trainers.MetricLossOnly, optimizers=None, iterations=ITERATIONS, **arguments):
    """With an optimizer for the network, and one for the loss where it has parameters."""
    if optimizers is None:
        optimizers = {"metric_loss_optimizer": sgd(loss)} if list(loss.parameters()) else {}
    return kind(
        models={"trunk": trunk, **arguments.pop("models", {})},
        optimizers={"trunk_optimizer": sgd(trunk), **optimizers},
        batch_size=BATCH,
        loss_funcs={"metric_loss": loss, **arguments.pop("loss_funcs", {})},
        dataset=data,
        iterations_per_epoch=iterations,
        dataloader_num_workers=0,
        data_device=CPU,
        **arguments,
    )


def run(trainer):
    torch.manual_seed(1)  # of the order of the batches, and of what losses draw
    trainer.train()


def loop(trunk, loss, data, miner=None):
    """What MetricLossOnly does, by hand."""
    optimizers = [sgd(module) for module in (trunk, loss) if list(module.parameters())]
    torch.manual_seed(1)
    batches = iter(DataLoader(data, BATCH, shuffle=True, drop_last=True))
    for _ in range(ITERATIONS):
        pixels, labels = next(batches)
        embeddings = trunk(pixels)
        value = loss(embeddings, labels, miner(embeddings, labels) if miner else None)
        for optimizer in optimizers:
            optimizer.zero_grad()
        value.backward()
        for optimizer in optimizers:
            optimizer.step()


def differ(module, other):
    assert module.state_dict().keys() == other.state_dict().keys()
    return any(not torch.equal(value, other.state_dict()[name]) for name, value in module.state_dict().items())


def assert_equal(module, other):
    assert not differ(module, other)


@pytest.mark.parametrize("miner", [None, miners.MultiSimilarityMiner()], ids=["all", "miner"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_trainer_takes_the_steps_of_a_loop_of_one_s_own(case, miner, digits, network):
    trunk, loss = network(), case.make(10, SIZE)
    by_hand = copy.deepcopy((trunk, loss))
    run(trainer(trunk, loss, digits[0], mining_funcs={"tuple_miner": miner} if miner else {}))
    loop(*by_hand, digits[0], miner)
    assert_equal(trunk, by_hand[0])
    assert_equal(loss, by_hand[1])
    assert not case.has_classes or case.is_fixed or differ(loss, case.make(10, SIZE))


@pytest.mark.parametrize("update", ["paper", "mean"])
def test_centers_step_without_an_optimizer(update, digits, network):
    loss = CenterLoss(10, SIZE, update=update)
    run(trainer(network(), loss, digits[0], optimizers={}, iterations=25))
    assert loss.step == 25
    assert loss.centers.any(1).all()


def test_a_forgotten_metric_loss_optimizer_is_reported(digits, network):
    loss = SoftmaxLoss(10, SIZE)
    with pytest.warns(UserWarning, match="SoftmaxLoss has parameters that no optimizer has moved") as caught:
        run(trainer(network(), loss, digits[0], optimizers={}, iterations=50))
    assert len(caught) == 1


def test_a_frozen_loss_rests(digits, network):
    loss = SoftmaxCenterLoss(10, SIZE)
    before = copy.deepcopy(loss)
    run(trainer(network(), loss, digits[0], freeze_these=["metric_loss"]))
    assert_equal(loss, before)


def test_several_losses_are_one_metric_loss(digits, network):
    def make():
        torch.manual_seed(2)
        parts = {"softmax": SoftmaxLoss(10, SIZE), "center": CenterLoss(10, SIZE)}
        parts["triplet"] = pml_losses.TripletMarginLoss()
        return pml_losses.MultipleLosses(
            parts, {"triplet": miners.MultiSimilarityMiner()}, {"softmax": 1, "center": 0.1, "triplet": 0.5}
        )

    trunk, loss = network(), make()
    run(trainer(trunk, loss, digits[0]))
    by_hand = network(), make()
    loop(*by_hand, digits[0])
    assert_equal(trunk, by_hand[0])
    assert_equal(loss, by_hand[1])
    assert loss.losses["center"].step == ITERATIONS


def test_a_classifier_beside_center_loss_is_the_joint_loss(digits, network):
    """TrainWithClassifier with a linear classifier, cross entropy and center loss equals SoftmaxCenterLoss."""
    joint, center, classifier = SoftmaxCenterLoss(10, SIZE, 0.1), CenterLoss(10, SIZE), nn.Linear(SIZE, 10)
    with torch.no_grad():
        classifier.weight.copy_(joint.softmax.class_weights.weight)
        classifier.bias.zero_()
    trunk, other = network(), network()
    beside = trainer(
        trunk,
        center,
        digits[0],
        trainers.TrainWithClassifier,
        {"classifier_optimizer": sgd(classifier)},
        models={"classifier": classifier},
        loss_funcs={"classifier_loss": nn.CrossEntropyLoss()},
        loss_weights={"metric_loss": 0.1, "classifier_loss": 1},
    )
    run(beside)
    run(trainer(other, joint, digits[0]))
    torch.testing.assert_close(dict(trunk.named_parameters()), dict(other.named_parameters()), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(center.centers, joint.center.centers, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(classifier.weight, joint.softmax.class_weights.weight, rtol=1e-4, atol=1e-6)


def test_our_softmax_is_classifier_and_loss_in_one(digits, network):
    """A loss of ours as the classifier's: the embeddings are its logits if the classifier is the identity."""
    loss, softmax = CenterLoss(10, SIZE), SoftmaxLoss(10, SIZE)
    run(
        trainer(
            network(),
            loss,
            digits[0],
            trainers.TrainWithClassifier,
            {"classifier_loss_optimizer": sgd(softmax)},
            models={"classifier": nn.Identity()},
            loss_funcs={"classifier_loss": softmax},
        )
    )
    assert softmax.class_weights.bias.any()
    assert loss.centers.any(1).all()


def test_labels_that_do_not_start_from_zero_are_renumbered_by_the_trainer(digits, network):
    labels = digits[0].tensors[1]
    late = Subset(digits[0], (labels >= 3).nonzero().squeeze(1).tolist())
    loss = SoftmaxCenterLoss(7, SIZE)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 7\) because num_classes=7, got"):
        run(trainer(network(), loss, late))
    dataset_labels = labels[labels >= 3].tolist()
    run(trainer(network(), loss, late, dataset_labels=dataset_labels, set_min_label_to_zero=True))
    assert loss.center.last_seen.all()


def test_a_subset_that_was_mined_is_all_that_centers_see(digits, network):
    class First:
        def __call__(self, embeddings, labels):
            assert not loss.training
            return torch.arange(4)

    loss = CenterLoss(10, SIZE)
    run(trainer(network(), loss, digits[0], mining_funcs={"subset_batch_miner": First()}, iterations=1))
    assert 0 < loss.last_seen.sum() <= 4


def test_a_loss_of_weight_zero_is_not_called(digits, network):
    loss, classifier = CenterLoss(10, SIZE), nn.Linear(SIZE, 10)
    run(
        trainer(
            network(),
            loss,
            digits[0],
            trainers.TrainWithClassifier,
            {"classifier_optimizer": sgd(classifier)},
            models={"classifier": classifier},
            loss_funcs={"classifier_loss": nn.CrossEntropyLoss()},
            loss_weights={"metric_loss": 0, "classifier_loss": 1},
        )
    )
    assert loss.step == 0
