"""The retrieval evaluator: what other libraries compute, what must never change it, and what it must not swallow."""

import math
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from pml_center.evaluation import RetrievalEvaluator, Samples, embed_samples, save_samples, search
from tests import golden_io

PML_METRICS = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
ALL_METRICS = {"recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", *PML_METRICS}


def clusters(classes=20, per_class=15, width=16, spread=1.0, seed=0):
    """Overlapping classes: (N, width) float32 and (N,) labels, in mixed order."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(classes), per_class))
    embeddings = random.normal(size=(classes, width))[labels] + spread * random.normal(size=(len(labels), width))
    return embeddings.astype(np.float32), labels


# The evaluator against other implementations


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_the_evaluator_equals_pml(leave_one_out, similarity):
    embeddings, labels = clusters()
    references, reference_labels = clusters(per_class=9, seed=1)
    if similarity == "cosine":  # PML ranks by Euclidean distance, which ranks unit vectors as their cosine does
        embeddings, references = (
            rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (embeddings, references)
        )
    others = (None, None) if leave_one_out else (references, reference_labels)
    report = RetrievalEvaluator(similarity=similarity)(embeddings, labels, *others)
    calculator = AccuracyCalculator(include=PML_METRICS, k="max_bin_count", device=torch.device("cpu"))
    tensors = (torch.from_numpy(values) for values in (embeddings, labels, *others) if values is not None)
    for name, value in calculator.get_accuracy(*tensors).items():
        assert report[name] == pytest.approx(value, rel=0, abs=1e-9), name


@pytest.mark.parametrize("case", ["self", "split"])
@pytest.mark.parametrize(("similarity", "official"), [("euclidean", "l2/kmax"), ("cosine", "cosine/knone")])
def test_irregular_classes_give_the_golden_values_of_pml(case, similarity, official):
    """Classes of 1 to 13 images; both leave out the queries that have nothing to find."""
    golden = golden_io.load(f"eval__retrieval__irregular_{case}")
    report = RetrievalEvaluator(similarity=similarity)(*retrieval_inputs(golden))
    assert report.counts["skipped"] == 3
    for name in PML_METRICS:
        golden.assert_close(f"out/pml/{official}/sample/{name}", report[name])


@pytest.mark.parametrize("case", ["self", "split"])
def test_recall_is_the_cumulative_match_of_oml(case):
    """OML keeps the queries that have nothing to find, at 0."""
    golden = golden_io.load(f"eval__retrieval__irregular_{case}")
    evaluator = RetrievalEvaluator(recall_at=(1, 2, 5, 10), similarity="euclidean", singletons="zero")
    report = evaluator(*retrieval_inputs(golden))
    for k in (1, 2, 5, 10):
        golden.assert_close(f"out/oml/full/cmc@{k}", report.per_query[f"recall_at_{k}"])


def retrieval_inputs(golden):
    keys = (
        ("embeddings", "labels")
        if "in/embeddings" in golden.arrays
        else ("query", "query_labels", "reference", "reference_labels")
    )
    return [golden.arrays[f"in/{key}"] for key in keys]


def test_ties_are_resolved_inside_the_range_of_pml():
    """PML's value depends on the order of the rows; ours, with its rule for ties, is one of those it could give."""
    golden = golden_io.load("eval__ties__grid")
    report = RetrievalEvaluator(similarity="euclidean")(*retrieval_inputs(golden))
    for name in PML_METRICS:
        low, high = (golden.arrays[f"out/pml/perm_{end}/{name}"] for end in ("min", "max"))
        assert low <= report[name] <= high


def test_the_evaluator_of_a_worked_example():
    report = RetrievalEvaluator(recall_at=(1, 2), similarity="euclidean")(
        [[0.0], [0.1]], ["a", "b"], [[1], [2], [3], [4], [5]], ["a", "b", "a", "b", "a"]
    )
    assert report.metrics == pytest.approx(
        {
            "recall_at_1": 1 / 2,
            "recall_at_2": 1,
            "precision_at_1": 1 / 2,
            "r_precision": (2 / 3 + 1 / 2) / 2,
            "mean_average_precision_at_r": (5 / 9 + 1 / 4) / 2,
        }
    )
    assert report.counts == {"queries": 2, "references": 5, "skipped": 0, "duplicates": 0}
    assert report.protocol == "exact euclidean search, separate references, ties 0.0 %"


# What must not matter


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_references_does_not_matter(seed):
    embeddings, labels = clusters(seed=seed)
    references, reference_labels = clusters(seed=seed + 1)
    order = np.random.default_rng(seed).permutation(len(references))
    for similarity in ("cosine", "dot", "euclidean"):
        evaluate = RetrievalEvaluator(similarity=similarity)
        given_order = evaluate(embeddings, labels, references, reference_labels)
        assert evaluate(embeddings, labels, references[order], reference_labels[order]).metrics == given_order.metrics


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_the_length_of_embeddings_does_not_matter_to_cosine(seed, scale):
    embeddings, labels = clusters(classes=5, seed=seed)
    assert RetrievalEvaluator()(scale * embeddings, labels).metrics == RetrievalEvaluator()(embeddings, labels).metrics


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), entries=st.integers(1, 2000))
def test_the_size_of_chunks_does_not_matter(seed, entries):
    embeddings, labels = clusters(classes=4, per_class=6, spread=2, seed=seed)
    expected = RetrievalEvaluator()(embeddings.round(), labels)  # rounding makes ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "ENTRIES", entries)
        report = RetrievalEvaluator()(embeddings.round(), labels)
    for name in ALL_METRICS:
        np.testing.assert_array_equal(report.per_query[name], expected.per_query[name])


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_perfect_clusters_score_one(similarity):
    embeddings, labels = clusters(spread=1e-3)
    report = RetrievalEvaluator(similarity=similarity)(embeddings, labels)
    assert set(report.metrics) == ALL_METRICS
    assert set(report.metrics.values()) == {1.0}


def test_distractors_never_raise_a_metric():
    embeddings, labels = clusters()
    references, reference_labels = clusters(seed=1)
    distractors = np.random.default_rng(2).normal(size=(200, 16))
    clean = RetrievalEvaluator()(embeddings, labels, references, reference_labels)
    crowded = RetrievalEvaluator()(
        embeddings, labels, np.concatenate([references, distractors]), [*reference_labels, *["distractor"] * 200]
    )
    for name in ALL_METRICS:
        assert (crowded.per_query[name] <= clean.per_query[name]).all()


def test_few_large_classes_are_measured_in_chunks(monkeypatch):
    """With k = max R the neighbours of all queries together would be the (N, N) matrix that memory has no room for."""
    embeddings, labels = clusters(classes=2, per_class=300)
    sizes = []
    nearest = search.ExactSearch._nearest

    def spy(self, rows, k, width, *references):
        sizes.append(len(rows) * width)
        return nearest(self, rows, k, width, *references)

    monkeypatch.setattr(search, "ENTRIES", 20_000)
    monkeypatch.setattr(search.ExactSearch, "_nearest", spy)
    RetrievalEvaluator()(embeddings, labels)
    assert max(sizes) <= 20_000


# Labels and singletons


@pytest.mark.parametrize(
    "rename",
    [
        lambda labels: labels + 2**24,
        lambda labels: (labels + 2**60).tolist(),
        lambda labels: torch.from_numpy(labels),
        lambda labels: [f"class {label}" for label in labels],
        lambda labels: [("shop", int(label)) for label in labels],
    ],
    ids=["above 2**24", "above 2**60", "tensor", "strings", "tuples"],
)
def test_labels_may_be_anything_hashable(rename):
    embeddings, labels = clusters()
    assert RetrievalEvaluator()(embeddings, rename(labels)).metrics == RetrievalEvaluator()(embeddings, labels).metrics


def with_singletons():
    embeddings, labels = clusters(classes=5, per_class=4)
    labels = labels.copy()
    labels[[3, 8]] = [100, 101]
    return embeddings, labels


def test_singletons_are_skipped_and_counted():
    report = RetrievalEvaluator()(*with_singletons())
    assert report.counts == {"queries": 18, "references": 20, "skipped": 2, "duplicates": 0}
    for values in report.per_unit.values():
        assert np.isnan(values).nonzero()[0].tolist() == [3, 8]
    assert all(math.isfinite(value) for value in report.metrics.values())


def test_singletons_count_as_zero_on_request():
    skipped = RetrievalEvaluator()(*with_singletons())
    report = RetrievalEvaluator(singletons="zero")(*with_singletons())
    assert report.counts == {"queries": 20, "references": 20, "skipped": 0, "duplicates": 0}
    assert "0 for queries without a relevant reference" in report.protocol
    for name in ALL_METRICS:
        assert report.per_query[name][[3, 8]].tolist() == [0, 0]
        assert report[name] == pytest.approx(skipped[name] * 18 / 20)


def test_singletons_are_refused_on_request():
    with pytest.raises(ValueError, match=r"got 100 at position 3 without one \(2 of 20 queries\)"):
        RetrievalEvaluator(singletons="error")(*with_singletons())


@pytest.mark.parametrize("singletons", ["skip", "zero", "error"])
def test_nothing_to_find_at_all_is_an_error_and_not_nan(singletons):
    embeddings, labels = clusters(per_class=1)
    with pytest.raises(ValueError, match="got 20 queries without a reference of their label"):
        RetrievalEvaluator(singletons=singletons)(embeddings, labels)
    with pytest.raises(ValueError, match="got 20 queries without a reference of their label"):
        RetrievalEvaluator(singletons=singletons)(embeddings, labels, embeddings + 1, [str(x) for x in labels])


def test_a_gallery_smaller_than_k_is_searched_whole():
    report = RetrievalEvaluator(recall_at=(1, 100))([[1, 0], [0, 1], [1, 1]], ["a", "b", "a"])
    assert report["recall_at_100"] == 1


def test_recall_is_optional():
    assert set(RetrievalEvaluator(recall_at=())(*clusters()).metrics) == set(PML_METRICS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, r"labels must be one per row \(300\), got 2"),
        ({"gallery": np.eye(16)}, "gallery_labels and gallery must come together, got only gallery"),
        ({"gallery_labels": [1]}, "must come together, got only gallery_labels"),
        ({"gallery": np.eye(16), "gallery_labels": [1]}, r"gallery_labels must be one per row \(16\), got 1"),
        ({"gallery": np.eye(3), "gallery_labels": [1, 2, 3]}, "must have the same width, got 16 and 3"),
        (
            {"gallery": np.zeros((0, 16)), "gallery_labels": []},
            r"references must have shape .* got shape \(0, 16\)",
        ),
        (
            {"embeddings": np.full((300, 16), np.nan)},
            r"embeddings must be finite, got nan in row 0 \(300 of 300 rows\)",
        ),
        ({"embeddings": np.zeros((300, 16))}, r"embeddings must have a direction"),
    ],
)
def test_what_cannot_be_evaluated_is_named(change, message):
    embeddings, labels = clusters()
    with pytest.raises(ValueError, match=message):
        RetrievalEvaluator()(**{"embeddings": embeddings, "labels": labels} | change)


def test_the_same_set_twice_is_refused():
    embeddings, labels = clusters()
    with pytest.raises(ValueError, match="Leave references out for leave-one-out"):
        RetrievalEvaluator()(embeddings, labels, embeddings, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"similarity": "l2"}, "similarity must be a known name, got 'l2'"),
        ({"singletons": "skp"}, "Did you mean 'skip'"),
        ({"recall_at": (1, 0)}, "recall_at must be a positive integer, got 0"),
    ],
)
def test_an_evaluator_that_cannot_work_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrievalEvaluator(**arguments)
