"""Squared distances: exact where their expansion is not, and small in memory."""

import torch

from pml_center.ops.distances import squared_distances


def dense(embeddings, rows):
    return (embeddings.unsqueeze(1) - rows).square().sum(2)


def test_values_and_gradients_are_those_of_the_dense_tensor(generator):
    embeddings = torch.randn(9, 4, generator=generator, dtype=torch.double, requires_grad=True)
    rows = torch.randn(5, 4, generator=generator, dtype=torch.double, requires_grad=True)
    weights = torch.randn(9, 5, generator=generator, dtype=torch.double)
    found, expected = squared_distances(embeddings, rows), dense(embeddings, rows)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, [embeddings, rows], weights),
        torch.autograd.grad(expected, [embeddings, rows], weights),
    )


def test_near_points_far_from_zero_keep_their_digits(generator):
    near = torch.randn(9, 4, generator=generator)
    embeddings = (1e4 + near).requires_grad_()
    rows = (1e4 + near.flip(0) + 0.01).detach()
    found, exact = squared_distances(embeddings, rows), dense(embeddings.double(), rows.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    expanded = embeddings.square().sum(1, keepdim=True) + rows.square().sum(1) - 2 * embeddings @ rows.t()
    assert (expanded - exact).abs().max() > 1  # what this is for
    (gradient,), (expected,) = (torch.autograd.grad(each.sum(), embeddings) for each in (found, exact))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_a_point_on_a_row_has_no_distance_and_no_gradient():
    embeddings = torch.ones(2, 3, requires_grad=True)
    value = squared_distances(embeddings, torch.ones(1, 3))
    value.sum().backward()
    assert not value.any()
    assert not embeddings.grad.any()


def test_rows_alone_may_need_a_gradient(generator):
    embeddings = torch.randn(3, 2, generator=generator)
    rows = torch.randn(4, 2, generator=generator, requires_grad=True)
    (found,), (expected,) = (torch.autograd.grad(f(embeddings, rows).sum(), rows) for f in (squared_distances, dense))
    torch.testing.assert_close(found, expected)
