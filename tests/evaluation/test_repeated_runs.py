"""Means over seeds and units: intervals that cover, tests that reject as often as they may."""

import numpy as np
import pytest
from scipy import stats

from pml_center.evaluation import holm, paired_runs_test, runs_interval


def models(generator, count=1, runs=3, units=100, of_runs=0.0, of_units=0.2, of_both=0.1):
    """Values of so many models (runs, units) around 0.5, which share how hard a unit is."""
    hard = of_units * generator.normal(size=units)
    return [
        0.5 + hard + of_runs * generator.normal(size=(runs, 1)) + of_both * generator.normal(size=(runs, units))
        for _ in range(count)
    ]


@pytest.mark.parametrize(("of_runs", "least"), [(0.0, 0.93), (0.02, 0.92), (0.05, 0.87)])
def test_an_interval_covers_the_true_mean(of_runs, least):
    generator = np.random.default_rng(0)
    intervals = [runs_interval(models(generator, of_runs=of_runs)[0]) for _ in range(400)]
    assert least < np.mean([low <= 0.5 <= high for low, high in intervals]) < 0.99


def test_an_interval_is_that_of_a_plain_computation():
    [values] = models(np.random.default_rng(1), runs=4, units=30, of_runs=0.1)
    grand = values.mean()
    ms_runs = 30 * sum((row.mean() - grand) ** 2 for row in values) / 3
    ms_units = 4 * sum((column.mean() - grand) ** 2 for column in values.T) / 29
    ms_both = sum(
        (values[i, j] - values[i].mean() - values[:, j].mean() + grand) ** 2 for i in range(4) for j in range(30)
    ) / (3 * 29)
    variance = (ms_runs + ms_units - ms_both) / 120
    freedom = variance**2 / ((ms_runs / 120) ** 2 / 3 + (ms_units / 120) ** 2 / 29)
    assert runs_interval(values, 0.9) == pytest.approx(stats.t.interval(0.9, freedom, grand, variance**0.5))


def test_one_run_of_each_is_the_paired_t_test():
    first, second = (model[0] for model in models(np.random.default_rng(2), count=2, runs=1))
    found, expected = paired_runs_test(first, second), stats.ttest_rel(first, second)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize("of_runs", [0.0, 0.02])
def test_the_best_of_six_equal_models_is_rarely_called_better(of_runs):
    """Corrected over all pairs: over those with the best alone, it happens in 7 to 12 % of all cases."""
    generator, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        ranked = sorted(models(generator, count=6, of_runs=of_runs), key=np.mean, reverse=True)
        pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
        corrected = holm([paired_runs_test(ranked[i], ranked[j]).p_value for i, j in pairs])
        wrong += min(corrected[:5]) < 0.05  # pairs with the best come first
    assert wrong / 200 < 0.07


def test_a_difference_is_found_and_swapping_turns_its_sign():
    first, second = models(np.random.default_rng(3), count=2)
    found, turned = paired_runs_test(first + 0.05, second), paired_runs_test(second, first + 0.05)
    assert found.p_value == turned.p_value < 0.01
    assert (found.difference, found.low, found.high) == pytest.approx((-turned.difference, -turned.high, -turned.low))


def test_units_that_any_run_lacks_are_left_out():
    first, second = models(np.random.default_rng(4), count=2)
    first[1, 7] = np.nan
    found = paired_runs_test(first, second)
    assert found == paired_runs_test(np.delete(first, 7, axis=1), np.delete(second, 7, axis=1))
    assert found.units == 99


def test_equal_models_do_not_differ_and_a_constant_difference_is_as_sure_as_its_units_are_many():
    [values] = models(np.random.default_rng(5))
    assert paired_runs_test(values, values).p_value == 1
    assert paired_runs_test(np.ones(5), np.ones(5))[:4] == (0, 0, 0, 1)
    constant = paired_runs_test(np.ones(5), np.zeros(5))
    assert constant.p_value == pytest.approx(2 / 2**5)  # of all exchanges of five
    assert constant.low < 0 < constant.high
    assert paired_runs_test(np.full(40, 0.3), np.full(40, 0.2)).p_value < 1e-9
    rounded = paired_runs_test([0.7, 0.1, 0.3, 0.9, 0.5], [0.6, 0, 0.2, 0.8, 0.4])
    assert rounded.p_value == pytest.approx(2 / 2**5)


def test_holm_is_what_it_is_defined_to_be():
    values = np.random.default_rng(6).random(7) ** 3
    ranked = np.sort(values)
    for value, corrected in zip(values, holm(values), strict=True):
        place = int(np.searchsorted(ranked, value))
        assert corrected == pytest.approx(min(1, max((7 - j) * ranked[j] for j in range(place + 1))))
    assert holm([]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: runs_interval(np.zeros((2, 2, 2))), r"values must have shape \(runs, units\), got \(2, 2, 2\)"),
        (lambda: runs_interval([0.5, np.nan]), "values must have two units without NaN, got 1"),
        (lambda: runs_interval([0.5, 1], level=95), r"level must be in \(0, 1\), got 95"),
        (lambda: paired_runs_test([1, 2], [1, 2, 3]), "values of the same units, got 2 and 3"),
    ],
)
def test_what_cannot_be_computed_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
