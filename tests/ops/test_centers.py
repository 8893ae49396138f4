"""The closed-form step of the centers."""

import torch

from pml_center.ops.centers import center_step


def test_the_order_of_the_batch_does_not_matter(generator):
    embeddings = torch.randn(20, 3, generator=generator, dtype=torch.double)
    labels = torch.randint(4, (20,), generator=generator)
    order = torch.randperm(20, generator=generator)
    first, second = torch.ones(5, 3, dtype=torch.double), torch.ones(5, 3, dtype=torch.double)
    center_step(first, embeddings, labels, 0.5)
    center_step(second, embeddings[order], labels[order], 0.5)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-14)


def test_absent_classes_never_move(generator):
    centers = torch.randn(6, 3, generator=generator)
    before = centers.clone()
    center_step(centers, torch.randn(4, 3, generator=generator), torch.tensor([1, 1, 4, 1]), 1.0)
    assert (centers != before).any(1).tolist() == [False, True, False, False, True, False]


def test_an_empty_batch_moves_nothing():
    centers = torch.ones(2, 3)
    center_step(centers, torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 0.5)
    assert (centers == 1).all()


def test_the_type_of_the_centers_stays():
    centers = torch.zeros(2, 3)
    center_step(centers, torch.ones(1, 3, dtype=torch.bfloat16), torch.tensor([0]), 1.0)
    assert torch.equal(centers, torch.tensor([[0.5] * 3, [0.0] * 3]))
