"""estimate: a training run in small, before the real one."""

import tempfile
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from pml_center import distributed
from pml_center.training.checkpoint import newest
from pml_center.training.config import TrainConfig
from pml_center.training.loop import choose_device, completed, step
from pml_center.training.run_folder import Run
from pml_center.training.train_state import TrainState, peak_memory

STEPS = 3  # the fastest counts: the first warms up


def estimate(config: TrainConfig) -> dict[str, Any]:
    """Build everything, take a few steps, write and read a checkpoint in a temporary folder, and leave nothing.

    Returns:
        ``config``, as it would be recorded, and what to expect: ``steps_per_epoch``, ``seconds_per_step``,
        ``minutes_in_all`` of training alone, ``memory_gib``, ``checkpoint_mib``, ``checkpoint_seconds``. Nothing in all
        processes but the first.

    Raises:
        ValueError: a configuration that cannot be run.
    """
    config = completed(config)
    with distributed.initialize(choose_device(config.device)) as device, tempfile.TemporaryDirectory() as folder:
        state = TrainState.build(config, device)
        create = partial(Run.create, replace(state.config, out=f"{folder}/run"), state.record)
        run = Run(distributed.from_main(create).folder, distributed.is_main())
        state.model.train()
        state.loss.train()
        once = state.sketch_features(STEPS * state.batch_size) if state.has_fixed_features else 0.0
        first, later = _steps(state), _steps(state)
        started = time.perf_counter()
        state.save(run)
        if not run.writes:
            return {}
        state.load(run, newest(run.checkpoints / "last"))
        seconds, size = time.perf_counter() - started, _size(run.checkpoints)
        return {
            "config": asdict(state.config),
            "steps_per_epoch": state.updates,
            "seconds_per_step": round(later, 4),
            "minutes_in_all": round((once + state.updates * (first + (config.epochs - 1) * later)) / 60, 2),
            "memory_gib": round(peak_memory(device), 2),
            "checkpoint_mib": round(size / 2**20, 1),
            "checkpoint_seconds": round(seconds, 3),
        }


def _steps(state: TrainState) -> float:
    """Seconds of a step of the first epoch; images that are kept are decoded the first time only."""
    state.progress.step = 0
    batches, times = state.batches(), []
    for _ in range(min(STEPS, state.updates)):
        started = time.perf_counter()
        step(state, batches)
        times.append(time.perf_counter() - started)
    return min(times)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
