"""The report reads as a table and is kept as JSON."""

import json

import numpy as np
import pytest

from pml_center.evaluation import Report

REPORT = Report(
    metrics={"recall_at_1": 0.75, "mean_average_precision_at_r": 1 / 3},
    per_query={"recall_at_1": np.array([1.0, np.nan, 0.5])},
    queries=12345,
    skipped=7,
    references=12352,
    protocol="exact cosine search, leave-one-out",
)


def test_the_table_is_aligned_below_a_line_on_how_it_was_measured():
    assert str(REPORT).splitlines() == [
        "12,345 queries (7 skipped), 12,352 references, exact cosine search, leave-one-out",
        "recall_at_1                  0.7500",
        "mean_average_precision_at_r  0.3333",
    ]


def test_a_metric_is_looked_up_by_its_name():
    assert REPORT["recall_at_1"] == 0.75
    with pytest.raises(KeyError, match="Did you mean 'recall_at_1'"):
        REPORT["recal_at_1"]


def test_the_json_holds_what_was_measured_and_how(tmp_path):
    text = REPORT.to_json(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == text + "\n"
    assert json.loads(text) == {
        "schema": 1,
        "protocol": "exact cosine search, leave-one-out",
        "queries": 12345,
        "skipped": 7,
        "references": 12352,
        "metrics": {"recall_at_1": 0.75, "mean_average_precision_at_r": 1 / 3},
    }


def test_a_report_cannot_be_changed():
    with pytest.raises(AttributeError):
        REPORT.queries = 1
