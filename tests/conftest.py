"""Fixtures that tests of several folders share."""

import logging
import signal
from pathlib import Path

import pytest
import torch

from pml_center.ops import precision

torch.set_num_threads(1)  # networks this small gain nothing by a second thread; a process on each core runs tests
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Embeddings that tests keep do not mix with those of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PML_CENTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _products_of_any_cpu():
    """What is computed under autocast does not depend on what the CPU has units for: none, unless a test says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "HALF_ON_CPU", set())
        yield


@pytest.fixture(scope="session", autouse=True)
def _logs_by_one_way():
    """Pytest listens at each logger that passes nothing on, three times in each test, and torch has dozens of them."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch") and isinstance(logger, logging.Logger):
            logger.propagate = True


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


class Elsewhere(str):
    """The CPU, which says that it is something else."""

    type = "cuda"


@pytest.fixture
def elsewhere(monkeypatch):
    """A function from whose call on tensors deny that they are on the CPU: what is computed otherwise there is seen."""
    return lambda: monkeypatch.setattr(torch.Tensor, "device", property(lambda self: Elsewhere("cpu")))


@pytest.fixture
def sketched(monkeypatch):
    """The drawings of pages are made, and left out of the page: matplotlib takes seconds to write them down.

    For tests that read what else a page says; ``tests/pages`` and ``tests/test_plots.py`` look at drawings.
    """
    from matplotlib.figure import Figure

    written = Figure.savefig

    def savefig(figure, file, **options):
        if options.get("format") == "svg":
            file.write("<svg></svg>")
        else:
            written(figure, file, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def few_digits(monkeypatch):
    """A third of the digits, 599, stand for all of them; who asks scikit-learn for the arrays gets them all."""
    import sklearn.datasets

    load = sklearn.datasets.load_digits

    def third(**options):
        bunch = load(**options)
        if not options:  # as digits() asks
            bunch.images, bunch.target = bunch.images[::3], bunch.target[::3]
        return bunch

    monkeypatch.setattr(sklearn.datasets, "load_digits", third)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images; a test that asks for it skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real images at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def command(capsys):
    """A function that runs a command: what it prints, (stdout, stderr), and its exit code."""
    from pml_center.cli import main  # not needed by tests beside torch and PML alone

    def typed(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code or 0
        return *capsys.readouterr(), code

    return typed
