"""search_settings: as many settings for each loss as for any other, the best of them again, and which is chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from pml_center.comparison.jobs import Job, train_all
from pml_center.comparison.search_space import SearchSpace, Setting

FINALISTS = 3  # settings that are trained again, with another seed, before one is chosen


@dataclass
class Trial:
    """A setting, and the runs that try it."""

    name: str
    setting: Setting
    jobs: list[Job]
    scores: list[float] = field(default_factory=list)
    error: str | None = None


@dataclass
class LossSearch:
    """The search of one loss.

    Args:
        loss: its formula.
        space: what is moved.
        config: of all trials; its seed is that of the search.
        folder: of the loss.
        count: settings to try, before the one beyond the edges and before the best are trained again.
    """

    loss: str
    space: SearchSpace
    config: Any
    folder: Path
    count: int
    trials: list[Trial] = field(default_factory=list)
    finalists: list[Trial] = field(default_factory=list)

    def begin(self) -> list[Job]:
        """The settings that every loss tries."""
        settings = enumerate(self.space.settings(self.count))
        return [self._new(f"trial-{number}", setting) for number, setting in settings]

    def widen(self) -> list[Job]:
        """One more: beyond the edges where the best one lies, else the next point."""
        if not self.ranked:
            return []
        best = self.ranked[0].setting
        tried = [trial.setting for trial in self.trials]
        return [self._new(f"wider-{self.count}", self.space.widened(best, tried, self.count))]

    def repeat(self) -> list[Job]:
        """The best again, with another seed."""
        self.finalists = self.ranked[:FINALISTS]
        jobs = []
        for trial in self.finalists:
            jobs.append(self._job(f"{trial.name}-again", trial.setting, self.config.seed + 1))
            trial.jobs.append(jobs[-1])
        return jobs

    def see(self, errors: Mapping[Job, str]) -> None:
        """What the runs came to."""
        for trial in self.trials:
            trial.scores = [job.score for job in trial.jobs if job not in errors]
            trial.error = next((errors[job] for job in trial.jobs if job in errors), None)

    @property
    def ranked(self) -> list[Trial]:
        """Those that could be trained, the best first."""
        done = [trial for trial in self.trials if trial.error is None]
        return sorted(done, key=lambda trial: -fmean(trial.scores))

    @property
    def chosen(self) -> Trial | None:
        """The best of those that were trained again; None where nothing could be trained."""
        return next((trial for trial in self.ranked if trial in self.finalists), None)

    @property
    def values(self) -> dict[str, float | None]:
        """What was chosen for each number that is moved."""
        return {} if self.chosen is None else self._values(self.chosen)

    @property
    def edges(self) -> dict[str, str]:
        """The numbers for which the smallest or the largest of all tried values was chosen."""
        if self.chosen is None:
            return {}
        return self.space.edges(self.chosen.setting, [trial.setting for trial in self.trials])

    def rows(self) -> list[dict[str, Any]]:
        """All that was tried, for a table."""
        return [
            {
                "trial": trial.name,
                "values": self._values(trial),
                "scores": trial.scores,
                "chosen": trial is self.chosen,
                "run": str(trial.jobs[0].run.folder),
                "error": trial.error,
            }
            for trial in self.trials
        ]

    def _values(self, trial: Trial) -> dict[str, float | None]:
        return {knob.name: value for knob, value in zip(self.space.knobs, trial.setting.values, strict=True)}

    def _new(self, name: str, setting: Setting) -> Job:
        trial = Trial(name, setting, [self._job(name, setting, self.config.seed)])
        self.trials.append(trial)
        return trial.jobs[0]

    def _job(self, name: str, setting: Setting, seed: int) -> Job:
        config = replace(setting.applied(self.config), seed=seed, out=str(self.folder / "search" / name))
        return Job(f"{self.loss}, {name.replace('-', ' ')}", config, test=False)


def search_settings(searches: Sequence[LossSearch], processes: int) -> dict[Job, str]:
    """Carry searches out, all losses in step.

    Returns:
        What went wrong in each run that failed.
    """
    errors: dict[Job, str] = {}
    for stage in (LossSearch.begin, LossSearch.widen, LossSearch.repeat):
        errors |= train_all(in_turn([stage(search) for search in searches]), processes)
        for search in searches:
            search.see(errors)
    return errors


def in_turn(jobs: Sequence[Sequence[Job]]) -> list[Job]:
    """The first job of each loss, then the second of each, and so on."""
    return [job for place in zip_longest(*jobs) for job in place if job is not None]
