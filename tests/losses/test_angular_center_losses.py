"""Losses of angles to centers."""

import math

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity

from pml_center import losses
from tests import golden_io
from tests.golden_centers import each, forward, steps, with_centers


def test_lengths_do_not_matter(generator):
    embeddings = torch.randn(6, 3, generator=generator, dtype=torch.double)
    labels = torch.tensor([0, 1, 2, 3, 3, 0])
    lengths = torch.tensor([1e-3, 1.0, 5.0, 1e4, 2.0, 0.1]).unsqueeze(1)
    for kind in (losses.AngularCenterLoss, losses.AngularTripletCenterLoss):
        loss = with_centers(kind(4, 3), torch.randn(4, 3, generator=generator).numpy()).eval()
        torch.testing.assert_close(loss(lengths * embeddings, labels), loss(embeddings, labels))


@pytest.mark.parametrize("update", ["paper", "mean", "gradient"])
def test_angular_center_loss_is_center_loss_with_cosine_similarity(update, generator):
    embeddings = torch.randn(6, 3, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    torch.manual_seed(0)
    loss = losses.AngularCenterLoss(4, 3, update=update)
    torch.manual_seed(0)
    other = losses.CenterLoss(4, 3, update=update, distance=CosineSimilarity())
    for _ in range(3):
        value, expected = loss(embeddings, labels), other(embeddings, labels)
        torch.testing.assert_close(value, expected)
        found, wanted = (torch.autograd.grad(each, embeddings)[0] for each in (value, expected))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(loss.centers, other.centers)


def test_centers_step_towards_directions():
    loss = losses.AngularCenterLoss(2, 2, alpha=1)
    loss(torch.tensor([[5.0, 0.0], [0.0, 0.1]]), torch.tensor([0, 0]))
    torch.testing.assert_close(loss.centers[0], torch.tensor([1 / 3, 1 / 3]))


def test_a_center_without_a_direction_pulls_at_nothing(generator):
    loss = losses.AngularCenterLoss(2, 2)
    embeddings = torch.randn(3, 2, generator=generator, requires_grad=True)
    value = loss(embeddings, torch.tensor([0, 1, 1]))
    value.backward()
    assert value == 1
    assert not embeddings.grad.any()


@each("agent_center__wujiyang__*")
def test_the_code_that_divides_by_all_pairs(name):
    """It divides by B·C, has a factor, and steps its centers by gradient."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "param"):
        loss = with_centers(losses.AngularCenterLoss(*centers.shape, update="gradient"), centers)
        value, embeddings = forward(loss, step, golden.meta["hyperparameters"]["scale"] / len(centers))
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", loss.centers.grad)
        if "param_after/centers" in step:
            golden.assert_close(f"s{number}/param_after/centers", loss.centers - 0.5 * loss.centers.grad)


def at_right_angles(**arguments):
    loss = losses.AngularTripletCenterLoss(3, 3, **arguments)
    with torch.no_grad():
        loss.centers.copy_(torch.diag(torch.tensor([1.0, 0.1, 10.0])))
    return loss


def test_angles_worked_by_hand():
    """At 30 degrees from its own center, 60 from the nearest other: the second, though it is the shortest."""
    embeddings = torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6), 0.0]])
    expected = math.pi / 6 + 0.7 - math.pi / 3
    assert at_right_angles()(embeddings, torch.tensor([0])).item() == pytest.approx(expected)
    assert at_right_angles(margin=0.5)(embeddings, torch.tensor([0])) == 0
    assert at_right_angles()(embeddings, torch.tensor([1])).item() == pytest.approx(0.7 + math.pi / 6)


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 1.0])
def test_the_pull_does_not_weaken_with_the_angle(angle):
    embeddings = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], requires_grad=True)
    loss = at_right_angles(margin=math.pi)
    loss(embeddings, torch.tensor([0])).backward()
    turn = torch.tensor([-math.sin(angle), math.cos(angle), 0.0])
    torch.testing.assert_close(embeddings.grad[0], 2 * turn)  # away from the second as well


@pytest.mark.parametrize("margin", [-0.1, 4.0])
def test_a_margin_is_an_angle_in_radians(margin):
    with pytest.raises(ValueError, match=rf"margin must be in \[0, π\] radians, got {margin}"):
        losses.AngularTripletCenterLoss(3, 2, margin)


def test_another_distance_is_refused():
    with pytest.raises(TypeError, match=r"distance must be the default because AngularCenterLoss is defined on it"):
        losses.AngularCenterLoss(3, 2, distance=CosineSimilarity(power=2))
