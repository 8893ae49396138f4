"""compare and compare_runs: train losses with several seeds and equal budgets, or take runs that exist."""

import logging
import math
import os
import re
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from pml_center.comparison.dry_run import costs_of, makespan
from pml_center.comparison.jobs import Job, train_all
from pml_center.comparison.measured_run import (
    MeasuredRun,
    as_candidate,
    asked_start,
    check_same_queries,
    differences,
    group,
    open_runs,
    options_of,
    other_training_images,
)
from pml_center.comparison.page import write_comparison
from pml_center.comparison.positives import few_positives
from pml_center.comparison.result import Candidate, Comparison
from pml_center.comparison.search import FINALISTS, LossSearch, in_turn, search_settings
from pml_center.comparison.search_space import SearchSpace, Setting, check_hold
from pml_center.data import ImageSplits
from pml_center.names import one_line
from pml_center.training.config import TrainConfig, check_at_least
from pml_center.training.data_record import DataRecord
from pml_center.training.interrupt import explain_interrupt
from pml_center.training.loop import choose_device, completed
from pml_center.training.loss_formula import LossFormula, parse_loss
from pml_center.training.owner import FILES as OWNER_FILES
from pml_center.training.owner import clear, owned
from pml_center.training.run_folder import DATA, Run, default_folder, start_of, write_whole
from pml_center.training.splitting import changes_since
from pml_center.training.train_state import TrainState

LOG = logging.getLogger("pml_center")
FILE = "compare.yaml"  # what was asked for, in the folder of a comparison
LONGEST = 100  # characters of a loss in the name of a folder; disks take 255 bytes
SEARCH_VAL = 0.25  # share of the training classes that a search validates on, where there are enough


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a comparison trains.

    Args:
        config: of every run, but for loss, seed and folder; ``out`` is the folder of the comparison.
        losses: formulas.
        seeds: of the runs of each loss.
        search: settings that are tried for each loss before, 0 for none.
        search_seed: of the runs that try them.
        hold: arguments of losses and options of training that a search leaves as they are.
        retry: try again what failed before; not written down.

    Raises:
        ValueError: a loss or a seed twice, or none; a search of one setting; something to hold without a search.
    """

    config: TrainConfig
    losses: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    search: int = 0
    search_seed: int = 0
    hold: tuple[str, ...] = ()
    retry: bool = False

    def __post_init__(self) -> None:
        for name, values in (("losses", tuple(map(folder_name, self.losses))), ("seeds", self.seeds)):
            repeated = [value for value, key in zip(getattr(self, name), values, strict=True) if values.count(key) > 1]
            if repeated or not values:
                got = " and ".join(map(repr, repeated)) or "none"
                raise ValueError(
                    f"{name} must be one or more, and all different, got {got}. See pml-center compare --help."
                )
        if min(self.seeds) < 0:
            raise ValueError(f"seeds must be at least 0, got {min(self.seeds)}. Use --seeds 0 1 2.")
        check_at_least(0, "Use --search-seed 0.", search_seed=self.search_seed)
        if self.hold and not self.search:
            raise ValueError(f"hold must be left out without a search, got {self.hold[0]}. Use it with --search 8.")
        if self.search < 0 or self.search == 1:
            raise ValueError(
                f"search must be 0 for none, or at least 2, got {self.search}: the first setting is the one given. "
                "Use --search 8."
            )

    @classmethod
    def new(
        cls, config: TrainConfig, losses: Sequence[str], seeds: Sequence[int], search: int, **others: Any
    ) -> "Plan":
        """What is asked for, to be read from any folder, with a folder of its own where none is named."""
        out = config.out or str(default_folder(replace(config, loss="compare")))
        config = replace(completed(config), out=out)
        return cls(config=config, losses=tuple(losses), seeds=tuple(seeds), search=search, **others)

    @property
    def folder(self) -> Path:
        """Of the comparison."""
        return Path(str(self.config.out))

    @classmethod
    def of(cls, folder: Path) -> "Plan":
        """What was asked for in a folder."""
        path = folder / FILE
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = TrainConfig.recorded(values["config"] | {"out": str(folder)}, str(path))
        seeds = tuple(values["seeds"])
        return cls(
            config=config,
            losses=tuple(values["losses"]),
            seeds=seeds,
            search=values["search"],
            search_seed=values.get("search_seed", seeds[0]),  # which it was before it was written down
            hold=tuple(values.get("hold", ())),
        )

    def check_folder(self) -> None:
        """The folder must be new, or that of a comparison.

        Raises:
            FileExistsError: it holds anything else.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"out must be a folder, got {self.folder}, which is a file. Choose another --out.")
        names = {path.name for path in self.folder.glob("*")} - OWNER_FILES
        if names and FILE not in names:
            raise FileExistsError(
                f"out must be a new folder or one of a comparison, got {self.folder}, which exists. Choose another."
            )

    def begin(self) -> None:
        """Write down what is asked for; :meth:`check` has looked at what was asked for there before.

        Raises:
            FileExistsError: the folder holds anything else.
        """
        self.check_folder()
        path = self.folder / FILE
        if path.is_file() and self.config.overwrite:
            clear(self.folder)
        config = asdict(replace(self.config, overwrite=False))
        config = {name: value for name, value in config.items() if name not in ("loss", "seed", "out")}
        lists = {"losses": list(self.losses), "seeds": list(self.seeds)}
        values = lists | {**self._of_search, "config": config}
        write_whole(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    @property
    def _of_search(self) -> dict[str, Any]:
        return {"search": self.search, "search_seed": self.search_seed, "hold": list(self.hold)}

    def check(self) -> ImageSplits:
        """Find mistakes before anything is trained: build everything, and every loss.

        Raises:
            ValueError: what cannot be trained, or leaves nothing to measure; other options or data than those that the
                folder was begun with, but for losses and seeds that are added.
        """
        state = TrainState.build(replace(self.config, loss=self.losses[0], seed=self.seeds[0]), torch.device("cpu"))
        images = state.images
        width = state.model.embedding_size
        for loss in self.losses:
            counts = images.train.counts.tolist()
            built = parse_loss(loss, len(counts), width, self.config.accumulate, counts)
            _check_trainable(loss, built, width)
        if images.test is None:
            raise ValueError("held_out must leave images to compare losses on, got 0. Use --held-out 0.2.")
        if self.search:
            self._check_search(images)
        if (self.folder / FILE).is_file() and not self.config.overwrite:
            self._check_same(Plan.of(self.folder))
            self._check_same_data(state.record)
        return images

    def processes(self, jobs: int | None) -> int:
        """How many runs at a time: as many as asked for; else one with a GPU, or as many as there are threads.

        Raises:
            ValueError: less than one.
        """
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}. Leave it out to have it chosen.")
        if choose_device(self.config.device).type == "cuda":
            return jobs or 1
        return jobs or min(torch.get_num_threads(), len(self.losses) * len(self.seeds))

    def _check_search(self, images: ImageSplits) -> None:
        """A search trains on fewer images, and moves what is not held."""
        check_hold(self.hold, self.losses, self.config)
        first = self.searches(images)[0].config
        try:
            TrainState.build(replace(first, loss=self.losses[0]), torch.device("cpu"))
        except ValueError as error:
            raise ValueError(
                f"search must leave enough to train on beside the validation images, got {self.search}: {error} "
                "Or use --search 0."
            ) from error

    def searches(self, images: ImageSplits) -> list[LossSearch]:
        """That of each loss, on validation images that are taken from the training images."""
        val, eval_every, classes = self.config.val, self.config.eval_every, images.train.num_classes
        if images.val is None:  # then the last epoch of a run counts, and so it does here
            val = max(SEARCH_VAL, 2 / classes if self.config.split == "classes" else 0)
            eval_every = self.config.epochs
            classes -= math.ceil(val * classes) if self.config.split == "classes" else 0
        shared = replace(self.config, seed=self.search_seed, val=val, eval_every=eval_every)
        return [
            LossSearch(
                loss,
                SearchSpace(loss, self.config, self.hold, classes),
                shared,
                self.folder / folder_name(loss),
                self.search,
            )
            for loss in self.losses
        ]

    def job(self, loss: str, setting: Setting, seed: int) -> Job:
        """A run that counts."""
        out = self.folder / folder_name(loss) / f"seed-{seed}"
        return Job(f"{loss}, seed {seed}", replace(setting.applied(self.config), seed=seed, out=str(out)))

    def _check_same_data(self, record: DataRecord) -> None:
        """Runs that began must have been trained and measured on the images that others will be."""
        start = start_of(self.config)
        for path in sorted(self.folder.glob("*/seed-*/held_out.json")) + sorted(self.folder.glob(f"*/search/*/{DATA}")):
            run = Run.open(path.parent)
            if run.start not in (None, start):
                where = self.config.init_from or self.config.weights or self.config.model
                raise ValueError(
                    f"weights to start from must be those of the runs in {self.folder}, got others in "
                    f"{where} than {path.parent} had. Restore them, or choose another --out."
                )
            if said := changes_since(run, record):
                raise ValueError(
                    f"data must be those of the runs in {self.folder}, got, beside {path.parent}, {said}. Restore "
                    f"them, or choose another --out. `pml-center compare {self.folder}/*/seed-*` compares what is done."
                )

    def _check_same(self, begun: "Plan") -> None:
        ours, theirs = options_of(self.config), options_of(begun.config)
        ours, theirs = ours | self._of_search, theirs | begun._of_search
        changed = {name: (ours[name], theirs[name]) for name in differences([ours, theirs]) if name != "loss"}
        if self.search >= begun.search > 0:  # it tries the same settings, and more
            changed.pop("search", None)
        losses: list[Any] = [loss for loss in begun.losses if not self._has_failed(loss)]
        for name, needed in (("losses", losses), ("seeds", begun.seeds)):
            if not set(getattr(self, name)) >= set(needed):
                changed[name] = (list(getattr(self, name)), list(getattr(begun, name)))
        if changed:
            got = " and ".join(f"{name} {new} where it has {old}" for name, (new, old) in changed.items())
            raise ValueError(
                f"options must be those of the comparison in {self.folder}, got {got}. Losses, seeds and settings to "
                "search can only be added, and losses that failed left out. Choose another --out, or delete this one "
                "with --overwrite."
            )

    def _has_failed(self, loss: str) -> bool:
        return any((self.folder / folder_name(loss)).glob("**/*.failed"))

    def forget_failures(self) -> None:
        """So that what failed is tried again."""
        for path in self.folder.glob("*/**/logs/*.failed"):
            path.unlink()


def compare(
    config: TrainConfig,
    losses: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    search: int = 0,
    jobs: int | None = None,
    search_seed: int = 0,
    hold: Sequence[str] = (),
    retry: bool = False,
) -> Comparison:
    """Train every loss with every seed alike, and measure each run once on the same images held out.

    Runs stand in ``OUT/LOSS/seed-N``; what was found in ``OUT/compare.json``, ``compare.png`` and ``compare.html``.
    What is done already is not done again, and a run that stopped goes on.

    Args:
        config: of every run; its loss and its seed do not matter. ``out`` is the folder of the comparison.
        losses: formulas, as :func:`parse_loss` reads them.
        seeds: of the runs of each loss. One seed cannot tell how much luck was in it.
        search: settings to try for every loss before, as :class:`~pml_center.comparison.search_space.SearchSpace` has
            them, on validation images that are taken from the training images; 0 tries none. One more lies beyond the
            edges where the best one does, and the best three are trained again before one is chosen.
        jobs: runs at a time, each in a process of its own. On a CPU each computes with one thread; by default there are
            as many as torch has threads, and one with a GPU. The result does not depend on it.
        search_seed: of the runs of a search.
        hold: arguments of losses and options of training that a search leaves as they are, such as ``"margin"``.
        retry: try again what failed before.

    Raises:
        ValueError: a configuration that cannot be run; other options, or other data, than this folder was begun with.
        FileExistsError: a folder that holds something else.
        RuntimeError: no loss could be trained.
        KeyboardInterrupt: SIGINT or SIGTERM; every run under way wrote a checkpoint.
    """
    others = {"search_seed": search_seed, "hold": tuple(hold), "retry": retry}
    return carry_out(Plan.new(config, losses, seeds, search, **others), jobs)


def carry_out(plan: Plan, jobs: int | None = None) -> Comparison:
    """Do what is left of a plan; see :func:`compare`."""
    processes = plan.processes(jobs)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            f"compare must be one process, which starts others, got {os.environ['WORLD_SIZE']} of torchrun. Use --jobs."
        )
    plan.check_folder()  # before there is a lock in it, and before images are looked at
    images = plan.check()
    with (
        owned(plan.folder),
        explain_interrupt(lambda: f"go on with: pml-center compare {shlex.quote(str(plan.folder))}"),
    ):
        plan.begin()
        return _carry_out(plan, images, processes)


def _carry_out(plan: Plan, images: ImageSplits, processes: int) -> Comparison:
    """Search, train, compare, and write what was found."""
    size = f"{len(plan.losses)} losses × {len(plan.seeds)} seeds"
    LOG.info("%s, %s at a time; log and run folders in %s", size, processes, plan.folder)
    if plan.retry:
        plan.forget_failures()
    doubts = few_positives(plan.losses, images.train.counts, plan.config, is_searched=bool(plan.search))
    chosen: dict[str, Setting] = {loss: SearchSpace(loss, plan.config).given for loss in plan.losses}
    errors: dict[Job, str] = {}
    searches: dict[str, LossSearch] = {}
    if plan.search:
        searches = {search.loss: search for search in plan.searches(images)}
        errors |= search_settings(list(searches.values()), processes)
        chosen = {loss: search.chosen.setting for loss, search in searches.items() if search.chosen}
        doubts += _doubts(searches.values())
    runs = {loss: [plan.job(loss, setting, seed) for seed in plan.seeds] for loss, setting in chosen.items()}
    every = in_turn(list(runs.values()))
    errors |= train_all(every, processes)
    done = [MeasuredRun(job.run) for job in every if job not in errors]
    check_same_queries(done)
    doubts += other_training_images(done)  # of data that changed while runs were trained
    runs |= {loss: [trial.jobs[0] for trial in searches[loss].trials] for loss in plan.losses if loss not in chosen}
    candidates = [_candidate(loss, runs[loss], errors, searches.get(loss)) for loss in plan.losses]
    comparison = _comparison(candidates, plan.config, tuple(doubts))
    options = options_of(plan.config) | {"seeds": plan.seeds, **plan._of_search}
    write_comparison(comparison, plan.folder, options)
    return comparison


def _doubts(searches: Iterable[LossSearch]) -> list[str]:
    """Sentences on what a search could not try, and on losses of which little can be tried."""
    found = []
    for search in searches:
        found += [
            f"{search.loss}, {trial.name.replace('-', ' ')}, was not tried: {trial.error}"
            for trial in search.trials
            if search.chosen and trial.error
        ]
        if all(knob.term < 0 for knob in search.space.knobs):
            names = ", ".join(knob.name for knob in search.space.knobs)
            found.append(f"only {names or 'nothing'} was searched for {search.loss}")
    return found


def compare_runs(runs: Sequence[str | Path]) -> Comparison:
    """Compare runs that exist. Those that differ in nothing but their seed are one candidate.

    Args:
        runs: folders of runs that were measured on what they held out, or of comparisons, for all runs in them.

    Raises:
        FileNotFoundError: no run, or one that was not measured.
        ValueError: runs that were measured on other images, or by another metric.
    """
    opened = open_runs(runs)
    check_same_queries(opened)
    metrics = {run.config.metric: run.folder for run in opened}
    if len(metrics) > 1:
        got = " and ".join(f"{metric} in {folder}" for metric, folder in metrics.items())
        raise ValueError(f"runs must be chosen by one metric, got {got}. Train them with one --metric.")
    candidates = group(opened)
    more = [name for name in differences([each.options for each in candidates]) if name != "loss"]
    warnings = [f"candidates differ in more than the loss: {', '.join(more)}"] if more else []
    warnings += other_training_images(opened)
    return _comparison(candidates, opened[0].config, tuple(warnings))


def expected(plan: Plan, jobs: int | None = None) -> dict[str, Any]:
    """How long a plan would take, by a few steps of every loss; see :func:`~pml_center.comparison.dry_run.cost_of`.

    Returns:
        ``losses``, with what was found of each, ``runs`` in all, ``jobs`` at a time, ``minutes_in_all``.
    """
    processes = plan.processes(jobs)
    images = plan.check()
    costs = costs_of([replace(plan.config, loss=loss, out=None) for loss in plan.losses], processes)
    val = 0 if images.val is None else len(images.val)
    looks, count = (plan.config.epochs // plan.config.eval_every if val else 0), len(images.train)
    runs = [cost.trained(1, looks, val) + cost.measure for cost in costs]
    stages = [runs * len(plan.seeds)]
    if plan.search:
        trial = plan.searches(images)[0].config
        share = trial.val if images.val is None else 0
        looks = trial.epochs // trial.eval_every
        tried = [cost.trained(1 - share, looks, val or int(share * count)) for cost in costs]
        stages += [tried * plan.search, tried, tried * min(FINALISTS, plan.search + 1)]
    minutes = (costs[0].once + sum(makespan(stage, processes) for stage in stages)) / 60
    return {
        "losses": {loss: cost.content(run / 60) for loss, cost, run in zip(plan.losses, costs, runs, strict=True)},
        "runs": sum(map(len, stages)),
        "jobs": processes,
        "minutes_in_all": round(minutes, 2),
    }


def folder_name(loss: str) -> str:
    """A name for the folder of a loss that tells it from others.

    Example:
        >>> folder_name("SoftmaxLoss + 0.01 * CenterLoss(alpha=0.9)")
        'SoftmaxLoss+0.01-CenterLoss-alpha=0.9'
    """
    name = re.sub(r"[^\w.+@=]+", "-", loss.replace(" ", "")).strip("-")
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{sha256(loss.encode()).hexdigest()[:6]}"


def _before(trained: Sequence[Candidate]) -> dict[str, NDArray[np.float64]]:
    """What all started from: nothing where that was not one model."""
    runs = [open_runs(candidate.runs) for candidate in trained]
    starts = {
        (*asked_start(run.config), str(run.config.image_size), run.config.channels, run.run.start)
        for run in chain(*runs)
    }
    return _mean_values([run.beside("before") for run in runs[0]]) if len(starts) == 1 else {}


def _mean_values(tables: Sequence[Mapping[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    """The mean of each metric that all tables have."""
    return {
        name: np.mean([table[name] for table in tables], axis=0)
        for name in tables[0]
        if all(name in table for table in tables)
    }


def _comparison(candidates: Sequence[Candidate], config: TrainConfig, warnings: tuple[str, ...] = ()) -> Comparison:
    trained = [candidate for candidate in candidates if candidate.error is None]
    if not trained:
        raise RuntimeError(f"no loss could be trained. {candidates[0].name} failed: {candidates[0].error}")
    runs = [run for candidate in trained for run in open_runs(candidate.runs)]
    labels = [label for _, label in runs[0].queries]
    is_known = all(run.knows_its_queries for run in runs)
    said: dict[str, list[str]] = {}
    for run in runs:
        for doubt in run.run.accepted:
            said.setdefault(doubt, []).append(str(run.folder))
    of_runs = [doubt if 1 < len(runs) == len(own) else f"{', '.join(own)}: {doubt}" for doubt, own in said.items()]
    return Comparison(
        metric=config.metric,
        candidates=candidates,
        pixels=runs[0].beside("pixels"),
        before=_before(trained),
        classes=len(set(labels)),
        data=config.data,
        clusters=None if is_known else np.unique(labels, return_inverse=True)[1],
        warnings=(*warnings, *of_runs),
    )


def _check_trainable(loss: str, built: LossFormula, width: int) -> None:
    """A loss must take a batch as training gives it: embeddings and their labels, and nothing else.

    Raises:
        ValueError: one that does not.
    """
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(4)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            built.eval()(torch.randn(len(labels), width, generator=draw), labels)
    except Exception as error:  # PML's losses raise whatever their parts do
        raise ValueError(
            f"losses must train on embeddings and labels, got {loss!r}, which fails ({one_line(error)}). Leave it out."
        ) from error


def _candidate(loss: str, jobs: Sequence[Job], errors: dict[Job, str], search: LossSearch | None) -> Candidate:
    failed = [job for job in jobs if job in errors]
    options, seeds = options_of(jobs[0].config), sorted({job.config.seed for job in jobs})
    if failed:
        of_failed = sorted({job.config.seed for job in failed})
        which = f"seed{'s' * (len(of_failed) > 1)} {', '.join(map(str, of_failed))}"
        which = which if failed[0].test else "in every trial of the search"
        error = f"{errors[failed[0]]} ({which})"
        trials = [] if search is None else search.rows()
        return Candidate(name=loss, seeds=seeds, values={}, options=options, error=error, trials=trials)
    found = as_candidate(loss, [MeasuredRun(job.run) for job in jobs], options)
    return found if search is None else replace(found, chosen=search.values, edges=search.edges, trials=search.rows())
