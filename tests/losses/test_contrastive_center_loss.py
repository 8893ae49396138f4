"""Contrastive-center loss: a ratio of distances, against a code that takes the ratio of sums."""

import pytest
import torch
from pytorch_metric_learning import reducers

from pml_center import losses
from pml_center.ops.centers import other_squared_distances
from tests import golden_io
from tests.golden_centers import each, steps, with_centers


def test_a_ratio_worked_by_hand():
    """Own center at distance 2; others at 3 and at 5; δ = 2."""
    loss = losses.ContrastiveCenterLoss(3, 2, delta=2)
    with torch.no_grad():
        loss.centers.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-4.0, 3.0]]))
    assert loss(torch.zeros(1, 2), torch.tensor([0])).item() == pytest.approx(4 / (9 + 25 + 2) / 2)


def test_it_is_not_smallest_where_all_is_one_point():
    loss = losses.ContrastiveCenterLoss(2, 1)
    with torch.no_grad():
        loss.centers.copy_(torch.tensor([[-1.0], [1.0]]))
    apart = loss(torch.tensor([[-1.5], [1.5]]), torch.tensor([0, 1]))
    together = loss(torch.tensor([[0.0], [0.0]]), torch.tensor([0, 1]))
    assert apart < together


def test_a_step_against_the_gradient_pulls_one_s_own_center_and_pushes_the_others(generator):
    loss = with_centers(losses.ContrastiveCenterLoss(4, 3), torch.randn(4, 3, generator=generator).numpy())
    embeddings, labels = torch.randn(1, 3, generator=generator, dtype=torch.double), torch.tensor([2])
    before = (embeddings - loss.centers).norm(dim=1)
    loss(embeddings, labels).backward()
    after = (embeddings - (loss.centers - 0.1 * loss.centers.grad)).norm(dim=1)
    assert (after < before).tolist() == [False, False, True, False]
    assert (after != before).all()


def test_centers_that_step_themselves_move_towards_their_own_embeddings(generator):
    loss = losses.ContrastiveCenterLoss(3, 2, alpha=1, update="mean")
    before = loss.centers.clone()
    embeddings = torch.randn(4, 2, generator=generator)
    loss(embeddings, torch.tensor([0, 0, 2, 0]))
    torch.testing.assert_close(loss.centers[0], embeddings[[0, 1, 3]].mean(0))
    assert torch.equal(loss.centers[1], before[1])


@pytest.mark.parametrize("delta", [0, -1.0, float("nan")])
def test_delta_must_be_positive(delta):
    with pytest.raises(ValueError, match=rf"delta must be finite and positive, got {delta}. The paper's is 1."):
        losses.ContrastiveCenterLoss(3, 2, delta)


@each("contrastive_center__lyakaap__*")
def test_the_code_that_divides_sums(name):
    """It has the ratio of the sums of a batch, δ = 1e-6 and a factor of 10; ours is made of the same two distances."""
    golden = golden_io.load(name)
    weight = golden.meta["hyperparameters"]["lambda_c"]
    for number, step, centers in steps(golden, "param"):
        loss = losses.ContrastiveCenterLoss(*centers.shape, reducer=reducers.DoNothingReducer())
        loss = with_centers(loss, centers)
        embeddings, labels = torch.from_numpy(step["embeddings"]).requires_grad_(), torch.from_numpy(step["labels"])
        own = (embeddings - loss.centers[labels]).square().sum(1)
        others = other_squared_distances(embeddings, loss.centers, labels)
        torch.testing.assert_close(loss(embeddings, labels)["loss"]["losses"], own / (others + 1) / 2)
        theirs = 10 * weight / (2 * len(labels)) * own.sum() / (others.sum() + 1e-6)
        theirs.backward()
        golden.assert_close(f"s{number}/loss", theirs)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", loss.centers.grad)
        if "param_after/centers" in step:
            golden.assert_close(f"s{number}/param_after/centers", loss.centers - 0.5 * loss.centers.grad)


def test_the_code_that_divides_sums_of_one_sample():
    """Of a batch of one it is ours, times 10."""
    golden = golden_io.load("contrastive_center__lyakaap__b1")
    (_, step, centers) = next(steps(golden, "param"))
    loss = with_centers(losses.ContrastiveCenterLoss(*centers.shape, delta=1e-6), centers)
    embeddings = torch.from_numpy(step["embeddings"]).requires_grad_()
    value = 10 * loss(embeddings, torch.from_numpy(step["labels"]))
    value.backward()
    golden.assert_close("s0/loss", value)
    golden.assert_close("s0/grad/embeddings", embeddings.grad)
    golden.assert_close("s0/grad/centers", loss.centers.grad)
