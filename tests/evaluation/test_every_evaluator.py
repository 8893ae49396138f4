"""What all evaluators share: one shape of call, folders and models as input, a report that can be kept."""

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pml_center.evaluation import (
    ClusteringEvaluator,
    Episode,
    FewShotEvaluator,
    IdentificationEvaluator,
    OpenSetEvaluator,
    Pairs,
    Report,
    RetrievalEvaluator,
    Samples,
    VerificationEvaluator,
    adjusted_mutual_information,
    intra_inter_distance,
    lfw_pairs,
    normalized_mutual_information,
    save_samples,
)
from tests.evaluation.clusters import clusters

EVALUATORS = [
    RetrievalEvaluator(resamples=20),
    VerificationEvaluator(resamples=20),
    IdentificationEvaluator(resamples=20),
    ClusteringEvaluator(runs=2),
    FewShotEvaluator(queries=3, resamples=20),
    OpenSetEvaluator(resamples=20),
]
WITH_GALLERY = (IdentificationEvaluator, OpenSetEvaluator)

each_evaluator = pytest.mark.parametrize("evaluator", EVALUATORS, ids=lambda each: type(each).__name__)


@pytest.fixture
def sets():
    """Embeddings and labels; a gallery and its labels."""
    return *clusters(classes=8, per_class=6, spread=1.5), *clusters(classes=6, per_class=2, spread=1.5, seed=1)


def arguments(evaluator, sets):
    """What the evaluator is called with: some need a gallery."""
    return sets if isinstance(evaluator, WITH_GALLERY) else sets[:2]


def assert_alike(first, second):
    assert first.metrics == second.metrics
    assert first.ci == second.ci
    assert first.protocol == second.protocol


@each_evaluator
def test_a_report_can_be_printed_kept_and_compared(evaluator, sets, tmp_path):
    report = evaluator(*arguments(evaluator, sets))
    assert isinstance(report, Report)
    assert str(report).startswith(report.summary)
    kept = json.loads(report.to_json(tmp_path / "report.json"))
    assert kept["metrics"] == report.metrics
    assert set(report.ci) <= set(report.metrics)
    assert all(0 <= value <= 1 for value in report.metrics.values())
    for name, values in report.per_unit.items():
        assert np.nanmean(values) == pytest.approx(report[name])
    if report.per_unit:
        assert all(test.difference == 0 for test in report.compare(report).values())
        report.to_csv(tmp_path / "units.csv")


@each_evaluator
def test_a_folder_of_embeddings_is_evaluated_as_its_arrays(evaluator, sets, tmp_path):
    given = arguments(evaluator, sets)
    folders = []
    for number, (embeddings, labels) in enumerate(zip(given[::2], given[1::2], strict=True)):
        folder = tmp_path / str(number)
        save_samples(folder, Samples(embeddings, labels, names=[f"{row}.png" for row in range(len(labels))]))
        folders += [folder, None]
    assert_alike(evaluator(*folders[:-1]), evaluator(*given))


@each_evaluator
def test_a_model_is_evaluated_as_its_embeddings(evaluator, sets):
    given = arguments(evaluator, sets)
    data = [
        TensorDataset(torch.from_numpy(embeddings), torch.from_numpy(labels))
        for embeddings, labels in zip(given[::2], given[1::2], strict=True)
    ]
    assert_alike(evaluator.run(nn.Identity(), *data, progress=False), evaluator(*given))


@each_evaluator
def test_what_was_given_is_not_changed_and_runs_repeat(evaluator, sets):
    given = arguments(evaluator, sets)
    before = [values.copy() for values in given]
    assert_alike(evaluator(*given), evaluator(*given))
    for old, new in zip(before, given, strict=True):
        np.testing.assert_array_equal(old, new)


@each_evaluator
def test_embeddings_without_labels_are_refused(evaluator, sets):
    with pytest.raises(ValueError, match=r"labels .*must"):
        evaluator(sets[0])


@each_evaluator
def test_a_row_that_is_not_finite_is_named_by_its_file(evaluator, sets, tmp_path):
    embeddings, labels, *gallery = sets
    embeddings = embeddings.copy()
    embeddings[3, 1] = np.nan
    save_samples(tmp_path, Samples(embeddings, labels, names=[f"{row}.png" for row in range(len(labels))]))
    more = gallery if isinstance(evaluator, WITH_GALLERY) else []
    with pytest.raises(ValueError, match=r"must be finite, got nan in row 3 \(3.png\)"):
        evaluator(tmp_path, *([None, *more] if more else []))


@each_evaluator
def test_an_evaluator_does_not_change(evaluator):
    with pytest.raises(FrozenInstanceError):
        evaluator.similarity = "dot"


class NotAvailable:
    """As pandas' NA: whether it equals anything is not known."""

    def __eq__(self, other):
        return self

    __ne__, __hash__ = __eq__, object.__hash__

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


MISSING = {
    "None": lambda labels: [None, *labels[1:].tolist()],
    "NaN": lambda labels: [float("nan"), *labels[1:].tolist()],
    "NaN in an array": lambda labels: np.where(np.arange(len(labels)) == 0, np.nan, labels),
    "NaT": lambda labels: np.where(np.arange(len(labels)) == 0, np.datetime64("NaT"), labels.astype("M8[ns]")),
    "NA": lambda labels: [NotAvailable(), *labels[1:].tolist()],
    "masked": lambda labels: np.ma.array(labels, mask=np.arange(len(labels)) == 0),
    "in a tuple": lambda labels: [(label or None, 0) for label in labels.tolist()],
}


@each_evaluator
@pytest.mark.parametrize("missing", MISSING)
def test_a_label_that_is_missing_is_no_class(evaluator, sets, missing):
    embeddings, labels, *gallery = arguments(evaluator, sets)
    with pytest.raises(ValueError, match=r"labels must not be (missing|NaN), got .+ at position 0"):
        evaluator(embeddings, MISSING[missing](labels), *gallery)
    if gallery:
        with pytest.raises(ValueError, match=r"gallery_labels must not be (missing|NaN)"):
            evaluator(embeddings, labels, gallery[0], MISSING[missing](gallery[1]))


@each_evaluator
def test_labels_that_are_a_column_are_to_be_flattened(evaluator, sets):
    embeddings, labels, *gallery = arguments(evaluator, sets)
    for column in (labels[:, None], torch.from_numpy(labels)[:, None], labels[:, None].tolist()):
        with pytest.raises(
            TypeError, match=r"labels must be hashable, got \[0\] .*Use labels.flatten\(\) for a column"
        ):
            evaluator(embeddings, column, *gallery)
    with pytest.raises(TypeError, match=r"Use labels.argmax\(1\) for one-hot labels"):
        evaluator(embeddings, np.eye(8, dtype=int)[labels], *gallery)


@each_evaluator
def test_labels_that_are_a_list_of_tensors_count_by_value(evaluator, sets):
    embeddings, labels, *gallery = arguments(evaluator, sets)
    assert_alike(
        evaluator(embeddings, list(torch.from_numpy(labels)), *gallery), evaluator(embeddings, labels, *gallery)
    )


@each_evaluator
def test_embeddings_without_values_are_refused(evaluator, sets):
    embeddings, labels, *gallery = arguments(evaluator, sets)
    tensor = torch.from_numpy(embeddings)
    for other in (tensor.to_sparse(), tensor.to("meta")):
        with pytest.raises(TypeError, match=r"embeddings must be a dense tensor that holds values, got .*to_dense"):
            evaluator(other, labels, *gallery)
    with pytest.raises(ValueError, match=r"embeddings must not be missing, got a masked value at position 0, 0 \(1 of"):
        evaluator(
            np.ma.array(embeddings, mask=np.arange(embeddings.size).reshape(embeddings.shape) == 0), labels, *gallery
        )


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_no_metric_depends_on_the_order_of_the_rows(similarity):
    embeddings, labels = clusters(classes=9, per_class=7, spread=3)
    keep = np.random.default_rng(0).permutation(len(labels))[
        :50
    ]  # classes of different sizes, which have macro averages
    embeddings, labels = embeddings[keep], labels[keep]
    gallery, gallery_labels = clusters(classes=6, per_class=2, spread=3, seed=1)
    metrics = ("r_precision", "mean_average_precision_at_r", "mean_average_precision", "ndcg_at_5")
    found = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(labels)) if seed else np.arange(len(labels))
        rows, of_rows = embeddings[order], labels[order]
        retrieval = RetrievalEvaluator(metrics, similarity=similarity, ci=None)(rows, of_rows)
        assert "macro_ndcg_at_5" in retrieval.metrics
        found.append(
            retrieval.metrics
            | VerificationEvaluator(similarity=similarity, ci=None)(rows, of_rows).metrics
            | IdentificationEvaluator(similarity=similarity, ci=None)(rows, of_rows, gallery, gallery_labels).metrics
            | OpenSetEvaluator(similarity=similarity, ci=None)(rows, of_rows, gallery, gallery_labels).metrics
            | IdentificationEvaluator(similarity=similarity, ci=None).distractor_curve(rows, of_rows, gallery).metrics
            | {"spread": intra_inter_distance(rows, of_rows)}
            | {"ami": adjusted_mutual_information(of_rows, rows[:, 0] > 0)}
            | {"nmi": normalized_mutual_information(of_rows, rows[:, 0] > 0)}
        )
    assert all(other == found[0] for other in found)


def test_folds_in_another_order_give_the_same_accuracy():
    rng = np.random.default_rng(0)
    scores, same, folds = rng.normal(size=210), np.arange(210) % 2, np.repeat(np.arange(7), 30)
    expected = VerificationEvaluator().of_scores(scores, same, folds).metrics
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(210)
        assert VerificationEvaluator().of_scores(scores[order], same[order], folds[order]).metrics == expected


@pytest.mark.parametrize("kind", [RetrievalEvaluator, *WITH_GALLERY])
def test_an_image_that_is_in_both_sets_is_named_however_its_path_is_written(kind, sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embeddings, labels, gallery, gallery_labels = sets
    mine, both = np.concatenate([embeddings, gallery[:1]]), np.append(labels, gallery_labels[:1])
    queries = Samples(mine, both, names=[*(f"q/{row}.png" for row in range(len(labels))), "photos/./0.png"])
    for name in ("photos/0.png", str(tmp_path / "photos" / "0.png"), "photos\\0.png"):
        others = Samples(gallery, gallery_labels, names=[name, *(f"g/{row}.png" for row in range(1, len(gallery)))])
        with pytest.raises(
            ValueError, match=r"embeddings and gallery must be of other images, got 'photos/./0.png' in both"
        ):
            kind(ci=None)(queries, gallery=others)
    kind(ci=None)(queries, gallery=others._replace(names=[f"g/{row}.png" for row in range(len(gallery))]))


def test_a_gallery_that_holds_the_queries_is_pointed_out_by_identification_too(sets):
    embeddings, labels, gallery, gallery_labels = sets
    report = IdentificationEvaluator(ci=None)(
        embeddings, labels, np.concatenate([gallery, embeddings]), np.concatenate([gallery_labels, labels])
    )
    assert "48 of 48 queries have their very embedding in the gallery" in str(report)


def test_a_pair_of_one_image_is_named_however_its_path_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embeddings, _ = clusters(classes=2, per_class=2)
    names = ["a.png", "b.png", "c.png", str(tmp_path / "a.png")]
    with pytest.raises(ValueError, match=r"pairs must be of two images, got 'a.png' twice in pair 1 \(1 of 2"):
        VerificationEvaluator(ci=None)(embeddings, pairs=Pairs([1, 0], [2, 3], same=[0, 1]), names=names)


def test_a_row_that_is_support_and_query_is_named():
    embeddings, _ = clusters(classes=2, per_class=2)
    episode = Episode(np.array([0, 2]), np.array([0, 1]), np.array([1, 2]), np.array([0, 1]))
    with pytest.raises(
        ValueError, match="episodes must have other queries than support, got row 2 as both in episode 0"
    ):
        FewShotEvaluator().of_episodes(embeddings, [episode])


def test_ranks_beyond_the_gallery_cost_nothing(sets):
    huge = 10**15  # an array of so many ranks has no place anywhere
    report = IdentificationEvaluator(ranks=[1, huge], resamples=20)(*sets)
    assert report[f"rank_{huge}"] == 1
    assert report.curves["cmc"]["rank"].tolist() == list(range(1, 13))
    names = [f"{name}_at_{huge}" for name in ("precision", "ir_recall", "map", "ndcg")]
    for ties in ("index", "expected"):
        report = RetrievalEvaluator(names, recall_at=[huge], ties=ties, resamples=20)(*sets[:2])
        assert report[f"recall_at_{huge}"] == report[f"ir_recall_at_{huge}"] == 1


def test_a_file_of_pairs_finds_its_images_by_the_names_of_the_folder(tmp_path):
    embeddings, labels = clusters(classes=4, per_class=2)
    names = [f"P{label}/P{label}_{1 + row:04d}.jpg" for row, label in enumerate(labels)]
    number = {label: [1 + row for row in np.flatnonzero(labels == label)] for label in range(4)}
    lines = ["2 2"]
    for one, other in ((0, 1), (2, 3)):
        lines += [f"P{person} {number[person][0]} {number[person][1]}" for person in (one, other)]
        lines += [f"P{one} {number[one][image]} P{other} {number[other][image]}" for image in (0, 1)]
    file = tmp_path / "pairs.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    save_samples(tmp_path, Samples(embeddings, labels, names=names))
    evaluator = VerificationEvaluator(ci=None)
    expected = evaluator(embeddings, pairs=lfw_pairs(file, names))
    assert_alike(evaluator(tmp_path, pairs=file), expected)
    assert_alike(evaluator(embeddings, pairs=file, names=names), expected)
    with pytest.raises(ValueError, match="names must say which image each row is because pairs come from"):
        evaluator(embeddings, labels, pairs=file)


@each_evaluator
@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [
        (
            np.ones((4, 2)),
            [0, 0, 1, 1],
            r"model must be a torch.nn.Module, got ndarray. .* evaluator\(embeddings, labels",
        ),
        (torch.ones(4, 2), torch.zeros(4), "model must be a torch.nn.Module, got Tensor"),
        (nn.Identity, [], "model must be a torch.nn.Module, got type"),
        (nn.Identity(), torch.ones(4, 2), "data must be a DataLoader or a data set, got Tensor"),
        (nn.Identity(), "photos", "data must be a DataLoader or a data set, got str"),
        (nn.Identity(), None, "data must be a DataLoader or a data set, got NoneType"),
        (
            nn.Identity(),
            TensorDataset(torch.ones(4, 2)),
            r"batches must be \(images, labels, ...\).*, got list of Tensor",
        ),
        (nn.Identity(), [{"images": torch.ones(2, 2)}], "batches must be .*, got dict"),
        (nn.Identity(), [torch.ones(2, 2)], "batches must be .*, got Tensor"),
    ],
)
def test_what_is_no_model_or_no_data_is_named(evaluator, model, data, sentence):
    with pytest.raises(TypeError, match=sentence):
        evaluator.run(model, data)
