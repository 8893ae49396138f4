"""Losses whose references are the batch's own: marginal, centroid triplet, hetero-center."""

import math

import pytest
import torch
from pytorch_metric_learning import distances, reducers

from pml_center import losses


def angles(*degrees):
    """Points on the unit circle, at lengths that must not matter."""
    radians = torch.tensor(degrees, dtype=torch.double).deg2rad()
    lengths = torch.arange(1, len(degrees) + 1).unsqueeze(1)
    return lengths * torch.stack([radians.cos(), radians.sin()], dim=1)


def column(*values):
    return torch.tensor(values, dtype=torch.double).unsqueeze(1)


@pytest.mark.parametrize(
    ("degrees", "same", "expected"),
    [
        (90, True, 0.3 - 1.2 + 2),
        (90, False, 0),  # 2 is above 1.2 + 0.3
        (30, True, 0),  # 0.27 is below 1.2 - 0.3
        (30, False, 0.3 + 1.2 - (2 - math.sqrt(3))),
        (60, True, 0.3 - 1.2 + 1),
        (60, False, 0.3 + 1.2 - 1),
    ],
)
def test_marginal_loss_has_one_threshold_for_squared_distances_of_directions(degrees, same, expected):
    value = losses.MarginalLoss()(angles(0, degrees), torch.tensor([3, 3 if same else 8]))
    assert value.item() == pytest.approx(expected)


def test_marginal_loss_is_the_mean_over_ordered_pairs():
    embeddings, labels = angles(0, 90, 30), torch.tensor([0, 0, 1])
    expected = 2 * (1.1 + (1.5 - (2 - math.sqrt(3))) + 0.5) / 6  # pairs at 90, 30 and 60 degrees
    assert losses.MarginalLoss()(embeddings, labels).item() == pytest.approx(expected)


def test_a_larger_margin_and_another_threshold_are_followed():
    value = losses.MarginalLoss(threshold=0.5, margin=1)(angles(0, 60), torch.tensor([0, 0]))
    assert value.item() == pytest.approx(1 - 0.5 + 1)


def test_the_query_is_left_out_of_its_own_centroid():
    embeddings, labels = column(0, 2, 4, 9), torch.tensor([0, 0, 0, 1])
    expected = [0.0, 0.0, (4 - 1) ** 2 - (4 - 9) ** 2 + 20, 0.0]  # at 0 the centroid of the others is 3, of all 2
    expected[0] = max(0, 3**2 - 9**2 + 20)
    expected[1] = max(0, 0 - 7**2 + 20)
    loss = losses.CentroidTripletLoss(margin=20, reducer=reducers.DoNothingReducer())
    assert loss(embeddings, labels)["loss"]["losses"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("negatives", "squared", "expected"),
    [
        ("hardest", True, 4**2 - 3**2 + 1),
        ("hardest", False, 4 - 3 + 1),
        ("all", True, ((4**2 - 3**2 + 1) + (4**2 - 4**2 + 1) + 0) / 3),
        ("all", False, ((4 - 3 + 1) + (4 - 4 + 1) + 0) / 3),
    ],
)
def test_negatives_are_the_centroids_of_other_classes(negatives, squared, expected):
    embeddings, labels = column(0, 4, -2, -4, 4, 50), torch.tensor([0, 0, 1, 1, 2, 3])
    loss = losses.CentroidTripletLoss(1, negatives, squared, reducer=reducers.DoNothingReducer())
    assert loss(embeddings, labels)["loss"]["losses"][0].item() == pytest.approx(expected)


@pytest.mark.parametrize("negatives", ["hardest", "all"])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5]])
def test_without_a_centroid_on_either_side_there_is_no_query(negatives, labels, generator):
    embeddings = torch.randn(4, 3, generator=generator, requires_grad=True)
    value = losses.CentroidTripletLoss(margin=100, negatives=negatives)(embeddings, torch.tensor(labels))
    value.backward()
    assert value == 0
    assert not embeddings.grad.any()


@pytest.mark.parametrize("negatives", ["hardest", "all"])
@pytest.mark.parametrize("squared", [False, True])
def test_a_query_on_a_centroid_has_a_finite_gradient(negatives, squared):
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = losses.CentroidTripletLoss(1, negatives, squared)
    loss(embeddings, torch.tensor([0, 0, 1])).backward()
    assert embeddings.grad.isfinite().all()


def test_hetero_center_compares_the_centers_of_two_modalities():
    visible, infrared = column(0, 2, 9, 100).requires_grad_(), column(4, 6, 8, -7).requires_grad_()
    labels, others = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 0, 0, 3])
    value = losses.HeteroCenterLoss()(visible, labels, ref_emb=infrared, ref_labels=others)
    value.backward()
    assert value.item() == pytest.approx((7 - 1) ** 2 + (4 - 9) ** 2)  # classes 2 and 3 have one modality
    torch.testing.assert_close(visible.grad, column(-6, -6, 10, 0))
    torch.testing.assert_close(infrared.grad, column(-10, 6, 6, 0))


def test_centers_within_the_margin_are_left_alone():
    visible, infrared = column(0, 9), column(1, 4)
    labels = torch.tensor([0, 1])
    value = losses.HeteroCenterLoss(margin=2)(visible, labels, ref_emb=infrared, ref_labels=labels)
    assert value.item() == 25 - 2


def test_modalities_may_take_turns_in_a_batch():
    batch, labels = column(0, 4, 9, 7), torch.tensor([0, 0, 1, 1])
    value = losses.HeteroCenterLoss()(batch[::2], labels[::2], ref_emb=batch[1::2], ref_labels=labels[1::2])
    assert value.item() == 4**2 + 2**2


def test_modalities_may_share_no_class():
    visible = column(0, 9).requires_grad_()
    value = losses.HeteroCenterLoss()(visible, torch.tensor([0, 1]), None, column(1, 2), torch.tensor([2, 3]))
    value.backward()
    assert value == 0
    assert not visible.grad.any()


def test_an_ignored_label_is_ignored_in_both_modalities():
    loss = losses.HeteroCenterLoss(ignore_index=-1)
    value = loss(column(0, 50), torch.tensor([0, -1]), None, column(3, 70), torch.tensor([0, -1]))
    assert value.item() == 9


def test_the_wider_modality_gives_the_type():
    labels = torch.tensor([0, 1])
    value = losses.HeteroCenterLoss()(column(0, 1).half(), labels, None, column(1, 2), labels)
    assert value.dtype == torch.double


@pytest.mark.parametrize(
    ("references", "error", "message"),
    [
        ({}, ValueError, r"ref_emb must be given for HeteroCenterLoss, .* got None. Call loss\("),
        ({"ref_emb": torch.ones(2, 1)}, ValueError, "ref_labels must be given for HeteroCenterLoss"),
        (
            {"ref_emb": torch.ones(2, 3), "ref_labels": torch.ones(2).long()},
            ValueError,
            r"ref_emb must have the 1 columns of embeddings, got shape \(2, 3\)",
        ),
        (
            {"ref_emb": torch.ones(2, 1), "ref_labels": torch.ones(3).long()},
            ValueError,
            r"ref_labels must have shape \(2,\), one per embedding, got shape \(3,\)",
        ),
        (
            {"ref_emb": torch.full((2, 1), math.nan), "ref_labels": torch.ones(2).long()},
            ValueError,
            "ref_emb must be finite, got nan in row 0",
        ),
        (
            {"ref_emb": torch.ones(2, 1), "ref_labels": torch.ones(2)},
            TypeError,
            "ref_labels must be integers, got dtype torch.float32",
        ),
    ],
)
def test_references_that_do_not_fit_are_refused(references, error, message):
    with pytest.raises(error, match=message):
        losses.HeteroCenterLoss()(column(0, 1), torch.tensor([0, 1]), **references)


@pytest.mark.parametrize(
    ("loss", "arguments", "error", "message"),
    [
        (losses.MarginalLoss, {"threshold": 4}, ValueError, r"threshold must be in \(0, 4\), got 4"),
        (losses.MarginalLoss, {"margin": -0.1}, ValueError, "margin must be finite and at least 0, got -0.1"),
        (losses.CentroidTripletLoss, {"negatives": "every"}, ValueError, "negatives must be a known name, got 'every'"),
        (losses.CentroidTripletLoss, {"margin": -2}, ValueError, "margin must be finite and at least 0, got -2"),
        (losses.HeteroCenterLoss, {"margin": -1}, ValueError, "margin must be finite and at least 0, got -1"),
        (losses.MarginalLoss, {"distance": distances.LpDistance(power=1)}, TypeError, "distance must be the default"),
        (losses.CentroidTripletLoss, {"distance": distances.LpDistance()}, TypeError, "distance must be the default"),
    ],
)
def test_an_argument_outside_its_range_is_refused(loss, arguments, error, message):
    with pytest.raises(error, match=message):
        loss(**arguments)


@pytest.mark.parametrize(
    "loss",
    [
        losses.GitLoss(5, 3),
        losses.CentroidTripletLoss(),
        losses.CentroidTripletLoss(negatives="all"),
        losses.RangeLoss(),
    ],
    ids=["git", "hardest", "all", "range"],
)
def test_on_the_cpu_distances_are_to_classes_and_not_to_samples(loss, generator, monkeypatch):
    references, cdist = [], torch.cdist
    monkeypatch.setattr(
        torch, "cdist", lambda x, rows, **kwargs: references.append(len(rows)) or cdist(x, rows, **kwargs)
    )
    loss(torch.randn(12, 3, generator=generator), torch.arange(12) % 2)
    assert references == [2]
