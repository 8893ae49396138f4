"""The spread of classes: distances inside and between them."""

import numpy as np
import pytest
import torch

from pml_center.evaluation import intra_inter_distance


def test_the_distances_of_a_worked_example():
    embeddings = [[0, 3], [0, -3], [4, 1], [4, -1], [4, 0], [0, 30]]
    labels = ["a", "a", "b", "b", "b", "c"]
    intra, inter = intra_inter_distance(embeddings, labels)
    assert intra == pytest.approx((3 + 3 + 1 + 1 + 0 + 0) / 6)
    assert inter == pytest.approx((4 + 30 + np.hypot(4, 30)) / 3)


def test_the_distances_are_those_of_plain_loops(generator):
    embeddings = torch.randn(3000, 5, generator=generator, dtype=torch.double)
    labels = torch.arange(3000) % 1300  # more classes than one block holds
    means = torch.stack([embeddings[labels == label].mean(0) for label in range(1300)])
    intra, inter = intra_inter_distance(embeddings, labels)
    assert intra == pytest.approx((embeddings - means[labels]).norm(dim=1).mean().item(), rel=1e-12)
    assert inter == pytest.approx(torch.nn.functional.pdist(means).mean().item(), rel=1e-12)


def test_a_common_offset_changes_nothing(generator):
    embeddings, labels = torch.randn(60, 4, generator=generator, dtype=torch.double), torch.arange(60) % 6
    assert intra_inter_distance(embeddings + 1e6, labels) == pytest.approx(
        intra_inter_distance(embeddings, labels), rel=1e-8
    )


def test_one_class_has_no_distance_to_another():
    with pytest.raises(ValueError, match="labels must name at least two classes, got 1"):
        intra_inter_distance(np.eye(3), [5, 5, 5])


def test_labels_and_embeddings_are_checked():
    with pytest.raises(ValueError, match=r"labels must be one per row \(3\), got 2"):
        intra_inter_distance(np.eye(3), [1, 2])
    with pytest.raises(ValueError, match="embeddings must be finite, got nan in row 0"):
        intra_inter_distance([[np.nan], [1]], [1, 2])
