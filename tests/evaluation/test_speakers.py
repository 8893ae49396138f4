"""The protocol of speaker verification: trials, scores normalised by a cohort, and detection costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_center.evaluation import Pairs, Samples, VerificationEvaluator, roc, save_samples, speaker_trials
from tests.evaluation.clusters import clusters, unit

QUICK = VerificationEvaluator(ci=None, p_target=(0.01,), far=())
NAMES = ["id1/a/00001.wav", "id1/b/00001.wav", "id2/c/00001.wav", "id2/c/00002.wav"]
VOXCELEB = "1 id1/a/00001.wav id1/b/00001.wav\n0 id1/a/00001.wav id2/c/00001.wav\n\n1 id2/c/00002.wav id2/c/00001.wav\n"
KALDI = "id1/a/00001 id1/b/00001 target\nid1/a/00001\tid2/c/00001\tnontarget\nid2/c/00002 id2/c/00001 target\n"


def trials(labels, count=300, seed=0):
    """As many trials of one speaker as of two."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(len(labels), size=(2, 50 * count))
    same = labels[first] == labels[second]
    kept = np.concatenate([np.flatnonzero(same & (first != second))[: count // 2], np.flatnonzero(~same)[: count // 2]])
    return Pairs(first[kept], second[kept], same[kept])


@pytest.fixture
def write(tmp_path):
    def write(text, name="trials.txt"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


# Scores normalised by a cohort


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("top_n", [10, 10**6])
def test_normalised_scores_are_those_of_the_formula(similarity, top_n):
    embeddings, labels = clusters(spread=2)
    cohort = np.random.default_rng(1).normal(size=(70, 16)).astype(np.float32)
    pairs = trials(labels)
    rows, others = embeddings.astype(np.float64), cohort.astype(np.float64)
    if similarity == "cosine":
        rows, others = unit(rows), unit(others)

    def scored(one, other):
        products = one @ other.T
        if similarity == "euclidean":
            products = 2 * products - (one**2).sum(1)[:, None] - (other**2).sum(1)
        return products

    nearest = np.sort(scored(rows, others), axis=1)[:, ::-1][:, : min(top_n, 70)]
    mean, deviation = nearest.mean(1), nearest.std(1)
    score = scored(rows, rows)[pairs.first, pairs.second]
    expected = sum((score - mean[side]) / deviation[side] for side in (pairs.first, pairs.second)) / 2
    evaluator = VerificationEvaluator(similarity=similarity, top_n=top_n, ci=None)
    report = evaluator(embeddings, labels, pairs, cohort=cohort)
    np.testing.assert_allclose(report.scores, expected, rtol=1e-4, atol=1e-4)
    assert report.protocol == f"{similarity} similarity, AS-Norm by the {min(top_n, 70)} nearest of a cohort of 70"


def test_a_cohort_helps_where_speakers_are_alike_to_everybody_in_different_measure():
    """Some rows lie near the middle of all, and score high with whomever: what a score is worth depends on the row."""
    embeddings, labels = clusters(classes=30, per_class=6, spread=1.2)
    rng = np.random.default_rng(0)
    middle = 4 * np.eye(16)[0]
    embeddings = embeddings + middle * rng.choice([0, 1.5], size=(30, 1))[labels]
    cohort = rng.normal(size=(400, 16)) + middle * rng.choice([0, 1.5], size=(400, 1))
    plain, normalised = (QUICK(embeddings, labels, trials(labels), cohort=each) for each in (None, cohort))
    assert normalised["equal_error_rate"] < plain["equal_error_rate"] - 0.02


def test_a_cohort_may_be_a_folder_and_in_parts(tmp_path):
    embeddings, labels = clusters(classes=6)
    cohort = np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)
    save_samples(tmp_path, Samples(cohort, list(range(40))))
    reports = [QUICK(embeddings, labels, trials(labels), cohort=each) for each in (cohort, tmp_path)]
    reports.append(QUICK(embeddings, labels, trials(labels), cohort=[cohort[:7], cohort[7:]]))
    assert reports[0].metrics == reports[1].metrics == reports[2].metrics
    assert reports[0].thresholds == reports[2].thresholds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": None}, "pairs must be a list where there is a cohort, got none"),
        ({"cohort": np.ones((1, 16))}, "cohort must have two rows or more, got 1"),
        ({"cohort": np.ones((30, 16))}, r"cohort must differ, got 30 times the score .* with row 0 \("),
        ({"cohort": np.ones((30, 3))}, "embeddings and cohort must have the same width, got 16 and 3"),
        ({"cohort": np.full((30, 16), np.nan)}, "cohort must be finite, got nan in row 0"),
        ({"cohort": "embeddings"}, "embeddings and cohort must be two sets"),
    ],
)
def test_a_cohort_that_normalises_nothing_is_named(change, message):
    embeddings, labels = clusters()
    given = {"pairs": trials(labels), "cohort": np.ones((9, 16))} | change
    if isinstance(given["cohort"], str):
        given["cohort"] = embeddings
    with pytest.raises(ValueError, match=message):
        QUICK(embeddings, labels, **given)


def test_what_cannot_be_normalised_twice_is_refused():
    embeddings, labels = clusters()
    pairs = trials(labels)
    folds = Pairs(pairs.first, pairs.second, pairs.same, np.arange(300) % 5)
    with pytest.raises(ValueError, match="center must be False with a cohort, got True"):
        VerificationEvaluator(center=True, ci=None)(embeddings, pairs=folds, cohort=np.eye(16))
    with pytest.raises(ValueError, match="top_n must be an integer of at least 2, got 1"):
        VerificationEvaluator(top_n=1)


# Detection costs


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    seed=st.integers(0, 1000), digits=st.integers(0, 3), p_target=st.floats(0.001, 0.999), c_miss=st.floats(0.1, 100)
)
def test_the_least_cost_is_that_of_a_loop_over_thresholds(seed, digits, p_target, c_miss):
    rng = np.random.default_rng(seed)
    same = rng.random(150) < 0.4
    scores = (rng.normal(size=150) + 1.5 * same).round(digits)
    evaluator = VerificationEvaluator(far=(), p_target=(p_target,), c_miss=c_miss, c_fa=2)
    report = evaluator.of_scores(scores, same)
    costs = {}
    for threshold in [*scores, np.inf]:
        accepted = scores >= threshold
        costs[threshold] = c_miss * (~accepted[same]).mean() * p_target + 2 * accepted[~same].mean() * (1 - p_target)
    expected = min(costs.values()) / min(c_miss * p_target, 2 * (1 - p_target))
    [name] = [name for name in report.metrics if name.startswith("min_dcf")]
    assert name == f"min_dcf_{p_target:g}_{c_miss:g}_2"
    assert report[name] == pytest.approx(expected)
    assert costs[report.thresholds[name]] == pytest.approx(min(costs.values()))
    assert 0 <= report[name] <= 1


def test_perfect_and_constant_scores():
    same = np.arange(20) < 8
    perfect, constant = (QUICK.of_scores(scores, same) for scores in (same.astype(float), np.ones(20)))
    assert (perfect["min_dcf_0.01"], perfect.thresholds["min_dcf_0.01"]) == (0, 1)
    assert (constant["min_dcf_0.01"], constant.thresholds["min_dcf_0.01"]) == (1, np.inf)
    assert roc([2, 1, 0], [0, 1, 0]).detection_cost(0.5).tolist() == [1, 1.5, 0.5, 1]


def test_costs_have_intervals_and_are_compared_where_both_reports_have_the_same():
    embeddings, labels = clusters(spread=2)
    pairs = trials(labels)
    evaluator = VerificationEvaluator(p_target=(0.01, 0.5), resamples=100)
    good, bad = (evaluator(rows, labels, pairs) for rows in (embeddings, embeddings.round()))
    for name in ("min_dcf_0.01", "min_dcf_0.5"):
        assert good.ci[name][0] <= good[name] <= good.ci[name][1]
    assert good["min_dcf_0.5"] < good["min_dcf_0.01"] <= 1
    tests = good.compare(bad, resamples=100)
    assert tests["min_dcf_0.5"].difference == good["min_dcf_0.5"] - bad["min_dcf_0.5"]
    assert tests["min_dcf_0.5"].low <= tests["min_dcf_0.5"].difference <= tests["min_dcf_0.5"].high
    other = VerificationEvaluator(p_target=(0.5,), c_miss=10, resamples=100)(embeddings, labels, pairs)
    assert "min_dcf_0.5_10_1" in other.metrics
    assert not any(name.startswith("min_dcf") for name in good.compare(other, resamples=20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p_target": (0,)}, r"p_target must be in \(0, 1\), got 0"),
        ({"c_miss": 0}, "c_miss must be finite and positive, got 0"),
        ({"c_fa": -1}, "c_fa must be finite and positive, got -1"),
    ],
)
def test_costs_that_are_none_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        VerificationEvaluator(**arguments)


def test_all_pairs_have_no_costs():
    with pytest.raises(ValueError, match="pairs must be a list where there is a p_target, got none"):
        QUICK(*clusters())


# Trials


@pytest.mark.parametrize("text", [VOXCELEB, KALDI])
def test_trials_are_read_as_voxceleb_and_kaldi_write_them(write, text):
    path = write(text)
    pairs = speaker_trials(path, [f"/data/wav/{name}" for name in NAMES])
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 0, 3], [1, 2, 2])
    assert pairs.same.tolist() == [True, False, True]
    rows = np.random.default_rng(0).normal(size=(4, 8))
    expected = QUICK(rows, pairs=pairs)
    assert QUICK(rows, pairs=path, names=NAMES).metrics == expected.metrics


def test_a_file_of_pairs_is_known_by_what_is_in_it(write):
    rows = np.random.default_rng(0).normal(size=(4, 8))
    names = ["Ann_0001", "Ann_0002", "Bob_0001", "Cid_0001"]
    table = write("first,second,same\nAnn_0001,Ann_0002,1\nAnn_0001,Bob_0001,0\n", "pairs.csv")
    lfw = write("1\nAnn 1 2\nAnn 1 Bob 1\n", "pairs.txt")
    listed = write("1 Ann_0001 Ann_0002\n0 Ann_0001 Bob_0001\n")
    found = [QUICK(rows, pairs=each, names=names) for each in (table, lfw, listed)]
    assert found[0].scores.tolist() == found[1].scores.tolist() == found[2].scores.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 a b\n", "path must hold '1 enrolment test' or 'enrolment test target' in line 1, got '2 a b'"),
        ("1 a b\n0 a\n", "in line 2, got '0 a'"),
        ("a b yes\n", "in line 1, got 'a b yes'"),
        ("1 id1/a/00001 id9/z/00009\n", r"pairs must be of rows that exist, got 'id9/z/00009' without one"),
        ("1 00001 id1/b/00001\n", "pairs must name images that can be told apart, got '00001'"),
        ("1 id1/a/00001 id1/b/00001\n", "same must have genuine and impostor pairs"),
        ("", "same must have genuine and impostor pairs"),
    ],
)
def test_trials_that_cannot_be_read_are_named(write, text, message):
    with pytest.raises(ValueError, match=message):
        speaker_trials(write(text), NAMES)


def test_a_thousand_folders_may_hold_files_of_one_name():
    """A path is looked for in its own folder alone: looking through all files of its name would take their square."""
    paths = [f"wav/id{video // 9}/{video:05d}/{number:05d}.wav" for video in range(3000) for number in (1, 2, 3)]
    wanted = [path.removeprefix("wav/").removesuffix(".wav") for path in paths]
    same = np.arange(len(paths)) % 2 == 0
    pairs = Pairs.of_paths(wanted, wanted[1:] + wanted[:1], same, paths)
    assert pairs.first.tolist() == list(range(9000))
    with pytest.raises(ValueError, match="told apart, got 'a/1', which are rows 0"):
        Pairs.of_paths(["a/1", "a/1"], ["b/1", "b/1"], [1, 0], ["x/a/1", "1", "b/1"])
