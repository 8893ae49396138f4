"""Intervals cover what they promise, tests reject as often as they may, and seeds decide everything random."""

import math
import time

import numpy as np
import pytest
from scipy import stats

from pml_center.evaluation import bootstrap_interval, paired_test, two_sample_bootstrap, wilson_interval
from pml_center.evaluation.statistics import resampled_counts


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_bootstrap_of_a_mean_nears_the_normal_interval():
    values = normal(2000)
    [(low, high)] = bootstrap_interval(values, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_the_bootstrap_is_that_of_scipy():
    values = normal((2, 300))
    found = bootstrap_interval(values, resamples=4000)
    for interval, row in zip(found, values, strict=True):
        expected = stats.bootstrap((row,), np.mean, n_resamples=4000, method="percentile", batch=100, random_state=1)
        assert interval == pytest.approx(tuple(expected.confidence_interval), abs=0.05 / math.sqrt(300) * 3)


def test_all_metrics_come_from_the_same_resamples():
    first, second = normal((2, 50))
    (low, high), (negative_low, negative_high), _ = bootstrap_interval([first, -first, second])
    assert (negative_low, negative_high) == (pytest.approx(-high), pytest.approx(-low))
    assert bootstrap_interval(first)[0] == pytest.approx((low, high))


def test_units_that_are_not_a_number_are_left_out():
    values = normal(40)
    with_nan = np.concatenate([values, [np.nan] * 7])
    assert bootstrap_interval(with_nan) == bootstrap_interval(values)
    assert bootstrap_interval(with_nan, clusters=[*range(40), *[0] * 7])[0] == pytest.approx(
        bootstrap_interval(values)[0]
    )


def test_clusters_are_resampled_whole():
    """Ten units of one value in each class say no more than one does."""
    values = normal(30)
    [single] = bootstrap_interval(values)
    [clustered] = bootstrap_interval(np.repeat(values, 10), clusters=np.repeat(np.arange(30), 10))
    assert clustered == pytest.approx(single)
    [naive] = bootstrap_interval(np.repeat(values, 10))
    assert naive[1] - naive[0] < 0.5 * (single[1] - single[0])


def test_large_clusters_weigh_as_much_as_they_have_units():
    values, clusters = np.array([1.0] * 9 + [0.0]), np.array([0] * 9 + [1])
    [interval] = bootstrap_interval(values, clusters, level=0.4)
    assert interval == pytest.approx((0.9, 0.9))  # half of the resamples have both clusters
    assert bootstrap_interval(values, clusters) == [(0, 1)]


def test_an_interval_covers_the_mean_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        [(low, high)] = bootstrap_interval(normal(60, seed), level=0.9, resamples=300, seed=seed)
        covered += low <= 0 <= high
    assert 165 <= covered <= 193  # 90 % of 200, and three standard deviations


def test_seeds_decide():
    values = normal(30)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    assert paired_test(values, -values, seed=1) == paired_test(values, -values, seed=1)


def test_sixty_thousand_queries_take_seconds_and_little_memory():
    values = normal((8, 60_000))
    started = time.process_time()
    bootstrap_interval(values)
    assert time.process_time() - started < 20  # 2 s on an idle machine


def test_one_unit_has_an_interval_of_no_length():
    assert bootstrap_interval([[0.5], [0.25]]) == [(0.5, 0.5), (0.25, 0.25)]


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 10), (81, 263)])
def test_the_wilson_interval_solves_its_equation(successes, trials):
    """|p - successes / trials| = z sqrt(p (1 - p) / trials) at both ends."""
    for p in wilson_interval(successes, trials):
        distance = abs(p - successes / trials)
        assert distance == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(p * (1 - p) / trials), abs=1e-12)


def test_the_permutation_test_is_that_of_scipy():
    difference = normal(12) + 0.5
    exact = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert paired_test(difference, np.zeros(12), resamples=50_000).p_value == pytest.approx(exact, abs=0.006)


def test_the_permutation_test_of_hits_and_misses_is_the_sign_test():
    first, second = np.array([1] * 12 + [0] * 4 + [1] * 30), np.array([0] * 12 + [1] * 4 + [1] * 30)
    expected = stats.binomtest(12, 16).pvalue
    assert paired_test(first, second, resamples=50_000).p_value == pytest.approx(expected, abs=0.006)


def test_equal_models_do_not_differ():
    test = paired_test([0, 1, 1], [0, 1, 1])
    assert test[:6] == (0, 0, 0, 1, 3, "units")


def test_alike_models_are_told_apart_no_more_often_than_chance():
    p_values = [paired_test(normal(40, seed), normal(40, seed + 1000), resamples=200).p_value for seed in range(200)]
    assert 2 <= sum(p <= 0.05 for p in p_values) <= 20  # 5 % of 200, and three standard deviations


def test_a_bootstrap_over_people_is_wider_than_one_over_scores():
    """Each of 20 people has 50 genuine pairs of nearly one score."""
    people = np.repeat(np.arange(20), 50)
    genuine = normal(20)[people] + 0.01 * normal(1000, seed=1)
    impostors = np.stack([people, (people + 1) % 20], axis=1)

    def tar(genuine_weights, impostor_weights):
        return (genuine_weights * (genuine > 0)).sum() / genuine_weights.sum()

    low, high = two_sample_bootstrap(tar, people, impostors)
    naive_low, naive_high = two_sample_bootstrap(tar, np.arange(1000), impostors + 1000)
    assert high - low > 3 * (naive_high - naive_low)
    assert low <= (genuine > 0).mean() <= high


def test_impostor_pairs_weigh_as_often_as_both_people_were_drawn():
    genuine_ids, impostor_ids = [10, 20, 30], [(10, 20), (20, 30), (30, 10)]
    seen = []
    two_sample_bootstrap(lambda g, i: seen.append((g, i)) or 0.0, genuine_ids, impostor_ids, resamples=50)
    for (genuine, impostor), counts in zip(seen, resampled_counts(3, 50), strict=True):
        assert genuine.tolist() == counts.tolist()
        assert impostor.tolist() == [counts[0] * counts[1], counts[1] * counts[2], counts[2] * counts[0]]
    assert len({tuple(genuine) for genuine, _ in seen}) > 3


def test_a_statistic_of_people_may_be_an_array():
    low, high = two_sample_bootstrap(lambda g, i: [g[0], g.sum()], [0, 1], [(0, 1)])
    assert low.tolist() == [0, 2]
    assert high.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([1, 2], level=95), r"level must be in \(0, 1\), got 95"),
        (lambda: bootstrap_interval([1, 2], resamples=0), "resamples must be a positive integer, got 0"),
        (lambda: bootstrap_interval([np.nan]), "values must have a unit without NaN, got 1 units"),
        (lambda: wilson_interval(3, 2), r"successes must be in \[0, 2\], the number of trials, got 3"),
        (lambda: paired_test([1], [1, 2]), r"values of the same units, got shapes \(1,\) and \(2,\)"),
        (lambda: two_sample_bootstrap(min, [1], [1, 2]), r"impostor_ids shape \(I, 2\), got \(1,\) and \(2,\)"),
    ],
)
def test_what_cannot_be_computed_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
