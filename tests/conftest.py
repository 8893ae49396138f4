"""Fixtures that tests of several folders share."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # networks this small gain nothing by a second thread; a process on each core runs tests
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Embeddings that tests keep do not mix with those of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PML_CENTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images; a test that asks for it skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real images at {SHARED_DATA}")
    return SHARED_DATA
