"""The result of an evaluation, to read, to compare and to keep."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pml_center.checks import unknown_name


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured, on how many queries, and by which rules.

    Args:
        metrics: each metric's mean over the queries, in [0, 1].
        per_query: each metric's value for every query, (Q,) float64 in the order of the input; NaN where skipped.
        queries: how many queries the means are taken over.
        skipped: how many queries were left out because no reference has their label.
        references: how many references were searched.
        protocol: one sentence that says how.

    Raises:
        KeyError: ``report[name]`` for a metric that was not measured.

    Example:
        >>> report = Report({"recall_at_1": 0.75}, {}, queries=4, skipped=1, references=5, protocol="exact dot search")
        >>> report["recall_at_1"]
        0.75
        >>> print(report)
        4 queries (1 skipped), 5 references, exact dot search
        recall_at_1  0.7500
    """

    metrics: dict[str, float]
    per_query: dict[str, NDArray[np.float64]]
    queries: int
    skipped: int
    references: int
    protocol: str

    def __getitem__(self, name: str) -> float:
        if name not in self.metrics:
            known = list(self.metrics)
            raise KeyError(unknown_name("metric", name, known, f"This report has {', '.join(known)}."))
        return self.metrics[name]

    @property
    def summary(self) -> str:
        """How many queries, among how many references, by which rules."""
        skipped = f" ({self.skipped:,} skipped)" if self.skipped else ""
        return f"{self.queries:,} queries{skipped}, {self.references:,} references, {self.protocol}"

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything but the per-query values as JSON, also written to ``path`` where one is given.

        Example:
            >>> print(Report({"recall_at_1": 0.75}, {}, 4, 1, 5, "exact dot search").to_json())
            {
              "schema": 1,
              "protocol": "exact dot search",
              "queries": 4,
              "skipped": 1,
              "references": 5,
              "metrics": {
                "recall_at_1": 0.75
              }
            }
        """
        content = {
            "schema": 1,
            "protocol": self.protocol,
            "queries": self.queries,
            "skipped": self.skipped,
            "references": self.references,
            "metrics": self.metrics,
        }
        text = json.dumps(content, indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def __str__(self) -> str:
        width = max(map(len, self.metrics), default=0)
        lines = [self.summary]
        lines += [f"{name:<{width}}  {value:.4f}" for name, value in self.metrics.items()]
        return "\n".join(lines)
