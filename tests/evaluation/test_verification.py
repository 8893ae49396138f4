"""Verification of the pairs of a protocol: its files, its checks, its templates, and how sure the numbers are."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pml_center.evaluation import (
    IdentificationEvaluator,
    Pairs,
    VerificationEvaluator,
    best_threshold,
    lfw_pairs,
    pair_intervals,
    pair_scores,
    roc,
    shared_identities,
    templates,
)
from tests.evaluation.clusters import clusters


def drawn_pairs(labels, count=400, folds=5, seed=0):
    """As many genuine as impostor pairs of some labels, in folds."""
    rng = np.random.default_rng(seed)
    first = rng.integers(len(labels), size=50 * count)
    second = rng.integers(len(labels), size=50 * count)
    same = labels[first] == labels[second]
    kept = np.concatenate([np.flatnonzero(same & (first != second))[: count // 2], np.flatnonzero(~same)[: count // 2]])
    kept = rng.permutation(kept)
    return Pairs(first[kept], second[kept], same[kept], np.arange(len(kept)) % folds if folds else None)


# Pairs and their scores


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_a_score_is_that_of_its_two_rows(similarity):
    embeddings, labels = clusters()
    pairs = drawn_pairs(labels)
    one, other = embeddings[pairs.first].astype(np.float64), embeddings[pairs.second].astype(np.float64)
    expected = {
        "cosine": (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1),
        "dot": (one * other).sum(1),
        "euclidean": -((one - other) ** 2).sum(1),
    }[similarity]
    scores = pair_scores(embeddings, pairs.first, pairs.second, similarity)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scores, pair_scores(embeddings, pairs.second, pairs.first, similarity))
    np.testing.assert_array_equal(scores[:7], pair_scores(embeddings, pairs.first[:7], pairs.second[:7], similarity))


@pytest.mark.parametrize(
    "convert",
    [
        lambda rows: torch.from_numpy(rows),
        lambda rows: np.asfortranarray(rows),
        lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
        lambda rows: rows.astype(np.float64),
        lambda rows: rows.astype(np.float16),
        lambda rows: torch.from_numpy(rows).bfloat16(),
        lambda rows: rows.tolist(),
    ],
    ids=["tensor", "columns first", "strided", "float64", "float16", "bfloat16", "lists"],
)
def test_embeddings_may_come_in_any_form(convert):
    embeddings, labels = clusters(classes=6, per_class=5)
    embeddings = embeddings.round()  # which every type holds exactly
    evaluator = VerificationEvaluator(ci=None, far=(0.1,))
    assert evaluator(convert(embeddings), labels).metrics == evaluator(embeddings, labels).metrics


@pytest.mark.parametrize("rename", [lambda labels: labels + 2**60, lambda labels: [f"person {x}" for x in labels]])
def test_labels_may_be_anything_hashable(rename):
    embeddings, labels = clusters(classes=6, per_class=5)
    evaluator = VerificationEvaluator(far=(0.1,), resamples=20)
    expected = evaluator(embeddings, labels)
    report = evaluator(embeddings, rename(labels))
    assert (report.metrics, report.ci) == (expected.metrics, expected.ci)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"second": [1, 2]}, ValueError, "first and second must be as many, got 3 and 2"),
        ({"first": [0.0, 1, 2]}, TypeError, "first must be integers, got dtype float64"),
        ({"first": [0, -1, 2]}, ValueError, r"first must be rows from 0 on, got -1 in pair 1 \(1 of 3 pairs\)"),
        ({"first": [[0], [1], [2]]}, ValueError, r"first must have shape \(pairs,\)"),
        ({"second": [1, 1, 3]}, ValueError, r"pairs must be of two rows, got row 1 with itself in pair 1"),
        ({"same": [True, True, True]}, ValueError, "same must have genuine and impostor pairs"),
        ({"same": [True, False]}, ValueError, r"same must be one per pair \(3\)"),
        ({"folds": [0, 0, 0]}, ValueError, "folds must be at least two, got 1"),
        ({"folds": [0, 1]}, ValueError, r"folds must be one per row \(3\), got 2"),
        ({"people": [[0, 0], [0, 1]]}, ValueError, r"people must have shape \(3, 2\), got shape \(2, 2\)"),
        ({"people": np.zeros((3, 2))}, TypeError, "people must be integers, got dtype float64"),
        (
            {"people": [[0, 0], [1, 1], [0, 1]]},
            ValueError,
            "labels and pairs must agree, got one identity in pair 1, which is said to be impostor",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_named(change, error, message):
    with pytest.raises(error, match=message):
        Pairs(**{"first": [0, 1, 2], "second": [1, 2, 3], "same": [True, False, False]} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.full((300, 4), np.nan)}, "embeddings must be finite, got nan in row 0"),
        ({"embeddings": np.full((300, 4), np.inf)}, "embeddings must be finite, got inf in row 0"),
        (
            {"embeddings": np.zeros((300, 4))},
            "embeddings must have a direction for cosine similarity, got a zero vector",
        ),
        ({"embeddings": np.ones((300, 0))}, "embeddings must have shape"),
        ({"embeddings": np.ones((9, 4)), "labels": None}, r"rows in \[0, 9\), the number of embeddings, got row"),
        ({"labels": [1, 2]}, r"labels must be one per row \(300\), got 2"),
        ({"labels": np.arange(300)}, "labels and pairs must agree, got two identities in pair .* said to be genuine"),
        ({"labels": None, "pairs": None}, "labels or pairs must say which pairs are genuine, got neither"),
        ({"labels": np.zeros(300), "pairs": None}, "labels must make genuine and impostor pairs, got 44,850 and 0"),
        ({"labels": np.arange(300), "pairs": None}, "labels must make genuine and impostor pairs, got 0 and 44,850"),
    ],
)
def test_what_cannot_be_verified_is_named(change, message):
    embeddings, labels = clusters()
    with pytest.raises(ValueError, match=message):
        VerificationEvaluator()(**{"embeddings": embeddings, "labels": labels, "pairs": drawn_pairs(labels)} | change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"similarity": "l2"}, "similarity must be a known name, got 'l2'"),
        ({"ci": "pair"}, "ci must be a known name, got 'pair'"),
        ({"far": (0.1, 1)}, r"far must be in \(0, 1\), got 1"),
        ({"far": (0,)}, r"far must be in \(0, 1\), got 0"),
        ({"threshold": np.nan}, "threshold must be finite, got nan"),
        ({"ci_level": 95}, r"level must be in \(0, 1\), got 95"),
        ({"resamples": 0}, "resamples must be a positive integer, got 0"),
    ],
)
def test_an_evaluator_that_cannot_work_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        VerificationEvaluator(**arguments)


# The report


def test_folds_give_accuracy_and_its_error():
    embeddings, labels = clusters(spread=2)
    pairs = drawn_pairs(labels)
    report = VerificationEvaluator(ci=None)(embeddings, pairs=pairs)
    assert list(report.metrics) == [
        "accuracy",
        "accuracy_se",
        "equal_error_rate",
        "tar_at_far_0.1",
        "area_under_roc",
    ]
    assert report.counts == {"pairs": 400, "genuine": 200, "impostor": 200, "folds": 5}
    assert (report.unit, report.per_unit["accuracy"].shape, report.ci) == ("fold", (5,), {})
    assert report["accuracy"] == pytest.approx(report.per_unit["accuracy"].mean())
    assert report.curves["roc"]["tar"][-1] == 1
    assert report.pairs is pairs
    assert {"difference", "p_value"} <= set(report.compare(report)["accuracy"]._asdict())


def test_a_threshold_from_elsewhere_measures_accuracy_without_folds():
    embeddings, labels = clusters(spread=2)
    development, final = drawn_pairs(labels, folds=0), drawn_pairs(labels, folds=0, seed=1)
    threshold = best_threshold(pair_scores(embeddings, development.first, development.second), development.same)
    report = VerificationEvaluator(threshold=threshold, ci=None)(embeddings, pairs=final)
    scores = pair_scores(embeddings, final.first, final.second)
    assert report["accuracy"] == ((scores >= threshold) == final.same).mean()
    assert (report.thresholds["accuracy"], report.per_unit) == (threshold, {})
    assert "accuracy" not in VerificationEvaluator(ci=None)(embeddings, pairs=final).metrics


def test_two_models_are_compared_on_all_pairs_by_people_drawn_once_for_both():
    evaluator, labels = VerificationEvaluator(resamples=100), np.arange(60) // 4
    rng = np.random.default_rng(0)
    clear = np.eye(15)[labels] + 0.1 * rng.normal(size=(60, 15))
    vague = clear + 0.5 * rng.normal(size=(60, 15))
    good, bad = evaluator(clear, labels), evaluator(vague, labels)
    test = bad.compare(good, resamples=100)["equal_error_rate"]
    assert test.difference == bad["equal_error_rate"] - good["equal_error_rate"]
    assert 0 < test.low <= test.difference <= test.high
    assert (test.p_value < 0.05, test.units, test.over) == (True, 15, "people")
    assert good.compare(good, resamples=100)["equal_error_rate"][:4] == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="other must be about the same pairs of the same people"):
        good.compare(evaluator(clear[:40], labels[:40]))


def test_few_people_prove_nothing_and_a_warning_says_so():
    """Of two people no resample differs: the interval has no width, and the p-value would be as small as it can be."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 24, 4))
    labels = np.arange(24) // 12
    evaluator = VerificationEvaluator(resamples=50)
    report = evaluator(one, labels)
    assert report.compare(evaluator(other, labels), resamples=50)["equal_error_rate"].p_value >= 0.5
    assert report.warnings[-1].startswith("2 people are few to judge others by")
    assert not any("people" in sentence for sentence in evaluator(one, np.arange(24) % 6).warnings)
    gallery = {"gallery": other, "gallery_labels": labels}
    assert IdentificationEvaluator(resamples=50)(one, labels, **gallery).warnings[-1] == report.warnings[-1]


def test_thresholds_do_what_the_report_says(tmp_path):
    embeddings, labels = clusters(spread=2)
    report = VerificationEvaluator(far=(0.1, 0.001), ci=None)(embeddings, pairs=drawn_pairs(labels, folds=0))
    for far in (0.1, 0.001):
        accepted = report.scores >= report.thresholds[f"tar_at_far_{far}"]
        assert accepted[report.same].mean() == report[f"tar_at_far_{far}"]
        assert accepted[~report.same].mean() <= far
    [warning] = report.warnings
    assert warning == "TAR at FAR 0.001 is decided by fewer than 10 of 200 impostor pairs: mostly chance"
    written = json.loads(report.to_json(tmp_path / "report.json"))
    assert written == json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert written["thresholds"] == report.thresholds


def test_a_threshold_that_accepts_nothing_is_null_in_json():
    report = VerificationEvaluator(far=(0.1,)).of_scores([3, 2, 1], [0, 1, 0])
    assert report.thresholds["tar_at_far_0.1"] == np.inf
    assert json.loads(report.to_json())["thresholds"]["tar_at_far_0.1"] is None


def test_the_worst_mistakes_come_first():
    report = VerificationEvaluator(threshold=0.5, far=()).of_scores([0.9, 0.1, 0.4, 0.6, 0.99, 0.2], [1, 1, 1, 0, 0, 0])
    assert report.mistakes()["pair"].tolist() == [4, 1, 2, 3]
    assert report.mistakes(k=1)["score"].tolist() == [0.99]
    with pytest.raises(ValueError, match="mistakes must be asked of a list of pairs"):
        VerificationEvaluator(ci=None)(*clusters()).mistakes()


def test_identities_in_several_folds_are_reported():
    embeddings, labels = clusters(classes=10, per_class=30)
    report = VerificationEvaluator(ci=None)(embeddings, labels, drawn_pairs(labels))
    [warning] = report.warnings
    assert warning == "10 of 10 people appear in several folds: thresholds were chosen on them too"
    apart = Pairs([0, 2, 0, 2], [1, 3, 4, 5], [1, 1, 0, 0], folds=[0, 1, 0, 1])
    assert not VerificationEvaluator(ci=None, far=())(np.eye(6), [0, 0, 1, 1, 2, 3], apart).warnings


def test_identities_of_the_training_set_are_found():
    assert shared_identities(["b", "a", "b"], ["c", "b", "a"]) == ["b", "a"]
    assert shared_identities(np.array([2**24 + 1]), [2**24]) == []


# Intervals


def test_intervals_resample_people():
    """Ten copies of each image say no more than one; resampling people knows, resampling images cannot."""
    embeddings, labels = clusters(classes=40, per_class=4, spread=2)
    evaluator = VerificationEvaluator(far=(0.1,), resamples=300)
    single = evaluator(embeddings, labels)
    copies = np.repeat(np.arange(len(labels)), 3)
    several = evaluator(embeddings[copies] + 0.01 * np.random.default_rng(0).normal(size=(480, 16)), labels[copies])
    for name in ("tar_at_far_0.1", "equal_error_rate"):
        widths = [report.ci[name][1] - report.ci[name][0] for report in (single, several)]
        assert widths[1] > 0.7 * widths[0]
    assert single.ci_method == "two-sample bootstrap over 40 people"


def test_without_names_the_intervals_resample_images():
    embeddings, labels = clusters(spread=2)
    pairs = drawn_pairs(labels)
    report = VerificationEvaluator(resamples=100)(embeddings, pairs=pairs)
    assert report.ci_method == "two-sample bootstrap over 286 images"
    assert set(report.ci) == set(report.metrics) - {"accuracy_se"}
    for name, (low, high) in report.ci.items():
        assert low < report[name] < high
    assert not VerificationEvaluator().of_scores(report.scores, report.same).ci  # nor are there images here


@pytest.mark.parametrize("listed", [True, False])
def test_the_curve_has_a_band_and_the_scores_a_histogram(listed):
    embeddings, labels = clusters(classes=40, per_class=6, spread=2)
    pairs = drawn_pairs(labels, folds=0) if listed else None
    report = VerificationEvaluator(far=(0.1,), resamples=200)(embeddings, labels, pairs)
    curve, scores = report.curves["roc"], report.curves["scores"]
    inside = (curve["low"] <= curve["tar"]) & (curve["tar"] <= curve["high"])
    assert inside.mean() > 0.9
    assert {len(values) for values in curve.values()} == {len(curve["far"])}
    low, high = (np.interp(0.1, curve["far"], curve[end]) for end in ("low", "high"))
    assert report.ci["tar_at_far_0.1"] == pytest.approx((low, high), abs=0.03)
    assert [scores["genuine"].sum(), scores["impostor"].sum()] == [report.counts["genuine"], report.counts["impostor"]]
    middle = (scores["edge"][1:] + scores["edge"][:-1]) / 2
    assert np.average(middle, weights=scores["genuine"]) > np.average(middle, weights=scores["impostor"]) + 0.1
    plain = VerificationEvaluator(far=(0.1,), ci=None)(embeddings, labels, pairs)
    assert set(plain.curves["roc"]) == {"far", "tar", "threshold"}


def test_nothing_wrong_is_not_certainty():
    embeddings, labels = clusters(spread=1e-3)
    report = VerificationEvaluator(resamples=50)(embeddings, labels, drawn_pairs(labels, folds=0))
    for name in ("tar_at_far_0.1", "area_under_roc"):
        assert report[name] == 1
        assert 0.8 < report.ci[name][0] < 0.9  # Wilson's interval of 20 people
    assert report.ci["equal_error_rate"][1] == pytest.approx(1 - report.ci["area_under_roc"][0])


def test_an_interval_covers_the_rate_of_the_population():
    def draw(people, seed):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(people), 3)
        return (rng.normal(size=(people, 8))[labels] + 0.9 * rng.normal(size=(3 * people, 8))), labels

    truth = VerificationEvaluator(far=(0.1,), ci=None)(*draw(2000, seed=10**6))
    covered = {"tar_at_far_0.1": 0, "equal_error_rate": 0}
    for seed in range(40):
        report = VerificationEvaluator(far=(0.1,), resamples=100, ci_level=0.9)(*draw(50, seed))
        for name in covered:
            covered[name] += report.ci[name][0] <= truth[name] <= report.ci[name][1]
    assert all(30 <= count <= 40 for count in covered.values()), covered


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), kept=st.integers(20, 200))
def test_a_thinned_list_has_the_curve_of_the_whole_at_its_points(seed, kept):
    rng = np.random.default_rng(seed)
    same = rng.random(3000) < 0.4
    scores = rng.normal(size=3000).round(2) + same
    people = np.stack([np.arange(3000), np.arange(3000) + ~same], axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_intervals, "KEPT", kept)
        sample, which = pair_intervals.thinned(scores, same, people)
    assert len(which) < 3000 or kept > 900
    np.testing.assert_array_equal(sample.scores, scores[which])
    np.testing.assert_array_equal(sample.people, people[which])
    whole, thin = roc(scores, same), pair_intervals.RankedPairs(sample.scores, sample.same).roc(sample.weight)
    assert (thin.genuine_pairs, thin.impostor_pairs) == (same.sum(), (~same).sum())
    assert thin.area == pytest.approx(whole.area, abs=0.5 / kept + 0.01)
    far = 0.5 * kept / (~same).sum()  # among the highest scores, which are all kept
    assert thin.threshold_at(min(far, 0.9)) >= whole.threshold_at(min(far, 0.9))
    assert thin.tar_at(min(far, 0.9)) == pytest.approx(whole.tar_at(min(far, 0.9)), abs=1 / kept)


# Templates


def test_a_template_is_the_sum_of_the_means_of_its_media():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 5))
    template = np.array(list("aabbbbccbbaa"))
    media = np.array([1, 1, 1, 2, 2, 3, 1, 1, 3, 3, 4, 5])
    weights = rng.random(12)
    for weight in (None, weights):
        found, names = templates(rows, template, media, weight)
        assert names == ["a", "b", "c"]
        for row, name in zip(found, names, strict=True):
            total = np.zeros(5)
            for medium in set(media[template == name]):
                inside = (template == name) & (media == medium)
                total += (rows[inside] * (1 if weight is None else weight[inside, None])).mean(axis=0)
            np.testing.assert_allclose(row, total / np.linalg.norm(total), rtol=1e-6)


def test_normalised_images_weigh_alike_in_a_template():
    rows, ids = [[10.0, 0], [0, 1]], ["t", "t"]
    np.testing.assert_allclose(templates(rows, ids)[0], [[10 / 101**0.5, 1 / 101**0.5]], rtol=1e-6)
    np.testing.assert_allclose(templates(rows, ids, normalize=True)[0], [[0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_pairs_of_templates_are_verified_by_their_names():
    embeddings, labels = clusters(classes=12, per_class=6)
    ids = [f"{label}-{position % 2}" for position, label in enumerate(labels)]
    rows, names = templates(embeddings, ids)
    first, second = zip(*[(a, b) for a in names for b in names if a < b], strict=True)
    same = [a.split("-")[0] == b.split("-")[0] for a, b in zip(first, second, strict=True)]
    report = VerificationEvaluator(ci=None)(rows, pairs=Pairs.of_names(first, second, same, names))
    assert report["equal_error_rate"] < VerificationEvaluator(ci=None)(embeddings, labels)["equal_error_rate"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"template_ids": ["a"]}, r"template_ids must be one per row \(2\), got 1"),
        ({"media_ids": [1]}, r"media_ids must be one per row \(2\), got 1"),
        ({"weights": [1]}, r"weights must be one per image \(2\) and at least 0, got 1"),
        ({"weights": [1, -1]}, "at least 0, got 2, the smallest -1"),
        ({"weights": [0, 0]}, "templates must have a direction, got zero as the sum of template 'a'"),
        ({"embeddings": [[1.0], [np.nan]]}, "embeddings must be finite"),
    ],
)
def test_templates_that_cannot_be_made_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        templates(**{"embeddings": [[1.0, 0], [0, 1]], "template_ids": ["a", "a"]} | arguments)


def test_names_must_exist_and_differ():
    with pytest.raises(ValueError, match=r"pairs must be of rows that exist, got 'z' without one \(1 names\)"):
        Pairs.of_names(["a", "z"], ["b", "b"], [1, 0], ["a", "b"])
    with pytest.raises(ValueError, match="names must be different, got 'a' in rows 0 and 2"):
        Pairs.of_names(["a"], ["b"], [1], ["a", "b", "a"])


# The files of Labeled Faces in the Wild

FILE = "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\nCid\t1\t2\nCid\t2\tDan\t1\n"
IMAGES = ["x/Ann_0001.jpg", "x/Ann_0002.jpg", "x/Bob_0001.jpg", "x/Cid_0001.jpg", "x/Cid_0002.jpg", "x/Dan_0001.jpg"]


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "pairs.txt"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_folds_and_people_are_read_from_the_file(write):
    pairs = lfw_pairs(write(FILE), IMAGES)
    assert [pairs.first.tolist(), pairs.second.tolist()] == [[0, 0, 3, 4], [1, 2, 4, 5]]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    assert pairs.people.tolist() == [[0, 0], [0, 1], [2, 2], [2, 3]]


def test_a_file_of_view_1_has_no_folds(write):
    pairs = lfw_pairs(write("1\nAnn\t1\t2\nAnn\t1\tBob\t1\n"), IMAGES)
    assert (len(pairs), pairs.folds) == (2, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "path must be a file of LFW pairs, got '' as the first line"),
        ("Ann\t1\t2\n", "got 'Ann 1 2' as the first line"),
        ("0\t5\n", "got '0 5' as the first line"),
        (FILE + "Bob\t1\t2\n", "path must hold 4 pairs as its first line says, got 5"),
        (FILE.replace("Ann\t1\tBob\t1", "Ann\t1\t2"), "must hold 'person image person image' in line 3, got 'Ann 1 2'"),
        (FILE.replace("Ann\t1\t2", "Ann\tone\t2"), "must hold 'person image image' in line 2, got 'Ann one 2'"),
        (FILE.replace("Dan\t1", "Eve\t1"), r"pairs must be of rows that exist, got 'Eve_0001' without one \(1 names\)"),
    ],
)
def test_a_file_in_another_format_is_named_with_its_line(write, text, message):
    with pytest.raises(ValueError, match=message):
        lfw_pairs(write(text), IMAGES)


@pytest.fixture(scope="module")
def faces():
    """Pixels of all images of LFW that its pairs name, 14 by 14, and their paths."""
    from tests.conftest import SHARED_DATA

    folder = SHARED_DATA / "lfw"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}")
    lines = [line.split("\t") for line in (folder / "pairs.txt").read_text(encoding="utf-8").splitlines()[1:]]
    wanted = {(line[0], int(line[1])) for line in lines} | {
        (line[-2 if len(line) == 4 else 0], int(line[-1])) for line in lines
    }
    names = sorted(f"{person}/{person}_{number:04d}.jpg" for person, number in wanted)
    pixels = []
    with zipfile.ZipFile(folder / "lfw_aligned_112.zip") as archive:
        for name in names:
            image = Image.open(io.BytesIO(archive.read(name)))
            image.draft("L", (14, 14))
            pixels.append(np.asarray(image.convert("L"), dtype=np.float32).ravel())
    pixels = np.stack(pixels)
    return folder, pixels - pixels.mean(axis=1, keepdims=True), names


@pytest.mark.shared_data
def test_lfw_has_ten_folds_of_different_people(faces):
    folder, pixels, names = faces
    report = VerificationEvaluator(resamples=100)(
        pixels, [name.split("/")[0] for name in names], lfw_pairs(folder / "pairs.txt", names)
    )
    assert report.counts == {"pairs": 6000, "genuine": 3000, "impostor": 3000, "folds": 10}
    assert not report.warnings
    assert 0.58 < report["accuracy"] < 0.66  # raw pixels
    assert 0.004 < report["accuracy_se"] < 0.012
    assert 0.34 < report["equal_error_rate"] < 0.42
    assert report.ci["accuracy"][0] < report["accuracy"] < report.ci["accuracy"][1]


@pytest.mark.shared_data
def test_lfw_folds_equal_a_scan_of_thresholds_within_one_pair_or_the_grid_missed_the_best(faces):
    folder, pixels, names = faces
    pairs = lfw_pairs(folder / "pairs.txt", names)
    unit = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    distance = ((unit[pairs.first] - unit[pairs.second]) ** 2).sum(axis=1).astype(np.float64)
    report = VerificationEvaluator(ci=None).of_scores(-distance, pairs.same, pairs.folds)
    right = (distance < np.arange(0, 4, 0.01)[:, None]) == pairs.same  # (thresholds, pairs)
    for fold, accuracy in enumerate(report.per_unit["accuracy"]):
        others = pairs.folds != fold
        best = int(right[:, others].sum(axis=1).argmax())
        judged = distance <= -best_threshold(-distance[others], pairs.same[others])
        missed = (judged[others] == pairs.same[others]).sum() - right[best, others].sum()
        assert abs(accuracy - right[best, ~others].mean()) <= 1.5 / 600 or missed > 0
        assert missed >= 0


@pytest.mark.shared_data
@pytest.mark.parametrize(("file", "count"), [("pairsDevTrain.txt", 2200), ("pairsDevTest.txt", 1000)])
def test_view_1_of_lfw_has_its_own_pairs(shared_data, file, count):
    with zipfile.ZipFile(shared_data / "lfw" / "lfw_aligned_112.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
    pairs = lfw_pairs(shared_data / "lfw" / file, names)
    assert (len(pairs), int(pairs.same.sum()), pairs.folds) == (count, count // 2, None)


def test_scores_of_pairs_need_two_rows_each():
    with pytest.raises(ValueError, match="first and second must be as many, got 1 and 2"):
        pair_scores([[1.0, 0], [0, 1]], [0], [1, 0])


@pytest.mark.parametrize(
    "written", ["ann/1.png", "ann/1", "/data/photos/ann/1.png", "ann\\1.png", "./ann/1.png", "photos/ann/1"]
)
def test_pairs_find_an_image_however_its_path_is_written(written):
    paths = ["photos/ann/1.png", "photos/ann/2.png", "photos/bob/1.png"]
    pairs = Pairs.of_paths([written, written], ["ann/2.png", "bob/1.png"], [1, 0], paths)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 0], [1, 2])
    with pytest.raises(ValueError, match="must name images that can be told apart, got '1', which are rows 0"):
        Pairs.of_paths(["1", "ann/2"], ["ann/2", "bob/1"], [1, 0], paths)
    with pytest.raises(ValueError, match=r"pairs must be of rows that exist, got 'cid/1.png' without one"):
        Pairs.of_paths(["cid/1.png", "ann/2"], ["ann/2", "bob/1"], [1, 0], paths)


def test_embeddings_are_centered_by_the_other_folds():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 6)) + 5  # far from the origin, where all cosines are alike
    first, second = rng.permutation(60)[:30], rng.permutation(60)[:30]
    second = np.where(second == first, (second + 1) % 60, second)
    same, folds = np.arange(30) % 2 == 0, np.arange(30) % 3
    report = VerificationEvaluator(center=True, ci=None)(rows, pairs=Pairs(first, second, same, folds))
    right, scores = [], np.empty(30)
    for fold in range(3):
        trained = folds != fold
        mean = np.concatenate([rows[first[trained]], rows[second[trained]]]).mean(0)
        left, other = (
            (rows[side] - mean) / np.linalg.norm(rows[side] - mean, axis=1)[:, None] for side in (first, second)
        )
        cosine = (left * other).sum(1)
        threshold = best_threshold(cosine[trained], same[trained])
        right.append(((cosine >= threshold) == same)[~trained].mean())
        scores[~trained] = cosine[~trained]
    np.testing.assert_allclose(report.scores, scores, atol=1e-6)
    assert report["accuracy"] == pytest.approx(np.mean(right))
    assert "centered by the other folds" in report.protocol
    with pytest.raises(ValueError, match="pairs must have folds to be centered"):
        VerificationEvaluator(center=True)(rows, pairs=Pairs(first, second, same))
    with pytest.raises(ValueError, match="threshold must be None with center"):
        VerificationEvaluator(center=True, threshold=0.5)
