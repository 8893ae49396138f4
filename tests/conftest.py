"""Fixtures that tests of several folders share."""

import signal
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


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal():
    """Tests send signals, and nohup, a shell's ``&`` and some services start them with SIGINT ignored.

    The processes that tests start inherit it: what a process ignores, those that it starts ignore, too.
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_collection_modifyitems(config, items):
    if not config.option.markexpr:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: asked for by -m slow, as .ci/run does"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images; a test that asks for it skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real images at {SHARED_DATA}")
    return SHARED_DATA
