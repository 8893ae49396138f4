"""What all evaluators share: one shape of call, folders and models as input, a report that can be kept."""

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pml_center.evaluation import (
    ClusteringEvaluator,
    FewShotEvaluator,
    IdentificationEvaluator,
    Report,
    RetrievalEvaluator,
    Samples,
    VerificationEvaluator,
    lfw_pairs,
    save_samples,
)
from tests.evaluation.clusters import clusters

EVALUATORS = [
    RetrievalEvaluator(resamples=20),
    VerificationEvaluator(resamples=20),
    IdentificationEvaluator(resamples=20),
    ClusteringEvaluator(runs=2),
    FewShotEvaluator(queries=3, resamples=20),
]

each_evaluator = pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda each: type(each).__name__)


@pytest.fixture
def sets():
    """Embeddings and labels; a gallery and its labels."""
    return *clusters(classes=8, per_class=6, spread=1.5), *clusters(classes=6, per_class=2, spread=1.5, seed=1)


def arguments(evaluator, sets):
    """What the evaluator is called with: identification needs a gallery."""
    return sets if isinstance(evaluator, IdentificationEvaluator) else sets[:2]


def assert_alike(first, second):
    assert first.metrics == second.metrics
    assert first.ci == second.ci
    assert first.protocol == second.protocol


@each_evaluator
def test_a_report_can_be_printed_kept_and_compared(evaluator, sets, tmp_path):
    report = evaluator(*arguments(evaluator, sets))
    assert isinstance(report, Report)
    assert str(report).startswith(report.summary)
    kept = json.loads(report.to_json(tmp_path / "report.json"))
    assert kept["metrics"] == report.metrics
    assert set(report.ci) <= set(report.metrics)
    assert all(0 <= value <= 1 for value in report.metrics.values())
    for name, values in report.per_unit.items():
        assert np.nanmean(values) == pytest.approx(report[name])
    if report.per_unit:
        assert all(test.difference == 0 for test in report.compare(report).values())
        report.to_csv(tmp_path / "units.csv")


@each_evaluator
def test_a_folder_of_embeddings_is_evaluated_as_its_arrays(evaluator, sets, tmp_path):
    given = arguments(evaluator, sets)
    folders = []
    for number, (embeddings, labels) in enumerate(zip(given[::2], given[1::2], strict=True)):
        folder = tmp_path / str(number)
        save_samples(folder, Samples(embeddings, labels, names=[f"{row}.png" for row in range(len(labels))]))
        folders += [folder, None]
    assert_alike(evaluator(*folders[:-1]), evaluator(*given))


@each_evaluator
def test_a_model_is_evaluated_as_its_embeddings(evaluator, sets):
    given = arguments(evaluator, sets)
    data = [
        TensorDataset(torch.from_numpy(embeddings), torch.from_numpy(labels))
        for embeddings, labels in zip(given[::2], given[1::2], strict=True)
    ]
    assert_alike(evaluator.run(nn.Identity(), *data, progress=False), evaluator(*given))


@each_evaluator
def test_what_was_given_is_not_changed_and_runs_repeat(evaluator, sets):
    given = arguments(evaluator, sets)
    before = [values.copy() for values in given]
    assert_alike(evaluator(*given), evaluator(*given))
    for old, new in zip(before, given, strict=True):
        np.testing.assert_array_equal(old, new)


@each_evaluator
def test_embeddings_without_labels_are_refused(evaluator, sets):
    with pytest.raises(ValueError, match=r"labels .*must"):
        evaluator(sets[0])


@each_evaluator
def test_a_row_that_is_not_finite_is_named_by_its_file(evaluator, sets, tmp_path):
    embeddings, labels, *gallery = sets
    embeddings = embeddings.copy()
    embeddings[3, 1] = np.nan
    save_samples(tmp_path, Samples(embeddings, labels, names=[f"{row}.png" for row in range(len(labels))]))
    more = gallery if isinstance(evaluator, IdentificationEvaluator) else []
    with pytest.raises(ValueError, match=r"must be finite, got nan in row 3 \(3.png\)"):
        evaluator(tmp_path, *([None, *more] if more else []))


@each_evaluator
def test_an_evaluator_does_not_change(evaluator):
    with pytest.raises(FrozenInstanceError):
        evaluator.similarity = "dot"


def test_a_file_of_pairs_finds_its_images_by_the_names_of_the_folder(tmp_path):
    embeddings, labels = clusters(classes=4, per_class=2)
    names = [f"P{label}/P{label}_{1 + row:04d}.jpg" for row, label in enumerate(labels)]
    number = {label: [1 + row for row in np.flatnonzero(labels == label)] for label in range(4)}
    lines = ["2 2"]
    for one, other in ((0, 1), (2, 3)):
        lines += [f"P{person} {number[person][0]} {number[person][1]}" for person in (one, other)]
        lines += [f"P{one} {number[one][image]} P{other} {number[other][image]}" for image in (0, 1)]
    file = tmp_path / "pairs.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    save_samples(tmp_path, Samples(embeddings, labels, names=names))
    evaluator = VerificationEvaluator(ci=None)
    expected = evaluator(embeddings, pairs=lfw_pairs(file, names))
    assert_alike(evaluator(tmp_path, pairs=file), expected)
    assert_alike(evaluator(embeddings, pairs=file, names=names), expected)
    with pytest.raises(ValueError, match="names must say which image each row is because pairs come from"):
        evaluator(embeddings, labels, pairs=file)
