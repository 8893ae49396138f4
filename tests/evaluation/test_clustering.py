"""Clustering metrics equal scikit-learn's in a fraction of the time; k-means finds what is there."""

import time
import warnings
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score, pair_confusion_matrix

from pml_center.evaluation import (
    ClusteringEvaluator,
    adjusted_mutual_information,
    normalized_mutual_information,
    pairwise_f1,
)
from tests import golden_io
from tests.evaluation.clusters import clusters

SINGLE_IS_ONE = Version(version("scikit-learn")) >= Version("1.7")
partitions = st.integers(1, 40).flatmap(
    lambda count: st.tuples(*[st.lists(st.integers(0, 9), min_size=count, max_size=count)] * 2)
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(pair=partitions)
def test_metrics_are_those_of_scikit_learn(pair):
    labels, found = pair
    # Every sample alone in both is 0 / 0, for which scikit-learn gives 1 since 1.7.
    assume(SINGLE_IS_ONE or len(set(labels)) < len(labels) or len(set(found)) < len(found))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes many classes for a regression
        assert adjusted_mutual_information(labels, found) == pytest.approx(
            adjusted_mutual_info_score(labels, found), abs=1e-9
        )
        assert normalized_mutual_information(labels, found) == pytest.approx(
            normalized_mutual_info_score(labels, found), abs=1e-9
        )
    (_, wrong), (missed, right) = pair_confusion_matrix(labels, found)
    expected = 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 1
    assert pairwise_f1(labels, found) == pytest.approx(expected)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(pair=partitions)
def test_metrics_do_not_know_names_nor_sides(pair):
    labels, found = pair
    renamed = [f"class {label}" for label in labels]
    for metric in (adjusted_mutual_information, normalized_mutual_information, pairwise_f1):
        assert metric(renamed, found) == metric(labels, found)
        assert metric(found, labels) == pytest.approx(metric(labels, found), abs=1e-9)
        assert metric(labels, labels) == pytest.approx(1)
        assert metric(labels, found) <= 1


@pytest.mark.parametrize("name", ["random", "merged", "split", "identical", "one_cluster", "singletons", "noisy"])
def test_metrics_are_the_golden_values_of_scikit_learn_and_pml(name):
    golden = golden_io.load("eval__clustering__assignments")
    labels, found = golden.arrays["in/labels"], golden.arrays[f"in/clusters/{name}"]
    ami, nmi = adjusted_mutual_information(labels, found), normalized_mutual_information(labels, found)
    golden.assert_close(f"out/sklearn/{name}/nmi_arithmetic", nmi)
    golden.assert_close(f"out/pml/{name}/NMI", nmi)
    golden.assert_close(f"out/sklearn/{name}/ami_arithmetic", ami)
    golden.assert_close(f"out/pml/{name}/AMI", ami)


def test_ami_of_many_classes_takes_milliseconds():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 10_000)
    found = np.where(rng.random(10_000) < 0.5, labels, rng.integers(0, 1100, 10_000))
    times = []
    for metric in (adjusted_mutual_information, adjusted_mutual_info_score):
        started = time.process_time()  # which does not pass while the machine does something else
        value = metric(labels, found)
        times.append(time.process_time() - started)
    assert value == pytest.approx(adjusted_mutual_information(labels, found), abs=1e-9)
    assert times[0] < times[1] / 3


def test_nmi_rises_with_the_number_of_classes_and_ami_does_not():
    rng = np.random.default_rng(0)
    values = []
    for classes in (2, 20, 150):
        labels, found = rng.integers(0, classes, (2, 300))
        values.append((normalized_mutual_information(labels, found), adjusted_mutual_information(labels, found)))
    assert values[0][0] < 0.05
    assert values[2][0] > 0.7
    assert all(abs(ami) < 0.06 for _, ami in values)


@pytest.mark.parametrize(
    ("labels", "found", "error", "message"),
    [
        ([1, 2], [1], ValueError, r"clusters must be one per row \(2\), got 1"),
        ([], [], ValueError, "labels must be at least one, got none"),
        ([1, float("nan")], [1, 1], ValueError, "labels must not be NaN, got nan at position 1"),
        ([[1], [2]], [1, 1], TypeError, r"labels must be hashable, got \[1\] at position 0"),
    ],
)
def test_partitions_that_do_not_fit_are_named(labels, found, error, message):
    for metric in (adjusted_mutual_information, normalized_mutual_information, pairwise_f1):
        with pytest.raises(error, match=message):
            metric(labels, found)


# The evaluator


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_two_clear_clusters_are_found(similarity):
    embeddings, labels = clusters(classes=2, per_class=50, spread=0.05)
    report = ClusteringEvaluator(similarity=similarity)(embeddings, labels)
    assert report.metrics == {
        "ami": 1, "ami_sd": 0, "nmi": 1, "nmi_sd": 0, "pairwise_f1": 1, "pairwise_f1_sd": 0
    }  # fmt: skip
    assert report.counts == {"images": 100, "classes": 2, "clusters": 2, "runs": 5}


def test_runs_differ_by_their_seeds_and_repeat():
    embeddings, labels = clusters(classes=20, spread=1.5)
    report = ClusteringEvaluator(runs=4)(embeddings, labels)
    assert len(set(report.per_unit["ami"].tolist())) > 1
    assert report["ami"] == pytest.approx(report.per_unit["ami"].mean())
    assert report["ami_sd"] == pytest.approx(report.per_unit["ami"].std(ddof=1))
    later = ClusteringEvaluator(runs=3, seed=1)(embeddings, labels)
    np.testing.assert_array_equal(later.per_unit["ami"], report.per_unit["ami"][1:])


def test_better_embeddings_cluster_better():
    scores = [ClusteringEvaluator(runs=2)(*clusters(spread=spread))["ami"] for spread in (0.5, 1.5, 20)]
    assert scores[0] > scores[1] > scores[2]
    assert abs(scores[2]) < 0.1


def test_the_length_of_embeddings_does_not_matter_to_cosine():
    embeddings, labels = clusters(classes=4, spread=0.3)
    scale = np.random.default_rng(0).integers(1, 4, size=(len(labels), 1)) * 2.0
    evaluator = ClusteringEvaluator(runs=2)
    assert evaluator(embeddings * scale, labels).metrics == pytest.approx(evaluator(embeddings, labels).metrics)


def test_classes_of_one_image_and_duplicates_are_clustered_like_others(capfd):
    embeddings, labels = clusters(classes=5, per_class=4)
    labels = labels.copy()
    labels[:3] = [100, 101, 102]
    report = ClusteringEvaluator(runs=1)(np.concatenate([embeddings, embeddings]), [*labels, *labels])
    assert report.counts["clusters"] == 8
    assert report["ami_sd"] == 0
    assert capfd.readouterr().out == ""  # faiss has nothing to say


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"similarity": "dot"}, "similarity must be 'cosine' or 'euclidean', got 'dot'"),
        ({"similarity": "l2"}, "similarity must be a known name, got 'l2'"),
        ({"runs": 0}, "runs must be a positive integer, got 0"),
        ({"clusters": 0}, "clusters must be a positive integer, got 0"),
        ({"iterations": 1.5}, "iterations must be a positive integer, got 1.5"),
    ],
)
def test_an_evaluator_that_cannot_work_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClusteringEvaluator(**arguments)


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (np.eye(4), [1, 1, 1, 1], "labels must name at least two classes, got 1"),
        (np.eye(4), [1, 2], r"labels must be one per row \(4\), got 2"),
        (np.full((4, 2), np.nan), [1, 1, 2, 2], "embeddings must be finite, got nan in row 0"),
        (np.zeros((4, 2)), [1, 1, 2, 2], "embeddings must have a direction"),
    ],
)
def test_what_cannot_be_clustered_is_named(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        ClusteringEvaluator()(embeddings, labels)
    with pytest.raises(ValueError, match="clusters must be at most 4, the number of rows, got 5"):
        ClusteringEvaluator(clusters=5)(np.eye(4), [1, 1, 2, 2])
