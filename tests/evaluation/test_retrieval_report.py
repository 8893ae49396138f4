"""What a retrieval report shows of its queries: neighbours, mistakes, doubtful labels, duplicates, classes."""

import csv

import numpy as np
import pytest

from pml_center.evaluation import RetrievalEvaluator, nearest_neighbours
from tests.evaluation.clusters import clusters


def line(places, labels, *others, **settings):
    """The report on points of a line."""
    embeddings, gallery = ([[float(place)] for place in each] for each in (places, others[0] if others else []))
    evaluator = RetrievalEvaluator(similarity="euclidean", ci=None, **settings)
    return evaluator(embeddings, labels, *((gallery, *others[1:]) if others else ()))


def test_the_first_neighbours_are_kept_with_their_scores():
    embeddings, labels = clusters()
    report = RetrievalEvaluator()(embeddings, labels)
    ids, scores = nearest_neighbours(embeddings, 10)
    np.testing.assert_array_equal(report.neighbours.ids, ids)
    np.testing.assert_array_equal(report.neighbours.scores, scores)
    np.testing.assert_array_equal(report.hits, labels[ids] == labels[:, None])


def test_labels_are_those_that_were_given():
    labels = ["b", "b", "a", "a"]
    report = line([0, 1, 5, 6], labels, [0.4, 5.5], ["a", "b"])
    assert report.labels == labels
    assert report.reference_labels == ["a", "b"]
    assert report.classes == ["b", "a"]


def test_values_per_query_are_a_table():
    report = line([0, 1, 5, 9], ["a", "a", "b", "c"], recall_at=(1,))
    assert report.per_query.dtype.names == ("label", "recall_at_1", *list(report.metrics)[1:4])
    assert report.per_query["label"].tolist() == ["a", "a", "b", "c"]
    np.testing.assert_array_equal(report.per_query["recall_at_1"], [1, 1, np.nan, np.nan])


def test_values_per_class_are_means_over_its_queries():
    report = line([0, 1, 2, 2.1, 9], ["a", "a", "a", "b", "b"], recall_at=(1,))
    table = report.per_class()
    assert table[["label", "queries", "recall_at_1"]].tolist() == [("a", 3, pytest.approx(2 / 3)), ("b", 2, 0.5)]
    assert report["macro_recall_at_1"] == pytest.approx(table["recall_at_1"].mean())


def test_the_worst_queries_come_with_the_most_similar_mistake_first():
    """Queries 2 and 3 are wrong alike, 3 with the closer neighbour; 5 has nothing to find."""
    report = line([0, 1, 2, 2.6, 3.3, 100], ["a", "a", "b", "a", "b", "c"], recall_at=(1,))
    values = report.per_unit["recall_at_1"]
    worst = report.worst(4, "recall_at_1").tolist()
    assert values[worst].tolist() == sorted(values[:5])[:4]
    assert 5 not in report.worst(100).tolist()
    assert len(report.worst(100)) == 5
    mistakes = [row for row in worst if values[row] == 0]
    scores = [report.neighbours.scores[row][~report.hits[row]].max() for row in mistakes]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(KeyError, match="metric must be a known name, got 'recall'"):
        report.worst(3, "recall")
    for k in (0, -1, 2.0):
        with pytest.raises(ValueError, match="k must be a positive integer"):
            report.worst(k)


def test_mutual_neighbours_of_different_labels_may_be_label_errors():
    report = line([0, 0.1, 5, 5.3, 9, 9.5], ["a", "b", "a", "a", "b", "c"])
    assert report.label_errors().tolist() == [(0, 1, pytest.approx(-0.01)), (4, 5, pytest.approx(-0.25))]


def test_label_errors_between_two_sets():
    """Query 1 is a rival to query 2, nearer to the reference that is nearest to both."""
    report = line([0, 5, 5.2], ["a", "a", "b"], [0.1, 5.05, 20], ["b", "b", "a"])
    assert report.label_errors()[["query", "reference"]].tolist() == [(1, 1), (0, 0)]


def test_near_duplicates_are_listed_once():
    report = line([0, 0, 4, 4.001, 9], ["a", "b", "a", "b", "b"])
    assert report.near_duplicates().tolist() == [(0, 1, 0)]
    assert [pair[:2] for pair in report.near_duplicates(score=-0.01).tolist()] == [(0, 1), (2, 3)]
    cosine = RetrievalEvaluator()([[1, 0], [1, 0.01], [0, 1], [1, 1]], ["a", "a", "b", "b"])
    assert [pair[:2] for pair in cosine.near_duplicates().tolist()] == [(0, 1)]
    with pytest.raises(ValueError, match="score must be given for similarity 'dot'"):
        RetrievalEvaluator(similarity="dot")(*clusters()).near_duplicates()


def test_a_duplicate_that_only_one_of_the_two_lists_holds_is_found():
    """Thirteen equal rows: the lists of the first ten end before the last."""
    report = line([3] * 13 + [0, 9], ["a"] * 13 + ["b", "b"])
    assert len(report.near_duplicates()) == 13 * 12 // 2 - 3  # the last three have no place for each other


def test_confused_classes_are_counted():
    report = line([0, 1, 1.1, 1.2, 5, 5.1], ["a", "a", "b", "b", "a", "b"])
    assert report.confusions() == [("a", "b", 2), ("b", "a", 2)]
    assert report.confusions(1) == [("a", "b", 2)]


def test_values_are_written_with_the_names_and_labels_of_the_queries(tmp_path):
    evaluator = RetrievalEvaluator((), recall_at=(1,), similarity="euclidean")
    report = evaluator([[0.0], [1], [5]], ["a", "a", "b"], names=["x.png", "y.png", "z.png"])
    report.to_csv(tmp_path / "per_query.csv")
    with (tmp_path / "per_query.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["query", "name", "label", "recall_at_1"],
            ["0", "x.png", "a", "1.0"],
            ["1", "y.png", "a", "1.0"],
            ["2", "z.png", "b", "nan"],
        ]
