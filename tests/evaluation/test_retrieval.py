"""The retrieval evaluator: what other libraries compute, what must never change it, and what it must not swallow."""

import math
import re
import time

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN
from torch.utils.data import DataLoader, TensorDataset

from pml_center import create_embedder
from pml_center.data import digits
from pml_center.evaluation import (
    FaissSearcher,
    IdentificationEvaluator,
    RetrievalEvaluator,
    Samples,
    VerificationEvaluator,
    bootstrap_interval,
    class_interval,
    save_samples,
    wilson_interval,
)
from pml_center.evaluation.search import exact_search, gallery_ranking
from tests.evaluation.clusters import ALL_METRICS, PML_METRICS, clusters, unit


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


def test_the_whole_gallery_of_a_worked_example():
    """Relevant references stand at ranks 1, 3 and 5, and at 2 and 4."""
    names = ("mean_average_precision", "mean_reciprocal_rank", "mean_inverse_negative_penalty", "precision_at_3")
    report = RetrievalEvaluator(names, recall_at=(), similarity="euclidean")(
        [[0.0], [0.1]], ["a", "b"], [[1], [2], [3], [4], [5]], ["a", "b", "a", "b", "a"]
    )
    assert report.metrics == pytest.approx(
        {
            "mean_average_precision": ((1 + 2 / 3 + 3 / 5) / 3 + (1 / 2 + 2 / 4) / 2) / 2,
            "mean_reciprocal_rank": (1 + 1 / 2) / 2,
            "mean_inverse_negative_penalty": (3 / 5 + 2 / 4) / 2,
            "precision_at_3": (2 / 3 + 1 / 3) / 2,
        }
    )


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_a_metric_is_the_same_from_first_neighbours_and_from_the_whole_gallery(similarity):
    data = clusters(classes=7, per_class=9, spread=2)
    names = (*PML_METRICS, "precision_at_5", "ir_recall_at_5", "map_at_5", "ndcg_at_5")
    first = RetrievalEvaluator(names, similarity=similarity)(*data)
    whole = RetrievalEvaluator((*names, "mean_average_precision"), similarity=similarity)(*data)
    expected = RetrievalEvaluator(names, similarity=similarity, ties="expected")(*data)
    for name in (*ALL_METRICS, *names):
        np.testing.assert_allclose(whole.per_unit[name], first.per_unit[name], rtol=1e-12, atol=0)
        np.testing.assert_allclose(expected.per_unit[name], first.per_unit[name], rtol=1e-12, atol=0)
    np.testing.assert_array_equal(whole.neighbours.ids, first.neighbours.ids)


# What must not matter


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_references_does_not_matter(seed):
    embeddings, labels = clusters(seed=seed)
    references, reference_labels = clusters(seed=seed + 1)
    order = np.random.default_rng(seed).permutation(len(references))
    for similarity in ("cosine", "dot", "euclidean"):
        evaluate = RetrievalEvaluator(similarity=similarity, ci=None)
        given_order = evaluate(embeddings, labels, references, reference_labels)
        assert evaluate(embeddings, labels, references[order], reference_labels[order]).metrics == given_order.metrics


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_the_length_of_embeddings_does_not_matter_to_cosine(seed, scale):
    embeddings, labels = clusters(classes=5, seed=seed)
    assert RetrievalEvaluator()(scale * embeddings, labels).metrics == RetrievalEvaluator()(embeddings, labels).metrics


EVERY = (*PML_METRICS, "mean_average_precision", "mean_inverse_negative_penalty", "map_at_3", "ndcg_at_3")


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), entries=st.integers(1, 2000), chunk_size=st.integers(1, 30))
def test_the_size_of_chunks_does_not_matter(seed, entries, chunk_size):
    embeddings, labels = clusters(classes=4, per_class=6, spread=2, seed=seed)
    embeddings = embeddings.round()  # makes ties
    for metrics in (PML_METRICS, EVERY):
        expected = RetrievalEvaluator(metrics, ci=None)(embeddings, labels)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exact_search, "ENTRIES", entries)
            patch.setattr(gallery_ranking, "ENTRIES", entries)
            report = RetrievalEvaluator(metrics, ci=None, chunk_size=chunk_size)(embeddings, labels)
        assert report.tie_rate == expected.tie_rate
        np.testing.assert_array_equal(report.neighbours.ids, expected.neighbours.ids)
        for name, values in expected.per_unit.items():
            np.testing.assert_array_equal(report.per_unit[name], values)


SIZES = [(300,), (1, 299), (120, 60, 120), (3, 70, 1, 100, 26, 50, 50)]  # of the parts of a gallery


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", distances.LpDistance(p=1)])
@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("ties", ["index", "expected"])
def test_the_parts_of_a_gallery_do_not_matter(similarity, groups, ties):
    """Small integers make ties, within parts and between them; a fifth of the gallery does not exist for a query."""
    random = np.random.default_rng(0)
    queries, references = random.integers(-2, 3, size=(60, 3)), random.integers(-2, 3, size=(300, 3))
    queries[:, 0], references[:, 0] = 1, 1  # no zero vectors
    labels, reference_labels = random.integers(6, size=60), random.integers(8, size=300)
    found = {"query_groups": random.integers(5, size=60), "gallery_groups": random.integers(5, size=300)}
    for metrics in (PML_METRICS, EVERY):
        evaluator = RetrievalEvaluator(metrics, similarity=similarity, ties=ties, resamples=20)
        reports = [
            evaluator(
                queries,
                labels,
                np.split(references, np.cumsum(sizes)[:-1]) if len(sizes) > 1 else references,
                reference_labels,
                **(found if groups else {}),
            )
            for sizes in SIZES
        ]
        assert reports[0].tie_rate > 0.5
        for report in reports[1:]:
            assert report.to_json() == reports[0].to_json()
            np.testing.assert_array_equal(report.neighbours.ids, reports[0].neighbours.ids)
            np.testing.assert_array_equal(report.neighbours.scores, reports[0].neighbours.scores)
            for name, values in reports[0].per_unit.items():
                np.testing.assert_array_equal(report.per_unit[name], values)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), cuts=st.sets(st.integers(1, 299), max_size=6))
def test_where_a_gallery_is_cut_does_not_matter(seed, cuts):
    """Of real numbers, whose scores depend on the block that they are computed in."""
    queries, labels = clusters(seed=seed)
    references, reference_labels = clusters(seed=seed + 1)
    references[::3] = references[0]
    evaluate = RetrievalEvaluator(EVERY, ci=None)
    expected = evaluate(queries, labels, references, reference_labels)
    report = evaluate(queries, labels, np.split(references, sorted(cuts)), reference_labels)
    assert report.to_json() == expected.to_json()
    np.testing.assert_array_equal(report.neighbours.ids, expected.neighbours.ids)
    np.testing.assert_array_equal(report.neighbours.scores, expected.neighbours.scores)


def test_the_number_of_threads_does_not_matter():
    embeddings, labels = clusters(classes=40, per_class=50, width=64, spread=2)
    embeddings = np.concatenate([embeddings, embeddings[:500]])
    labels = np.concatenate([labels, labels[:500]])
    threads, reports = faiss.omp_get_max_threads(), []
    try:
        for number in (1, 2, 3):
            faiss.omp_set_num_threads(number)
            torch.set_num_threads(number)
            reports.append(RetrievalEvaluator(EVERY, ci=None)(embeddings, labels))
    finally:
        faiss.omp_set_num_threads(threads)
        torch.set_num_threads(threads)
    for report in reports[1:]:
        assert report.metrics == reports[0].metrics
        np.testing.assert_array_equal(report.neighbours.scores, reports[0].neighbours.scores)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), similarity=st.sampled_from(["dot", "euclidean"]))
def test_in_expectation_the_order_of_the_rows_does_not_matter_to_ties(seed, similarity):
    random = np.random.default_rng(seed)
    embeddings, labels = random.integers(-1, 2, size=(30, 2)), random.integers(4, size=30)
    order = random.permutation(30)
    evaluate = RetrievalEvaluator(EVERY, similarity=similarity, ties="expected", ci=None)
    report, permuted = evaluate(embeddings, labels), evaluate(embeddings[order], labels[order])
    assert report.tie_rate == permuted.tie_rate > 0.5
    for name, values in report.per_unit.items():
        np.testing.assert_allclose(permuted.per_unit[name], values[order], rtol=1e-12)


def test_in_expectation_collapsed_embeddings_find_what_chance_finds():
    labels = np.repeat(np.arange(10), 20)
    report = RetrievalEvaluator(EVERY, ties="expected")(np.ones((200, 4)), labels)
    for name in ("recall_at_1", "precision_at_1", "r_precision"):
        assert report[name] == pytest.approx(19 / 199)
    assert report.tie_rate == 1


@settings(deadline=None, derandomize=True, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_rotating_all_embeddings_does_not_matter(seed):
    embeddings, labels = clusters(seed=seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(16, 16)))
    for similarity in ("cosine", "dot", "euclidean"):
        evaluate = RetrievalEvaluator(similarity=similarity, ci=None)
        assert evaluate(embeddings @ rotation, labels).metrics == evaluate(embeddings, labels).metrics


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_perfect_clusters_score_one(similarity):
    embeddings, labels = clusters(spread=1e-3)
    metrics = (*EVERY, "precision_at_14", "ir_recall_at_14", "mean_reciprocal_rank")
    for ties in ("index", "expected"):
        report = RetrievalEvaluator(metrics, similarity=similarity, ties=ties)(embeddings, labels)
        assert set(report.metrics) > ALL_METRICS
        assert set(report.metrics.values()) == {1.0}


def test_distractors_never_raise_a_metric():
    embeddings, labels = clusters()
    references, reference_labels = clusters(seed=1)
    distractors = np.random.default_rng(2).normal(size=(200, 16))
    clean = RetrievalEvaluator(EVERY)(embeddings, labels, references, reference_labels)
    crowded = RetrievalEvaluator(EVERY)(
        embeddings, labels, np.concatenate([references, distractors]), [*reference_labels, *["distractor"] * 200]
    )
    for name in clean.per_unit:
        assert (crowded.per_unit[name] <= clean.per_unit[name]).all()


def test_few_large_classes_are_measured_in_chunks(monkeypatch):
    """With k = max R the neighbours of all queries together would be the (N, N) matrix that memory has no room for."""
    embeddings, labels = clusters(classes=2, per_class=300)
    sizes = []
    nearest = exact_search.ExactSearch.ranked_candidates

    def spy(self, rows, k, width, *references):
        sizes.append(len(rows) * width)
        return nearest(self, rows, k, width, *references)

    monkeypatch.setattr(exact_search, "ENTRIES", 20_000)
    monkeypatch.setattr(exact_search.ExactSearch, "ranked_candidates", spy)
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
        assert report.per_unit[name][[3, 8]].tolist() == [0, 0]
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
        ({"embeddings": None, "labels": None}, "labels and embeddings must come together, got neither"),
        ({"gallery": np.eye(16), "gallery_labels": [1]}, r"gallery_labels must be one per row \(16\), got 1"),
        ({"gallery": np.eye(3), "gallery_labels": [1, 2, 3]}, "must have the same width, got 16 and 3"),
        (
            {"gallery": np.eye(16), "gallery_labels": range(16), "query_groups": range(300)},
            "query_groups and gallery_groups must come together, got only query_groups",
        ),
        (
            {"gallery": [np.eye(16), np.eye(16)], "gallery_labels": [range(16), range(16)]},
            r"gallery_labels must be one per row \(32\), got 2",
        ),
        (
            {"gallery": [np.eye(16), np.eye(4)], "gallery_labels": range(20)},
            r"gallery\[0\] and gallery\[1\] must have the same width, got 16 and 4",
        ),
        ({"gallery_groups": [1]}, "gallery_groups must come with a gallery"),
        ({"query_groups": [1]}, r"query_groups must be one per row \(300\), got 1"),
        (
            {"gallery": np.zeros((0, 16)), "gallery_labels": []},
            r"gallery must have shape .* got shape \(0, 16\)",
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
    with pytest.raises(ValueError, match=r"embeddings and gallery must be two sets.*Leave gallery out"):
        RetrievalEvaluator()(embeddings, labels, embeddings, labels)


# Traps


def test_an_embedding_that_is_not_finite_is_named_with_its_file():
    embeddings, labels = clusters()
    names = [f"{i}.png" for i in range(300)]
    for value in (np.nan, np.inf, -np.inf):
        broken = embeddings.copy()
        broken[[7, 9], 3] = value
        with pytest.raises(ValueError, match=rf"embeddings must be finite, got {value} in row 7 \(7.png\) \(2 of 300"):
            RetrievalEvaluator()(broken, labels, names=names)
        with pytest.raises(ValueError, match=rf"gallery must be finite, got {value} in row 7 \(7.png\)"):
            RetrievalEvaluator()(embeddings, labels, broken, labels, gallery_names=names)
    broken[[7, 9]] = 0
    with pytest.raises(ValueError, match=r"embeddings must have a direction.*zero vector in row 7 \(7.png\)"):
        RetrievalEvaluator()(broken, labels, names=names)
    assert RetrievalEvaluator(similarity="euclidean")(broken, labels)["precision_at_1"] < 1


@pytest.mark.parametrize(
    "convert",
    [
        lambda rows: rows.astype(np.float64),
        np.asfortranarray,
        lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
        lambda rows: rows[::-1].copy()[::-1],
        lambda rows: rows.tolist(),
        torch.from_numpy,
        lambda rows: torch.from_numpy(rows).requires_grad_(),
        lambda rows: torch.from_numpy(rows).T.contiguous().T,
    ],
    ids=[
        "float64",
        "columns first",
        "every second column",
        "backwards",
        "lists",
        "tensor",
        "with gradient",
        "transposed",
    ],
)
def test_the_layout_and_type_of_the_input_do_not_matter(convert):
    embeddings, labels = clusters()
    report = RetrievalEvaluator()(convert(embeddings), labels)
    np.testing.assert_array_equal(report.neighbours.ids, RetrievalEvaluator()(embeddings, labels).neighbours.ids)
    assert report.metrics == RetrievalEvaluator()(embeddings, labels).metrics


@pytest.mark.parametrize("convert", [np.float16, lambda rows: torch.from_numpy(rows).bfloat16()])
def test_half_precision_is_evaluated_as_the_numbers_that_it_holds(convert):
    embeddings, labels = clusters()
    half = convert(embeddings)
    single = half.float().numpy() if isinstance(half, torch.Tensor) else half.astype(np.float32)
    assert RetrievalEvaluator()(half, labels).metrics == RetrievalEvaluator()(single, labels).metrics


def test_a_memory_mapped_file_is_evaluated_and_not_written_to(tmp_path):
    embeddings, labels = clusters()
    np.save(tmp_path / "embeddings.npy", embeddings)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    assert RetrievalEvaluator()(mapped, labels).metrics == RetrievalEvaluator()(embeddings, labels).metrics


def test_collapsed_embeddings_are_reported_as_such_and_fast():
    """Twenty thousand equal rows: each of the first must not be compared with all others."""
    labels = np.arange(20_000) % 1000
    started = time.process_time()
    report = RetrievalEvaluator(ci=None)(np.full((20_000, 64), 0.3), labels)
    assert time.process_time() - started < 5  # 0.2 s on an idle machine
    assert report.tie_rate == 1
    assert report["precision_at_1"] < 0.01
    assert report.counts["duplicates"] == 20_000
    assert "collapsed" in str(report)


def test_a_few_ties_are_no_reason_to_warn():
    embeddings, labels = clusters()
    embeddings[:3], labels[:3] = 100, [1, 1, 2]  # far from all others
    report = RetrievalEvaluator(similarity="euclidean")(embeddings, labels)
    assert report.tie_rate == pytest.approx(2 / 300)
    assert not report.warnings


def test_duplicates_between_queries_and_gallery_are_counted():
    embeddings, labels = clusters()
    references, reference_labels = clusters(seed=1)
    references[[5, 17]] = embeddings[[250, 3]]
    report = RetrievalEvaluator()(embeddings, labels, references, reference_labels)
    assert report.counts["duplicates"] == 2
    assert "2 duplicates" in report.summary
    pairs = report.near_duplicates(score=0.999999)
    assert {(query, reference) for query, reference, _ in pairs.tolist()} >= {(250, 5), (3, 17)}


def test_one_class_is_always_right_and_the_report_says_why():
    report = RetrievalEvaluator(EVERY)(np.random.default_rng(0).normal(size=(30, 4)), ["only"] * 30)
    assert {value for name, value in report.metrics.items()} == {1}
    assert "all labels are equal" in str(report)


def test_queries_that_are_in_the_gallery_in_another_order_are_pointed_out():
    embeddings, labels = clusters()
    report = RetrievalEvaluator()(embeddings, labels, embeddings[::-1].copy(), labels[::-1])
    assert report["precision_at_1"] == 1
    assert "300 of 300 queries have their very embedding in the gallery" in str(report)
    assert not RetrievalEvaluator()(embeddings[:100], labels[:100], embeddings[100:].copy(), labels[100:]).warnings


def test_large_labels_are_not_confused():
    """As float32, which PML casts labels to, these two are one class."""
    labels = np.array([2**24, 2**24, 2**24 + 1, 2**24 + 1])
    report = RetrievalEvaluator(recall_at=())([[0, 1], [1, 0], [0, 1.1], [1.1, 0]], labels)
    assert report["precision_at_1"] == 0


# Groups


def test_references_of_the_same_label_and_group_do_not_exist():
    """Seen by camera 0, person 'a' is to be found by camera 1; what camera 0 saw of 'b' is in the way."""
    references, labels, cameras = [[0.1], [0.2], [0.3], [9]], ["a", "b", "a", "b"], [0, 0, 1, 1]
    report = RetrievalEvaluator(("mean_average_precision",), similarity="euclidean")(
        [[0.0]], ["a"], references, labels, query_groups=[0], gallery_groups=cameras
    )
    assert report.neighbours.ids.tolist() == [[1, 2, 3]]
    assert report["mean_average_precision"] == 0.5
    assert report["recall_at_1"] == 0
    everything = RetrievalEvaluator(similarity="euclidean")([[0.0]], ["a"], references, labels)
    assert everything["recall_at_1"] == 1


def test_groups_leave_out_shots_of_one_sequence():
    """Among themselves: two sequences of each class, three shots each."""
    embeddings, labels = clusters(classes=6, per_class=6)
    order = np.argsort(labels, kind="stable")
    embeddings, labels, sequences = embeddings[order], labels[order], np.tile([0, 0, 0, 1, 1, 1], 6)
    report = RetrievalEvaluator(EVERY)(embeddings, labels, query_groups=[f"shot {i}" for i in sequences])
    same = (labels[:, None] == labels) & (sequences[:, None] == sequences)
    assert not same[np.arange(36)[:, None], report.neighbours.ids].any()
    # The same by hand: every query among the references that exist for it.
    for row in range(36):
        exists = np.flatnonzero(~same[row])
        alone = RetrievalEvaluator(EVERY)(embeddings[[row]], labels[[row]], embeddings[exists].copy(), labels[exists])
        for name, values in alone.per_unit.items():
            assert report.per_unit[name][row] == pytest.approx(values[0], abs=1e-12)


def test_queries_whose_matches_are_all_left_out_are_skipped():
    report = RetrievalEvaluator(similarity="euclidean")(
        [[0.0], [5]], ["a", "b"], [[0.1], [4], [7]], ["a", "b", "b"], query_groups=[0, 0], gallery_groups=[0, 1, 0]
    )
    assert report.counts == {"queries": 1, "references": 3, "skipped": 1, "duplicates": 0}
    assert report.neighbours.ids.tolist() == [[1, 2], [1, 0]]
    assert report.hits.tolist() == [[False, False], [True, False]]


# Averages and intervals


def test_unequal_classes_are_also_averaged_by_class():
    labels = ["a", "a", "a", "a", "b", "b"]
    embeddings = [[0.0], [0.1], [0.2], [0.3], [0.05], [0.15]]
    report = RetrievalEvaluator(recall_at=(1,), metrics=(), similarity="dot", ci=None)(embeddings, labels)
    by_class = {row["label"]: row["recall_at_1"] for row in report.per_class()}
    assert report["macro_recall_at_1"] == pytest.approx((by_class["a"] + by_class["b"]) / 2)
    assert report["recall_at_1"] == pytest.approx((4 * by_class["a"] + 2 * by_class["b"]) / 6)
    assert report["recall_at_1"] != report["macro_recall_at_1"]
    assert not any(name.startswith("macro") for name in RetrievalEvaluator()(*clusters()).metrics)


def test_intervals_are_those_of_the_values():
    data = with_singletons()
    report = RetrievalEvaluator(ci="query", ci_level=0.8, resamples=300, seed=5)(*data)
    values = report.per_unit["r_precision"]
    [expected] = bootstrap_interval(values, level=0.8, resamples=300, seed=5)
    assert report.ci["r_precision"] == pytest.approx(expected)
    classes = "over 5 classes, left out one at a time"
    assert report.ci_method == f"bootstrap over 18 queries, {classes} for macro averages"
    assert report.ci["macro_r_precision"] != report.ci["r_precision"]
    by_class = RetrievalEvaluator()(*data)
    low, high = class_interval(values, by_class.codes)
    assert by_class.ci["r_precision"][0] <= low < high <= by_class.ci["r_precision"][1]  # and classes are also found
    assert by_class.ci_method == classes
    assert set(report.ci) == set(report.metrics)
    assert RetrievalEvaluator(ci=None)(*data).ci == {}


def test_where_every_query_is_right_the_interval_is_that_of_wilson():
    report = RetrievalEvaluator(ci="query")(*clusters(spread=1e-3))
    assert set(report.ci.values()) == {wilson_interval(300, 300)}
    classes = len(RetrievalEvaluator()(*clusters(spread=1e-3)).classes)
    [(low, high)] = set(RetrievalEvaluator()(*clusters(spread=1e-3)).ci.values())
    assert high == 1
    assert wilson_interval(classes, classes)[0] * 0.9 < low < wilson_interval(classes, classes)[0]  # Student's quantile


def test_two_models_are_compared_on_the_same_queries():
    embeddings, labels = clusters()
    worse = embeddings + np.random.default_rng(0).normal(size=embeddings.shape)
    evaluate = RetrievalEvaluator(recall_at=(1,))
    tests = evaluate(embeddings, labels).compare(evaluate(worse, labels))
    assert tests["r_precision"].difference > 0.1
    assert tests["r_precision"].p_value < 0.001
    with pytest.raises(ValueError, match="must be about the same queries"):
        evaluate(embeddings, labels).compare(evaluate(embeddings, labels[::-1]))


# Other distances, other indexes


@pytest.mark.parametrize(
    ("distance", "similarity"),
    [
        (distances.CosineSimilarity(), "cosine"),
        (distances.LpDistance(), "cosine"),
        (distances.LpDistance(power=2), "cosine"),
        (distances.DotProductSimilarity(), "cosine"),
        (distances.DotProductSimilarity(normalize_embeddings=False), "dot"),
        (distances.LpDistance(normalize_embeddings=False), "euclidean"),
    ],
)
def test_a_distance_of_pml_that_faiss_has_is_searched_by_faiss(distance, similarity):
    report, expected = (RetrievalEvaluator(similarity=each)(*clusters()) for each in (distance, similarity))
    assert report.metrics == expected.metrics
    assert report.protocol == expected.protocol


@pytest.mark.parametrize(
    "distance", [distances.LpDistance(p=1, normalize_embeddings=False), distances.SNRDistance()], ids=["p = 1", "SNR"]
)
@pytest.mark.parametrize("metrics", [PML_METRICS, EVERY])
def test_any_other_distance_of_pml_is_computed_by_pml(distance, metrics):
    embeddings, labels = clusters(classes=8, per_class=8)
    report = RetrievalEvaluator(metrics, similarity=distance)(embeddings, labels)
    calculator = AccuracyCalculator(include=PML_METRICS, knn_func=CustomKNN(distance), device=torch.device("cpu"))
    for name, value in calculator.get_accuracy(torch.from_numpy(embeddings), torch.from_numpy(labels)).items():
        assert report[name] == pytest.approx(value, rel=0, abs=1e-9), name
    assert report.protocol.startswith(f"exact {type(distance).__name__} search")


def test_a_distance_that_is_not_finite_is_refused():
    embeddings = np.ones((4, 3))
    with pytest.raises(ValueError, match="SNRDistance must be finite, got nan or infinity for query 0"):
        RetrievalEvaluator(similarity=distances.SNRDistance())(embeddings, [0, 0, 1, 1])


@pytest.mark.parametrize("index", ["HNSW32", "IVF4,Flat", FaissKNN(), FaissSearcher("IVF4,Flat", "cosine", "nprobe=4")])
def test_an_index_says_how_much_it_finds(index):
    embeddings, labels = clusters(spread=2)
    exact = RetrievalEvaluator()(unit(embeddings), labels)
    report = RetrievalEvaluator(index=index)(unit(embeddings), labels)
    found = float(re.search(r"finds ([\d.]+)% of the first 10 neighbours", report.protocol)[1]) / 100
    truth = [
        len({*a} & {*b}) for a, b in zip(exact.neighbours.ids.tolist(), report.neighbours.ids.tolist(), strict=True)
    ]
    assert found == pytest.approx(np.mean(truth) / 10, abs=0.001)
    assert report["recall_at_1"] == pytest.approx(exact["recall_at_1"], abs=0.1)
    assert (found < 0.95) == (index == "IVF4,Flat")


# From models, data and folders


def test_a_model_is_run_on_a_loader_or_a_data_set():
    embeddings, labels = clusters()
    data = TensorDataset(torch.from_numpy(embeddings), torch.from_numpy(labels))
    expected = RetrievalEvaluator()(embeddings, labels)
    for each in (data, DataLoader(data, batch_size=7)):
        assert RetrievalEvaluator().run(torch.nn.Identity(), each, progress=False).metrics == expected.metrics
    half, rest = torch.utils.data.random_split(data, [100, 200], torch.Generator().manual_seed(0))
    report = RetrievalEvaluator().run(torch.nn.Identity(), half, rest, batch_size=32)
    assert (report.counts["queries"], report.counts["references"]) == (100, 200)


def test_images_bring_their_names_and_the_names_of_their_classes():
    images = digits().subset(range(0, 300, 3))
    model = create_embedder("convnet", embedding_size=8).eval()
    report = RetrievalEvaluator().run(model, images)
    assert report.names[1] == report.reference_names[1] == "digits[3]"
    assert set(report.labels) == {str(i) for i in range(10)}


def test_a_folder_of_embeddings_brings_labels_groups_and_names(tmp_path):
    embeddings, labels = clusters(per_class=10)
    names = [f"{i}.png" for i in range(200)]
    groups = np.arange(200) % 3
    save_samples(tmp_path / "queries", Samples(embeddings[:100], labels[:100], groups[:100], names[:100]))
    save_samples(tmp_path / "gallery", Samples(embeddings[100:], labels[100:], groups[100:], names[100:]))
    report = RetrievalEvaluator()(tmp_path / "queries", gallery=str(tmp_path / "gallery"))
    expected = RetrievalEvaluator()(
        embeddings[:100], labels[:100], embeddings[100:], labels[100:], groups[:100], groups[100:]
    )
    assert report.metrics == expected.metrics
    assert (report.names[3], report.reference_names[3]) == ("3.png", "103.png")
    assert report.labels[3] == str(labels[3])
    assert RetrievalEvaluator()(tmp_path / "queries").counts["references"] == 100


def test_folders_are_the_parts_of_one_gallery(tmp_path):
    embeddings, labels = clusters(per_class=10)
    groups, names = np.arange(200) % 3, [f"{i}.png" for i in range(200)]
    bounds = (0, 100, 130, 200)
    folders = [tmp_path / str(number) for number in range(3)]
    for folder, start, stop in zip(folders, bounds, bounds[1:], strict=False):
        part = slice(start, stop)
        save_samples(folder, Samples(embeddings[part], labels[part], groups[part], names[part]))
    queries, *gallery = folders
    report = RetrievalEvaluator(EVERY)(queries, gallery=gallery)
    expected = RetrievalEvaluator(EVERY)(
        embeddings[:100], labels[:100], embeddings[100:], labels[100:], groups[:100], groups[100:]
    )
    assert report.metrics == expected.metrics
    assert report.reference_names == names[100:]
    together = RetrievalEvaluator(EVERY)(folders)
    assert together.metrics == RetrievalEvaluator(EVERY)(embeddings, labels, query_groups=groups).metrics
    save_samples(folders[2], Samples(embeddings[130:], labels[130:], None, names[130:]))
    with pytest.raises(
        ValueError, match=r"folders must have the same columns, got path, label, group in .* but path, l"
    ):
        RetrievalEvaluator()(queries, gallery=gallery)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"similarity": "l2"}, "similarity must be a known name, got 'l2'"),
        ({"singletons": "skp"}, "Did you mean 'skip'"),
        ({"ties": "random"}, "ties must be a known name, got 'random'"),
        ({"ci": "image"}, "ci must be a known name, got 'image'"),
        ({"ci_level": 95}, r"level must be in \(0, 1\), got 95"),
        ({"recall_at": (1, 0)}, "recall_at must be a positive integer, got 0"),
        ({"metrics": ("recall_at_x",)}, "metric must be a known name, got 'recall_at_x'. Did you mean 'recall_at_K'"),
        ({"metrics": (), "recall_at": ()}, "metrics must name at least one metric"),
        ({"metrics": ("mean_average_precision",), "index": "IVF4,Flat"}, "'Flat' with metrics of the whole gallery"),
        ({"ties": "expected", "index": "HNSW32"}, "index must be 'Flat' with ties='expected', got 'HNSW32'"),
        ({"similarity": distances.SNRDistance(), "index": "HNSW32"}, "index must be 'Flat' with SNRDistance"),
    ],
)
def test_an_evaluator_that_cannot_work_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        RetrievalEvaluator(**arguments)


@pytest.mark.parametrize(
    ("evaluator", "arguments", "message"),
    [
        (RetrievalEvaluator, {"recall_at": 5}, r"recall_at must be a list or tuple, got 5. Write \(5,\) for one"),
        (RetrievalEvaluator, {"metrics": "r_precision"}, r"metrics must be a list .* got 'r_precision'"),
        (IdentificationEvaluator, {"ranks": 1}, "ranks must be a list or tuple, got 1"),
        (IdentificationEvaluator, {"fpir": 0.1}, "fpir must be a list or tuple, got 0.1"),
        (VerificationEvaluator, {"far": 0.01}, "far must be a list or tuple, got 0.01"),
    ],
)
def test_one_of_several_is_still_a_list(evaluator, arguments, message):
    with pytest.raises(TypeError, match=message):
        evaluator(**arguments)
    [(name, value)] = arguments.items()
    evaluator(**{name: np.array([value])})


def test_a_similarity_must_be_a_name_or_a_distance():
    with pytest.raises(TypeError, match="similarity must be a name or a distance of pytorch-metric-learning"):
        RetrievalEvaluator(similarity=np.dot)
