"""Options of losses with centers, and numbers that no loss takes."""

import math

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity

from pml_center import losses, param_groups
from pml_center.losses.placed_rows import placed_rows

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


@pytest.mark.parametrize(("classes", "size"), [(1, 1), (2, 1), (3, 2), (4, 7), (9, 8)])
def test_the_corners_of_a_simplex_are_equally_far_from_each_other(classes, size):
    rows = placed_rows("simplex", classes, size, 3).double()
    cosines = (rows @ rows.t()) / 9
    expected = torch.full_like(cosines, -1 / max(classes - 1, 1)).fill_diagonal_(1)
    torch.testing.assert_close(cosines, expected, rtol=1e-6, atol=1e-6)


def test_fixed_centers_stay_where_they_are_put():
    loss = losses.CenterLoss(3, 4, update="fixed", init="axes", init_length=2)
    before = loss.centers.clone()
    embeddings = torch.randn(6, 4, requires_grad=True)
    loss(embeddings, torch.arange(6) % 3).backward()
    loss.requires_grad_(True)
    loss(embeddings, torch.arange(6) % 3)
    assert torch.equal(loss.centers, before)
    assert torch.equal(before, 2 * torch.eye(3, 4))
    torch.testing.assert_close(embeddings.grad, (embeddings.detach() - before.repeat(2, 1)) / 6)
    assert not list(loss.parameters())
    with pytest.raises(ValueError, match=r'step_centers must not be called with update="fixed"'):
        loss.step_centers()
    with pytest.raises(ValueError, match=r"centers stay where they are, got none of them"):
        torch.optim.SGD(loss.parameters(), lr=1)


def test_fixed_class_weights_have_no_gradient():
    loss = losses.CosFaceLoss(4, 3, update="fixed", init="simplex")
    before = loss.class_weights.weight.clone()
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(param_groups(model, loss, lr=0.1))
    for _ in range(3):
        loss(model(torch.randn(8, 2)), torch.arange(8) % 4).backward()
        optimizer.step()
    assert torch.equal(loss.class_weights.weight, before)
    assert loss.class_weights.weight.grad is None
    assert [group["name"] for group in optimizer.param_groups] == ["model", "model (no decay)"]
    again = losses.CosFaceLoss(4, 3)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.class_weights.weight, before)
    with pytest.raises(ValueError, match=r"num_classes must stay 4 where class weights are the corners of a simplex"):
        loss.resize_classes(5)


def test_an_axis_is_free_for_a_class_to_come():
    loss = losses.SoftmaxLoss(2, 4, update="fixed", init="axes", init_length=5)
    loss.resize_classes(4)
    assert torch.equal(loss.class_weights.weight, 5 * torch.eye(4))
    assert not loss.class_weights.weight.requires_grad
    with pytest.raises(ValueError, match="num_classes must be at most embedding_size = 4"):
        loss.resize_classes(5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: losses.CosFaceLoss(6, 4, init="simplex"), r"at most embedding_size \+ 1 = 5 with init=\"simplex\""),
        (lambda: losses.CosFaceLoss(5, 4, init="axes"), r"at most embedding_size = 4 with init=\"axes\""),
        (lambda: losses.CosFaceLoss(3, 4, init="simplex", sub_centers=2), "sub_centers must be 1 with init"),
        (lambda: losses.CosFaceLoss(3, 4, init_length=2), "init_length must be left out without init"),
        (lambda: losses.CosFaceLoss(3, 4, init="axes", init_length=0), "init_length must be positive"),
        (lambda: losses.CosFaceLoss(3, 4, init="axis"), "init must be"),
        (lambda: losses.CosFaceLoss(3, 4, update="paper"), "update must be"),
        (lambda: losses.CenterLoss(6, 4, init="simplex"), r"at most embedding_size \+ 1 = 5"),
        (lambda: losses.CenterLoss(3, 4, init="zeros", init_length=2), "init_length must be left out"),
        (lambda: losses.CenterLoss(3, 4, update="fixed", init="first_batch"), 'init must not be "first_batch"'),
        (lambda: losses.CACLoss(5, 4), "num_classes must be at most embedding_size = 4"),
    ],
)
def test_rows_that_cannot_be_placed_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_distances_to_anchors_keep_their_digits():
    loss, labels = losses.CACLoss(40, 40), torch.arange(40)
    embeddings = (loss.centers + 0.01 * torch.randn(40, 40)).requires_grad_()
    exact = losses.CACLoss(40, 40).double()
    (gradient,) = torch.autograd.grad(loss(embeddings, labels), embeddings)
    double = embeddings.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(exact(double, labels), double)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-7)
    with pytest.raises(ValueError, match="alpha must be left out because the anchors of CACLoss do not move"):
        losses.CACLoss(3, 4, alpha=0.1)
