"""The metrics: by hand, by brute force over all orders of ties, by scikit-learn, and in their order."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, ndcg_score

from pml_center.evaluation import (
    Ranking,
    ir_recall_at_k,
    map_at_k,
    mean_average_precision,
    mean_average_precision_at_r,
    mean_inverse_negative_penalty,
    mean_reciprocal_rank,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
)
from pml_center.evaluation.retrieval_metrics import METRICS, metric_named

OF_THE_GALLERY = [name for name, metric in METRICS.items() if metric.looks_at == "gallery"]
WITH_K = [name.removesuffix("K") for name, metric in METRICS.items() if metric.looks_at == "k"]
WITHOUT_K = [name for name, metric in METRICS.items() if metric.looks_at != "k"]
NAMES = [*WITHOUT_K, *(f"{name}{k}" for name in WITH_K for k in (1, 2, 3, 6))]
HITS = np.array([[1, 0, 1, 0, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=bool)
RELEVANT = np.array([3, 2, 1, 0])


def test_the_metrics_of_a_worked_example():
    ranking = Ranking.of(HITS, RELEVANT)
    expected = {
        recall_at_k: {1: [1, 0, 0, 0], 2: [1, 1, 0, 0], 5: [1, 1, 1, 0]},
        precision_at_k: {1: [1, 0, 0, 0], 2: [1 / 2, 1 / 2, 0, 0], 5: [3 / 5, 2 / 5, 1 / 5, 0]},
        ir_recall_at_k: {1: [1 / 3, 0, 0, 0], 2: [1 / 3, 1 / 2, 0, 0], 5: [1, 1, 1, 0]},
        map_at_k: {
            1: [1, 0, 0, 0],
            2: [1 / 2, 1 / 4, 0, 0],
            5: [(1 + 2 / 3 + 3 / 5) / 3, (1 / 2 + 1 / 2) / 2, 1 / 5, 0],
        },
    }
    for metric, by_k in expected.items():
        for k, values in by_k.items():
            np.testing.assert_allclose(metric(ranking, k), values, atol=1e-15)
    np.testing.assert_allclose(r_precision(ranking), [2 / 3, 1 / 2, 0, 0])
    np.testing.assert_allclose(mean_average_precision_at_r(ranking), [(1 + 2 / 3) / 3, (1 / 2) / 2, 0, 0])
    np.testing.assert_allclose(mean_average_precision(ranking), [(1 + 2 / 3 + 3 / 5) / 3, 1 / 2, 1 / 5, 0])
    np.testing.assert_allclose(mean_reciprocal_rank(ranking), [1, 1 / 2, 1 / 5, 0])
    np.testing.assert_allclose(mean_inverse_negative_penalty(ranking), [3 / 5, 2 / 4, 1 / 5, 0])


def test_too_few_neighbours_for_a_metric_are_an_error_and_not_a_wrong_number():
    ranking = Ranking.of(np.ones((2, 3), dtype=bool), np.array([1, 4]))
    for metric in (r_precision, mean_average_precision_at_r, lambda ranking: recall_at_k(ranking, 4)):
        with pytest.raises(ValueError, match=r"k must be at most the number of neighbours per query \(3\), got 4"):
            metric(ranking)
    for name in OF_THE_GALLERY:
        with pytest.raises(ValueError, match=r"must hold all relevant references, got fewer for query 1 \(1 of 2"):
            metric_named(name)(ranking)


@pytest.mark.parametrize("name", WITH_K)
def test_k_must_be_a_positive_integer(name):
    with pytest.raises(ValueError, match="k must be a positive integer, got 0"):
        METRICS[f"{name}K"].function(Ranking.of(HITS, RELEVANT), 0)
    with pytest.raises(ValueError, match=f"metric must be a known name, got '{name}0'"):
        metric_named(f"{name}0")


@settings(deadline=None, derandomize=True)
@given(data=st.data())
def test_the_metrics_keep_their_order(data):
    rows, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 12))
    hits = data.draw(arrays(bool, (rows, width)))
    relevant = np.maximum(hits.sum(axis=1), data.draw(st.integers(0, width)))
    ranking = Ranking.of(hits, relevant)
    recalls = [recall_at_k(ranking, k) for k in range(1, width + 1)]
    for smaller, larger in pairwise(recalls):
        assert (smaller <= larger).all()
    assert (precision_at_k(ranking, 1) == recalls[0]).all()
    early, late = mean_average_precision_at_r(ranking), r_precision(ranking)
    assert (early >= 0).all()
    assert (early <= late + 1e-12).all()
    assert (late <= 1).all()


@settings(deadline=None, derandomize=True)
@given(hits=arrays(bool, st.tuples(st.integers(1, 4), st.integers(2, 20))))
def test_average_precision_and_ndcg_are_those_of_scikit_learn(hits):
    hits[:, 0] |= ~hits.any(axis=1)  # scikit-learn has no value for a query without a relevant reference
    ranking, scores = Ranking.of(hits, hits.sum(axis=1)), -np.arange(hits.shape[1])
    for i, row in enumerate(hits):
        assert mean_average_precision(ranking)[i] == pytest.approx(average_precision_score(row, scores), abs=1e-12)
        for k in (1, hits.shape[1]):
            assert ndcg_at_k(ranking, k)[i] == pytest.approx(ndcg_score([row], [scores], k=k), abs=1e-12)


def tied(groups):
    """A ranking of one query from (size, hits) of all groups, those without a hit too."""
    sizes, hits = np.array(groups).T
    before, hits_before = sizes.cumsum() - sizes, hits.cumsum() - hits
    some = hits > 0
    columns = (values[some] for values in (before, sizes, hits, hits_before))
    return Ranking(np.array([hits.sum()]), sizes.sum(), np.zeros(some.sum(), dtype=int), *columns)


def orders(groups):
    """The hits of every order of the members of each group, as often as it occurs."""
    found = [[]]
    for size, hits in groups:
        members = list(permutations([True] * hits + [False] * (size - hits)))
        found = [[*before, *order] for before in found for order in members]
    return np.array(found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "groups",
    [
        [(6, 2)],
        [(6, 6)],
        [(6, 1)],
        [(1, 0), (3, 2), (2, 0)],
        [(3, 1), (3, 2)],
        [(1, 1), (4, 2), (1, 1)],
        [(2, 1), (2, 0), (1, 1), (2, 1)],
        [(1, 1), (1, 0), (1, 1), (3, 0)],
    ],
)
def test_ties_take_the_mean_over_all_their_orders(name, groups):
    every = orders(groups)
    metric = metric_named(name)
    expected = metric(Ranking.of(every, every.sum(axis=1))).mean()
    assert metric(tied(groups))[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", [*WITHOUT_K, *(f"{name}1000" for name in WITH_K)])
def test_one_large_group_is_computed_in_closed_form(name):
    """A collapsed gallery: the mean over random orders comes near."""
    groups = [(100_000, 20)]
    random, values = np.random.default_rng(0), []
    for _ in range(50):
        place = np.sort(random.choice(100_000, size=(40, 20)), axis=1)
        query = np.repeat(np.arange(40), 20)
        ones = np.ones(800, dtype=int)
        ranking = Ranking(np.full(40, 20), 100_000, query, place.ravel(), ones, ones, np.tile(np.arange(20), 40))
        values.extend(metric_named(name)(ranking))
    error = np.std(values) / np.sqrt(len(values))
    assert metric_named(name)(tied(groups))[0] == pytest.approx(np.mean(values), abs=5 * error + 1e-12)
