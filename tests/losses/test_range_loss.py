"""Range loss: the longest distances of each class, and what a port makes of small classes."""

import pytest
import torch
from pytorch_metric_learning import distances

from pml_center import losses
from tests import golden_io

POINTS = torch.tensor([[0.0], [1.0], [3.0], [10.0], [12.0], [30.0]])
LABELS = torch.tensor([5, 5, 5, -2, -2, 7])


def intra(k, squared=False, points=POINTS, labels=LABELS):
    return losses.RangeLoss(k=k, margin=0, intra_weight=1, inter_weight=0, squared=squared)(points, labels).item()


@pytest.mark.parametrize(
    ("k", "squared", "expected"),
    [
        (1, False, 3 + 2),
        (2, False, 2 / (1 / 3 + 1 / 2) + 2),  # the second class has a single pair, the third none
        (3, False, 3 / (1 / 3 + 1 / 2 + 1 / 1) + 2),
        (99, False, 3 / (1 / 3 + 1 / 2 + 1 / 1) + 2),
        (2, True, 2 / (1 / 9 + 1 / 4) + 4),
    ],
)
def test_the_first_term_is_the_sum_of_harmonic_means_over_the_pairs_that_a_class_has(k, squared, expected):
    assert intra(k, squared) == pytest.approx(expected)


@pytest.mark.parametrize(("margin", "expected"), [(12, 12 - 29 / 3), (9, 0)])
def test_the_second_term_is_the_hinge_of_the_nearest_class_means(margin, expected):
    loss = losses.RangeLoss(margin=margin, intra_weight=0, inter_weight=1, squared=False)
    assert loss(POINTS, LABELS).item() == pytest.approx(expected)


def test_both_terms_are_recorded():
    loss = losses.RangeLoss(k=1, margin=12, squared=False, collect_stats=True)
    loss(POINTS, LABELS)
    assert (loss.intra_part, loss.inter_part) == pytest.approx((5, 12 - 29 / 3))


def test_twins_leave_the_gradient_finite():
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [5.0, 2.0]], requires_grad=True)
    for squared in (False, True):
        loss = losses.RangeLoss(k=5, margin=1, intra_weight=1, squared=squared)
        value = loss(points, torch.tensor([0, 0, 0, 0]))
        (gradient,) = torch.autograd.grad(value, points)
        assert value.item() == pytest.approx(0, abs=1e-30)  # some of its pairs have no distance
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be an integer of at least 1, got 0"),
        ({"margin": -1}, ValueError, "margin must be finite and at least 0, got -1"),
        ({"intra_weight": float("nan")}, ValueError, "intra_weight must be finite and at least 0, got nan"),
        ({"inter_weight": -1}, ValueError, "inter_weight must be finite and at least 0, got -1"),
        ({"distance": distances.CosineSimilarity()}, TypeError, "distance must be the default because RangeLoss"),
    ],
)
def test_an_argument_outside_its_range_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        losses.RangeLoss(**arguments)


def test_the_port_of_chen94yue_takes_a_distance_of_1e_6_for_pairs_that_a_class_does_not_have():
    """Beside them the true pair of the class of two vanishes; those of the class of six are as here."""
    golden = golden_io.load("range__chen94yue__small_class")
    official, step = golden.meta["hyperparameters"], golden.step(0)
    embeddings, labels = torch.from_numpy(step["embeddings"]).requires_grad_(), torch.from_numpy(step["labels"])
    assert labels.bincount().tolist() == [6, 2, 1]
    loss = losses.RangeLoss(official["k"], official["margin"], official["alpha"], official["beta"], squared=False)
    value = loss(embeddings, labels)
    first, second = embeddings[labels == 1]
    pair = (first - second).norm()
    with_itself = 2 / (1 / pair + 1 / 1e-6)
    value = value + official["alpha"] * (with_itself - pair + 2 * 1e-6)
    value.backward()
    golden.assert_close("s0/loss", value)
    golden.assert_close("s0/grad/embeddings", embeddings.grad)
