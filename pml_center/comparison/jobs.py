"""train_all: several runs, some at a time, each in a process of its own."""

import json
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm
from tqdm.std import tqdm as Bar

from pml_center.comparison.measured_run import options_of
from pml_center.names import one_line
from pml_center.notebooks import progress_bar
from pml_center.training.config import TrainConfig
from pml_center.training.interrupt import Interrupt
from pml_center.training.loop import choose_device, fit, resume
from pml_center.training.owner import clear, owned, wait_until_free
from pml_center.training.run_folder import Run, write_whole
from pml_center.training.train_state import peak_memory

LOG = logging.getLogger("pml_center")
LOOK = 0.25  # seconds between two looks at the runs
STOPPED = 130  # the exit code of a run that was interrupted


@dataclass(frozen=True)
class Job:
    """A run to be trained, in the folder that its configuration names.

    Args:
        name: what to call it.
        config: what to do.
        test: whether it is measured in the end on the images held out, see :func:`~pml_center.training.fit`.
    """

    name: str
    config: TrainConfig
    test: bool = True

    @property
    def run(self) -> Run:
        """The run, which may not have begun."""
        return Run(Path(str(self.config.out)))

    @property
    def log(self) -> Path:
        """What the process printed; not in the folder of the run, which must be new."""
        return self.run.folder.parent / "logs" / f"{self.run.folder.name}.log"

    @property
    def failure(self) -> str | None:
        """Why it failed before, with the same options; None where it did not."""
        if not self._failure.is_file():
            return None
        found = json.loads(self._failure.read_text(encoding="utf-8"))
        return found["error"] if found["options"] == options_of(self.config) else None

    def remember(self, failure: str | None) -> None:
        """Write down why it failed, or forget it."""
        if failure is None:
            self._failure.unlink(missing_ok=True)
        else:
            write_whole(self._failure, json.dumps({"error": failure, "options": options_of(self.config)}))

    @property
    def _failure(self) -> Path:
        return self.log.with_suffix(".failed")

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.run.events("cost"))

    @property
    def epochs(self) -> int:
        """How many are done; all of them where the run is over, which may have stopped early."""
        return self.config.epochs if self.is_over else len(self.run.epochs)

    @property
    def score(self) -> float:
        """The metric of a run that is over, on the images held out; without a test the best in validation."""
        events = self.run.events("eval")[-1:] if self.test else self.run.events("val")
        return max(event[self.config.metric] for event in events)


def train_all(jobs: Sequence[Job], processes: int) -> dict[Job, str]:
    """Train runs that are not over, and go on with those that had begun; those that failed before are not tried again.

    On a CPU each computes with one thread, so that what comes out does not depend on ``processes``. What it prints goes
    to a log beside its folder, and what it cost into its ``metrics.jsonl``.

    Args:
        jobs: the runs, in the order in which they start.
        processes: how many at a time.

    Returns:
        What went wrong in each run that failed.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM; all that were running have written a checkpoint.
    """
    drop_others(jobs)
    waiting = [job for job in jobs if not job.is_over]
    errors = {job: failure for job in waiting if (failure := job.failure) is not None}
    for job in errors:
        LOG.warning("%s failed before, and is not tried again without --retry: %s", job.name, errors[job])
    waiting = [job for job in waiting if job not in errors]
    running: dict[BaseProcess, Job] = {}
    bar = progress_bar(total=sum(job.config.epochs for job in jobs), unit="epoch")
    with logging_redirect_tqdm(), Interrupt() as interrupt, bar:
        try:
            while (waiting or running) and not interrupt:
                while waiting and len(running) < processes:
                    job = waiting.pop(0)
                    running[_start(job)] = job
                wait([process.sentinel for process in running], LOOK)
                for process in [process for process in running if not process.is_alive()]:
                    job = running.pop(process)
                    if job.is_over:
                        where = "" if job.test else " in validation"
                        LOG.info("%s: %s %.4f%s", job.name, job.config.metric, job.score, where)
                    else:
                        errors[job] = _last_words(process, job)
                        job.remember(errors[job])
                        LOG.warning("%s failed: %s", job.name, errors[job])
                _show(bar, jobs, len(waiting) + len(running))
        finally:
            for process in running:
                process.terminate()  # a run writes a checkpoint, then stops
            for process in running:
                process.join()
        if interrupt:
            raise KeyboardInterrupt
    return errors


def drop_others(jobs: Sequence[Job]) -> None:
    """Delete runs of other settings, which a search chose before it had tried as much as now.

    Raises:
        BlockingIOError: another process trains or resumes one of them.
    """
    for job in jobs:
        if job.run.can_resume and options_of(job.run.config) != options_of(job.config):
            LOG.warning("%s: trained anew, with %s and lr %g", job.name, job.config.loss, job.config.rate)
            wait_until_free(job.run.folder)
            with owned(job.run.folder):
                clear(job.run.folder)


def _start(job: Job) -> BaseProcess:
    # A process that is forked from one that has imported everything starts at once; threads and GPUs forbid
    # to fork this one.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    job.log.parent.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_work, args=(job,))
    process.start()
    return process


def _work(job: Job) -> None:
    """The life of a process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how the parent stops a run, even one that ignores SIGTERM itself
    os.setsid()  # Ctrl-C is for the parent, which passes it on: asked twice, a run would stop without a checkpoint
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with job.log.open("a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING, force=True)
    LOG.setLevel(logging.INFO)
    device = choose_device(job.config.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    wait_until_free(job.run.folder)  # from what a comparison that was killed left behind
    begun = job.run.can_resume
    try:
        if begun:
            resume(job.run.folder, device=job.config.device, test=job.test, workers=job.config.workers)
        else:
            fit(job.config, test=job.test)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except (ArithmeticError, ValueError, OSError, RuntimeError) as error:
        LOG.error("%s", one_line(error))
        sys.exit(1)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    # What a process used that was stopped before is not known.
    job.run.log(
        event="cost", cpu_seconds=None if begun else round(seconds, 3), memory_gib=round(peak_memory(device), 3)
    )


def _end_with_parent() -> None:
    """Stop with a checkpoint where nobody is left who waits for this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _show(bar: Bar, jobs: Sequence[Job], left: int) -> None:
    bar.set_description(f"{len(jobs) - left}/{len(jobs)} runs", refresh=False)
    bar.update(sum(job.epochs for job in jobs) - bar.n)


def _last_words(process: BaseProcess, job: Job) -> str:
    if process.exitcode != 1:
        return f"its process ended with exit code {process.exitcode}, for want of memory? See {job.log}"
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next(line for line in reversed(lines) if line.strip())
