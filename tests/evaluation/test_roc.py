"""The receiver operating characteristic: what thresholds accept, and what other libraries read off the same scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from pml_center.evaluation import Pairs, VerificationEvaluator, best_threshold, cross_validated_accuracy, roc
from pml_center.evaluation.roc import measurable
from tests import golden_io


@st.composite
def scored_pairs(draw, least=2):
    """Scores with many ties, and flags of both kinds."""
    count = draw(st.integers(least, 40))
    scores = np.array(draw(st.lists(st.integers(-5, 5), min_size=count, max_size=count))) / 7
    same = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    same[:2] = [True, False]
    return scores, same


def test_a_worked_example():
    curve = roc([0.9, 0.8, 0.8, 0.3], [True, True, False, False])
    assert curve.threshold.tolist() == [np.inf, 0.9, 0.8, 0.3]
    assert curve.far.tolist() == [0, 0, 0.5, 1]
    assert curve.tar.tolist() == [0, 0.5, 1, 1]
    assert (curve.tar_at(0.4), curve.threshold_at(0.4)) == (0.5, 0.9)
    assert (curve.tar_at(0.5), curve.threshold_at(0.5)) == (1, 0.8)
    assert curve.equal_error_rate == 0.25  # on the line from (0, 1/2) to (1/2, 1)
    assert curve.area == 7 / 8


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pairs=scored_pairs())
def test_the_curve_is_that_of_scikit_learn(pairs):
    scores, same = pairs
    far, tar, threshold = roc_curve(same, scores, drop_intermediate=False)
    curve = roc(scores, same)
    np.testing.assert_array_equal(curve.threshold, threshold)
    np.testing.assert_allclose(curve.far, far)
    np.testing.assert_allclose(curve.tar, tar)
    assert curve.area == pytest.approx(roc_auc_score(same, scores))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pairs=scored_pairs(), far=st.floats(0, 0.999))
def test_tar_at_far_is_the_best_that_any_threshold_does_without_exceeding_the_target(pairs, far):
    scores, same = pairs
    curve = roc(scores, same)
    accepted = scores >= np.append(scores, np.inf)[:, None]  # (thresholds, pairs)
    allowed = accepted[:, ~same].mean(axis=1) <= far
    assert curve.tar_at(far) == accepted[allowed][:, same].mean(axis=1).max()
    threshold = curve.threshold_at(far)
    assert (scores[~same] >= threshold).mean() <= far
    assert (scores[same] >= threshold).mean() == curve.tar_at(far)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pairs=scored_pairs(), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_only_the_order_of_the_scores_matters(pairs, scale, shift):
    scores, same = pairs
    first, second = roc(scores, same), roc(np.exp(scores * scale) + shift, same)
    np.testing.assert_array_equal(first.genuine, second.genuine)
    np.testing.assert_array_equal(first.impostor, second.impostor)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pairs=scored_pairs())
def test_the_equal_error_rate_lies_on_the_curve_and_its_threshold_beside_it(pairs):
    scores, same = pairs
    curve = roc(scores, same)
    along = np.arange(len(curve.far))
    crossing = brentq(lambda at: np.interp(at, along, curve.far) + np.interp(at, along, curve.tar) - 1, 0, along[-1])
    assert curve.equal_error_rate == pytest.approx(np.interp(crossing, along, curve.far), abs=1e-9)
    accept = scores >= curve.equal_error_threshold
    assert accept[~same].mean() >= 1 - accept[same].mean() - 1e-12


def test_a_detector_that_is_always_right_or_always_wrong():
    right = roc([3, 2, 1, 0], [1, 1, 0, 0])
    assert (right.equal_error_rate, right.area, right.tar_at(0.001)) == (0, 1, 1)
    wrong = roc([3, 2, 1, 0], [0, 0, 1, 1])
    assert (wrong.equal_error_rate, wrong.area, wrong.tar_at(0.4)) == (1, 0, 0)
    assert wrong.threshold_at(0.4) == np.inf


@pytest.mark.parametrize("far", [-0.001, 1, 5, np.nan])
def test_a_target_that_is_no_rate_is_refused(far):
    with pytest.raises(ValueError, match=r"far must be in \[0, 1\), got"):
        roc([1, 0], [1, 0]).tar_at(far)


def test_equal_scores_can_only_be_accepted_together():
    curve = roc(np.zeros(10), [1, 0] * 5)
    assert (curve.equal_error_rate, curve.area, curve.tar_at(0.9)) == (0.5, 0.5, 0)


def test_a_long_curve_is_thinned_for_a_plot_and_keeps_its_ends():
    rng = np.random.default_rng(0)
    same = rng.random(50_000) < 0.3
    curve = roc(rng.normal(size=50_000) + same, same)
    points = curve.points(500)
    assert {len(values) for values in points.values()} <= set(range(300, 501))
    assert (points["far"][0], points["far"][-1], points["tar"][-1]) == (0, 1, 1)
    assert integrate.trapezoid(points["tar"], points["far"]) == pytest.approx(curve.area, abs=2e-3)
    assert (points["far"] < 0.001).sum() > 20
    assert len(curve.points(10**6)["far"]) == len(curve.far)


def test_targets_that_too_few_impostors_decide():
    assert measurable(None, 10_000, "TAR at FAR", "impostor pairs") == ([0.1, 0.01, 0.001], ())
    assert measurable([0.01], 1000, "TAR at FAR", "impostor pairs") == ([0.01], ())
    rates, [warning] = measurable([0.1, 0.001, 1e-6], 3000, "TAR at FAR", "impostor pairs")
    assert rates == [0.1, 0.001, 1e-6]
    assert warning == "TAR at FAR 0.001, 1e-06 is decided by fewer than 10 of 3,000 impostor pairs: mostly chance"


# Accuracy over folds


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pairs=scored_pairs(least=6), folds=st.integers(2, 4))
def test_each_fold_is_judged_by_the_strictest_threshold_best_on_the_others(pairs, folds):
    scores, same = pairs
    fold = np.arange(len(scores)) % folds
    found = cross_validated_accuracy(scores, same, [f"fold {number}" for number in fold])
    for number in range(folds):
        others, own = fold != number, fold == number
        candidates = np.append(np.unique(scores[others])[::-1], -np.inf)[:-1]
        candidates = np.concatenate([[np.inf], candidates])
        right = [((scores[others] >= t) == same[others]).sum() for t in candidates]
        threshold = candidates[int(np.argmax(right))]
        assert found.threshold[number] == threshold
        assert found.accuracy[number] == ((scores[own] >= threshold) == same[own]).mean()
    assert found.standard_error == pytest.approx(np.std(found.accuracy, ddof=1) / np.sqrt(folds))


def test_the_best_threshold_is_an_observed_score_or_accepts_nothing():
    assert best_threshold([0.9, 0.8, 0.7, 0.1], [1, 1, 0, 0]) == 0.8
    assert best_threshold([0.9, 0.8, 0.7, 0.1], [0, 0, 0, 1]) == np.inf
    assert best_threshold([0.5, 0.5, 0.5, 0.4], [1, 1, 0, 0]) == 0.5


def lfw_golden(case):
    golden = golden_io.load(f"eval__verification__{case}")
    distance, same = golden.arrays["in/squared_distance"], golden.arrays["in/issame"]
    return golden, -distance, same, np.repeat(np.arange(10), len(same) // 10)


@pytest.mark.parametrize(
    ("case", "difference"),
    [("lfw6000", [0, 0, -2, 0, 0, 1, 1, 0, 0, 0]), ("ties600", [0, -1, 0, 0, 0, 0, 0, -1, 0, 0])],
)
@pytest.mark.parametrize("official", ["insightface", "facenet/metric0_submean0"])
def test_folds_are_those_of_insightface_and_facenet_within_one_pair_or_their_grid_missed_the_best(
    case, difference, official
):
    """They try squared distances 0, 0.01, …, 3.99. The one fold that differs by more has a better threshold between."""
    golden, scores, same, folds = lfw_golden(case)
    theirs = golden.arrays[f"out/{official}/accuracy_per_fold"]
    ours = cross_validated_accuracy(scores, same, folds)
    pairs = np.rint((ours.accuracy - theirs) * (folds == 0).sum()).astype(int)
    assert pairs.tolist() == difference
    for fold in np.flatnonzero(abs(pairs) > 1):
        others = folds != fold
        grid = max(((-scores[others] < t) == same[others]).sum() for t in np.arange(0, 4, 0.01))
        assert ((scores[others] >= ours.threshold[fold]) == same[others]).sum() > grid
    assert ours.accuracy.mean() == pytest.approx(theirs.mean(), abs=0.005)
    # they print the standard deviation of the folds as a population; ours is the error of the mean
    theirs_sd = golden.arrays[f"out/{official}/accuracy_std"]
    assert ours.standard_error == pytest.approx(theirs_sd / np.sqrt(10 - 1), rel=0.15)


@pytest.mark.parametrize("case", ["lfw6000", "ties600"])
def test_rates_are_those_of_scikit_learn_and_of_oml_where_it_takes_a_quantile_between_scores(case):
    golden, scores, same, _ = lfw_golden(case)
    curve = roc(scores, same)
    for far in (0.001, 0.01, 0.1):
        golden.assert_close(f"out/sklearn/tpr_at_far_{far}_left", curve.tar_at(far))
    golden.assert_close("out/sklearn/auc", curve.area)
    assert curve.equal_error_rate == pytest.approx(golden.arrays["out/sklearn/eer_nearest"], abs=0.002)
    for far, fnmr in zip(golden.arrays["in/fmr_vals"], golden.arrays["out/oml/fnmr_at_fmr"], strict=True):
        # its threshold lies between two impostor scores, and may let one more or one less in than the target allows
        one = 1 / curve.impostor_pairs
        assert curve.tar_at(max(0, far - one)) - 1e-6 <= 1 - fnmr <= curve.tar_at(far + one) + 1e-6


@pytest.mark.parametrize("case", ["lfw6000", "ties600"])
def test_val_at_far_of_insightface_averages_over_folds_and_interpolates(case):
    """Its VAL@FAR is the mean over ten thresholds, each on its fold; the FAR that they really have is another."""
    golden, scores, same, _ = lfw_golden(case)
    val, far = golden.arrays["out/insightface/val"], golden.arrays["out/insightface/far"]
    assert roc(scores, same).tar_at(0.001) == pytest.approx(val, abs=1e-9)
    assert far != 0.001


@pytest.mark.parametrize("case", ["lfw6000", "ties600"])
def test_the_evaluator_scores_the_golden_embeddings_as_their_distances(case):
    golden, scores, same, folds = lfw_golden(case)
    count = len(same)
    pairs = Pairs(np.arange(0, 2 * count, 2), np.arange(1, 2 * count, 2), same, folds)
    evaluator = VerificationEvaluator(similarity="euclidean", far=(0.1,), ci=None)
    report = evaluator(golden.arrays["in/embeddings"], pairs=pairs)
    np.testing.assert_allclose(report.scores, scores, atol=1e-5)
    expected = evaluator.of_scores(report.scores, same, folds)
    assert report.metrics == expected.metrics
    assert report["area_under_roc"] == pytest.approx(golden.arrays["out/sklearn/auc"], abs=1e-4)  # rounding parts ties


# What cannot be measured


@pytest.mark.parametrize(
    ("scores", "same", "error", "message"),
    [
        ([0.1, np.nan], [1, 0], ValueError, r"scores must be finite, got nan at position 1 \(1 of 2 pairs\)"),
        ([-np.inf, 0], [1, 0], ValueError, "scores must be finite, got -inf at position 0"),
        (["a", "b"], [1, 0], TypeError, "scores must be real numbers, got dtype"),
        ([[0.1], [0.2]], [1, 0], ValueError, r"scores must have shape \(pairs,\), got shape \(2, 1\)"),
        ([0.1, 0.2], [1], ValueError, r"same must be one per pair \(2\), got shape \(1,\)"),
        ([0.1, 0.2], [1, 2], ValueError, r"same must be booleans, or 0 and 1, got \[2\]"),
        ([0.1, 0.2], [1.0, 0.0], ValueError, "same must be booleans, or 0 and 1, got float64"),
        ([0.1, 0.2], [1, 1], ValueError, "same must have genuine and impostor pairs, got 2 pairs without .* impostor"),
        ([0.1, 0.2], [0, 0], ValueError, "got 2 pairs without a single genuine one"),
    ],
)
def test_scores_and_flags_that_make_no_curve_are_named(scores, same, error, message):
    with pytest.raises(error, match=message):
        roc(scores, same)
    with pytest.raises(error, match=message):
        cross_validated_accuracy(scores, same, [0, 1])
    with pytest.raises(error, match=message):
        VerificationEvaluator().of_scores(scores, same)


def test_one_fold_cannot_be_cross_validated():
    with pytest.raises(ValueError, match="folds must be at least two, got 1"):
        cross_validated_accuracy([0.1, 0.2], [1, 0], [7, 7])
    with pytest.raises(ValueError, match=r"folds must be one per row \(2\), got 3"):
        cross_validated_accuracy([0.1, 0.2], [1, 0], [1, 2, 3])
