"""Triplet-center loss: which center is nearest, and a code that looks among the classes of the batch alone."""

import pytest
import torch

from pml_center import losses
from tests import golden_io
from tests.golden_centers import each, forward, steps, with_centers

CENTERS = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])


def at_centers(**arguments):
    loss = losses.TripletCenterLoss(3, 2, **arguments)
    with torch.no_grad():
        loss.centers.copy_(CENTERS)
    return loss


def test_triplets_worked_by_hand():
    """Half squares to the three centers: of the first sample 0.5, 2, 8.5; of the second 8, 12.5, 0."""
    embeddings, labels = torch.tensor([[1.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 2])
    assert at_centers(margin=2)(embeddings, labels) == (0.5 + 2 - 2) / 2
    assert at_centers(margin=9)(embeddings, labels) == (0.5 + 9 - 2) / 2 + (0 + 9 - 8) / 2
    assert at_centers(margin=2, squared=False)(embeddings, labels) == (1 + 2 - 2) / 2


def test_the_nearest_is_looked_for_among_absent_classes_too():
    assert at_centers(margin=5)(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0.5 + 5 - 2


def test_a_sample_beyond_the_margin_moves_nothing():
    loss = at_centers(margin=1)
    embeddings = torch.tensor([[-1.0, 0.0]], requires_grad=True)
    value = loss(embeddings, torch.tensor([0]))
    value.backward()
    assert value == 0
    assert not embeddings.grad.any()
    assert not loss.centers.grad.any()


def test_the_gradient_moves_one_s_own_center_and_the_nearest():
    loss = at_centers(margin=5)
    embeddings = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss(embeddings, torch.tensor([0])).backward()
    assert embeddings.grad.tolist() == [[3, 0]]  # (x − c_y) − (x − c_j)
    assert loss.centers.grad.tolist() == [[-1, 0], [-2, 0], [0, 0]]


def test_centers_that_step_themselves_move_towards_their_own_embeddings(generator):
    loss = at_centers(alpha=1, update="mean")
    embeddings = torch.randn(3, 2, generator=generator)
    loss(embeddings, torch.tensor([1, 1, 2]))
    expected = torch.stack([CENTERS[0], embeddings[:2].mean(0), embeddings[2]])
    torch.testing.assert_close(loss.centers, expected)


def test_an_argument_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"margin must be finite and at least 0, got -1"):
        losses.TripletCenterLoss(3, 2, margin=-1)
    with pytest.raises(ValueError, match=r"chunk_size must be an integer of at least 1, got 0"):
        losses.TripletCenterLoss(3, 2, chunk_size=0)


@each("triplet_center__xlliu7__*")
def test_the_code_that_looks_among_the_classes_of_the_batch(name):
    """It is ours, without square, with the centers of those classes alone; of a center it uses the first D columns."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "param"):
        width = step["embeddings"].shape[1]
        present, labels = torch.from_numpy(step["labels"]).unique(return_inverse=True)
        margin = golden.meta["hyperparameters"]["margin"]
        loss = losses.TripletCenterLoss(len(present), width, margin, squared=False)
        loss = with_centers(loss, centers[present, :width])
        value, embeddings = forward(loss, {**step, "labels": labels.numpy()})
        of_centers = torch.zeros(centers.shape, dtype=torch.double)
        of_centers[present, :width] = loss.centers.grad
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", of_centers)
        if "param_after/centers" in step:
            golden.assert_close(f"s{number}/param_after/centers", torch.from_numpy(centers) - 0.5 * of_centers)
