"""Two processes train, write and measure what one does."""

import os
import socket
from dataclasses import replace

import torch

from pml_center.data import digits
from pml_center.training import TrainConfig, fit, resume, train_state
from pml_center.training.dry_run import estimate
from pml_center.training.measurement import measure
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
    if Run(folder).can_resume:
        resume(folder, config.epochs)
    else:
        fit(replace(config, out=str(folder)))


def one_of_two(rank, port, work, *arguments):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    work(*arguments)


def in_two_processes(work, *arguments):
    """Their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [PROCESSES.Process(target=one_of_two, args=(rank, port, work, *arguments)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    return [process.exitcode for process in pair]


def test_two_processes_train_and_resume_as_one(tmp_path):
    one, two, stopped = (tmp_path / name for name in ("one", "two", "stopped"))
    assert in_a_process(train, one, CONFIG) == 0
    assert in_two_processes(train, two, CONFIG) == [0, 0]
    assert in_two_processes(train, stopped, replace(CONFIG, epochs=1, schedule="constant")) == [0, 0]
    assert in_two_processes(train, stopped, CONFIG) == [0, 0]
    alone, together = Run.open(one), Run.open(two)
    for part in ("model", "loss"):
        expected, found = alone.weights(part, "last"), together.weights(part, "last")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for kind in ("epoch", "val", "eval"):
        events, others = alone.events(kind), together.events(kind)
        assert len(events) == len(others) == (1 if kind == "eval" else 2)  # one process writes
        for event, other in zip(events, others, strict=True):
            for name in event.keys() - {"seconds", "event", "name"}:
                assert abs(event[name] - other[name]) <= 1e-2 * max(1, abs(event[name])), name
    assert [event["epoch"] for event in Run.open(stopped).epochs] == [1, 2]


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
        run = Run.open(folder)
        found = measure(run.load_model(), run.held_out(digits()), run.config).model.metrics
        [logged] = run.events("eval")
        assert {name: logged[name] for name in found} == found


def say_what_to_expect(folder):
    config = replace(CONFIG, data="digits", out=str(folder / "run"))
    (folder / f"{os.environ['RANK']}.txt").write_text(str(sorted(estimate(config))))


def test_two_processes_try_a_run_in_small(tmp_path):
    assert in_two_processes(say_what_to_expect, tmp_path) == [0, 0]
    assert "seconds_per_step" in (tmp_path / "0.txt").read_text()
    assert (tmp_path / "1.txt").read_text() == "[]"
