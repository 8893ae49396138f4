"""Fixtures that tests of several folders share."""

from pathlib import Path

import pytest
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images; a test that asks for it skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real images at {SHARED_DATA}")
    return SHARED_DATA
