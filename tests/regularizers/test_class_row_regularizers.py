"""Regularizers of class rows, and the labels that our losses hand to them; and MagFace's g."""

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers
from pytorch_metric_learning import regularizers as pml_regularizers

from pml_center import losses
from pml_center.regularizers import (
    CenterInvariantRegularizer,
    CenterRepulsionRegularizer,
    MagnitudeRegularizer,
)


@pytest.fixture
def rows(generator):
    return torch.randn(6, 4, generator=generator)


def test_without_labels_it_is_pml_s(rows):
    torch.testing.assert_close(CenterInvariantRegularizer()(rows), pml_regularizers.CenterInvariantRegularizer()(rows))


def test_labels_say_which_classes_have_a_term_and_each_has_one(rows):
    squares = rows.square().sum(1)
    expected = ((squares - squares.mean()) ** 2 / 4)[[1, 4]]
    labels = torch.tensor([4, 4, 4, 1])
    torch.testing.assert_close(CenterInvariantRegularizer()(rows, labels), expected.mean())
    weights = torch.arange(6.0)
    weighted = CenterInvariantRegularizer(reducer=reducers.ClassWeightedReducer(weights))(rows, labels)
    torch.testing.assert_close(weighted, (expected * weights[[1, 4]]).mean())
    torch.testing.assert_close(
        CenterInvariantRegularizer(reducer=reducers.DivisorReducer())(rows, labels), expected.mean()
    )


LABELS = torch.tensor([1, 4, 4, -1])


def term(kind, **arguments):
    """What the regularizer adds to a loss of the classes 1 and 4, and its class rows."""
    embeddings = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    taken = kind is not pml_losses.CosFaceLoss
    embeddings, labels = (embeddings, LABELS) if taken else (embeddings[:3], LABELS[:3])
    arguments |= {"ignore_index": -1} if taken else {}
    loss = kind(
        num_classes=6,
        embedding_size=4,
        weight_init_func=torch.nn.init.normal_,
        weight_regularizer=CenterInvariantRegularizer(),
        weight_reg_weight=0.5,
        reducer=reducers.DoNothingReducer(),
        **arguments,
    )
    class_rows = loss.class_rows() if taken else loss.W.t()
    class_rows = class_rows.detach().clone()
    return loss(embeddings, labels)["weight_reg_loss"]["losses"], class_rows


@pytest.mark.parametrize("kind", [losses.SoftmaxLoss, losses.CosFaceLoss, losses.CenterLoss, losses.SoftmaxCenterLoss])
def test_our_losses_hand_over_the_labels_that_are_not_ignored(kind):
    value, class_rows = term(kind)
    torch.testing.assert_close(value, 0.5 * CenterInvariantRegularizer()(class_rows, torch.tensor([1, 4])))


def test_classes_of_several_rows_have_a_term_for_each():
    value, class_rows = term(losses.SubCenterArcFaceLoss, sub_centers=3)
    chosen = torch.tensor([3, 4, 5, 12, 13, 14])
    torch.testing.assert_close(value, 0.5 * CenterInvariantRegularizer()(class_rows, chosen))


def test_losses_of_pml_hand_over_nothing():
    value, class_rows = term(pml_losses.CosFaceLoss)
    torch.testing.assert_close(value, 0.5 * pml_regularizers.CenterInvariantRegularizer()(class_rows))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1.0, 0], [5, 0]], 2),
        ([[1.0, 0], [-5, 0]], 0),
        ([[1.0, 0], [0, 3]], 1),
        ([[1.0, 0], [-1, 3**0.5], [-1, -(3**0.5)]], 0.5),  # the least of three
        ([[1.0, 0], [0, 0]], 1),
        ([[1.0, 0]], 0),
    ],
)
def test_repulsion_is_the_mean_over_pairs_of_the_cosine_and_one(rows, expected):
    assert CenterRepulsionRegularizer()(torch.tensor(rows)).item() == pytest.approx(expected, abs=1e-6)


def test_repulsion_turns_class_weights_away_from_each_other(generator):
    weights = torch.randn(6, 4, generator=generator, requires_grad=True)
    repulsion, optimizer = CenterRepulsionRegularizer(), torch.optim.SGD([weights], lr=1)
    before = repulsion(weights).item()
    for _ in range(100):
        optimizer.zero_grad()
        repulsion(weights).backward()
        optimizer.step()
    least = (6 - 2) / (6 - 1)
    assert repulsion(weights).item() == pytest.approx(least, abs=1e-3)
    assert before > least + 0.05


@pytest.mark.parametrize(("length", "clipped"), [(0, 1), (0.5, 1), (2, 2), (4, 4), (9, 4)])
def test_magnitude_is_magface_s_g_within_its_bounds(length, clipped):
    rows = torch.tensor([[0.6, 0.8]]).mul(length).requires_grad_()
    regularizer = MagnitudeRegularizer(lower_norm=1, upper_norm=4, collect_stats=True)
    value = regularizer(rows)
    value.backward()
    assert value.item() == pytest.approx(clipped / 16 + 1 / clipped)
    assert regularizer.clipped_share == (length != clipped)
    slope = 1 / 16 - 1 / length**2 if 1 < length < 4 else 0
    torch.testing.assert_close(rows.grad, slope * torch.tensor([[0.6, 0.8]]))


def test_magface_without_its_own_g_and_with_this_one_is_magface(generator):
    embeddings = 20 * torch.randn(8, 4, generator=generator, dtype=torch.double)
    labels = torch.arange(8) % 3
    whole = losses.MagFaceLoss(3, 4, regularizer_weight=35).double()
    parts = losses.MagFaceLoss(
        3, 4, regularizer_weight=0, embedding_regularizer=MagnitudeRegularizer(), embedding_reg_weight=35
    ).double()
    parts.load_state_dict(whole.state_dict())
    torch.testing.assert_close(parts(embeddings, labels), whole(embeddings, labels))


@pytest.mark.parametrize("bounds", [(0, 1), (5, 5), (-1, 2)])
def test_bounds_must_be_in_order(bounds):
    with pytest.raises(ValueError, match="lower_norm must be positive and below upper_norm"):
        MagnitudeRegularizer(*bounds)
