"""A report on decisions that a threshold makes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pml_center.evaluation.report import Report


@dataclass(frozen=True, eq=False, kw_only=True)
class ThresholdReport(Report):
    """A report with the threshold behind each metric that has one.

    Args:
        thresholds: by the name of the metric; ``score >= threshold`` accepts. Infinity accepts nothing.

    Example:
        >>> report = ThresholdReport(metrics={"tar_at_far_0.1": 0.5}, protocol="", thresholds={"tar_at_far_0.1": 0.4})
        >>> report.thresholds["tar_at_far_0.1"]
        0.4
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self, path: str | Path | None = None) -> str:
        """As :meth:`Report.to_json`, with the thresholds; null where one accepts nothing."""
        thresholds = {name: value if np.isfinite(value) else None for name, value in self.thresholds.items()}
        text = json.dumps(json.loads(super().to_json()) | {"thresholds": thresholds}, indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text
