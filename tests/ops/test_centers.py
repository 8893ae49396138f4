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
