"""What is said of a model beside what needs no training."""

import numpy as np
import pytest

from pml_center.evaluation import Report
from pml_center.training.measurement import gained, unbeaten, with_doubts

BEFORE = np.array([0.1, 0.4, 0.2, 0.3, 0.5, 0.2])


def report(values, **words):
    return Report(metrics={"x": float(np.mean(values))}, protocol="", per_unit={"x": np.asarray(values)}, **words)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ([0.3, 0.2, 0.3, 0.2, 0.3, 0.2], "Training raised x from 0.2833 to 0.5333: +0.2500  [+0.2"),
        ([-0.1, -0.1, -0.1, -0.1, -0.1, -0.2], "Training lowered x from 0.2833 to 0.1667: -0.1167  [-0."),
        ([0.3, -0.2, 0.3, -0.2, 0.3, -0.2], "over 6 queries, which may be chance"),
        ([0, 0, 0, 0, 0, 0], "Training moved x from 0.2833 to 0.2833"),
    ],
)
def test_one_sentence_says_what_training_brought(step, expected):
    (sentence,) = gained(report(BEFORE + step), {"before": report(BEFORE)}, "x")
    assert expected in sentence
    assert ("chance" in sentence) == (min(step) * max(step) <= 0)


def test_what_is_not_beaten_is_said_before_all_other_warnings():
    beside = {"before": report(BEFORE), "pixels": report(BEFORE + 0.1)}
    found = with_doubts(report(BEFORE - 0.1, warnings=("few classes",)), beside, "x")
    assert [warning.partition(":")[0] for warning in found.warnings] == [
        "training made it worse",
        "x is 0.1833, and raw pixels reach 0.3833",
        "few classes",
    ]
    assert not unbeaten(report(BEFORE + 0.2), beside, "x")
