"""PML's samplers under our losses."""

import copy

import numpy as np
import pytest
import torch
from pytorch_metric_learning import miners, samplers
from pytorch_metric_learning.utils import common_functions
from torch.utils.data import DataLoader, TensorDataset

from pml_center.losses import CenterLoss, SoftmaxCenterLoss

SIZE = 16


@pytest.fixture(autouse=True)
def _seeds(monkeypatch):
    monkeypatch.setattr(common_functions, "NUMPY_RANDOM", np.random.default_rng(0))
    torch.manual_seed(0)


def test_m_per_class_makes_every_center_step_by_m(digits, network):
    labels = digits[0].tensors[1]
    loader = DataLoader(digits[0], 20, sampler=samplers.MPerClassSampler(labels, 4, 20, 100))
    model, loss = network(), CenterLoss(10, SIZE, alpha=1.0)
    steps = 0
    for pixels, batch_labels in loader:
        before = loss.centers.clone()
        embeddings = model(pixels)
        loss(embeddings, batch_labels)
        for label in batch_labels.unique():
            own = embeddings[batch_labels == label].detach()
            expected = before[label] + (own - before[label]).sum(0) / 5  # 1 / (1 + m)
            torch.testing.assert_close(loss.centers[label], expected)
            steps += 1
    assert steps == 5 * 5


def test_a_hierarchy_draws_classes_of_few_groups(digits, network):
    labels = digits[0].tensors[1]
    both = torch.stack([labels, labels // 2], dim=1)
    sampler = samplers.HierarchicalSampler(both, 16, 4, batches_per_super_tuple=1)
    loss, model = SoftmaxCenterLoss(10, SIZE), network()
    for pixels, batch_labels in DataLoader(digits[0], batch_sampler=sampler):
        assert len((batch_labels // 2).unique()) == 2
        loss(model(pixels), batch_labels).backward()
    assert loss.center.last_seen.all()


def test_a_fixed_set_of_triplets_comes_with_its_miner(digits, network):
    labels = digits[0].tensors[1].numpy()
    sampler = samplers.FixedSetOfTriplets(labels, 40)
    model, loss, miner = network(), SoftmaxCenterLoss(10, SIZE), miners.EmbeddingsAlreadyPackagedAsTriplets()
    for pixels, batch_labels in DataLoader(digits[0], 30, sampler=sampler):
        embeddings = model(pixels)
        tuples = miner(embeddings, batch_labels)
        plain = copy.deepcopy(loss)(embeddings, batch_labels)
        torch.testing.assert_close(loss(embeddings, batch_labels, tuples), plain)  # each stands in one triplet
    assert loss.center.step == 4


def test_what_a_miner_finds_in_the_whole_set_is_drawn(digits, network):
    """TuplesToWeightsSampler: samples are drawn by how often they were mined; then the loss needs no miner."""
    few = TensorDataset(*(each[:100] for each in digits[0].tensors))
    model, loss = network(), CenterLoss(10, SIZE)
    sampler = samplers.TuplesToWeightsSampler(
        model, miners.MultiSimilarityMiner(), few, dataloader_num_workers=0, data_device=torch.device("cpu")
    )
    for pixels, labels in DataLoader(few, 50, sampler=sampler):
        loss(model(pixels), labels)
    assert loss.step == 2
    assert (sampler.weights > 0).sum() > 10
