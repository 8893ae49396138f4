"""MeasuredRun: what a run folder holds for a comparison, and candidates of several."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pml_center.comparison.result import Candidate
from pml_center.evaluation.class_intervals import Absence
from pml_center.training.config import TrainConfig
from pml_center.training.data_record import DataRecord
from pml_center.training.run_folder import Run

# Options that make no other candidate: which seed, and where and how it was computed.
FREE = (
    "seed",
    "features",
    "out",
    "overwrite",
    "data_root",
    "workers",
    "decoded_gib",
    "device",
    "deterministic",
    "checkpoint_every",
    "tensorboard",
)
DIVISION = ("data", "held_out", "split", "split_seed")  # options that say which images are measured


@dataclass(frozen=True)
class MeasuredRun:
    """A run that was measured on what it held out."""

    run: Run

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.run.folder

    @cached_property
    def config(self) -> TrainConfig:
        """What was asked for."""
        return self.run.config

    @cached_property
    def data(self) -> DataRecord:
        """What it was trained and measured on."""
        return self.run.data

    @cached_property
    def queries(self) -> list[tuple[str, str]]:
        """The name and the label of each image that was held out; the name does not say where the data lie."""
        names, labels = self.run.held_out_names, self._table("report")["label"]
        if len(names) != len(labels):
            raise ValueError(
                f"run must have been measured on the {len(names)} images that it held out, got {len(labels)} in "
                f"{self.folder}. Restore the data and run `pml-center eval {self.folder}`, or leave it out."
            )
        return list(zip(names, labels, strict=True))

    @property
    def knows_its_queries(self) -> bool:
        """Whether it was trained on the classes that it was measured on."""
        return self.run.knows(label for _, label in self.queries)

    @cached_property
    def values(self) -> dict[str, NDArray[np.float64]]:
        """Each metric's values, (Q,)."""
        return self._values("report")

    def beside(self, kind: str) -> dict[str, NDArray[np.float64]]:
        """Those of what needs no training, ``"before"`` or ``"pixels"``; none where that was not measured."""
        return self._values(kind) if (self._reports / f"{kind}.csv").is_file() else {}

    @cached_property
    def absence(self) -> dict[str, Absence]:
        """What would change of each metric without each class; none of a run that did not write it down."""
        if not (self._reports / "absence.csv").is_file():
            return {}
        table, labels = self._table("absence"), np.unique([label for _, label in self.queries])
        gone, finder = (np.searchsorted(labels, np.array(table.pop(name), labels.dtype)) for name in ("gone", "finder"))
        return {metric: Absence(gone, finder, np.array(change, np.float64)) for metric, change in table.items()}

    @property
    def cost(self) -> dict[str, Any]:
        """What ``compare`` logged of it."""
        return next(iter(self.run.events("cost")), {})

    @property
    def _reports(self) -> Path:
        return self.run.report_folder()

    @cached_property
    def _what_is_outdated(self) -> str:
        path = self._reports / "report.json"
        is_outdated = path.is_file() and self.run.report is None
        return "whose report is of weights that have given way to others" if is_outdated else ""

    def _values(self, kind: str) -> dict[str, NDArray[np.float64]]:
        table = self._table(kind)
        return {
            name: np.array(column, dtype=np.float64)
            for name, column in table.items()
            if name not in ("query", "name", "label")
        }

    def _table(self, kind: str) -> dict[str, list[str]]:
        path = self._reports / f"{kind}.csv"
        lacks = f"without {path.name}" if not path.is_file() else self._what_is_outdated
        if lacks:
            raise FileNotFoundError(
                f"run must have been measured on images that it held out, got {self.folder} {lacks}. "
                f"Finish it with `pml-center resume {self.folder}`, or leave it out."
            )
        with path.open(encoding="utf-8", newline="") as file:
            names, *rows = csv.reader(file)
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def as_candidate(name: str, runs: Sequence[MeasuredRun], options: Mapping[str, Any]) -> Candidate:
    """Runs of one configuration, with several seeds."""
    costs = [run.cost for run in runs]
    memory = [cost["memory_gib"] for cost in costs if cost]
    shared = [metric for metric in runs[0].values if all(metric in run.values for run in runs)]
    return Candidate(
        name=name,
        seeds=[run.config.seed for run in runs],
        runs=[str(run.folder) for run in runs],
        values={metric: np.stack([run.values[metric] for run in runs]) for metric in shared},
        absence={
            metric: Absence.mean([run.absence[metric] for run in runs])
            for metric in shared
            if all(metric in run.absence for run in runs)
        },
        seconds=[round(sum(epoch["seconds"] for epoch in run.run.epochs), 3) for run in runs],
        epoch_seconds=[round(fmean(epoch["seconds"] for epoch in run.run.epochs), 4) for run in runs],
        cpu_seconds=[cost.get("cpu_seconds") for cost in costs],
        memory_gib=max(memory, default=None),
        options=options,
    )


def group(runs: Sequence[MeasuredRun]) -> list[Candidate]:
    """Runs as candidates: those of the same options but for the seed are one, in the order of their first runs.

    Raises:
        ValueError: a seed twice.
    """
    groups: dict[tuple, list[MeasuredRun]] = {}
    for run in runs:
        groups.setdefault(tuple(options_of(run.config).items()), []).append(run)
    for members in groups.values():
        seeds: dict[int, MeasuredRun] = {}
        for member in members:
            other = seeds.setdefault(member.config.seed, member)
            if other is not member:
                raise ValueError(
                    f"runs of one loss must have different seeds, got seed {member.config.seed} in "
                    f"{other.folder} and in {member.folder}. Leave one out."
                )
    options = [dict(key) for key in groups]
    losses = [each["loss"] for each in options]
    found = []
    for each, members in zip(options, groups.values(), strict=True):
        same_loss = [other for other in options if other["loss"] == each["loss"]]
        differing = ", ".join(f"{name}={each[name]}" for name in differences(same_loss))
        name = f"{each['loss']} ({differing})" if losses.count(each["loss"]) > 1 else each["loss"]
        found.append(as_candidate(name, sorted(members, key=lambda run: run.config.seed), each))
    return found


def differences(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of those options that are not the same everywhere."""
    return [name for name in options[0] if any(other[name] != options[0][name] for other in options)]


def check_same_queries(runs: Sequence[MeasuredRun]) -> None:
    """Values of two models pair up where the queries are the same.

    Raises:
        ValueError: other queries in one run than in the first.
    """
    for run in runs[1:]:
        first = runs[0]
        changed = _changes(first, run, "test")
        if run.queries == first.queries and not changed:
            continue
        ours, theirs = options_of(first.config), options_of(run.config)
        names = [name for name in DIVISION if ours[name] != theirs[name]]
        reasons = [f"{name} {theirs[name]} and {ours[name]}" for name in names]
        if len(run.queries) != len(first.queries):
            reasons.append(f"{len(run.queries):,} and {len(first.queries):,} queries")
        elif changed:
            reasons.append(changed)
        else:
            pairs = zip(run.queries, first.queries, strict=True)
            (name, label), (other, other_label) = next((one, two) for one, two in pairs if one != two)
            reasons.append(f"e.g. {name} of class {label} and {other} of class {other_label}")
        raise ValueError(
            f"runs must be measured on the same queries, got {run.folder} and {first.folder} with "
            f"{', '.join(reasons)}. Train them with the same data, --held-out, --split and --split-seed."
        )


def other_training_images(runs: Sequence[MeasuredRun]) -> list[str]:
    """Sentences on runs that were trained on other images, or from other weights, though no option says so."""
    options = [options_of(run.config) for run in runs]
    first: dict[tuple, MeasuredRun] = {}  # of those that were to start from the same
    for run in runs:
        if run.run.start is not None:
            first.setdefault(asked_start(run.config), run)
    from_others = [
        f"{run.folder} started from other weights than {other.folder}"
        for run in runs
        if (other := first.get(asked_start(run.config))) and run.run.start not in (None, other.run.start)
    ]
    return from_others + [
        f"{run.folder} was trained on other images than {runs[0].folder}: {said}"
        for run, own in zip(runs, options, strict=True)
        if all(own[name] == options[0][name] for name in (*DIVISION, "val"))
        if (said := _changes(runs[0], run, "train"))
    ]


def asked_start(config: TrainConfig) -> tuple[Any, ...]:
    """What a run was to start from, by its options; what was there then, ``Run.start`` says."""
    return config.model, config.pretrained, config.weights, config.init_from


def _changes(one: MeasuredRun, other: MeasuredRun, split: str) -> str:
    """What differs between the images of two runs, as far as both recorded them."""
    if one.run == other.run or not (one.run.has_data_record and other.run.has_data_record):
        return ""
    return one.data.found_in(other.data.by_path).said(split)


def open_runs(folders: Sequence[str | Path]) -> list[MeasuredRun]:
    """Runs, and all runs in folders of comparisons."""
    found = []
    for folder in map(Path, folders):
        inside = sorted(folder.glob("*/seed-*/config.yaml")) if (folder / "compare.yaml").is_file() else []
        found += [MeasuredRun(Run.open(path.parent)) for path in inside] or [MeasuredRun(Run.open(folder))]
    return found


def options_of(config: TrainConfig) -> dict[str, Any]:
    """The options that make a candidate what it is."""
    return {name: value for name, value in asdict(config).items() if name not in FREE}
