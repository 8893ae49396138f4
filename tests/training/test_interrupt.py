"""Signals: those that are asked for stop a run, and those that a process was told to ignore do not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pml_center.cli import main
from pml_center.training.interrupt import Interrupt
from pml_center.training.run_folder import Run


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def ignored(request):
    """A signal that this process was told to ignore."""
    before = signal.signal(request.param, signal.SIG_IGN)
    yield request.param
    signal.signal(request.param, before)


def test_an_interrupt_leaves_an_ignored_signal_ignored(ignored):
    [other] = {signal.SIGINT, signal.SIGTERM} - {ignored}
    with Interrupt() as interrupt:
        assert signal.getsignal(ignored) is signal.SIG_IGN
        signal.raise_signal(ignored)
        assert not interrupt
        signal.raise_signal(other)
        assert interrupt
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_a_command_leaves_an_ignored_signal_ignored(ignored, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("pml_center.cli.app", lambda *_, **__: seen.append(signal.raise_signal(ignored)))
    main(["doctor"])
    assert seen == [None]
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_a_run_under_nohup_goes_on_when_sigint_comes_and_stops_when_sigterm_does(tmp_path):
    command = "from pml_center.cli import main; main()"
    arguments = ["train", "digits", "--image-size", "8", "--epochs", "1000", "--workers", "2", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    run = Run(tmp_path / "run")
    wait_for_epoch(run, 1, process)
    os.killpg(process.pid, signal.SIGINT)
    wait_for_epoch(run, len(run.epochs) + 3, process)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "pml-center: interrupted; go on with: pml-center resume run" in said
    assert run.can_resume


def wait_for_epoch(run, number, process):
    while len(run.epochs) < number:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
