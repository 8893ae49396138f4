"""costs_of: what a run costs, by a few steps of each loss under the load that a comparison makes."""

import heapq
import itertools
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from pml_center.comparison.measured_run import MeasuredRun, options_of
from pml_center.comparison.page import write_comparison
from pml_center.comparison.result import Candidate, Comparison
from pml_center.data import LabeledImages
from pml_center.training.config import TrainConfig
from pml_center.training.loop import choose_device, completed, step
from pml_center.training.measurement import Measurement, measure, of_known_classes, validate
from pml_center.training.run_folder import Run, untouched
from pml_center.training.train_state import TrainState

Found = TypeVar("Found")
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
    once: float = 0.0  # before the first run and after the last: imports, the check of what is asked for, the page

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
    # Of a session of its own, as a run is: Linux shares a busy machine among sessions first.
    pool_of = partial(ProcessPoolExecutor, mp_context=context, initializer=os.setsid)
    begun = time.perf_counter()
    with pool_of(1) as pool:
        pool.submit(time.time).result()  # what all processes are forked from has imported everything now
    imported = time.perf_counter() - begun
    for first in range(0, busy, processes):
        with pool_of(processes) as pool:
            costs += pool.map(_cost, asked[first : first + processes], [time.time()] * processes)
    imported *= 2  # by the command itself, too
    return [replace(cost, once=cost.once + imported) for cost in costs[: len(configs)]]


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
    config = completed(config)
    with TemporaryDirectory() as folder:
        state, built = _timed(lambda: TrainState.build(config, device), device)
        run = Run.create(replace(state.config, out=f"{folder}/run"), state.record)
        if state.has_fixed_features:
            built += state.sketch_features(FEW * state.batch_size)
        state.model.train()
        state.loss.train()
        start = time.time() - begun
        first = _steps(state, device)
        again = _steps(state, device)
        while len(again) < FEW:
            again += _steps(state, device)
        held_out = state.images.test
        assert held_out is not None  # a comparison has some
        measurement, measured = _timed(lambda: _measure(state, held_out), device)
        return Cost(
            epochs=config.epochs,
            steps_per_epoch=state.updates,
            start=start,
            first_step=fmean(first[1:] or first),  # the very first warms up
            step=fmean(again),
            checkpoint=_seconds(lambda: state.save(run), device),
            validate=_seconds(lambda: validate(state.model, held_out, config), device) / len(held_out),
            measure=measured,
            once=built + _seconds(lambda: _write(run, measurement), device),
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


def _measure(state: TrainState, images: LabeledImages) -> Measurement:
    known = of_known_classes(images, state.images.train.classes)
    classify = state.loss.classifier if known else None
    return measure(state.model, images, state.config, known, classify, untouched(state.config)[0])


def _write(run: Run, measurement: Measurement) -> None:
    """The page, as of a single loss."""
    run.write_reports(measurement.reports)
    one = MeasuredRun(run)
    values = {name: each[None] for name, each in one.values.items()}
    candidate = Candidate(
        name=one.config.loss,
        seeds=(one.config.seed,),
        runs=(str(run.folder),),
        values=values,
        seconds=(0.0,),
        epoch_seconds=(0.0,),
        cpu_seconds=(None,),
        options=options_of(one.config),
    )
    found = Comparison(
        metric=one.config.metric, candidates=[candidate], pixels=one.beside("pixels"), classes=0, data=""
    )
    write_comparison(found, run.folder / "page", {})


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    return _timed(work, device)[1]


def _timed(work: Callable[[], Found], device: torch.device) -> tuple[Found, float]:
    started = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, time.perf_counter() - started
