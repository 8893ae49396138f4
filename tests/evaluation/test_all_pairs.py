"""All pairs, streamed, against all pairs at once: the same rates to the last digit, in little memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from pml_center.evaluation import VerificationEvaluator, pair_scores, roc
from pml_center.evaluation import all_pairs as module
from pml_center.evaluation.search.exact_search import ExactSearch
from tests.evaluation.clusters import clusters

FAR = (0.3, 0.1, 0.01, 0.001)


def at_once(embeddings, labels, similarity):
    """The curve from the list of all N(N − 1)/2 scores."""
    first, second = np.triu_indices(len(embeddings), 1)
    return roc(pair_scores(embeddings, first, second, similarity), labels[first] == labels[second])


def streamed(embeddings, labels, similarity="cosine", far=FAR):
    return VerificationEvaluator(far=far, similarity=similarity, ci=None)(embeddings, labels)


def assert_equal(report, curve, far=FAR):
    assert report["equal_error_rate"] == curve.equal_error_rate
    assert report.thresholds["equal_error_rate"] == curve.equal_error_threshold
    for target in far:
        assert report[f"tar_at_far_{target:g}"] == curve.tar_at(target)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("classes", [2, 20, 150])
def test_rates_over_all_pairs_are_those_of_the_list_of_pairs(similarity, classes):
    embeddings, labels = clusters(classes=classes, per_class=300 // classes)
    assert_equal(streamed(embeddings, labels, similarity), at_once(embeddings, labels, similarity))


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    digits=st.integers(0, 2),
    similarity=st.sampled_from(["cosine", "dot", "euclidean"]),
    block=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    bins=st.sampled_from([8, 100, 2**15]),
)
def test_neither_ties_nor_blocks_nor_bins_matter(seed, digits, similarity, block, bins):
    embeddings, labels = clusters(classes=4, per_class=9, width=4, spread=1.5, seed=seed)
    embeddings = embeddings.round(digits) + np.float32(1e-3)  # coarse rounding makes ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "BINS", bins)
        report = streamed(embeddings, labels, similarity)
    assert_equal(report, at_once(embeddings, labels, similarity))


@settings(deadline=None, derandomize=True, max_examples=15)
@given(seed=st.integers(0, 1000), similarity=st.sampled_from(["cosine", "dot", "euclidean"]))
def test_the_order_of_the_rows_does_not_matter(seed, similarity):
    embeddings, labels = clusters(classes=5, per_class=8, spread=2, seed=seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = streamed(embeddings[order], labels[order], similarity)
    assert shuffled.metrics == streamed(embeddings, labels, similarity).metrics


def test_the_number_of_threads_does_not_matter():
    embeddings, labels = clusters(classes=30, per_class=10, spread=2)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(streamed(embeddings, labels).metrics)
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_collapsed_embeddings_tell_nobody_apart():
    report = streamed(np.ones((60, 8)), np.arange(60) % 6)
    assert report["equal_error_rate"] == 0.5
    assert [report[f"tar_at_far_{far:g}"] for far in FAR] == [0, 0, 0, 0]


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_rows_of_zeros_and_one_far_outlier_are_compared_like_others(similarity):
    embeddings, labels = clusters(classes=6, per_class=10)
    embeddings[:3], embeddings[3] = 0, 1e4  # everything else then falls into one or two bins
    assert_equal(streamed(embeddings, labels, similarity), at_once(embeddings, labels, similarity))
    assert streamed(np.zeros((8, 3)), np.arange(8) % 2, similarity)["equal_error_rate"] == 0.5


def test_perfect_clusters_have_no_errors():
    report = streamed(*clusters(spread=1e-3))
    assert report["equal_error_rate"] == 0
    assert [report[f"tar_at_far_{far:g}"] for far in FAR] == [1, 1, 1, 1]


def test_the_binned_curve_follows_the_exact_one():
    embeddings, labels = clusters(spread=2)
    curve, points = at_once(embeddings, labels, "cosine"), streamed(embeddings, labels).curves["roc"]
    assert {len(values) for values in points.values()} == {len(points["far"])}
    assert (points["far"][0], points["tar"][-1]) == (0, 1)
    assert (np.diff(points["far"]) >= 0).all()
    assert integrate.trapezoid(points["tar"], points["far"]) == pytest.approx(curve.area, abs=1e-4)


def test_never_holds_the_scores_of_all_pairs(monkeypatch):
    embeddings, labels = clusters(classes=3, per_class=400)
    sizes = []
    histc, exactly = torch.histc, module._Scores.exactly
    monkeypatch.setattr(module, "BLOCK", (64, 128))
    monkeypatch.setattr(torch, "histc", lambda values, *rest: sizes.append(len(values)) or histc(values, *rest))
    monkeypatch.setattr(module._Scores, "exactly", lambda *given: sizes.append(len(given[1])) or exactly(*given))
    VerificationEvaluator(resamples=2)(embeddings, labels)
    assert len(sizes) > 500
    assert max(sizes) <= 64 * 128


# Drawing pairs for the bootstrap


def test_the_drawn_pairs_stand_for_all_of_them():
    embeddings, labels = clusters(classes=150, per_class=6, width=8, spread=2)
    prepared = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEPT", 2000)
        sample = module.all_pairs(ExactSearch(prepared, similarity="dot"), labels, FAR, sampled=True, seed=3).sample
    pairs, genuine = 900 * 899 // 2, 150 * 15
    assert sample.same.sum() == genuine  # few enough to be kept
    assert len(sample.scores) < pairs / 20
    assert sample.weight[~sample.same].sum() == pytest.approx(pairs - genuine, rel=0.05)
    np.testing.assert_array_equal(sample.people[:, 0] == sample.people[:, 1], sample.same)
    curve = at_once(prepared, labels, "dot")
    highest = curve.threshold[:100]
    assert np.isin(highest, np.append(sample.scores, np.inf)).all()  # where small false accept rates are decided
    for far in FAR:
        above = sample.scores >= curve.threshold_at(far)
        assert (sample.weight * above * ~sample.same).sum() / (pairs - genuine) == pytest.approx(far, rel=0.05)


def test_the_intervals_over_all_pairs_are_those_of_the_list_of_pairs():
    embeddings, labels = clusters(classes=60, per_class=6, spread=2)
    first, second = np.triu_indices(len(labels), 1)
    same = labels[first] == labels[second]
    evaluator = VerificationEvaluator(far=(0.1, 0.01), resamples=300)
    people = np.stack([labels[first], labels[second]], axis=1)
    listed = evaluator.of_scores(pair_scores(embeddings, first, second), same, people=people)
    whole = evaluator(embeddings, labels)
    assert set(whole.ci) == set(whole.metrics) == {"equal_error_rate", "tar_at_far_0.1", "tar_at_far_0.01"}
    for name, interval in whole.ci.items():
        assert interval == pytest.approx(listed.ci[name], abs=0.02)
        assert interval[0] < whole[name] < interval[1]
    assert whole.ci == evaluator(embeddings, labels).ci
