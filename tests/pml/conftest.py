"""Small data and networks for PML's trainers, testers and samplers."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

SIZE = 16  # of the embeddings


@pytest.fixture(scope="session")
def digits():
    """Two halves of the digits, as data sets of (64,) pixels and a label."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels)
    return TensorDataset(pixels[::2], labels[::2]), TensorDataset(pixels[1::2], labels[1::2])


@pytest.fixture
def network():
    """Makes the same small network each time."""

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, SIZE))

    return make
