"""Centers: their closed-form step, and sums over all of them."""

import pytest
import torch

from pml_center.ops import centers as ops
from pml_center.ops.centers import ClassSums, center_step, class_sums, merge_class_sums


def step(centers, embeddings, labels, alpha, rule="paper"):
    center_step(centers, class_sums(embeddings - centers[labels], labels), alpha, rule)


def test_the_order_of_the_batch_does_not_matter(generator):
    embeddings = torch.randn(20, 3, generator=generator, dtype=torch.double)
    labels = torch.randint(4, (20,), generator=generator)
    order = torch.randperm(20, generator=generator)
    first, second = torch.ones(5, 3, dtype=torch.double), torch.ones(5, 3, dtype=torch.double)
    step(first, embeddings, labels, 0.5)
    step(second, embeddings[order], labels[order], 0.5)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-14)


def test_absent_classes_never_move(generator):
    centers = torch.randn(6, 3, generator=generator)
    before = centers.clone()
    step(centers, torch.randn(4, 3, generator=generator), torch.tensor([1, 1, 4, 1]), 1.0)
    assert (centers != before).any(1).tolist() == [False, True, False, False, True, False]


def test_an_empty_batch_moves_nothing():
    centers = torch.ones(2, 3)
    step(centers, torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 0.5)
    assert (centers == 1).all()


def test_at_rate_one_the_mean_rule_arrives_at_the_mean(generator):
    centers, embeddings = torch.randn(2, 3, generator=generator), torch.randn(4, 3, generator=generator)
    step(centers, embeddings, torch.zeros(4, dtype=torch.long), 1.0, "mean")
    torch.testing.assert_close(centers[0], embeddings.mean(0))


def test_sums_of_parts_make_the_sum_of_the_whole(generator):
    rows = torch.randn(20, 3, generator=generator, dtype=torch.double)
    labels = torch.randint(6, (20,), generator=generator)
    whole = class_sums(rows, labels)
    nothing = ClassSums(labels[:0], rows[:0], rows[:0, 0])
    parts = [nothing, *(class_sums(rows[part], labels[part]) for part in (slice(0, 3), slice(3, 11), slice(11, 20)))]
    merged = merge_class_sums(parts)
    assert torch.equal(merged.classes, whole.classes)
    assert torch.equal(merged.counts, whole.counts)
    torch.testing.assert_close(merged.sums, whole.sums, rtol=0, atol=1e-14)


def dense_pairwise_cosines(centers):
    cosines = torch.nn.functional.cosine_similarity(centers.unsqueeze(1), centers.unsqueeze(0), dim=2)
    return cosines.sum() - cosines.diagonal().sum()


@pytest.mark.parametrize("chunk", [2, 5, 100])
def test_pairwise_cosines_are_those_of_the_dense_matrix(chunk, generator, monkeypatch):
    monkeypatch.setattr(ops, "ROWS", chunk)
    centers = torch.randn(11, 4, generator=generator, dtype=torch.double, requires_grad=True)
    value, dense = ops.pairwise_cosines(centers), dense_pairwise_cosines(centers)
    torch.testing.assert_close(value, dense)
    found, expected = (torch.autograd.grad(3 * each, centers)[0] for each in (value, dense))
    torch.testing.assert_close(found, expected)


def test_a_center_at_zero_has_no_direction_to_repel(generator):
    centers = torch.randn(4, 3, generator=generator, dtype=torch.double)
    others = ops.pairwise_cosines(centers[1:])
    centers[0] = 0
    centers.requires_grad_()
    value = ops.pairwise_cosines(centers)
    torch.testing.assert_close(value, others)
    assert not torch.autograd.grad(value, centers)[0][0].any()


def test_repulsion_is_a_step_down_the_pairwise_cosines(generator):
    centers = torch.randn(11, 4, generator=generator, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(ops.pairwise_cosines(centers), centers)
    moved = centers.detach().clone()
    ops.repulsion_step(moved, 0.3)
    torch.testing.assert_close(moved, centers.detach() - 0.3 * gradient / 2)  # each pair counts once for each of both


@pytest.fixture
def tensors(generator):
    """Embeddings, centers, log-variances, and labels, of which one class has none."""
    random = {"generator": generator, "dtype": torch.double}
    floats = [torch.randn(*shape, **random).requires_grad_() for shape in ((6, 4), (11, 4), (11, 4))]
    return *floats, torch.randint(10, (6,), generator=generator)


UPSTREAM = torch.arange(1.0, 7, dtype=torch.double)  # each sample has a gradient of its own


def assert_equal_with_gradients(value, expected, inputs):
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad(each @ UPSTREAM, inputs, retain_graph=True) for each in (value, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def squared_distances(embeddings, centers):
    """(B, C), by differences."""
    return (embeddings.unsqueeze(1) - centers).square().sum(2)


def is_own(labels, classes):
    return labels.unsqueeze(1) == torch.arange(classes)


def test_rows_and_their_table_share_one_gradient(tensors):
    _, table, _, index = tensors
    rows, again = ops.with_rows(table, index)
    value = rows.square().sum(1) + again.pow(3).sum()
    assert_equal_with_gradients(value, table[index].square().sum(1) + table.pow(3).sum(), [table])


@pytest.mark.parametrize("rows", [3, 100])
def test_the_distances_to_all_others_are_summed_in_closed_form(tensors, rows, monkeypatch):
    monkeypatch.setattr(ops, "ROWS", rows)
    embeddings, centers, _, labels = tensors
    expected = squared_distances(embeddings, centers).masked_fill(is_own(labels, 11), 0).sum(1)
    value = ops.other_squared_distances(embeddings, centers, labels)
    assert_equal_with_gradients(value, expected, [embeddings, centers])


@pytest.mark.parametrize("place", [0.0, 1e3, 1e6])
def test_the_closed_form_keeps_its_digits_wherever_the_embeddings_are(place, generator):
    centers = torch.randn(50, 8, generator=generator)
    embeddings = torch.randn(20, 8, generator=generator) + place
    embeddings[0] = centers[1] + 1e-3  # far nearer to a wrong center than to its own
    labels = torch.arange(20)
    exact = squared_distances(embeddings.double(), centers.double()).masked_fill(is_own(labels, 50), 0).sum(1)
    torch.testing.assert_close(
        ops.other_squared_distances(embeddings, centers, labels).double(), exact, rtol=1e-6, atol=0
    )


def test_of_two_classes_the_other_is_the_sum(generator):
    embeddings, centers = torch.randn(5, 3, generator=generator), torch.randn(2, 3, generator=generator)
    labels = torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(
        ops.other_squared_distances(embeddings, centers, labels), (embeddings - centers[1 - labels]).square().sum(1)
    )


def test_a_single_class_has_no_others(tensors):
    embeddings, centers, variances, _ = tensors
    labels = torch.zeros(6, dtype=torch.long)
    value = ops.other_squared_distances(embeddings, centers[:1], labels)
    assert not value.any()
    assert not torch.autograd.grad(value.sum(), embeddings)[0].any()
    assert torch.equal(ops.nearest_other(embeddings, centers[:1], labels), labels)
    for of_class in (None, variances[:1]):
        value = ops.other_log_likelihoods(embeddings, centers[:1], labels, of_class)
        assert (value < -1e300).all()
        assert not torch.autograd.grad(value.sum(), embeddings)[0].any()


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 11, 50])
def test_the_nearest_other_center_is_that_of_the_matrix_of_distances(chunk_size, tensors):
    embeddings, centers, _, labels = tensors
    own = is_own(labels, 11)
    nearest = squared_distances(embeddings, centers).masked_fill(own, torch.inf).argmin(1)
    assert torch.equal(ops.nearest_other(embeddings, centers, labels, chunk_size=chunk_size), nearest)
    cosines = torch.cosine_similarity(embeddings.unsqueeze(1), centers.unsqueeze(0), dim=2)
    nearest = cosines.masked_fill(own, -torch.inf).argmax(1)
    assert torch.equal(ops.nearest_other(embeddings, centers, labels, True, chunk_size), nearest)


def test_near_centers_far_from_zero_are_told_apart(generator):
    """Where ‖x‖² + ‖c‖² − 2x·c of fp32 would tell nothing."""
    centers = torch.randn(200, 8, generator=generator) + 3e3
    embeddings = centers[:50] + 0.1 * torch.randn(50, 8, generator=generator)
    labels = torch.arange(50) + 100
    assert torch.equal(ops.nearest_other(embeddings, centers, labels), torch.arange(50))


@pytest.mark.parametrize("covariance", ["diagonal", "identity"])
@pytest.mark.parametrize("classes", [7, 300])
def test_a_center_far_away_leaves_the_others_their_digits(classes, covariance, generator):
    embeddings, centers = torch.randn(32, 8, generator=generator), torch.randn(classes, 8, generator=generator)
    centers[classes // 2] *= 1e5
    labels = torch.arange(32) % 3
    variances = None if covariance == "identity" else torch.randn(classes, 8, generator=generator) / 4
    exact = [None if each is None else each.double() for each in (embeddings, centers, variances)]
    found = ops.nearest_other(embeddings, centers, labels)
    assert torch.equal(found, ops.nearest_other(*exact[:2], labels))
    found = ops.other_log_likelihoods(embeddings, centers, labels, variances)
    expected = ops.other_log_likelihoods(*exact[:2], labels, exact[2])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_angles_keep_their_digits_at_both_ends():
    angles = torch.tensor([0, 1e-6, 1e-3, 1.0, torch.pi / 2, 3.0, torch.pi - 1e-3], dtype=torch.double)
    first = torch.tensor([[2.0, 0.0]]).expand(7, 2)
    second = torch.stack([angles.cos(), angles.sin()], dim=1)
    torch.testing.assert_close(ops.angle_between(first, second.float()).double(), angles, rtol=2e-6, atol=0)


def test_the_slope_of_an_angle_is_one_over_the_length_or_zero():
    directions = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 1e-5], [1.0, 1e-5], [-1.0, 0.0]])
    second = (4 * directions).requires_grad_()
    first = torch.tensor([[1.0, 0.0]]).expand(5, 2)
    (slope,) = torch.autograd.grad(ops.angle_between(first, second).sum(), second)
    lengths = second.detach().norm(dim=1)
    torch.testing.assert_close(slope.norm(dim=1) * lengths, torch.tensor([0.0, 1, 1, 1, 0]), rtol=1e-4, atol=1e-6)


def test_rows_of_zeros_are_at_a_right_angle_from_all():
    first, second = (
        torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]),
        torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]),
    )
    first.requires_grad_()
    value = ops.angle_between(first, second)
    torch.testing.assert_close(value[:2], torch.full((2,), torch.pi / 2))
    assert torch.autograd.grad(value.sum(), first)[0].isfinite().all()


def dense_log_likelihoods(embeddings, means, log_variances):
    """(B, C), by differences."""
    difference = embeddings.unsqueeze(1) - means
    return -(difference.square() / log_variances.exp() + log_variances).sum(2) / 2


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 11, 50])
@pytest.mark.parametrize("covariance", ["diagonal", "identity"])
def test_the_likelihoods_of_all_others_are_those_of_the_matrix(chunk_size, covariance, tensors):
    embeddings, means, log_variances, labels = tensors
    of_class = log_variances if covariance == "diagonal" else None
    inputs = [embeddings, means, log_variances][: 3 if covariance == "diagonal" else 2]
    dense = dense_log_likelihoods(embeddings, means, torch.zeros(11, 4) if of_class is None else of_class)
    expected = dense.masked_fill(is_own(labels, 11), -torch.inf).logsumexp(1)
    value = ops.other_log_likelihoods(embeddings, means, labels, of_class, chunk_size)
    assert_equal_with_gradients(value, expected, inputs)
    torch.testing.assert_close(ops.log_likelihoods(embeddings, means, of_class), dense)


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("covariance", ["diagonal", "identity"])
def test_means_without_gradient_may_move_between_forward_and_backward(chunk_size, covariance, tensors):
    embeddings, means, log_variances, labels = tensors
    of_class = log_variances.detach() if covariance == "diagonal" else None
    expected = ops.other_log_likelihoods(embeddings, means, labels, of_class, chunk_size)
    moving = means.detach().clone()
    value = ops.other_log_likelihoods(embeddings, moving, labels, of_class, chunk_size)
    moving.zero_()
    assert_equal_with_gradients(value, expected, [embeddings])


def test_means_that_move_before_the_gradient_of_variances_are_noticed(tensors):
    embeddings, means, log_variances, labels = tensors
    value = ops.other_log_likelihoods(embeddings, means, labels, log_variances).sum()
    with torch.no_grad():
        means.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_likelihoods_far_from_zero_keep_their_digits(generator):
    means = torch.randn(30, 8, generator=generator) + 1e3
    embeddings, labels = means[:20] + torch.randn(20, 8, generator=generator), torch.arange(20)
    exact = dense_log_likelihoods(embeddings.double(), means.double(), torch.zeros(30, 8))
    exact = exact.masked_fill(is_own(labels, 30), -torch.inf).logsumexp(1)
    value = ops.other_log_likelihoods(embeddings, means, labels)
    torch.testing.assert_close(value.double(), exact, rtol=0, atol=1e-4)
