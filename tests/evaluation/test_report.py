"""The report reads as a table, compares with another, and is kept as JSON."""

import csv
import json

import numpy as np
import pytest

from pml_center.evaluation import Report

REPORT = Report(
    metrics={"recall_at_1": 0.75, "mean_average_precision_at_r": 1 / 3},
    protocol="exact cosine search, leave-one-out",
    counts={"queries": 12345, "references": 12352, "skipped": 7, "duplicates": 0},
    per_unit={"recall_at_1": np.array([1.0, np.nan, 0.5])},
    ci={"recall_at_1": (0.7, 0.8)},
    ci_method="bootstrap over queries",
    warnings=("ties decide 2 % of the queries.",),
)


def test_the_table_is_aligned_below_a_line_on_how_it_was_measured():
    assert str(REPORT).splitlines() == [
        "12,345 queries, 12,352 references, 7 skipped: exact cosine search, leave-one-out",
        "recall_at_1                  0.7500  [0.7000, 0.8000]",
        "mean_average_precision_at_r  0.3333",
        "95 % intervals: bootstrap over queries",
        "warning: ties decide 2 % of the queries.",
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
        "counts": {"queries": 12345, "references": 12352, "skipped": 7, "duplicates": 0},
        "metrics": {"recall_at_1": 0.75, "mean_average_precision_at_r": 1 / 3},
        "ci": {"recall_at_1": [0.7, 0.8]},
        "ci_level": 0.95,
        "ci_method": "bootstrap over queries",
        "warnings": ["ties decide 2 % of the queries."],
    }


def test_the_csv_holds_the_values_of_each_unit(tmp_path):
    REPORT.to_csv(tmp_path / "per_query.csv")
    with (tmp_path / "per_query.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["query", "recall_at_1"], ["0", "1.0"], ["1", "nan"], ["2", "0.5"]]


def test_two_reports_are_compared_on_the_units_that_both_have():
    other = Report(metrics={}, protocol="", per_unit={"recall_at_1": np.array([0.0, 0.0, 0.0]), "x": np.zeros(3)})
    test = REPORT.compare(other)["recall_at_1"]
    assert (test.difference, test.units) == (0.75, 2)
    assert set(REPORT.compare(other)) == {"recall_at_1"}


def test_reports_with_nothing_in_common_are_refused():
    with pytest.raises(ValueError, match="other must have a metric in common, got x beside recall_at_1"):
        REPORT.compare(Report(metrics={}, protocol="", per_unit={"x": np.zeros(3)}))
    with pytest.raises(ValueError, match=r"values of the same units, got shapes \(3,\) and \(2,\)"):
        REPORT.compare(Report(metrics={}, protocol="", per_unit={"recall_at_1": np.zeros(2)}))


def test_a_report_introduces_itself_by_what_was_measured():
    assert repr(REPORT) == f"<Report: {REPORT.summary}>"


def test_a_report_cannot_be_changed():
    with pytest.raises(AttributeError):
        REPORT.unit = "fold"
