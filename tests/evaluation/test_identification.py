"""Identification against brute force and against retrieval; what distractors, galleries and strangers do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_center.evaluation import IdentificationEvaluator, RetrievalEvaluator, identification, pair_scores, templates
from tests.evaluation.clusters import clusters


def one_to_n(classes=30, strangers=10, per_class=4, spread=1.0, seed=0):
    """Queries, labels, and a gallery of one template for all identities but the strangers."""
    embeddings, labels = clusters(classes=classes, per_class=per_class, spread=spread, seed=seed)
    enrolled = np.zeros(len(labels), dtype=bool)
    enrolled[np.unique(labels, return_index=True)[1]] = True
    gallery = enrolled & (labels >= strangers)
    return embeddings[~enrolled], labels[~enrolled], embeddings[gallery], labels[gallery]


def brute_force(queries, labels, references, reference_labels, ranks, fpir):
    scores = np.stack(
        [
            pair_scores(
                np.concatenate([query[None], references]),
                np.zeros(len(references), int),
                1 + np.arange(len(references)),
            )
            for query in queries
        ]
    )
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = reference_labels[order] == labels[:, None]
    mated = np.isin(labels, reference_labels)
    top = scores.max(axis=1)
    found = {f"rank_{rank}": hits[mated, :rank].any(axis=1).mean() for rank in ranks}
    for target in fpir:
        thresholds = [t for t in np.append(top, np.inf) if (top[~mated] >= t).mean() <= target]
        found[f"tpir_at_fpir_{target:g}"] = max((hits[mated, 0] & (top[mated] >= t)).mean() for t in thresholds)
    return found


@settings(deadline=None, derandomize=True, max_examples=15)
@given(seed=st.integers(0, 1000), digits=st.integers(0, 3))
def test_rates_are_those_of_brute_force(seed, digits):
    queries, labels, references, reference_labels = one_to_n(spread=1.5, seed=seed)
    queries, references = (rows.round(digits) + np.float32(1e-3) for rows in (queries, references))
    evaluator = IdentificationEvaluator(ranks=(1, 2, 5), fpir=(0.1, 0.4), ci=None)
    report = evaluator(queries, labels, references, reference_labels)
    expected = brute_force(queries, labels, references, reference_labels, (1, 2, 5), (0.1, 0.4))
    assert report.metrics == pytest.approx(expected)


def test_a_worked_example():
    gallery, names = [[1, 0], [0, 1]], ["Ann", "Bob"]
    queries = [[1, 0.1], [1, 0.3], [0.5, 1], [1, 0.2], [-1, 1]]
    labels = ["Ann", "Bob", "Bob", "Cid", "Dan"]
    report = IdentificationEvaluator(ranks=(1, 2), fpir=(0.5,), ci=None)(queries, labels, gallery, names)
    assert report.counts == {"queries": 5, "mated": 3, "non-mated": 2, "references": 2}
    # Cid is taken for Ann at 0.98, Dan for Bob at 0.71. One of them may be: Ann at 0.995 and Bob at 0.89 are found.
    assert report.metrics == {"rank_1": 2 / 3, "rank_2": 1, "tpir_at_fpir_0.5": 2 / 3}
    assert report.thresholds["tpir_at_fpir_0.5"] == pytest.approx(2 / 5**0.5)
    np.testing.assert_array_equal(report.per_unit["tpir_at_fpir_0.5"], [1, 0, 1, np.nan, np.nan])
    np.testing.assert_array_equal(report.per_unit["rank_2"], [1, 1, 1, np.nan, np.nan])
    assert {name: curve.tolist() for name, curve in report.curves["cmc"].items()} == {
        "rank": [1, 2],
        "rate": [2 / 3, 1],
    }


def test_rank_k_is_the_recall_at_k_of_retrieval():
    embeddings, labels = clusters(spread=2)
    references, reference_labels = clusters(per_class=3, spread=2, seed=1)
    ranks = (1, 2, 4, 8)
    report = IdentificationEvaluator(ranks=ranks, ci=None)(embeddings, labels, references, reference_labels)
    retrieval = RetrievalEvaluator(recall_at=ranks, ci=None)(embeddings, labels, references, reference_labels)
    for rank in ranks:
        assert report[f"rank_{rank}"] == retrieval[f"recall_at_{rank}"]
    rates = report.curves["cmc"]["rate"]
    assert (np.diff(rates) >= 0).all()
    assert [rates[rank - 1] for rank in ranks] == [report[f"rank_{rank}"] for rank in ranks]


def test_a_rank_beyond_the_gallery_finds_everybody():
    queries, labels, references, reference_labels = one_to_n(spread=3)
    report = IdentificationEvaluator(ranks=(1000,), ci=None)(queries, labels, references, reference_labels)
    assert report["rank_1000"] == 1


@settings(deadline=None, derandomize=True, max_examples=15)
@given(seed=st.integers(0, 1000))
def test_strangers_in_the_gallery_never_raise_a_rate_and_order_does_not_matter(seed):
    queries, labels, references, reference_labels = one_to_n(spread=1.5, seed=seed)
    others = np.random.default_rng(seed).normal(size=(50, 16)).astype(np.float32)
    evaluator = IdentificationEvaluator(fpir=(0.2,), ci=None)
    clean = evaluator(queries, labels, references, reference_labels)
    crowded = evaluator(queries, labels, np.concatenate([references, others]), [*reference_labels, *[-1] * 50])
    assert all(crowded[name] <= clean[name] for name in clean.metrics)
    order = np.random.default_rng(seed).permutation(len(references))
    assert evaluator(queries, labels, references[order], reference_labels[order]).metrics == clean.metrics


def test_galleries_are_averaged_and_not_joined():
    queries, labels, references, reference_labels = one_to_n(spread=1.5)
    half = reference_labels % 2 == 0
    galleries = [(references[part], reference_labels[part]) for part in (half, ~half)]
    evaluator = IdentificationEvaluator(fpir=(0.1,), resamples=200)
    report = evaluator.over_galleries(queries, labels, galleries)
    each = [evaluator(queries, labels, *gallery) for gallery in galleries]
    joined = evaluator(queries, labels, references, reference_labels)
    for name in report.metrics:
        assert report[name] == pytest.approx(np.mean([one[name] for one in each]))
        assert report.ci[name][0] <= report[name] <= report.ci[name][1]
    assert report["rank_1"] > joined["rank_1"]
    assert report.counts == {"queries": 90, "galleries": 2, "references": 20}
    assert (report.per_unit, report.thresholds) == ({}, {})


def test_targets_follow_the_number_of_strangers():
    queries, labels, references, reference_labels = one_to_n(classes=60, strangers=50)
    report = IdentificationEvaluator(ci=None)(queries, labels, references, reference_labels)
    assert list(report.metrics) == ["rank_1", "rank_5", "rank_10", "tpir_at_fpir_0.1"]
    assert not report.warnings
    doubtful = IdentificationEvaluator(fpir=(0.01,), ci=None)(queries, labels, references, reference_labels)
    assert doubtful.warnings == (
        "TPIR at FPIR 0.01 is decided by fewer than 10 of 150 non-mated queries: mostly chance",
    )


@pytest.mark.parametrize(("ci", "method"), [("identity", "over 60 people, left out one at a time"), ("query", "bootstrap over ")])
def test_intervals_hold_the_rates(ci, method):
    arguments = one_to_n(classes=60, spread=1.5)
    report = IdentificationEvaluator(fpir=(0.1, 0.3), ci=ci, resamples=200)(*arguments)
    assert report.ci_method.startswith(method)
    assert set(report.ci) == set(report.metrics)
    for name, (low, high) in report.ci.items():
        assert low < report[name] < high
        assert high - low < 0.5


def test_queries_of_one_person_are_resampled_together():
    queries, labels, references, reference_labels = one_to_n(classes=40, spread=1.5)
    copies = np.repeat(np.arange(len(queries)), 5)
    widths = []
    for rows in (np.arange(len(queries)), copies):
        report = IdentificationEvaluator(ranks=(1,), resamples=300)(
            queries[rows], labels[rows], references, reference_labels
        )
        widths.append(report.ci["rank_1"][1] - report.ci["rank_1"][0])
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_perfect_clusters_are_all_found_with_the_doubt_that_remains():
    report = IdentificationEvaluator(fpir=(0.1,), resamples=50)(*one_to_n(spread=1e-3))
    assert set(report.metrics.values()) == {1}
    assert 0.8 < report.ci["rank_1"][0] < 0.9  # Wilson's interval of 20 people


def test_collapsed_embeddings_are_all_taken_for_the_first_of_the_gallery():
    queries, labels, references, reference_labels = one_to_n()
    evaluator = IdentificationEvaluator(ranks=(1, 20), fpir=(0.5,), ci=None)
    report = evaluator(np.ones_like(queries), labels, 2 * np.ones_like(references), reference_labels)
    assert report.metrics == {"rank_1": 1 / 20, "rank_20": 1, "tpir_at_fpir_0.5": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery_labels": [f"other {x}" for x in range(20)]}, "got 90 queries without a reference of their label"),
        ({"gallery": np.ones((20, 3))}, "must have the same width, got 16 and 3"),
        ({"gallery": np.zeros((0, 16)), "gallery_labels": []}, r"must have shape .* got shape \(0, 16\)"),
        ({"embeddings": np.full((90, 16), np.nan)}, "must be finite, got nan in row 0"),
        ({"labels": [1]}, r"labels must be one per row \(90\), got 1"),
        ({"gallery_labels": None}, "gallery_labels and gallery must come together, got only gallery"),
        ({"gallery": None}, "gallery_labels and gallery must come together, got only gallery_labels"),
        ({"gallery_labels": [1]}, r"gallery_labels must be one per row \(20\), got 1"),
    ],
)
def test_what_cannot_be_identified_is_named(change, message):
    names = ("embeddings", "labels", "gallery", "gallery_labels")
    with pytest.raises(ValueError, match=message):
        IdentificationEvaluator()(**dict(zip(names, one_to_n(), strict=True)) | change)


def test_a_false_alarm_rate_needs_strangers():
    arguments = one_to_n(strangers=0)
    assert list(IdentificationEvaluator(ci=None)(*arguments).metrics) == ["rank_1", "rank_5", "rank_10"]
    with pytest.raises(ValueError, match="fpir must be left out where every query is mated"):
        IdentificationEvaluator(fpir=(0.1,))(*arguments)


def test_the_gallery_must_not_be_the_queries():
    embeddings, labels = clusters()
    with pytest.raises(ValueError, match="must be two sets"):
        IdentificationEvaluator()(embeddings, labels, embeddings, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranks": ()}, "ranks must name at least one rank, got none"),
        ({"ranks": (1, 0)}, "ranks must be a positive integer, got 0"),
        ({"fpir": (2,)}, r"fpir must be in \(0, 1\), got 2"),
        ({"ci": "person"}, "ci must be a known name, got 'person'"),
        ({"similarity": "l1"}, "similarity must be a known name, got 'l1'"),
    ],
)
def test_an_evaluator_that_cannot_work_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        IdentificationEvaluator(**arguments)
    with pytest.raises(ValueError, match="galleries must be at least one, got none"):
        IdentificationEvaluator().over_galleries([[1.0]], [1], [])


# Distractors


@settings(deadline=None, derandomize=True, max_examples=10)
@given(seed=st.integers(0, 1000), similarity=st.sampled_from(["cosine", "euclidean"]), entries=st.integers(1, 100))
def test_the_distractor_curve_is_that_of_brute_force(seed, similarity, entries):
    embeddings, labels = clusters(classes=8, per_class=3, seed=seed)
    labels = labels.copy()
    labels[:2] = [100, 101]  # without a mate
    others = np.random.default_rng(seed).normal(size=(60, 16)).astype(np.float32)
    evaluator = IdentificationEvaluator(similarity=similarity, ci=None, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identification, "ENTRIES", entries)
        report = evaluator.distractor_curve(embeddings, labels, others, sizes=(60, 5, 20))
    order = np.random.default_rng(seed).permutation(60)
    everyone = np.concatenate([embeddings, others])
    for size in (5, 20, 60):
        rates = []
        for query, label in enumerate(labels):
            mates = np.flatnonzero((labels == label) & (np.arange(len(labels)) != query))
            if len(mates):
                rows = np.concatenate([mates, len(labels) + order[:size]])
                scores = pair_scores(everyone, np.full(len(rows), query), rows, similarity)
                rates.append((scores[: len(mates)] > scores[len(mates) :].max()).mean())
        assert report[f"rank_1_at_{size}"] == pytest.approx(np.mean(rates))
    assert report.curves["distractors"]["size"].tolist() == [5, 20, 60]
    assert (np.diff(report.curves["distractors"]["rate"]) <= 0).all()
    assert report.counts["skipped"] == np.isnan(report.per_unit["rank_1_at_5"]).sum() >= 2


def test_a_tie_with_a_distractor_is_a_failure():
    report = IdentificationEvaluator(ci=None).distractor_curve(
        np.ones((6, 2)), [0, 0, 1, 1, 2, 2], 2 * np.ones((10, 2))
    )
    assert report.metrics == {"rank_1_at_10": 0}


def test_sizes_are_powers_of_ten_up_to_all_distractors():
    embeddings, labels = clusters(classes=20, per_class=3)
    others = np.random.default_rng(0).normal(size=(250, 16))
    report = IdentificationEvaluator(resamples=50).distractor_curve(embeddings, labels, others)
    assert list(report.metrics) == ["rank_1_at_10", "rank_1_at_100", "rank_1_at_250"]
    assert all(low <= report[name] <= high for name, (low, high) in report.ci.items())
    with pytest.raises(ValueError, match="sizes must be at most 250, the number of distractors, got 300"):
        IdentificationEvaluator().distractor_curve(embeddings, labels, others, sizes=(300,))
    with pytest.raises(ValueError, match="labels must repeat, got 60 images of as many identities"):
        IdentificationEvaluator().distractor_curve(embeddings, np.arange(60), others)


def test_templates_make_better_galleries_than_single_images():
    queries, labels, references, reference_labels = one_to_n(per_class=8, spread=2)
    more, more_labels = queries[::2], labels[::2]
    enrolled = more_labels >= 10
    rows, names = templates(more[enrolled], more_labels[enrolled], normalize=True)
    evaluator = IdentificationEvaluator(ranks=(1,), ci=None)
    single = evaluator(queries[1::2], labels[1::2], references, reference_labels)
    assert evaluator(queries[1::2], labels[1::2], rows, names)["rank_1"] > single["rank_1"]
