"""What is said of a model beside what needs no training."""

import numpy as np
import pytest

from pml_center.evaluation import Report
from pml_center.training.config import TrainConfig
from pml_center.training.measurement import gained, unbeaten, with_doubts

BEFORE = np.array([0.1, 0.4, 0.2, 0.3, 0.5, 0.2])


def report(values, **words):
    return Report(metrics={"x": float(np.mean(values))}, protocol="", per_unit={"x": np.asarray(values)}, **words)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ([0.3, 0.2, 0.3, 0.2, 0.3, 0.2], "Training raised x from 0.2833 to 0.5333: +0.2500  [+0.2"),
        ([-0.1, -0.1, -0.1, -0.1, -0.1, -0.2], "Training lowered x from 0.2833 to 0.1667: -0.1167  [-0."),
        ([0.3, -0.2, 0.3, -0.2, 0.3, -0.2], "to 0.3333, which may be chance: +0.0500  ["),
        ([0, 0, 0, 0, 0, 0], "Training left x at 0.2833: +0.0000  ["),
    ],
)
def test_one_sentence_says_what_training_brought(step, expected):
    (sentence,) = gained(report(BEFORE + step), {"before": report(BEFORE)}, "x")
    assert expected in sentence
    assert ("chance" in sentence) == (min(step) * max(step) < 0)


def test_what_is_not_beaten_is_said_before_all_other_warnings():
    beside = {"before": report(BEFORE), "pixels": report(BEFORE + 0.1)}
    found = with_doubts(report(BEFORE - 0.1, warnings=("few classes",)), beside, TrainConfig(metric="x"))
    assert [warning.partition(":")[0] for warning in found.warnings] == [
        "training made it worse",
        "x is 0.1833, and raw pixels reach 0.3833",
        "few classes",
    ]
    assert not unbeaten(report(BEFORE + 0.2), beside, TrainConfig(metric="x"))


def test_training_made_nothing_worse_where_that_may_be_chance():
    drawn = report(BEFORE + np.array([0.1, -0.12, 0.1, -0.12, 0.1, -0.12]))
    assert "lowered x from 0.2833 to 0.2733, which may be chance" in gained(drawn, {"before": report(BEFORE)}, "x")[0]
    (warning,) = unbeaten(drawn, {"before": report(BEFORE)}, TrainConfig(metric="x"))
    assert warning.startswith("training made it no better: x is 0.2733, and was 0.2833 before. Train ")


@pytest.mark.parametrize(
    ("options", "before", "pixels"),
    [
        ({}, "Train with a", "start from --pretrained weights"),
        ({"weights": "some.pth"}, "Train the neck alone with --freeze trunk, with a", "train longer, or look"),
        ({"pretrained": True, "freeze": "trunk"}, "Train with a", "train longer, or look"),
    ],
)
def test_nobody_is_told_to_do_what_was_done(options, before, pixels):
    beside = {"before": report(BEFORE), "pixels": report(BEFORE)}
    worse, unbeaten_pixels = unbeaten(report(BEFORE - 0.1), beside, TrainConfig(metric="x", **options))
    assert f"before. {before} smaller --lr, or for longer" in worse
    assert pixels in unbeaten_pixels
