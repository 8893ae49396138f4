"""The result of an evaluation, to read, to compare and to keep."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pml_center.evaluation.class_intervals import Absence
from pml_center.evaluation.paired_tests import PairedTest, paired_test
from pml_center.evaluation.statistics import Interval
from pml_center.names import unknown_name
from pml_center.notebooks import data_frame, html_table

# What needs no training and stands beside a model, by the name of its file.
BESIDE = {"before": "before training", "pixels": "raw pixels"}
SCHEMA = 1  # of the JSON; a new number where a reader of the old one would be misled
SECOND_NAMES = {"precision_at_1": "recall_at_1", "macro_precision_at_1": "macro_recall_at_1"}  # PML's of one number


def told_once(names: Iterable[str]) -> list[str]:
    """The metrics that a reader is shown: PML's name of what is there as ``recall_at_1`` already is left to programs.

    Example:
        >>> told_once(["recall_at_1", "precision_at_1", "r_precision"])
        ['recall_at_1', 'r_precision']
        >>> told_once(["precision_at_1"])
        ['precision_at_1']
    """
    names = list(names)
    return [name for name in names if SECOND_NAMES.get(name) not in names]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Report:
    """What was measured, on how many units, by which rules, and how sure it is.

    Every evaluator returns one. What only one protocol has, such as the neighbours of retrieval, stands in a subclass.

    Args:
        metrics: each metric's value.
        protocol: one sentence that says how.
        counts: what was counted, by its name in the plural and in the order of printing, e.g. ``{"queries": 41,
            "references": 44, "skipped": 3}``. Zeros are not printed.
        per_unit: each metric's value for every unit, (U,) float64 in the order of the input; NaN where left out. A
            metric that is no mean over units has none.
        unit: what a unit is, in the singular: ``"query"``, ``"fold"``, ``"episode"``, ``"probe"``.
        clusters: (U,) integers, what could have been others together with all its units, such as the class of a query;
            None where the units could.
        absence: what would change of each metric without each class; none where that is not known.
        over: what could have been others, in the plural: ``"classes"``, ``"people"``, ``"queries"``.
        ci: (low, high) of the metrics that have a confidence interval.
        ci_level: the level of all intervals.
        ci_method: how they were made and over how many of what, e.g. ``"over 193 classes, left out one at a time"``.
        curves: what a plot needs, by name: ``{"roc": {"far": (T,), "tar": (T,), "threshold": (T,)}}``.
        warnings: sentences on what makes the numbers doubtful.

    Raises:
        KeyError: ``report[name]`` for a metric that was not measured.

    Example:
        >>> report = Report(
        ...     metrics={"recall_at_1": 0.75},
        ...     protocol="exact dot search, leave-one-out",
        ...     counts={"queries": 4, "references": 5, "skipped": 1},
        ...     ci={"recall_at_1": (0.25, 1.0)},
        ...     ci_method="bootstrap over queries",
        ... )
        >>> report["recall_at_1"]
        0.75
        >>> print(report)
        4 queries, 5 references, 1 skipped: exact dot search, leave-one-out
        recall_at_1  0.7500  [0.2500, 1.0000]
        95 % intervals: bootstrap over queries
    """

    metrics: Mapping[str, float]
    protocol: str
    counts: Mapping[str, int] = field(default_factory=dict)
    per_unit: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    unit: str = "query"
    clusters: NDArray[np.int64] | None = None
    absence: Mapping[str, Absence] = field(default_factory=dict)
    over: str = "queries"
    ci: Mapping[str, Interval] = field(default_factory=dict)
    ci_level: float = 0.95
    ci_method: str = ""
    curves: Mapping[str, Mapping[str, NDArray]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        return self.metrics[self._measured(name, self.metrics)]

    @property
    def summary(self) -> str:
        """How much was measured, by which rules."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count)
        return f"{counts}: {self.protocol}" if counts else self.protocol

    def compare(self, other: "Report", resamples: int = 10_000, seed: int = 0) -> dict[str, PairedTest]:
        """Test whether this model differs from another on the same units, for each metric that both have per unit.

        What could have been others is what is tested: classes, with all their queries, where a class is new.

        Args:
            other: the report of another model on the same units in the same order; those that either left out are not
                compared.
            resamples: of the permutation test, see :func:`~pml_center.evaluation.paired_test`.
            seed: of its random numbers.

        Raises:
            ValueError: another number of units, other units or classes, no metric in common, or a single cluster.

        Example:
            >>> one, other = (
            ...     Report(metrics={}, protocol="", per_unit={"accuracy": np.array(values)})
            ...     for values in ([1, 1, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0])
            ... )
            >>> print(one.compare(other)["accuracy"])
            +0.5000  [+0.1667, +0.8333]  p = 0.2...  over 6 queries
        """
        shared = [name for name in self.per_unit if name in other.per_unit]
        if not shared:
            raise ValueError(
                f"other must have a metric in common, got {', '.join(other.per_unit) or 'none'} beside "
                f"{', '.join(self.per_unit) or 'none'}. Evaluate both with the same metrics."
            )
        self._check_same_units(other)
        tests = {}
        for name in shared:
            values, level = (self.per_unit[name], other.per_unit[name]), self.ci_level
            both = name in self.absence and name in other.absence
            absence = self.absence[name].less(other.absence[name]) if both else None
            test = paired_test(*values, level, resamples, seed, clusters=self.clusters, absence=absence)
            tests[name] = test._replace(over=self.over)
        return tests

    def _check_same_units(self, other: "Report") -> None:
        """Values of two models pair up where the units are the same."""
        if self.over != other.over:
            raise ValueError(
                f"other must be about the same units, got {other.over} beside {self.over}. "
                "Evaluate both models with the same ci."
            )
        if self.clusters is not None and not np.array_equal(self.clusters, np.asarray(other.clusters)):
            raise ValueError(
                f"other must be about the same units in the same order, got others of the {self.over}. "
                "Evaluate both models on the same data, in the same order."
            )

    def content(self) -> dict[str, Any]:
        """What :meth:`to_json` writes: everything but the values of the units and the curves.

        Example:
            >>> Report(metrics={"eer": 0.25}, protocol="pairs", counts={"pairs": 8}).content()["metrics"]
            {'eer': 0.25}
        """
        return {
            "schema": SCHEMA,
            "protocol": self.protocol,
            "counts": dict(self.counts),
            "metrics": dict(self.metrics),
            "ci": {name: list(interval) for name, interval in self.ci.items()},
            "ci_level": self.ci_level,
            "ci_method": self.ci_method if self.ci else "",
            "warnings": list(self.warnings),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """:meth:`content` as JSON, also written to ``path`` where one is given.

        Example:
            >>> print(Report(metrics={"eer": 0.25}, protocol="pairs", counts={"pairs": 8}).to_json())
            {
              "schema": 1,
              "protocol": "pairs",
              "counts": {
                "pairs": 8
              },
              "metrics": {
                "eer": 0.25
              },
              "ci": {},
              "ci_level": 0.95,
              "ci_method": "",
              "warnings": []
            }
        """
        text = json.dumps(self.content(), indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_csv(self, path: str | Path) -> None:
        """Write the values of the units, a line each, behind what is known of each."""
        columns = self._columns()
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    def __str__(self) -> str:
        shown = told_once(self.metrics)
        width = max(map(len, shown), default=0)
        lines = [self.summary]
        for name in shown:
            low, high = self.ci.get(name, (None, None))
            lines.append(
                f"{name:<{width}}  {self.metrics[name]:.4f}" + ("" if low is None else f"  [{low:.4f}, {high:.4f}]")
            )
        return "\n".join([*lines, *self.remarks])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary}>"

    def table(self, beside: Mapping[str, "Report"] | None = None) -> tuple[list[str], list[list[str]]]:
        """Columns and rows of the metrics, with their intervals.

        Args:
            beside: other reports with these metrics, by what to call them.
        """
        beside, rows = beside or {}, []
        for name in told_once(self.metrics):
            low, high = self.ci.get(name, (None, None))
            others = [f"{other[name]:.4f}" if name in other.metrics else "" for other in beside.values()]
            rows.append([name, f"{self.metrics[name]:.4f}", "" if low is None else f"{low:.4f} … {high:.4f}", *others])
        return ["", "model" if beside else "value", f"{100 * self.ci_level:g} % interval", *beside], rows

    def _repr_html_(self) -> str:
        return html_table(*self.table(), above=self.summary, below=self.remarks)

    @property
    def remarks(self) -> list[str]:
        """What a reader of the numbers has to know: of what the intervals are, and what makes all doubtful."""
        method = [f"{100 * self.ci_level:g} % intervals: {self.ci_method}"] if self.ci else []
        return [*method, *(f"warning: {warning}" for warning in self.warnings)]

    def to_dataframe(self) -> Any:
        """The values of the units as a data frame of pandas, a row each, as :meth:`to_csv` writes them.

        Raises:
            ImportError: pandas is not installed.
        """
        return data_frame(self._columns())

    def _columns(self) -> dict[str, Any]:
        units = len(next(iter(self.per_unit.values()), ()))
        return {self.unit: range(units)} | self._unit_columns() | dict(self.per_unit)

    def _unit_columns(self) -> dict[str, Sequence]:
        """What else is known of each unit, for :meth:`to_csv`."""
        return {}

    def _measured(self, name: str, known: Mapping[str, object]) -> str:
        if name not in known:
            raise KeyError(unknown_name("metric", name, list(known), f"This report has {', '.join(known)}."))
        return name


@dataclass(frozen=True, eq=False, kw_only=True)
class ThresholdReport(Report):
    """A report on decisions of a threshold, with the one behind each metric that has one.

    Args:
        thresholds: by the name of the metric; ``score >= threshold`` accepts. Infinity accepts nothing.

    Example:
        >>> report = ThresholdReport(metrics={"tar_at_far_0.1": 0.5}, protocol="", thresholds={"tar_at_far_0.1": 0.4})
        >>> report.thresholds["tar_at_far_0.1"]
        0.4
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """As :meth:`Report.content`, with the thresholds; None where one accepts nothing."""
        thresholds = {name: value if np.isfinite(value) else None for name, value in self.thresholds.items()}
        return super().content() | {"thresholds": thresholds}
