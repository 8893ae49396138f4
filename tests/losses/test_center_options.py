"""Options of losses with centers, and numbers that no loss takes."""

import math

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity

from pml_center import losses

OF_THE_BATCH = (losses.CenterLoss, losses.TripletCenterLoss, losses.AngularCenterLoss, losses.GitLoss)
OF_ALL_CLASSES = (losses.IslandLoss, losses.ContrastiveCenterLoss, losses.LGMLoss, losses.CenterContrastiveLoss)
NUMBERS = {
    losses.ContrastiveCenterLoss: {"delta": "positive"},
    losses.TripletCenterLoss: {"margin": "at least 0"},
    losses.LGMLoss: {"margin": "at least 0", "likelihood_weight": "at least 0"},
    losses.CenterContrastiveLoss: {"margin": "at least 0", "scale": "positive", "center_weight": "at least 0"},
    losses.GitLoss: {"repulsion": "at least 0"},
    losses.RangeLoss: {"margin": "at least 0", "intra_weight": "at least 0", "inter_weight": "at least 0"},
    losses.MarginalLoss: {"margin": "at least 0"},
    losses.CentroidTripletLoss: {"margin": "at least 0"},
    losses.HeteroCenterLoss: {"margin": "at least 0"},
}
WITHOUT_CLASSES = (losses.RangeLoss, losses.MarginalLoss, losses.CentroidTripletLoss, losses.HeteroCenterLoss)


@pytest.mark.parametrize("kind", [*OF_THE_BATCH, losses.AngularTripletCenterLoss])
def test_a_sparse_gradient_has_the_rows_of_the_dense_one(kind, generator):
    embeddings, labels = torch.randn(5, 4, generator=generator), torch.tensor([0, 0, 1, 2, 5])
    dense, sparse = (kind(9, 4, update="gradient", sparse_gradient=is_sparse) for is_sparse in (False, True))
    sparse.load_state_dict(dense.state_dict())
    for loss in (dense, sparse):
        loss(embeddings, labels).backward()
    assert sparse.centers.grad.is_sparse
    torch.testing.assert_close(sparse.centers.grad.to_dense(), dense.centers.grad)


@pytest.mark.parametrize("kind", OF_ALL_CLASSES)
def test_a_sparse_gradient_is_refused_where_no_row_of_it_is_zero(kind, generator):
    message = rf"sparse_gradient must be False for {kind.__name__}, whose gradient reaches the centers of all"
    with pytest.raises(ValueError, match=message):
        kind(9, 4, update="gradient", sparse_gradient=True)
    loss = kind(9, 4, update="gradient", init="normal")
    loss(torch.randn(2, 4, generator=generator), torch.tensor([0, 1])).backward()
    assert loss.centers.grad.any(1).all()


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (losses.AngularCenterLoss, {}),
        (losses.AngularTripletCenterLoss, {}),
        (losses.CenterContrastiveLoss, {}),
        (losses.CenterLoss, {"distance": CosineSimilarity()}),
    ],
)
def test_learned_centers_of_angles_must_not_start_from_zero(kind, arguments, generator):
    with pytest.raises(ValueError, match=r'init must not be "zeros" with update="gradient" where .* by angle'):
        kind(3, 4, update="gradient", init="zeros", **arguments)
    embeddings, labels = torch.randn(3, 4, generator=generator), torch.arange(3)
    kind(3, 4, update="paper", init="zeros", **arguments)(embeddings, labels)  # these find one in their first step


@pytest.mark.parametrize(
    ("kind", "name", "rule"), [(kind, name, rule) for kind, rules in NUMBERS.items() for name, rule in rules.items()]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "0.5", None])
def test_numbers_must_be_finite(kind, name, rule, value):
    sizes = () if kind in WITHOUT_CLASSES else (3, 2)
    with pytest.raises(ValueError, match=rf"^{name} must be finite and {rule}, got {value!r}\. \w"):
        kind(*sizes, **{name: value})


@pytest.mark.parametrize("name", ["chunk_size", "accumulation_steps"])
@pytest.mark.parametrize("value", [0, 2.0, math.nan, math.inf, "2", True])
def test_counts_must_be_integers(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be an integer of at least 1, .*got {value!r}\. \w"):
        losses.TripletCenterLoss(3, 2, **{name: value})
