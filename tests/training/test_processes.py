"""Two processes train, write and measure what one does."""

import os
import signal
import socket
import sys
from dataclasses import replace

import numpy as np
import torch

from pml_center import distributed
from pml_center.data import digits
from pml_center.evaluation import RetrievalEvaluator
from pml_center.training import TrainConfig, fit, loop, measurement, resume, train_state
from pml_center.training.dry_run import estimate
from pml_center.training.run_folder import Run
from tests.training.test_resume import PROCESSES, in_a_process

CONFIG = TrainConfig(
    model="test_vit",  # BatchNorm would see the images of its own process
    image_size=32,
    channels=1,
    embedding_size=8,
    loss="SoftmaxLoss(sample_rate=0.5) + 0.01 * CenterLoss + AdaFaceLoss + TripletMarginLoss(triplets_per_anchor=3)",
    batch_size=31,  # parts of 16 and 15
    accumulate=2,
    epochs=2,
    crop_scale=0.8,
    val=0.3,
    split="images",
    held_out=0.3,
    ema=0.9,
    optimizer="sgd",
    lr=1e-3,
    workers=0,
    device="cpu",
)


def train(folder, config):
    images = digits().subset(range(0, 1797, 7))
    train_state.split_data.__globals__["open_splits"] = lambda *_: train_state.ImageSplits(images)
    keep_embeddings(embeddings_of(folder))
    if Run(folder).can_resume:
        resume(folder, config.epochs)
    else:
        fit(replace(config, out=str(folder)))


def embeddings_of(folder):
    return folder.with_name(f"{folder.name}-embeddings")


def keep_embeddings(folder):
    """Write down what every measurement embeds, as the first process has it."""
    embed_images = measurement.embeddings_of

    def embed_and_keep(model, images, config, is_kept=False):
        found = embed_images(model, images, config, is_kept)
        if distributed.is_main() and not is_kept:  # which is the model before training
            folder.mkdir(exist_ok=True)
            np.save(folder / f"{len(list(folder.iterdir()))}.npy", found)
        return found

    measurement.embeddings_of = embed_and_keep


def kept(folder):
    """The embeddings of each measurement of a run, in order of time."""
    paths = sorted(embeddings_of(folder).iterdir(), key=lambda path: int(path.stem))
    return [torch.from_numpy(np.load(path)) for path in paths]


def train_until_one_is_stopped(folder, config, steps):
    """Train, and stop the second process alone after so many steps."""
    do_step, done = loop.step, []

    def counted(*arguments):
        done.append(do_step(*arguments))
        if len(done) == steps and not distributed.is_main():
            signal.raise_signal(signal.SIGTERM)
        return done[-1]

    loop.step = counted
    try:
        train(folder, config)
    except KeyboardInterrupt:
        sys.exit(130)


def one_of_several(rank, port, count, work, *arguments):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    work(*arguments)


def in_two_processes(work, *arguments):
    """Their exit codes."""
    return in_processes(2, work, *arguments)


def in_processes(count, work, *arguments):
    """The exit codes of so many that hold the batch together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    every = [
        PROCESSES.Process(target=one_of_several, args=(rank, port, count, work, *arguments)) for rank in range(count)
    ]
    for process in every:
        process.start()
    for process in every:
        process.join()
    return [process.exitcode for process in every]


def events(run, kind):
    return [{name: event[name] for name in event.keys() - {"seconds", "event"}} for event in run.events(kind)]


def assert_close(found, expected):
    """But for rounding: sums in another order change the last digits of fp32 (2⁻²⁴, 6e-8), and steps add that up.

    What is compared is what a model computes, never who comes first: where two scores are nearly equal, the last digit
    decides, and that is the CPU's.
    """
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_two_processes_train_and_resume_as_one(tmp_path):
    one, two, stopped = (tmp_path / name for name in ("one", "two", "stopped"))
    assert in_a_process(train, one, CONFIG) == 0
    by_parts = replace(CONFIG, micro_batch=5)  # of which the one has 4, the other 3: parts are each process's own
    assert in_two_processes(train, two, by_parts) == [0, 0]
    alone, together = Run.open(one), Run.open(two)
    for part in ("model", "loss"):
        assert_close(together.weights(part, "last"), alone.weights(part, "last"))
    assert_close(events(together, "epoch"), events(alone, "epoch"))
    for kind in ("epoch", "val", "eval"):
        found, expected = events(together, kind), events(alone, kind)
        assert len(found) == len(expected) == (1 if kind == "eval" else 2)  # one process writes
        assert [event.keys() for event in found] == [event.keys() for event in expected]
    assert len(kept(two)) == len(kept(one)) == 3  # two epochs and the end
    assert_close(kept(two)[:2], kept(one)[:2])
    for folder in (one, two):
        assert_measured_what_it_saved(folder)

    assert in_two_processes(train_until_one_is_stopped, stopped, by_parts, 3) == [130, 130]
    assert [event["epoch"] for event in Run.open(stopped).epochs] == [1]
    assert in_two_processes(train, stopped, by_parts) == [0, 0]
    for part in ("model", "loss"):
        torch.testing.assert_close(
            Run.open(stopped).weights(part, "last"), together.weights(part, "last"), rtol=0, atol=0
        )
    assert all(events(Run.open(stopped), kind) == events(together, kind) for kind in ("epoch", "val", "eval"))


def test_three_processes_resume_to_the_last_bit(tmp_path):
    small = replace(
        CONFIG, model="convnet", image_size=8, loss="SoftmaxLoss", val=0.0, accumulate=1, epochs=1, ema=0.0, lr=0.01
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert in_processes(3, train, whole, small) == [0, 0, 0]
    assert in_processes(3, train_until_one_is_stopped, stopped, small, 3) == [130, 130, 130]
    assert in_processes(3, train, stopped, small) == [0, 0, 0]
    for part in ("model", "loss"):
        found, expected = (Run.open(folder).weights(part, "last") for folder in (stopped, whole))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def assert_measured_what_it_saved(folder):
    """Its last measurement is that of the images held out, by the weights that count, in the order of the images."""
    run = Run.open(folder)
    embeddings = measurement.embeddings_of(run.load_model(), run.held_out(digits()), run.config)
    assert_close(kept(folder)[-1], torch.from_numpy(embeddings))
    labels = run.held_out(digits()).labels
    found = RetrievalEvaluator()(kept(folder)[-1].numpy(), labels).metrics
    [logged] = run.events("eval")
    assert {name: logged[name] for name in found} == found


def refuse(folder):
    try:
        fit(replace(CONFIG, data="digits", out=str(folder)))
    except FileExistsError as error:
        (folder / f"said by {os.environ['RANK']}.txt").write_text(str(error))


def test_what_one_process_refuses_all_refuse(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    assert in_two_processes(refuse, tmp_path) == [0, 0]
    for rank in range(2):
        assert "out must be a new folder, got" in (tmp_path / f"said by {rank}.txt").read_text()


def test_what_two_processes_measure_is_the_model_that_they_save(tmp_path):
    normed = replace(
        CONFIG, model="convnet", image_size=8, loss="SoftmaxLoss", val=0.0, accumulate=1, lr=0.01, epochs=1
    )
    for ema in (0.0, 0.9):
        folder = tmp_path / str(ema)
        assert in_two_processes(train, folder, replace(normed, ema=ema)) == [0, 0]
        assert_measured_what_it_saved(folder)


def say_what_to_expect(folder):
    config = replace(CONFIG, data="digits", out=str(folder / "run"))
    (folder / f"{os.environ['RANK']}.txt").write_text(str(sorted(estimate(config))))


def test_two_processes_try_a_run_in_small(tmp_path):
    assert in_two_processes(say_what_to_expect, tmp_path) == [0, 0]
    assert "seconds_per_step" in (tmp_path / "0.txt").read_text()
    assert (tmp_path / "1.txt").read_text() == "[]"
