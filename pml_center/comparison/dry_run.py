"""costs_of: what a run costs, by a few steps of each loss under the load that a comparison makes."""

import heapq
import itertools
import logging
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pml_center.data import LabeledImages
from pml_center.training.config import TrainConfig
from pml_center.training.loop import choose_device, step, with_full_paths
from pml_center.training.measurement import measure, of_known_classes, validate
from pml_center.training.run_folder import Run
from pml_center.training.train_state import TrainState

LONGEST = 5.0  # seconds of steps
FEW = 4  # steps at least


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of each part of a run, in a process of its own beside as many others as a comparison has."""

    epochs: int
    steps_per_epoch: int
    start: float  # until the first step: the process, images, model, loss
    first_step: float  # in the first epoch, which reads the images
    step: float  # in all others
    checkpoint: float  # after each epoch
    validate: float  # an image
    measure: float  # in the end, the images held out

    def trained(self, share: float, looks: int, images: int) -> float:
        """Training on a share of the images, with so many looks at so many validation images."""
        steps = share * self.steps_per_epoch * (self.first_step + (self.epochs - 1) * self.step)
        return self.start + steps + self.epochs * self.checkpoint + looks * images * self.validate

    def content(self, minutes: float) -> dict[str, Any]:
        """For a table, with the minutes of a run."""
        return {
            "steps_per_epoch": self.steps_per_epoch,
            "seconds_per_step": round(self.step, 4),
            "start_seconds": round(self.start, 2),
            "measure_seconds": round(self.measure, 2),
            "minutes_in_all": round(minutes, 2),
        }


def costs_of(configs: Sequence[TrainConfig], processes: int) -> list[Cost]:
    """What a run of each configuration costs, while as many as ``processes`` run at a time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    busy = -(-len(configs) // processes) * processes  # no core is idle that a comparison would keep busy
    asked = list(itertools.islice(itertools.cycle(configs), busy))
    costs: list[Cost] = []
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(time.time).result()  # what all processes are forked from has imported everything now
    for first in range(0, busy, processes):
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            costs += pool.map(_cost, asked[first : first + processes], [time.time()] * processes)
    return costs[: len(configs)]


def makespan(seconds: Sequence[float], processes: int) -> float:
    """How long jobs take that start in order, as soon as one of so many processes is free.

    Example:
        >>> makespan([3, 1, 1, 1], processes=2)
        3.0
    """
    ends = [0.0] * processes
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def _cost(config: TrainConfig, begun: float) -> Cost:
    """In a process of its own, as a run is."""
    logging.disable(logging.WARNING)
    device = choose_device(config.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    config = with_full_paths(config)
    with TemporaryDirectory() as folder:
        state = TrainState.build(config, device)
        run = Run.create(replace(config, out=f"{folder}/run"), state.record)
        state.model.train()
        state.loss.train()
        start = time.time() - begun
        first = _steps(state, device)
        again = _steps(state, device)
        while len(again) < FEW:
            again += _steps(state, device)
        held_out = state.images.test
        assert held_out is not None  # a comparison has some
        return Cost(
            epochs=config.epochs,
            steps_per_epoch=state.updates,
            start=start,
            first_step=fmean(first[1:] or first),  # the very first warms up
            step=fmean(again),
            checkpoint=_seconds(lambda: state.save(run), device),
            validate=_seconds(lambda: validate(state.model, held_out, config), device) / len(held_out),
            measure=_seconds(lambda: _measure(state, held_out), device),
        )


def _steps(state: TrainState, device: torch.device) -> list[float]:
    """Seconds of the first steps of the first epoch; images that are kept are read the first time only."""
    state.progress.step = 0
    batches = state.batches()
    found: list[float] = []
    while state.progress.step < state.updates and sum(found) < LONGEST:
        found.append(_seconds(lambda: step(state, batches), device))
        state.progress.step += 1
    return found


def _measure(state: TrainState, images: LabeledImages) -> None:
    known = of_known_classes(images, state.images.train.classes)
    measure(state.model, images, state.config, known, state.loss.classifier if known else None)


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
