"""Retrieval beside other libraries: equal where definitions agree, and by how much not where they differ.

What each of them reports under which name stands in docs/evaluation.md.
"""

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import BaseDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from pml_center.evaluation import RetrievalEvaluator
from tests import golden_io
from tests.evaluation.clusters import PML_METRICS, clusters, unit

WHOLE = ("mean_average_precision", "mean_reciprocal_rank")
KS = (1, 2, 5, 10)


def irregular(case):
    """Classes of 1 to 13 images, of which 3 have one: the file, and the arguments of the evaluator."""
    golden = golden_io.load(f"eval__retrieval__irregular_{case}")
    if case == "self":
        return golden, [golden.arrays[f"in/{key}"] for key in ("embeddings", "labels")]
    return golden, [golden.arrays[f"in/{key}"] for key in ("query", "query_labels", "reference", "reference_labels")]


def with_k(*names):
    return tuple(f"{name}_at_{k}" for name in names for k in KS)


# pytorch-metric-learning


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_the_evaluator_equals_pml(leave_one_out, similarity):
    embeddings, labels = clusters()
    references, reference_labels = clusters(per_class=9, seed=1)
    if similarity == "cosine":  # PML ranks by Euclidean distance, which ranks unit vectors as their cosine does
        embeddings, references = unit(embeddings), unit(references)
    others = (None, None) if leave_one_out else (references, reference_labels)
    report = RetrievalEvaluator((*PML_METRICS, "mean_average_precision"), similarity=similarity)(
        embeddings, labels, *others
    )
    calculator = AccuracyCalculator(include=tuple(report.per_unit)[4:], device=torch.device("cpu"))
    tensors = (torch.from_numpy(values) for values in (embeddings, labels, *others) if values is not None)
    found = calculator.get_accuracy(*tensors)
    assert set(found) == {*PML_METRICS, "mean_average_precision"}
    for name, value in found.items():
        # Deep in the list lie scores closer than float32 tells apart, which each library rounds in its own way.
        tolerance = 1e-5 if name == "mean_average_precision" else 1e-9
        assert report[name] == pytest.approx(value, rel=0, abs=tolerance), name


@pytest.mark.parametrize("case", ["self", "split", "superset"])
@pytest.mark.parametrize(("similarity", "official"), [("euclidean", "l2/knone"), ("cosine", "cosine/knone")])
def test_irregular_classes_give_the_values_of_pml(case, similarity, official):
    """Both leave out the queries that have nothing to find."""
    golden, arguments = irregular(case)
    evaluator = RetrievalEvaluator((*PML_METRICS, *WHOLE), recall_at=(), similarity=similarity)
    found = evaluator.get_accuracy(*arguments, ref_includes_query=case == "superset")
    assert set(found) == {*PML_METRICS, *WHOLE}
    for name, value in found.items():
        # PML computes reciprocal ranks in float32.
        tolerance = 1e-7 if name == "mean_reciprocal_rank" else 1e-12
        assert value == pytest.approx(float(golden.arrays[f"out/pml/{official}/sample/{name}"]), abs=tolerance)


@pytest.mark.parametrize("case", ["self", "split"])
def test_averages_over_classes_are_the_averages_of_averages_of_pml(case):
    golden, arguments = irregular(case)
    report = RetrievalEvaluator((*PML_METRICS, *WHOLE), similarity="euclidean")(*arguments)
    table = report.per_class()
    table = table[np.argsort(table["label"])]  # PML sorts by label
    assert report.counts["skipped"] == 3
    for name in PML_METRICS:
        golden.assert_close(f"out/pml/l2/knone/avg_of_avgs/{name}", report[f"macro_{name}"])
        golden.assert_close(f"out/pml/l2/knone/per_class/{name}", table[name])


@pytest.mark.parametrize("case", ["self", "split"])
def test_pml_cuts_average_precision_where_k_ends(case):
    """With k='max_bin_count', as with any k, PML's mean_average_precision looks at k neighbours and divides by R."""
    golden, arguments = irregular(case)
    report = RetrievalEvaluator(WHOLE, similarity="euclidean")(*arguments)
    for k in ("kmax", "k3"):
        assert report["mean_average_precision"] > golden.arrays[f"out/pml/l2/{k}/sample/mean_average_precision"] + 0.05


# OpenMetricLearning


@pytest.mark.parametrize("case", ["self", "split"])
def test_recall_is_the_cumulative_match_of_oml(case):
    """OML keeps the queries that have nothing to find, at 0."""
    golden, arguments = irregular(case)
    report = RetrievalEvaluator(recall_at=KS, similarity="euclidean", singletons="zero")(*arguments)
    for k in KS:
        golden.assert_close(f"out/oml/full/cmc@{k}", report.per_unit[f"recall_at_{k}"])


@pytest.mark.parametrize("case", ["self", "split"])
def test_precision_and_average_precision_of_oml_have_other_denominators(case):
    """OML divides precision by min(k, R), not k; average precision by the hits among the first k, not min(k, R)."""
    golden, arguments = irregular(case)
    report = RetrievalEvaluator(with_k("precision", "map"), similarity="euclidean")(*arguments)
    codes = report.codes
    relevant = np.bincount(report.reference_codes, minlength=len(report.classes))[codes] - (case == "self")
    some = relevant > 0
    differences = 0
    for k in KS:
        precision, average = (report.per_unit[f"{name}_at_{k}"][some] for name in ("precision", "map"))
        most, hits = np.minimum(relevant, k)[some], np.maximum(precision * k, 1)
        official_precision = golden.arrays[f"out/oml/full/precision@{k}"]
        official_average = golden.arrays[f"out/oml/full/map@{k}"]
        np.testing.assert_allclose(official_precision[some], precision * k / most, atol=1e-6)
        np.testing.assert_allclose(official_average[some], average * most / hits, atol=1e-6)
        assert np.isnan(official_precision[~some]).all()
        differences += (abs(official_average[some] - average) > 0.01).sum()
    assert differences > 20


# torchmetrics


@pytest.mark.parametrize("case", ["self", "split"])
@pytest.mark.parametrize(("singletons", "action"), [("skip", "skip"), ("zero", "neg")])
def test_torchmetrics_has_the_same_values_under_its_own_names(case, singletons, action):
    golden, arguments = irregular(case)
    names = (*with_k("ndcg"), "r_precision")
    report = RetrievalEvaluator(names, recall_at=KS, similarity="euclidean", singletons=singletons)(*arguments)
    pairs = {
        f"{our}_at_{k}": f"{their}@{k}" for our, their in (("recall", "hit"), ("ndcg", "ndcg")) for k in (1, 5, 10)
    }
    for our, their in (pairs | {"r_precision": "rprecision"}).items():
        assert report[our] == pytest.approx(float(golden.arrays[f"out/torchmetrics/{action}/{their}"]), abs=1e-6), our


def test_torchmetrics_has_zero_for_scores_below_zero():
    """Its precision, recall, reciprocal rank and average precision take only positive scores for retrieved."""
    golden, arguments = irregular("self")
    report = RetrievalEvaluator(("precision_at_5", *WHOLE), similarity="euclidean")(*arguments)
    for name, official in (("precision_at_5", "precision@5"), *zip(WHOLE, ("map@None", "mrr@None"), strict=True)):
        assert golden.arrays[f"out/torchmetrics/skip/{official}"] == 0
        assert report[name] > 0.3


# fast-reid, and with it torchreid and the strong baseline


class Lookup(BaseDistance):
    """A given matrix of distances between rows that are numbered by their one column."""

    def __init__(self, matrix):
        super().__init__(normalize_embeddings=False)
        self.matrix = torch.from_numpy(matrix)

    def compute_mat(self, query_emb, ref_emb):
        return self.matrix[query_emb[:, 0].long()][:, ref_emb[:, 0].long()]


def market(name, order=None, **settings):
    """The report on a file's distances and cameras, the gallery in another order where one is given."""
    golden = golden_io.load(f"eval__reid__{name}")
    matrix = golden.arrays["in/distmat"]
    queries, gallery = (np.arange(size)[:, None] for size in matrix.shape)
    order = np.arange(len(gallery)) if order is None else order
    metrics = ("mean_average_precision", "mean_inverse_negative_penalty")
    report = RetrievalEvaluator(metrics, recall_at=range(1, 21), similarity=Lookup(matrix), ci=None, **settings)(
        queries,
        golden.arrays["in/q_pids"],
        gallery[order],
        golden.arrays["in/g_pids"][order],
        golden.arrays["in/q_camids"],
        golden.arrays["in/g_camids"][order],
    )
    return golden, report


def test_cameras_are_left_out_as_in_fast_reid():
    golden, report = market("market")
    assert report.counts["queries"] == golden.arrays["out/num_valid_queries"] == 29
    assert "without references of the same label and group" in report.protocol
    curve = [report[f"recall_at_{k}"] for k in range(1, 21)]
    for library in ("fastreid", "torchreid", "reid_strong_baseline"):
        np.testing.assert_allclose(curve, golden.arrays[f"out/{library}/cmc"], rtol=1e-6)
        golden.assert_close(f"out/{library}/mAP", report["mean_average_precision"])
    measured = ~np.isnan(report.per_unit["mean_average_precision"])
    golden.assert_close("out/fastreid/AP", report.per_unit["mean_average_precision"][measured])
    golden.assert_close("out/fastreid/INP", report.per_unit["mean_inverse_negative_penalty"][measured])
    golden.assert_close("out/fastreid/mINP", report["mean_inverse_negative_penalty"])


def test_without_cameras_the_numbers_are_others():
    golden = golden_io.load("eval__reid__market")
    matrix = golden.arrays["in/distmat"]
    queries, gallery = (np.arange(size)[:, None] for size in matrix.shape)
    evaluator = RetrievalEvaluator(("mean_average_precision",), similarity=Lookup(matrix))
    report = evaluator(queries, golden.arrays["in/q_pids"], gallery, golden.arrays["in/g_pids"])
    assert abs(report["mean_average_precision"] - golden.arrays["out/fastreid/mAP"]) > 0.01


def test_with_ties_fast_reid_gives_one_of_many_values_and_ours_their_mean():
    """Its sort is not stable; ours ranks ties by row, so that every order of the gallery is one way to break them."""
    random = np.random.default_rng(0)
    golden, expected = market("market_ties", ties="expected")
    orders = [market("market_ties", random.permutation(60))[1] for _ in range(100)]
    assert expected.tie_rate > 0.5
    assert "equal scores may decide" in expected.warnings[0]
    for name, official in (("mean_average_precision", "mAP"), ("mean_inverse_negative_penalty", "mINP")):
        values = np.array([report[name] for report in orders])
        assert values.min() - 0.01 <= golden.arrays[f"out/fastreid/{official}"] <= values.max() + 0.01
        assert expected[name] == pytest.approx(values.mean(), abs=4 * values.std() / 10)


def test_ties_are_resolved_inside_the_range_of_pml():
    """PML's value depends on the order of the rows; ours, with its rule for ties, is one of those it could give."""
    golden = golden_io.load("eval__ties__grid")
    arguments = [golden.arrays[f"in/{key}"] for key in ("embeddings", "labels")]
    by_row, expected = (
        RetrievalEvaluator((*PML_METRICS, *WHOLE), similarity="euclidean", ties=ties)(*arguments)
        for ties in ("index", "expected")
    )
    for name in (*PML_METRICS, *WHOLE):
        low, high, mean = (golden.arrays[f"out/pml/perm_{which}/{name}"] for which in ("min", "max", "mean"))
        assert low <= by_row[name] <= high
        assert low <= expected[name] <= high
        assert expected[name] == pytest.approx(mean, abs=(high - low) / 6)
    assert by_row.tie_rate == expected.tie_rate > 0.9
    assert by_row.protocol.endswith("ties 100.0 %")
    assert expected.protocol.endswith("ties 100.0 % in expectation")
