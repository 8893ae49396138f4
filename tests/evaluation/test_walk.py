"""A walk over wrong types, sizes and values: whatever is refused is refused by us, with rule, value and remedy."""

import re
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pml_center import arrays, evaluation
from pml_center.evaluation import (
    ClusteringEvaluator,
    Episode,
    FaissSearcher,
    FewShotEvaluator,
    IdentificationEvaluator,
    OpenSetEvaluator,
    Pairs,
    Ranking,
    RetrievalEvaluator,
    Samples,
    VerificationEvaluator,
)

EMBEDDINGS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
GALLERY = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
LABELS, GALLERY_LABELS = [0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 3]
SCORES, SAME, FOLDS = [0.9, 0.1, 0.8, 0.4, 0.7, 0.2], [1, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1]
PAIRS = Pairs([0, 0, 2, 1], [1, 2, 3, 3], same=[1, 0, 1, 0], folds=[0, 0, 1, 1])
RANKING = Ranking.of(np.array([[True, False], [False, True]]), np.array([1, 2]))
EPISODE = Episode(np.array([0, 2]), np.array([0, 1]), np.array([1, 3]), np.array([0, 1]))
NAMES = [f"{row}.png" for row in range(6)]
OF_CI = {"ci": None, "ci_level": 0.9, "resamples": 3, "seed": 0}


def trained():
    searcher = FaissSearcher()
    searcher.train(EMBEDDINGS)
    return searcher


def asked(evaluator, /, **given):
    return evaluator(**given)


def made(kind, given, /, **options):
    return kind(**options)(**given)


ROWS = {"embeddings": EMBEDDINGS, "labels": LABELS}
SETS = ROWS | {"gallery": GALLERY, "gallery_labels": GALLERY_LABELS}
OPEN_SETS = SETS | {"gallery_labels": [0, 1, 3, 3, 4]}
K_METRICS = {name: {"ranking": RANKING, "k": 2} for name in evaluation.__all__ if name.endswith("_at_k")}
R_METRICS = {
    name: {"ranking": RANKING}
    for name in evaluation.__all__
    if name in ("r_precision",) or (name.startswith("mean_") and hasattr(evaluation, name))
}

# Each public name with arguments that it takes; several are called or built in more than one way.
CASES = {
    "RetrievalEvaluator": (
        lambda **options: made(RetrievalEvaluator, ROWS, **options),
        {"metrics": ["r_precision"], "recall_at": [1], "similarity": "dot", "index": "Flat", "singletons": "skip"}
        | {"ties": "index", "chunk_size": 2, **OF_CI},
    ),
    "RetrievalEvaluator()": (
        RetrievalEvaluator(ci=None),
        SETS | {"query_groups": [0] * 6, "gallery_groups": [1] * 5, "names": NAMES, "gallery_names": list("vwxyz")},
    ),
    "RetrievalEvaluator.get_accuracy": (
        RetrievalEvaluator(ci=None).get_accuracy,
        {"query": EMBEDDINGS, "query_labels": LABELS, "reference": GALLERY, "reference_labels": GALLERY_LABELS}
        | {"include": ("r_precision",), "exclude": ()},
    ),
    "IdentificationEvaluator": (
        lambda **options: made(IdentificationEvaluator, SETS, **options),
        {"ranks": [1, 2], "fpir": None, "similarity": "cosine", **OF_CI},
    ),
    "IdentificationEvaluator()": (IdentificationEvaluator(ci=None), SETS),
    "IdentificationEvaluator.distractor_curve": (
        IdentificationEvaluator(ci=None).distractor_curve,
        ROWS | {"distractors": GALLERY, "sizes": [2]},
    ),
    "OpenSetEvaluator": (
        lambda **options: made(OpenSetEvaluator, OPEN_SETS, **options),
        {"tpr": [0.5], "similarity": "cosine", **OF_CI},
    ),
    "OpenSetEvaluator()": (OpenSetEvaluator(resamples=3), OPEN_SETS),
    "OpenSetEvaluator.of_scores": (
        OpenSetEvaluator(resamples=3).of_scores,
        {"scores": EMBEDDINGS, "labels": LABELS, "classes": [0, 1, 3]},
    ),
    "VerificationEvaluator": (
        lambda **options: made(VerificationEvaluator, ROWS, **options),
        {"far": [0.5], "similarity": "cosine", "threshold": None, **OF_CI}
        | {"p_target": [0.1], "c_miss": 1, "c_fa": 1, "top_n": 3},
    ),
    "VerificationEvaluator()": (
        VerificationEvaluator(ci=None),
        ROWS | {"pairs": PAIRS, "names": NAMES, "cohort": GALLERY},
    ),
    "VerificationEvaluator.of_scores": (
        VerificationEvaluator(resamples=3).of_scores,
        {"scores": SCORES, "same": SAME, "folds": FOLDS, "people": [[0, 0], [0, 1], [1, 1], [0, 1], [2, 1], [2, 2]]},
    ),
    "ClusteringEvaluator": (
        lambda **options: made(ClusteringEvaluator, ROWS, **options),
        {"clusters": 2, "similarity": "cosine", "runs": 1, "iterations": 2, "seed": 0},
    ),
    "ClusteringEvaluator()": (ClusteringEvaluator(runs=1, iterations=2), ROWS),
    "FewShotEvaluator": (
        lambda **options: made(FewShotEvaluator, ROWS, **options),
        {"ways": 2, "shots": 1, "queries": 1, "episodes": None, "classifier": "mean", "neighbours": 1}
        | {"similarity": "dot", **OF_CI},
    ),
    "FewShotEvaluator()": (FewShotEvaluator(ways=2, queries=1, resamples=3), ROWS),
    "FewShotEvaluator.of_episodes": (
        FewShotEvaluator(resamples=3).of_episodes,
        {"embeddings": EMBEDDINGS, "episodes": [EPISODE]},
    ),
    "Episode": (
        lambda **given: FewShotEvaluator(resamples=3).of_episodes(EMBEDDINGS, [Episode(**given)]),
        EPISODE._asdict(),
    ),
    "sample_episodes": (evaluation.sample_episodes, {"labels": LABELS, "ways": 2, "shots": 1, "queries": 1, "seed": 0}),
    "FaissSearcher": (
        lambda **options: made(FaissSearcher, {"query": EMBEDDINGS, "k": 1, "reference": GALLERY}, **options),
        {"index": "Flat", "similarity": "dot", "parameters": ""},
    ),
    "FaissSearcher()": (lambda **given: trained()(**given), {"query": EMBEDDINGS, "k": 1, "reference": GALLERY}),
    "FaissSearcher.add": (lambda **given: trained().add(**given), {"embeddings": GALLERY}),
    "FaissSearcher.load": (lambda **given: trained().load(**given), {"filename": "nowhere"}),
    "Pairs": (Pairs, {"first": [0, 0], "second": [1, 2], "same": [1, 0], "folds": [0, 1], "people": [[0, 0], [0, 1]]}),
    "Pairs.of_names": (
        Pairs.of_names,
        {"first": ["a", "a"], "second": ["b", "c"], "same": [1, 0], "names": ["a", "b", "c"]},
    ),
    "Pairs.of_paths": (
        Pairs.of_paths,
        {"first": ["a", "a"], "second": ["b", "c"], "same": [1, 0], "paths": ["a", "b", "c"]},
    ),
    "Ranking": (Ranking.of, {"hits": np.array([[True, False]]), "relevant": np.array([1])}),
    "Samples": (lambda **given: RetrievalEvaluator(ci=None)(Samples(**given)), ROWS | {"names": NAMES}),
    "roc": (evaluation.roc, {"scores": SCORES, "same": SAME}),
    "Roc.tar_at": (evaluation.roc(SCORES, SAME).tar_at, {"far": 0.5}),
    "best_threshold": (evaluation.best_threshold, {"scores": SCORES, "same": SAME}),
    "cross_validated_accuracy": (
        evaluation.cross_validated_accuracy,
        {"scores": SCORES, "same": SAME, "folds": FOLDS},
    ),
    "pair_scores": (evaluation.pair_scores, {"rows": EMBEDDINGS, "first": [0], "second": [1], "similarity": "dot"}),
    "nearest_neighbours": (
        evaluation.nearest_neighbours,
        {"queries": EMBEDDINGS, "k": 2, "references": GALLERY, "similarity": "cosine", "chunk_size": 2},
    ),
    "templates": (
        evaluation.templates,
        {"embeddings": EMBEDDINGS, "template_ids": LABELS, "media_ids": LABELS, "weights": [1.0] * 6},
    ),
    "intra_inter_distance": (evaluation.intra_inter_distance, ROWS),
    "adjusted_mutual_information": (evaluation.adjusted_mutual_information, {"labels": LABELS, "clusters": FOLDS}),
    "normalized_mutual_information": (evaluation.normalized_mutual_information, {"labels": LABELS, "clusters": FOLDS}),
    "pairwise_f1": (evaluation.pairwise_f1, {"labels": LABELS, "clusters": FOLDS}),
    "shared_identities": (evaluation.shared_identities, {"labels": LABELS, "others": LABELS}),
    "bootstrap_interval": (
        evaluation.bootstrap_interval,
        {"values": SCORES, "clusters": FOLDS, "level": 0.9, "resamples": 3, "seed": 0},
    ),
    "class_interval": (
        evaluation.class_interval,
        {"values": SCORES, "classes": FOLDS, "level": 0.9, "macro": False},
    ),
    "wilson_interval": (evaluation.wilson_interval, {"successes": 3, "trials": 4, "level": 0.9}),
    "paired_test": (
        evaluation.paired_test,
        {"first": SCORES, "second": FOLDS, "level": 0.9, "resamples": 3, "seed": 0, "clusters": FOLDS},
    ),
    "resampled_counts": (
        lambda **given: list(evaluation.resampled_counts(**given)),
        {"units": 3, "resamples": 3, "seed": 0},
    ),
    "two_sample_bootstrap": (
        lambda **given: evaluation.two_sample_bootstrap(lambda one, other: [one.sum() + other.sum()], **given),
        {"genuine_ids": [0, 1], "impostor_ids": [[0, 1]], "level": 0.9, "resamples": 3, "seed": 0},
    ),
    "holm": (evaluation.holm, {"p_values": [0.1, 0.2]}),
    "runs_interval": (
        evaluation.runs_interval,
        {"values": [SCORES, SCORES[::-1]], "level": 0.9, "clusters": FOLDS, "bounded": True},
    ),
    "paired_runs_test": (
        evaluation.paired_runs_test,
        {"first": [SCORES], "second": [FOLDS], "level": 0.9, "clusters": FOLDS},
    ),
    "save_samples": (
        lambda **given: evaluation.save_samples("out", Samples(**given)),
        ROWS | {"groups": LABELS, "names": NAMES},
    ),
    "load_samples": (evaluation.load_samples, {"folder": "nowhere"}),
    "lfw_pairs": (
        evaluation.lfw_pairs,
        {"path": "pairs.txt", "names": ["Ann_0001.jpg", "Ann_0002.jpg", "Bob_0001.jpg"]},
    ),
    "speaker_trials": (evaluation.speaker_trials, {"path": "trials.txt", "names": ["a", "b", "c"]}),
    "arrays.as_matrix": (arrays.as_matrix, {"values": EMBEDDINGS, "name": "embeddings"}),
    "arrays.as_array": (arrays.as_array, {"values": EMBEDDINGS}),
    "arrays.as_list": (arrays.as_list, {"values": LABELS}),
    "arrays.class_codes": (arrays.class_codes, {"labels": LABELS, "rows": 6}),
    "arrays.joined": (arrays.joined, {"values": [EMBEDDINGS, GALLERY]}),
    **{name: (getattr(evaluation, name), arguments) for name, arguments in (K_METRICS | R_METRICS).items()},
}
# What reads no arrays: what evaluators return, what runs a model, writes a page or reads an archive.
ELSEWHERE = {
    *(
        "Evaluator",
        "OpenSetReport",
        "Report",
        "RetrievalReport",
        "ThresholdReport",
        "VerificationReport",
        "FoldAccuracy",
        "Neighbours",
    ),
    *("PairedTest", "Roc", "embed", "embed_samples", "omniglot_runs", "write_html"),
}
OF_THE_HOUSE = {"ranking", "name", "rows"}  # arguments that only the library itself makes


class NotAvailable:
    """As pandas' NA: whether it equals anything is not known."""

    def __eq__(self, other):
        return self

    __ne__, __hash__ = __eq__, object.__hash__

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


def is_left_out(argument, wrong):
    """What takes as long as it was asked to, and functions of the caller's own."""
    is_count = argument in ("resamples", "episodes", "runs", "units", "trials")
    return (is_count and wrong == repr(10**30)) or (argument == "index" and wrong == "a function")


WRONG = {
    **{repr(value): value for value in (None, True, -1, 0, 1, 2.5, 10**30, 1j, "", "abc", b"x", (), [], {}, {1, 2})},
    **{repr(value): value for value in (float("nan"), float("inf"), [None] * 6, ["a"] * 6, [[1, 2], [3]], [1, [2]])},
    "NaN labels": [float("nan")] * 6,
    "None among labels": [0, 0, 1, None, 2, 2],
    "NA among labels": [0, 0, 1, NotAvailable(), 2, 2],
    "NaT": np.array(["2020-01-01"] * 5 + ["NaT"], "M8[ns]"),
    "masked labels": np.ma.masked_equal([0, 0, 1, 1, 2, 2], 2),
    "masked rows": np.ma.masked_less(EMBEDDINGS, 0),
    "a column": np.array(LABELS)[:, None],
    "a column tensor": torch.tensor(LABELS)[:, None],
    "one-hot": np.eye(3)[LABELS],
    "tensors": [torch.tensor(label) for label in LABELS],
    "tensors with gradients": [torch.ones(3, requires_grad=True)] * 6,
    "unhashable in tuples": [(0, [1])] * 6,
    "a generator": "a generator",  # made anew for each call
    "no rows": np.zeros((0, 3)),
    "no columns": np.zeros((6, 0)),
    "a number array": np.array(3),
    "three axes": np.zeros((2, 3, 4)),
    "zeros": np.zeros((6, 3)),
    "other width": np.ones((6, 7)),
    "nan rows": np.full((6, 3), np.nan),
    "1e300": np.full((6, 3), 1e300),
    "texts": np.array([["a"] * 3] * 6),
    "objects": np.array([[None] * 3] * 6),
    "complex": np.ones((6, 3), complex),
    "structured": np.zeros(6, [("x", int)]),
    "sparse": torch.eye(6).to_sparse(),
    "meta": torch.ones(6, 3, device="meta"),
    "fp8": torch.ones(6, 3).to(torch.float8_e4m3fn),
    "complex tensor": torch.ones(6, 3, dtype=torch.complex64).conj(),
    "parts": [EMBEDDINGS[:2], np.ones((4, 5))],
    "parts of other axes": [EMBEDDINGS, np.ones(3)],
    "an object": object(),
    "a function": len,
    "a path": Path("nowhere"),
    "huge numbers": [10**30] * 6,
    "negative": [-1] * 6,
    "beyond": [99] * 6,
}
FORM = re.compile(r".+ must .+, got .+\. .+", re.DOTALL)


def refused_badly(case, argument, wrong):
    """What is wrong with how a value is refused; None where it is taken or refused well."""
    function, arguments = CASES[case]
    value = (label for label in LABELS) if wrong == "a generator" else WRONG[wrong]
    try:
        function(**arguments | {argument: value})
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        ours = "pml_center" in where and isinstance(error, (ValueError, TypeError, KeyError, FileNotFoundError))
        if ours and FORM.fullmatch(str(error)):
            return None
        return f"{case}({argument}={wrong}): {type(error).__name__}: {error} in {where}"
    return None


WALKED = [
    (case, argument)
    for case, (_, arguments) in CASES.items()
    for argument in arguments
    if argument not in OF_THE_HOUSE or case == "pair_scores"
]


def test_every_public_name_is_walked():
    assert {name.partition("(")[0].partition(".")[0] for name in CASES} | ELSEWHERE >= set(evaluation.__all__)


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(place=st.sampled_from(WALKED), wrong=st.sampled_from(list(WRONG)))
@example(place=("intra_inter_distance", "labels"), wrong="NaT")
def test_whatever_is_refused_is_refused_with_rule_value_and_remedy(place, wrong, tmp_path_factory):
    if is_left_out(place[1], wrong):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.getbasetemp())
        Path("pairs.txt").write_text("1\nAnn 1 2\nAnn 1 Bob 1\n")
        Path("trials.txt").write_text("1 a b\n0 a c\n")
        assert refused_badly(*place, wrong) is None
