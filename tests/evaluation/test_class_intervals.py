"""Intervals and tests over classes: against leaving each class out by hand, and against what they promise."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kurtosis, t

from pml_center.evaluation import (
    IdentificationEvaluator,
    Pairs,
    RetrievalEvaluator,
    VerificationEvaluator,
    class_interval,
    paired_runs_test,
    paired_test,
    runs_interval,
    wilson_interval,
)
from pml_center.evaluation.class_intervals import class_values

METRICS = {"metrics": ("precision_at_1", "mean_average_precision_at_r"), "recall_at": ()}


def drawn(rng, classes, sizes):
    """Rows of Gaussian classes, of which some are wider than others."""
    labels = np.repeat(np.arange(classes), sizes)
    means, spreads = rng.normal(size=(classes, 16)), rng.uniform(0.5, 1.3, classes)
    return means[labels] + spreads[labels, None] * rng.normal(size=(len(labels), 16)), labels


def interval_by_hand(mean, variance, units, level):
    """Wilson's, solved from its definition: the means that lie one quantile of standard errors away."""
    quantile = t.ppf((1 + level) / 2, units - 1)
    trials = mean * (1 - mean) / variance if 0 < mean < 1 else units
    # |mean - p| = quantile * sqrt(p * (1 - p) / trials), squared and sorted by powers of p
    return sorted(np.roots([1 + quantile**2 / trials, -(2 * mean + quantile**2 / trials), mean**2]).real)


def test_equal_classes_without_references_have_the_variance_of_their_means():
    rng = np.random.default_rng(0)
    values, classes = rng.integers(0, 2, 60) * 1.0, np.repeat(np.arange(12), 5)
    means = values.reshape(12, 5).mean(axis=1)
    expected = interval_by_hand(values.mean(), means.var(ddof=1) / 12, 12, 0.9)
    assert class_interval(values, classes, level=0.9) == pytest.approx(expected)
    order = rng.permutation(60)
    assert class_interval(values[order], classes[order] + 7, level=0.9) == pytest.approx(expected)
    with_nan = class_interval([*values, np.nan], [*classes, 99], level=0.9)
    assert with_nan == pytest.approx(expected)


@pytest.mark.parametrize("macro", [False, True])
def test_a_report_leaves_each_class_out_of_queries_and_references(macro):
    """Everything by hand: each class taken away, and searched again among what is left."""
    rng = np.random.default_rng(1)
    rows, labels = drawn(rng, 6, [3, 4, 5, 6, 3, 4])
    evaluate = RetrievalEvaluator(metrics=("precision_at_1",), recall_at=())
    report = evaluate(rows, labels)

    def value(without):
        left = ~np.isin(labels, without)
        own = evaluate(rows[left], labels[left]).per_unit["precision_at_1"]
        return {c: own[labels[left] == c] for c in np.unique(labels[left])}

    def mean(of):
        return np.mean([each.mean() for each in of.values()] if macro else np.concatenate(list(of.values())))

    whole, left = value([]), [value([c]) for c in range(6)]
    means = np.array([mean(each) for each in left])
    variance = 5 / 6 * np.square(means - means.mean()).sum()
    weight = {c: 1 / len(whole[c]) if macro else 1 for c in whole}
    for one, other in combinations(range(6), 2):
        both = weight[other] * (left[one][other] - whole[other]).sum()
        both += weight[one] * (left[other][one] - whole[one]).sum()
        variance -= (both / (6 if macro else len(labels))) ** 2
    worth = 6 if macro else len(labels) ** 2 / np.square(np.bincount(labels)).sum()
    name = "macro_precision_at_1" if macro else "precision_at_1"
    alone = np.array([mean({c: of for c, of in whole.items() if c != gone}) for gone in range(6)])
    variance = max(variance, 5 / 6 * np.square(alone - alone.mean()).sum())
    assert report[name] == pytest.approx(mean(whole))
    assert report.ci[name] == pytest.approx(interval_by_hand(mean(whole), variance, worth, 0.95))


def test_an_interval_does_not_depend_on_which_other_metrics_are_asked_for():
    rng = np.random.default_rng(12)
    rows, labels = drawn(rng, 12, 5)
    alone = RetrievalEvaluator(**METRICS)(rows, labels)
    beside = RetrievalEvaluator(metrics=(*METRICS["metrics"], "mean_average_precision"), recall_at=())(rows, labels)
    assert {name: beside.ci[name] for name in alone.ci} == dict(alone.ci)
    assert alone.ci_method == "over 12 classes, left out one at a time"
    assert beside.ci_method == f"{alone.ci_method}, of the queries alone in intervals of mean_average_precision"
    in_expectation = RetrievalEvaluator(**METRICS, ties="expected")(rows, labels)
    assert in_expectation.ci_method == f"{alone.ci_method}, of the queries alone in intervals"
    assert beside.tie_rate == alone.tie_rate == 0
    np.testing.assert_array_equal(beside.neighbours.ids, alone.neighbours.ids)


def test_what_would_change_without_each_class_is_written_down_by_pairs_of_classes(tmp_path):
    rng = np.random.default_rng(13)
    rows, labels = drawn(rng, 8, 6)
    report = RetrievalEvaluator(**METRICS)(rows, [f"class {label}" for label in labels])
    report.absence_to_csv(tmp_path / "absence.csv")
    table = np.genfromtxt(tmp_path / "absence.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    assert len(table) == len({(line["gone"], line["finder"]) for line in table}) > 8
    gone, finder, change = report.absence["mean_average_precision_at_r"]
    for line in table:
        of_pair = (gone == int(line["gone"][6:])) & (finder == int(line["finder"][6:]))
        assert line["mean_average_precision_at_r"] == pytest.approx(change[of_pair].sum())


def test_classes_that_are_only_references_are_taken_as_they_are():
    rng = np.random.default_rng(2)
    rows, labels = drawn(rng, 9, 6)
    query = np.flatnonzero((labels < 6) & (np.arange(54) % 2 == 0))
    gallery = np.setdiff1d(np.arange(54), query)
    report = RetrievalEvaluator(**METRICS)(rows[query], labels[query], rows[gallery], labels[gallery])
    assert report.ci_method == "over 6 classes, left out one at a time"
    low, high = report.ci["precision_at_1"]
    assert low < report["precision_at_1"] < high


def test_where_every_class_is_right_or_wrong_the_interval_is_that_of_wilson_with_students_quantile():
    low, high = class_interval(np.ones(40), np.repeat(np.arange(20), 2))
    assert high == 1
    assert low == pytest.approx(20 / (20 + t.ppf(0.975, 19) ** 2))
    assert low == pytest.approx(wilson_interval(20, 20)[0], abs=0.03)
    assert class_interval(np.zeros(40), np.repeat(np.arange(20), 2)) == pytest.approx((0, 1 - low))


def test_where_few_classes_bring_in_the_variance_there_are_few_degrees_of_freedom():
    """Else 50 characters of which two are hard hold the true value of others too seldom."""
    values, classes = np.ones(250), np.repeat(np.arange(50), 5)
    values[:8] = 0
    means = values.reshape(50, 5).mean(axis=1)
    variance, outlying = means.var(ddof=1) / 50, kurtosis(means, fisher=False)
    freedom = 2 / (2 / 49 + (outlying - 3) / 50)  # so that the chi-square of that many varies as the variance does
    assert freedom < 5
    assert class_interval(values, classes) == pytest.approx(interval_by_hand(0.968, variance, freedom + 1, 0.95))
    test = paired_test(values, np.ones(250), clusters=classes)
    assert test.p_value == pytest.approx(2 * t.sf(0.032 / variance**0.5, freedom))


def test_few_classes_are_said_to_be_few():
    rng = np.random.default_rng(3)
    report = RetrievalEvaluator(**METRICS)(*drawn(rng, 4, 5))
    assert report.warnings[0].startswith("4 classes are few to judge others by")
    assert not RetrievalEvaluator(**METRICS)(*drawn(rng, 5, 5)).warnings
    assert not RetrievalEvaluator(**METRICS, ci="query")(*drawn(rng, 4, 5)).warnings
    one = RetrievalEvaluator(**METRICS)(rng.normal(size=(5, 4)), [0] * 5)
    assert one.ci == {}
    assert any("1 of the classes is too little" in warning for warning in one.warnings)


def test_values_of_classes_have_the_mean_and_the_variance_of_leaving_one_out():
    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(5), [2, 7, 3, 9, 4])
    values = rng.normal(size=(3, 25))
    found, worth = class_values(values, codes)
    np.testing.assert_allclose(found.mean(axis=1), values.mean(axis=1))
    for row, own in zip(values, found, strict=True):
        left = np.array([row[codes != c].mean() for c in range(5)])
        assert own.var(ddof=1) / 5 == pytest.approx(4 / 5 * np.square(left - left.mean()).sum())
    assert worth == pytest.approx(25**2 / (4 + 49 + 9 + 81 + 16))


def test_one_run_by_class_is_the_paired_t_test_over_the_means_of_classes():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 40))
    classes = np.repeat(np.arange(8), 5)
    test = paired_runs_test(first, second, clusters=classes)
    expected = ttest_rel(first.reshape(8, 5).mean(axis=1), second.reshape(8, 5).mean(axis=1))
    assert (test.units, test.over) == (8, "clusters")
    assert test.p_value == pytest.approx(expected.pvalue)
    assert (test.low, test.high) == pytest.approx(tuple(expected.confidence_interval()))
    bounded = runs_interval(np.stack([first, second]) / 10 + 0.5, clusters=classes, bounded=True)
    assert 0 < bounded[0] < bounded[1] < 1


def test_a_class_counts_once_however_many_queries_it_has():
    """Ten queries that are alike are one: what differs in every query of two of three classes is no evidence."""
    first, second = np.repeat([1.0, 1, 0], 10), np.zeros(30)
    assert paired_test(first, second).p_value < 0.001
    by_class = paired_test(first, second, clusters=np.repeat(np.arange(3), 10))
    assert by_class.p_value == pytest.approx(2 * t.sf(2, 2))  # a mean of 2 / 3 with an error of 1 / 3
    assert by_class.units == 3
    assert by_class.low < 0 < by_class.difference < by_class.high
    with pytest.raises(ValueError, match="clusters must be two or more, got 1 with a value"):
        paired_test(first, second, clusters=np.zeros(30, dtype=int))


def test_intervals_hold_over_other_classes_and_tests_keep_their_level():
    """A short version of docs/benchmarks/intervals.py: bounds that chance passes once in many thousands."""
    rng = np.random.default_rng(6)
    reports, alarms = {"class": [], "query": []}, {"class": [], "query": []}
    for _ in range(60):
        rows, labels = drawn(rng, 20, 6)
        trouble = rng.uniform(0, 1, (2, 20))[:, labels, None]
        two = rows + trouble * rng.normal(size=(2, *rows.shape))
        for ci, found in reports.items():
            evaluate = RetrievalEvaluator(**METRICS, ci=ci, resamples=200)
            found.append(evaluate(rows, labels))
            one, other = (evaluate(each, labels) for each in two)
            alarms[ci].append(one.compare(other, resamples=500)["mean_average_precision_at_r"].p_value < 0.05)
    for name in METRICS["metrics"]:
        true = np.mean([report[name] for report in reports["class"]])
        held = {ci: np.mean([each.ci[name][0] <= true <= each.ci[name][1] for each in reports[ci]]) for ci in reports}
        assert held["class"] >= 0.82
        assert held["query"] < held["class"]
    assert np.mean(alarms["class"]) <= 0.2 < np.mean(alarms["query"])


def test_two_models_on_pairs_are_compared_by_people_drawn_once():
    rng = np.random.default_rng(7)
    rows, labels = drawn(rng, 20, 4)
    evaluate = VerificationEvaluator(far=(0.1,), resamples=200)
    one, worse = evaluate(rows, labels), evaluate(rows + 1.5 * rng.normal(size=rows.shape), labels)
    tests = one.compare(worse, resamples=200)
    assert set(tests) == {"equal_error_rate", "tar_at_far_0.1"}
    assert tests["equal_error_rate"].difference == one["equal_error_rate"] - worse["equal_error_rate"] < 0
    assert tests["equal_error_rate"].high < 0
    assert tests["equal_error_rate"].p_value == pytest.approx(2 / 201)
    assert str(tests["tar_at_far_0.1"]).endswith("over 20 people")
    assert all(test[:4] == (0, 0, 0, 1) for test in one.compare(one, resamples=50).values())
    with pytest.raises(ValueError, match="other must be about the same pairs of the same people"):
        one.compare(evaluate(rows[:-4], labels[:-4]))


def test_classes_that_are_all_alike_or_of_very_different_sizes_do_not_make_a_number_certain():
    classes = np.repeat(np.arange(5), 2)
    assert class_interval([1, 0] * 5, classes) == pytest.approx(interval_by_hand(0.5, 0.25 / 5, 5, 0.95))
    thirds = class_interval([1, 1, 0] * 6, np.repeat(np.arange(3), [6, 9, 3]))  # equal but for rounding
    assert thirds == pytest.approx(interval_by_hand(2 / 3, 2 / 9 / (18**2 / 126), 18**2 / 126, 0.95))
    one_dominates = np.repeat(np.arange(4), [1000, 2, 2, 2])
    values = np.random.default_rng(8).integers(0, 2, (2, 1006)) * 1.0
    for test in (paired_test(*values, clusters=one_dominates), paired_runs_test(*values, clusters=one_dominates)):
        assert -20 < test.low < test.high < 20  # of one degree of freedom, not of a hundredth


def test_what_is_not_about_the_same_is_not_compared():
    rng = np.random.default_rng(9)
    rows, labels = drawn(rng, 8, 5)
    by_class, by_query = (RetrievalEvaluator(**METRICS, ci=ci)(rows, labels) for ci in (None, "query"))
    for one, other in ((by_class, by_query), (by_query, by_class)):
        with pytest.raises(ValueError, match=r"got (queries beside classes|classes beside queries)\. .* the same ci"):
            one.compare(other)
    assert by_class.content()["ci_method"] == ""
    gallery, queries = np.arange(0, 40, 5), np.setdiff1d(np.arange(40), np.arange(0, 40, 5))
    identify = IdentificationEvaluator(ranks=(1,), fpir=(), ci=None)
    shuffled = rng.permutation(queries)
    one, other = (identify(rows[q], labels[q], rows[gallery], labels[gallery]) for q in (queries, shuffled))
    with pytest.raises(ValueError, match="the same units in the same order, got others of the people"):
        one.compare(other)
    pairs = VerificationEvaluator(far=(0.1,), ci=None)(rows, labels)
    with pytest.raises(ValueError, match="other must have intervals"):
        pairs.compare(pairs)


def test_few_people_are_said_to_be_few_and_prove_little():
    rng = np.random.default_rng(10)
    rows, labels = drawn(rng, 3, 6)
    evaluate = VerificationEvaluator(far=(0.3,), resamples=100)
    one, worse = evaluate(3 * rows, labels), evaluate(rng.normal(size=rows.shape), labels)
    assert one.warnings[-1].startswith("3 people are few to judge others by")
    assert min(test.p_value for test in one.compare(worse, resamples=100).values()) >= 2 / 2**3
    first = np.arange(18) % 6 == 0
    found = IdentificationEvaluator(ranks=(1,), fpir=())(
        rows[~first], labels[~first], rows[first][:2], labels[first][:2]
    )
    assert found.ci_method == "over 2 people, left out one at a time"  # the third is not in the gallery
    assert found.warnings[-1].startswith("2 people are few")


def test_a_test_over_folds_says_so():
    rng = np.random.default_rng(11)
    rows, labels = drawn(rng, 20, 4)
    first, second = np.arange(40), np.arange(40) + np.tile([1, 4], 20)
    pairs = Pairs(first, second, labels[first] == labels[second], np.arange(40) % 4)
    report = VerificationEvaluator(far=(0.3,), ci=None)(rows, pairs=pairs)
    assert str(report.compare(report)["accuracy"]).endswith("over 4 folds")
