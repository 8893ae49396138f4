"""Open sets: against scikit-learn, against pytorch-ood, and what degenerate scores come to."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_auc_score, roc_curve

from pml_center.evaluation import OpenSetEvaluator, write_html
from tests.evaluation.clusters import clusters

QUICK = OpenSetEvaluator(ci=None)


def drawn(seed, digits=6, gain=2.0):
    """Logits of five known classes, rounded so that some tie, and labels of eight."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(8, size=200)
    return (rng.normal(size=(200, 5)) + gain * np.eye(5, 8).T[labels]).round(digits), labels


# What pytorch-ood 0.4.0 (pytorch_ood.metrics.functional) gives for these logits, with minus the largest as the outlier
# score: accuracy, auroc, oscr_score, and fpr_at_tpr of the scores with known and unknown exchanged.
PYTORCH_OOD = {
    (0, 6): (0.7807017543859649, 0.826295389636883, 0.6756425948592412, 0.6511627906976745),
    (1, 1): (0.7627118644067796, 0.8113890037205457, 0.6449462587846218, 0.8292682926829268),
    (2, 0): (0.7175572519083969, 0.7646310432569975, 0.593428476601394, 0.8115942028985508),
}


@pytest.mark.parametrize("case", PYTORCH_OOD)
def test_the_metrics_are_those_of_pytorch_ood(case):
    report = QUICK.of_scores(*drawn(*case), range(5))
    assert list(report.metrics) == ["accuracy", "area_under_roc", "area_under_oscr", "fpr_at_tpr_0.95"]
    assert list(report.metrics.values()) == pytest.approx(PYTORCH_OOD[case], rel=1e-12)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(seed=st.integers(0, 1000), digits=st.integers(0, 3), tpr=st.floats(0.05, 0.99))
def test_the_metrics_are_those_of_scikit_learn_and_of_a_loop_over_thresholds(seed, digits, tpr):
    logits, labels = drawn(seed, digits)
    report = OpenSetEvaluator(tpr=[tpr], ci=None).of_scores(logits, labels, range(5))
    known, best, right = labels < 5, logits.max(1), logits.argmax(1) == labels
    far, tar, thresholds = roc_curve(known, best, drop_intermediate=False)
    first = np.argmax(tar >= tpr)
    assert report["area_under_roc"] == pytest.approx(roc_auc_score(known, best))
    assert report[f"fpr_at_tpr_{tpr:g}"] == pytest.approx(far[first])
    assert report.thresholds[f"fpr_at_tpr_{tpr:g}"] == thresholds[first]
    rated = [(right & known & (best >= threshold)).sum() / known.sum() for threshold in thresholds]
    assert report["area_under_oscr"] == pytest.approx(auc(far, rated))
    curve = report.curves["oscr"]
    assert curve["correct classification rate"].max() == report["accuracy"] == right[known].mean()


def test_logits_distances_and_similarities_are_three_sets_of_references():
    embeddings, labels = clusters(classes=9, per_class=8, spread=1.5)
    rng = np.random.default_rng(1)
    centers = np.stack([embeddings[labels == code][:3].mean(axis=0) for code in range(6)])
    weights = rng.normal(size=(6, 16))
    distances = -(((embeddings[:, None] - centers) ** 2).sum(axis=2))
    images, of_images = clusters(classes=6, per_class=2, spread=1.5, seed=2)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (embeddings, images)]
    for similarity, references, codes, scores in (
        ("dot", weights, range(6), embeddings @ weights.T),
        ("euclidean", centers, range(6), distances),
        ("cosine", images, of_images, unit[0] @ unit[1].T),
    ):
        evaluator = OpenSetEvaluator(similarity=similarity, resamples=20)
        report = evaluator(embeddings, labels, references, codes)
        expected = evaluator.of_scores(scores, labels, codes)
        assert report.metrics == pytest.approx(expected.metrics)
        assert report.ci == {name: pytest.approx(ends) for name, ends in expected.ci.items()}
        assert report.counts == {"queries": 72, "known": 48, "unknown": 24, "references": len(references)}


def test_perfect_constant_and_reversed_scores():
    labels = np.arange(60) % 6
    perfect = OpenSetEvaluator(resamples=50).of_scores(9.0 * np.eye(3, 6).T[labels], labels, range(3))
    assert list(perfect.metrics.values()) == [1, 1, 1, 0]
    assert perfect.ci["area_under_roc"][0] < 0.5  # Wilson's interval of three classes of a kind
    assert perfect.ci["fpr_at_tpr_0.95"][1] > 0.5
    constant = QUICK.of_scores(np.ones((60, 3)), labels, range(3))
    assert list(constant.metrics.values()) == pytest.approx([1 / 3, 1 / 2, 1 / 6, 1])
    turned = QUICK.of_scores(-9.0 * np.eye(3, 6).T[labels] + 8, labels, range(3))
    assert list(turned.metrics.values()) == [0, 0.5, 0, 1]  # each known class is the last choice, at 8 like the others


@pytest.mark.parametrize(("ci", "over"), [("class", "classes"), ("query", "queries")])
def test_intervals_hold_the_metrics_and_two_models_are_compared(ci, over):
    evaluator = OpenSetEvaluator(tpr=(0.8, 0.95), ci=ci, resamples=200)
    good, bad = (evaluator.of_scores(*drawn(0, gain=gain), range(5)) for gain in (3, 1))
    assert set(good.ci) == set(good.metrics)
    assert all(low <= bad[name] <= high for name, (low, high) in bad.ci.items())
    assert f"unknown {over}" in good.ci_method
    tests = good.compare(bad, resamples=200)
    assert set(tests) == set(good.metrics)
    for name, test in tests.items():
        assert test.difference == pytest.approx(good[name] - bad[name])
        assert test.low <= test.difference <= test.high
        assert test.over == over
    assert tests["area_under_roc"].low > 0
    assert good.compare(good, resamples=50)["area_under_oscr"].p_value == 1
    others = evaluator.of_scores(drawn(0)[0][:, :4], drawn(0)[1], range(4))
    with pytest.raises(ValueError, match="other must be about the same known classes, got others"):
        good.compare(others)
    with pytest.raises(ValueError, match="other must be about the same units"):
        good.compare(OpenSetEvaluator(ci="class" if ci == "query" else "query").of_scores(*drawn(0), range(5)))


def test_few_unknown_classes_are_warned_of_and_one_is_enough():
    logits, labels = drawn(0)
    report = OpenSetEvaluator(resamples=20).of_scores(logits[labels < 6], labels[labels < 6], range(5))
    [warning] = report.warnings
    assert warning.startswith("1 of the unknown classes is too little to judge others by")


def test_a_report_is_kept_as_json_as_a_table_and_as_a_page(tmp_path):
    report = OpenSetEvaluator(resamples=20).of_scores(*drawn(0), range(5))
    assert json.loads(report.to_json())["thresholds"] == report.thresholds
    assert "area_under_oscr" in report._repr_html_()
    report.to_csv(tmp_path / "queries.csv")
    header, first = (tmp_path / "queries.csv").read_text().splitlines()[:2]
    assert (header, first.split(",")[1]) == ("query,known,score,accuracy", str(bool(report.judged.known[0])))
    page = write_html(tmp_path / "page.html", {"Open set": report}).read_text(encoding="utf-8")
    assert "correct classification rate" in page
    assert page.count("<svg") == 2


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["a", "b", "a"], ["a", "b"], "got 3 queries of the known ones and 0 of others"),
        (["x", "y", "z"], ["a", "b"], "got 0 queries of the known ones and 3 of others"),
        (["a", "b", "z"], ["a"], r"classes must be one per row \(2\), got 1"),
    ],
)
def test_a_set_that_is_not_open_is_named(labels, classes, message):
    with pytest.raises(ValueError, match=message):
        QUICK.of_scores(np.ones((3, 2)), labels, classes)


def test_scores_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="scores must be finite, got nan in row 1"):
        QUICK.of_scores([[1, 2], [np.nan, 1]], ["a", "z"], ["a", "b"])
    with pytest.raises(ValueError, match=r"tpr must be in \(0, 1\), got 1"):
        OpenSetEvaluator(tpr=(1,))
