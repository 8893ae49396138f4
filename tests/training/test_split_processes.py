"""A run whose classes are split goes on in any number of processes, and a crash leaves the checkpoint before whole."""

import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch

from pml_center.training import Run, TrainConfig, fit, resume
from pml_center.training import checkpoint as checkpoints
from pml_center.training.checkpoint import CheckpointError

LOSS = "ArcFaceLoss(sub_centers=2) + 0.01 * CenterLoss + 0.1 * LGMLoss"
PHASES = (2, 3, 1, 2)  # processes of each epoch


def config(out, epochs):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 6
    features = (random.normal(size=(6, 8))[labels] + 0.3 * random.normal(size=(60, 8))).astype(np.float32)
    options = {"model": "linear", "embedding_size": 4, "neck_init": "random", "held_out": 0.2, "split": "images"}
    options |= {"batch_size": 20, "schedule": "constant", "warmup_epochs": 0, "clip_grad": 1.0, "device": "cpu"}
    return TrainConfig((features, labels), loss=LOSS, epochs=epochs, out=str(out), shard_classes=True, **options)


def phases(rank, ports, out, barrier):
    """One epoch after the other, in as many processes each; those that do not take part wait."""
    torch.set_num_threads(1)
    for epoch, (count, port) in enumerate(zip(PHASES, ports, strict=True), 1):
        barrier.wait()
        if rank >= count:
            continue
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        fit(config(out, 1)) if epoch == 1 else resume(out, epochs=epoch)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_a_run_goes_on_in_other_numbers_of_processes_as_if_never_stopped(tmp_path):
    context = multiprocessing.get_context("spawn")
    arguments = free_ports(len(PHASES)), tmp_path / "several", context.Barrier(max(PHASES), timeout=300)
    processes = [context.Process(target=phases, args=(rank, *arguments)) for rank in range(max(PHASES))]
    for process in processes:
        process.start()
    alone, _ = fit(config(tmp_path / "one", len(PHASES)))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    several = Run.open(tmp_path / "several")
    for part in ("model", "loss"):
        found, expected = several.weights(part, "last"), alone.weights(part, "last")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert found["losses.0.class_weights.weight"].shape == (12, 4)


def test_a_crash_between_the_parts_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    run, _ = fit(config(tmp_path / "run", 1))
    before = run.weights("loss", "last")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "sync_each", lambda paths: 1 / 0)  # with the part of each, ahead of the rest
        with pytest.raises(ZeroDivisionError):
            resume(run.folder, epochs=2)
    assert all(torch.equal(value, before[name]) for name, value in run.weights("loss", "last").items())
    resume(run.folder, epochs=2)
    after = run.weights("loss", "last")
    assert not torch.equal(after["losses.0.class_weights.weight"], before["losses.0.class_weights.weight"])


def test_a_part_that_is_damaged_is_not_read(tmp_path):
    run, _ = fit(config(tmp_path / "run", 1))
    part = next((run.checkpoints / "last" / "tables").glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    for read in (lambda: resume(run.folder, epochs=2), lambda: run.load_loss(4)):
        with pytest.raises(CheckpointError, match=r"checkpoint must be whole, got .*distcp with other"):
            read()
