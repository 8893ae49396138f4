"""Comparison: which of several losses is best, by how much, and whether the difference is real."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pml_center.evaluation import PairedTest, holm, paired_runs_test, paired_test, runs_interval
from pml_center.evaluation.class_intervals import Absence
from pml_center.evaluation.report import BESIDE
from pml_center.evaluation.statistics import Interval, few_units
from pml_center.notebooks import data_frame, html_table
from pml_center.training.config import TrainConfig
from pml_center.training.measurement import remedies_of

SCHEMA = 1  # of the JSON; a new number where a reader of the old one would be misled
SIGNIFICANT = 0.05  # a corrected p-value below it is a difference that is called real
LEVEL = 0.95  # of all intervals
POWER = 0.8  # with which a difference is found that is called large enough to be seen


class IncompleteError(RuntimeError):
    """A comparison some of whose runs failed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidate:
    """One loss, trained with several seeds and measured on the same queries each time.

    Args:
        name: what to call it, such as the formula of the loss.
        seeds: of its S runs.
        runs: their folders.
        values: each metric's values, (S, Q); NaN for a query that has nothing to find.
        absence: what would change of the mean over runs of each metric without each class; none where nobody knows.
        seconds: of training, for each run.
        epoch_seconds: of an epoch, for each run.
        cpu_seconds: of the process, for each run; None where nobody knows.
        memory_gib: the most that a run used; None where nobody knows.
        options: of training, in which candidates may differ, such as what a search chose.
        error: why there are no values.
        chosen: what a search chose, by the name of each number that it moved; None leaves it to the loss.
        edges: those of which the ``"smallest"`` or ``"largest"`` of all tried values was chosen.
        trials: all that a search tried.
    """

    name: str
    seeds: Sequence[int] = ()
    runs: Sequence[str] = ()
    values: Mapping[str, NDArray[np.float64]]
    absence: Mapping[str, Absence] = field(default_factory=dict)
    seconds: Sequence[float] = ()
    epoch_seconds: Sequence[float] = ()
    cpu_seconds: Sequence[float | None] = ()
    memory_gib: float | None = None
    options: Mapping[str, Any]
    error: str | None = None
    chosen: Mapping[str, float | None] = field(default_factory=dict)
    edges: Mapping[str, str] = field(default_factory=dict)
    trials: Sequence[Mapping[str, Any]] = ()

    @property
    def setting(self) -> str:
        """What a search chose, in words."""
        return ", ".join(
            f"{name} {value:.3g}{f' ({self.edges[name]} tried)' if name in self.edges else ''}"
            for name, value in self.chosen.items()
            if value is not None
        )

    @property
    def command(self) -> str:
        """The line that trains it again, for a shell."""
        return TrainConfig(**self.options).command


class GapToBest(NamedTuple):
    """How far a candidate is behind the best."""

    test: PairedTest  # the best minus this one
    p_corrected: float  # for all pairs
    p_models: float  # of the models that there are, as if no other seed could make others
    seeds: int  # the fewest of both
    pairs: int = 1  # of losses, for all of which interval and corrected p hold together

    @classmethod
    def of(cls, test: PairedTest, p_corrected: float, p_models: float, seeds: int, pairs: int) -> "GapToBest":
        """A distance whose interval says no less than its p-value.

        Holm's test is stricter than Bonferroni's intervals are wide: one may reach beyond 0 where the test is sure of
        the sign. It then ends at 0.
        """
        if p_corrected < SIGNIFICANT:
            end = "low" if test.difference > 0 else "high"
            test = test._replace(**{end: (max if end == "low" else min)(getattr(test, end), 0.0)})
        return cls(test, p_corrected, p_models, seeds, pairs)

    @property
    def is_real(self) -> bool:
        """Whether it is more than chance. One seed cannot tell, however small p is: nobody knows what another does."""
        return self.seeds > 1 and self.p_corrected < SIGNIFICANT

    @property
    def judgement(self) -> str:
        """What it is, in words."""
        if self.is_real:
            return "is real"
        return "may be chance" if self.seeds > 1 else "may be the luck of one seed"

    @property
    def shown_p(self) -> str:
        """The corrected p-value as a table has it."""
        return "< 0.001" if self.p_corrected < 0.001 else f"{self.p_corrected:.3f}"

    def detectable(self, runs: float = 1, units: float = 1) -> float | None:
        """The true difference that is called real four times of five, with so many times as many runs and units."""
        if self.seeds < 2 or self.test.parts is None or not self.test.parts.variance > 0:
            return None
        return self.test.parts.with_more(runs, units).detectable(_bonferroni(self.pairs), POWER)

    @property
    def at_most(self) -> float:
        """How far the two may differ, by the interval."""
        return max(abs(self.test.low), abs(self.test.high))

    def __str__(self) -> str:
        p_value = self.shown_p if self.p_corrected < 0.001 else f"= {self.shown_p}"
        low, high = self.test.low, self.test.high
        together = " for all pairs together" if self.pairs > 1 else ""
        over = f"over {self.test.units:,} {self.test.over}"
        interval = f"{100 * LEVEL:g} % interval {over}{together} {low:.4f} … {high:.4f}"
        return f"{self.test.difference:.4f} (at most {self.at_most:.4f}; {interval}, p {p_value})"


class Row(NamedTuple):
    """What the table says of a candidate."""

    candidate: Candidate
    value: float  # the mean over seeds and queries
    interval: Interval  # of the mean, over seeds and what could have been others
    of_seeds: tuple[float, ...]  # the mean of each run
    deviation: float | None  # of those, with n - 1; None for one seed
    behind: GapToBest | None  # None for the best


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Comparison:
    """Losses ranked by one metric.

    A value is the mean over seeds and queries. Its interval says how far other seeds would move it, and other classes
    where classes are new, other queries where they were trained on (:func:`~pml_center.evaluation.runs_interval`). Each
    loss is tested against the best: its values of a class, or of a query, are averaged over seeds and paired with those
    of the best, and what seeds contribute is added to the variance
    (:func:`~pml_center.evaluation.paired_runs_test`). p-values are corrected by Holm's method for all pairs of losses
    and not only for those with the best, because which one is best was found by looking; intervals of distances are
    widened by Bonferroni's, so that all of them hold together.

    Args:
        metric: to rank by.
        candidates: at least one that has values, in the order in which equal ones are listed.
        pixels: each metric's values by raw pixels, (Q,); none for features.
        before: likewise by the model before training, the mean over seeds.
        classes: how many the queries are of.
        data: what was measured.
        clusters: (Q,) integers, the class of each query, where classes are new; None where they were trained on.
        warnings: sentences on what makes the comparison doubtful.

    Example:
        >>> tables = {"A": [[0.3, 0.5, 0.4], [0.2, 0.4, 0.4]], "B": [[0.7, 0.9, 0.8], [0.6, 0.9, 0.8]]}
        >>> candidates = [
        ...     Candidate(name=name, seeds=(0, 1), values={"r_precision": np.array(table)}, options={})
        ...     for name, table in tables.items()
        ... ]
        >>> found = Comparison(metric="r_precision", candidates=candidates, pixels={}, classes=2, data="digits")
        >>> [(row.candidate.name, round(row.value, 3)) for row in found.rows]
        [('B', 0.783), ('A', 0.367)]
    """

    metric: str
    candidates: Sequence[Candidate]
    pixels: Mapping[str, NDArray[np.float64]]
    classes: int
    data: str
    clusters: NDArray[np.int64] | None = None
    warnings: tuple[str, ...] = ()
    before: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.candidates)} losses: {self.verdict}>"

    def _repr_html_(self) -> str:
        columns, rows = table(self)
        return html_table(columns, rows, above=self.verdict, below=[f"warning: {doubt}" for doubt in self.doubts])

    def to_dataframe(self) -> Any:
        """The ranking as a data frame of pandas, numbers as texts as the table has them."""
        columns, rows = table(self)
        return data_frame({name: [row[place] for row in rows] for place, name in enumerate(columns)})

    @property
    def beside(self) -> dict[str, Mapping[str, NDArray[np.float64]]]:
        """Each metric's values by what needs no training, where they are known."""
        found = {BESIDE["before"]: self.before, BESIDE["pixels"]: self.pixels}
        return {name: values for name, values in found.items() if values}

    @cached_property
    def ranked(self) -> list[Candidate]:
        """Those that could be trained, the best first."""
        found = [candidate for candidate in self.candidates if candidate.error is None]
        return sorted(found, key=lambda candidate: -np.nanmean(candidate.values[self.metric]))

    @cached_property
    def _measured(self) -> NDArray[np.bool_]:
        """Which queries have something to find."""
        return ~np.isnan(self.ranked[0].values[self.metric][0])

    @property
    def units(self) -> NDArray[np.int64] | None:
        """The clusters that intervals and tests are over; None for the queries. A single class would say nothing."""
        known = self.clusters is None or len(np.unique(self.clusters[self._measured])) < 2
        return None if known else self.clusters

    @property
    def over(self) -> str:
        """What intervals and tests are over beside the seeds, in words."""
        if self.units is None:
            return _counted(self.queries, "query", "queries")
        return _counted(len(np.unique(self.units[self._measured])), "class", "classes")

    @cached_property
    def rows(self) -> list[Row]:
        """Those that could be trained, the best first."""
        pairs = [self._pair(*two) for two in combinations(self.ranked, 2)]
        level = _bonferroni(len(pairs))
        tests = [paired_runs_test(one, other, level, self.units, absence) for one, other, absence in pairs]
        corrected = holm([test.p_value for test in tests])
        behind: list[GapToBest | None] = [None]
        what = "queries" if self.units is None else "classes"
        with_best = pairs[: len(self.ranked) - 1]
        for (one, other, absence), test, p_value in zip(with_best, tests, corrected, strict=False):
            of_models = paired_test(one.mean(0), other.mean(0), clusters=self.units, absence=absence).p_value
            seeds = min(len(one), len(other))
            behind.append(GapToBest.of(test._replace(over=what), p_value, of_models, seeds, len(pairs)))
        rows = []
        for candidate, distance in zip(self.ranked, behind, strict=True):
            table = candidate.values[self.metric]
            of_seeds = np.nanmean(table, axis=1)
            deviation = float(of_seeds.std(ddof=1)) if len(table) > 1 else None
            value = float(of_seeds.mean())
            ends = interval(table, self.units, self._absence(candidate))
            rows.append(Row(candidate, value, ends, tuple(of_seeds.tolist()), deviation, distance))
        return rows

    def _pair(
        self, one: Candidate, other: Candidate
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], Absence | None]:
        """The values of two losses, and what would change of their difference without each class."""
        ours, theirs = self._absence(one), self._absence(other)
        absence = None if ours is None or theirs is None else ours.less(theirs)
        return one.values[self.metric], other.values[self.metric], absence

    def _absence(self, candidate: Candidate) -> Absence | None:
        """What would change of its mean without each class, where classes could have been others and that is known."""
        return None if self.units is None else candidate.absence.get(self.metric)

    @property
    def failed(self) -> list[Candidate]:
        """Those that could not be trained with every seed."""
        return [candidate for candidate in self.candidates if candidate.error is not None]

    def check_complete(self, folder: Path) -> None:
        """Every run must have been trained.

        Args:
            folder: of the comparison, to go on with.

        Raises:
            IncompleteError: some failed.
        """
        if self.failed:
            missing = "; ".join(f"{candidate.name}: {candidate.error}" for candidate in self.failed)
            raise IncompleteError(
                f"comparison must have every run, got some that failed, {missing}. "
                f"Try them again with: pml-center compare {shlex.quote(str(folder))} --retry"
            )

    @property
    def others(self) -> list[tuple[str, GapToBest]]:
        """All but the best, by name."""
        return [(row.candidate.name, row.behind) for row in self.rows if row.behind is not None]

    @property
    def is_real(self) -> bool | None:
        """Whether the best is better than every other by more than chance; None where there is no other."""
        return all(behind.is_real for _, behind in self.others) if self.others else None

    @property
    def queries(self) -> int:
        """How many were measured: those that have something to find."""
        return int(self._measured.sum())

    @property
    def summary(self) -> str:
        """What was compared, on what."""
        seeds = {seed for candidate in self.candidates for seed in candidate.seeds}
        what = f"{_counted(len(self.candidates), 'loss', 'losses')} × {_counted(len(seeds), 'seed', 'seeds')}"
        measured = f"{self.metric} of {self.queries:,} queries of {self.classes:,} classes of {self.data}"
        return f"{what}: {measured}, judged over seeds and {'queries' if self.units is None else 'classes'}"

    @property
    def unseen(self) -> str:
        """One sentence on what the comparison cannot see, beside the next loss; empty where there is none."""
        if not self.others:
            return ""
        name, behind = self.others[0]
        smallest, seeds, units = behind.detectable(), behind.detectable(runs=2), behind.detectable(units=2)
        if smallest is None or seeds is None or units is None:
            return "" if behind.seeds > 1 else "With one seed no difference is called real, however large it is."
        what = "classes" if self.units is not None else "queries"
        helps = f"{what} help more" if units < seeds else "seeds help more"
        return (
            f"With {_counted(behind.seeds, 'seed', 'seeds')} and {self.over} a true difference of {smallest:.4f} to "
            f"{name} is called real four times of five, a smaller one less often; more {helps}: twice the {what} bring "
            f"it to {units:.4f}, twice the seeds to {seeds:.4f}."
        )

    @property
    def unbeaten(self) -> list[str]:
        """Sentences on what needs no training and is at least as good as the best loss, each with what to try."""
        found = []
        remedies = remedies_of(TrainConfig(**self.ranked[0].options), of_images=bool(self.pixels))
        remedies = {BESIDE[name]: remedy for name, remedy in remedies.items()}
        for name, values in self.beside.items():
            reached = float(np.nanmean(values[self.metric])) if self.metric in values else -np.inf
            if reached >= self.rows[0].value:
                verb = "reach" if name == BESIDE["pixels"] else "the model reached"
                found.append(f"{name} {verb} {reached:.4f}, and no loss does better: {remedies[name]}")
        return found

    @property
    def doubts(self) -> list[str]:
        """Sentences on what makes the comparison doubtful."""
        found = [*self.unbeaten, *self.warnings]
        if self.clusters is not None:
            found += few_units(len(np.unique(self.clusters[self._measured])), "classes")
        if any(len(row.of_seeds) == 1 for row in self.rows):
            found.append("one seed says nothing of how far another one would move a loss: use --seeds 0 1 2")
        return found + [f"{candidate.name} failed: {candidate.error}" for candidate in self.failed]

    @property
    def verdict(self) -> str:
        """One plain sentence: which loss, by how much, and whether the difference is real."""
        name, value = self.rows[0].candidate.name, f"{self.rows[0].value:.4f}"
        if not self.others:
            return f"{name} reaches a {self.metric} of {value}, and there is no other loss to compare it with."
        if self.is_real:
            second, behind = self.others[0]
            return (
                f"{name} is the best: its {self.metric} of {value} is {behind} above that of {second}, the next, "
                "and the difference is real."
            )
        worse = [other for other, behind in self.others if behind.is_real]
        (nearest, behind), *rest = [pair for pair in self.others if not pair[1].is_real]
        sentence = f"{name} has the highest {self.metric}, {value}, but {nearest} is {behind} behind, "
        sentence += f"which {behind.judgement}"
        if rest:
            sentence += f", as may be its lead over {_listed([other for other, _ in rest])}"
        return (
            f"{sentence}; it is really better than {_listed(worse)}." if worse else f"{sentence}: nothing can be said."
        )

    def to_json(self, path: str | Path | None = None) -> str:
        """All but the values of the queries, also written to ``path`` where one is given."""
        text = json.dumps(self.content(), indent=2, ensure_ascii=False)
        if path is not None:
            # Paths may be any bytes; what a backslash makes of them is JSON, too.
            Path(path).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        return text

    def content(self) -> dict[str, Any]:
        """What :meth:`to_json` writes."""
        ranked = [_of_row(rank, row) for rank, row in enumerate(self.rows, 1)]
        failed = [
            {"rank": None, "loss": candidate.name, "seeds": list(candidate.seeds), "error": candidate.error}
            for candidate in self.failed
        ]
        return {
            "schema": SCHEMA,
            "command": "compare",
            "data": self.data,
            "metric": self.metric,
            "counts": {"queries": self.queries, "classes": self.classes},
            "ci_level": LEVEL,
            "ci_method": f"analysis of variance over seeds and {self.over}",
            "behind_interval_method": "as ci_method, Bonferroni's for all pairs, to 0 where p_corrected is sure",
            "p_method": f"paired by {'query' if self.units is None else 'class'}, seeds in the variance, Holm's "
            "correction for all pairs",
            "candidates": ranked + failed,
            "before": {name: float(np.nanmean(values)) for name, values in self.before.items()},
            "pixels": {name: float(np.nanmean(values)) for name, values in self.pixels.items()},
            "warnings": self.doubts,
            "best": self.rows[0].candidate.name,
            "is_real": self.is_real,
            "unseen": self.unseen,
            "verdict": self.verdict,
        }


def interval(
    values: NDArray[np.float64], clusters: NDArray[np.int64] | None = None, absence: Absence | None = None
) -> Interval:
    """Of the mean of a metric in [0, 1], over runs and queries, or runs and clusters of queries."""
    return runs_interval(values, LEVEL, clusters, bounded=True, absence=absence)


def _bonferroni(pairs: int) -> float:
    """The level of each interval, so that all of them hold together."""
    return 1 - (1 - LEVEL) / max(pairs, 1)


def _of_row(rank: int, row: Row) -> dict[str, Any]:
    candidate = row.candidate
    behind = None
    if row.behind is not None:
        test = row.behind.test
        behind = {
            "difference": test.difference,
            "interval": [test.low, test.high],
            "p_value": test.p_value,
            "p_corrected": row.behind.p_corrected,
            "p_models": row.behind.p_models,
            "is_real": row.behind.is_real,
            "at_most": row.behind.at_most,
            "detectable": row.behind.detectable(),
            "detectable_with_twice_the_seeds": row.behind.detectable(runs=2),
            "detectable_with_twice_the_units": row.behind.detectable(units=2),
        }
    return {
        "rank": rank,
        "loss": candidate.name,
        "chosen": dict(candidate.chosen),
        "edges": dict(candidate.edges),
        "command": candidate.command,
        "trials": [dict(trial) for trial in candidate.trials],
        "options": dict(candidate.options),
        "value": row.value,
        "interval": list(row.interval),
        "deviation_over_seeds": row.deviation,
        "seeds": list(candidate.seeds),
        "of_seeds": list(row.of_seeds),
        "behind_the_best": behind,
        "metrics": {name: float(np.nanmean(values)) for name, values in candidate.values.items()},
        "seconds": list(candidate.seconds),
        "seconds_per_epoch": list(candidate.epoch_seconds),
        "cpu_seconds": list(candidate.cpu_seconds),
        "memory_gib": candidate.memory_gib,
        "runs": list(candidate.runs),
        "error": None,
    }


def _listed(names: Sequence[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def _counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def table(comparison: Comparison, digits: int = 4) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the ranking, for a terminal or a page: losses, those that failed, what needs no training.

    Args:
        comparison: what was found.
        digits: of a value, behind the point.
    """

    def written(value: float | None) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    columns = ["loss", "value", f"{100 * LEVEL:g} % over {comparison.over}", "±", "behind", "p", "s", "s/epoch", "GiB"]
    rows = []
    for rank, row in enumerate(comparison.rows, 1):
        memory, behind = row.candidate.memory_gib, row.behind
        rows.append(
            [
                f"{rank} {row.candidate.name}",
                written(row.value),
                " … ".join(map(written, row.interval)),
                written(row.deviation),
                "" if behind is None else written(behind.test.difference),
                "" if behind is None else behind.shown_p,
                f"{np.mean(row.candidate.seconds):.1f}",
                f"{np.mean(row.candidate.epoch_seconds):.2f}" if row.candidate.epoch_seconds else "",
                "" if memory is None else f"{memory:.2f}",
            ]
        )
    rows += [[f"– {candidate.name}", "failed", *[""] * 7] for candidate in comparison.failed]
    for name, metrics in comparison.beside.items():
        if comparison.metric in metrics:
            values = metrics[comparison.metric]
            ends = " … ".join(map(written, interval(values, comparison.units)))
            rows.append([f"– {name}", written(float(np.nanmean(values))), ends, *[""] * 6])
    settings = [row.candidate.setting for row in comparison.rows]
    if any(settings):
        columns.append("chosen by the search")
        missing = [""] * (len(rows) - len(settings))
        rows = [[*cells, setting] for cells, setting in zip(rows, [*settings, *missing], strict=True)]
    return columns, rows
