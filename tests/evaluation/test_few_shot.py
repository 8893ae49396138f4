"""Few-shot episodes: drawn without sharing an image, classified as by hand; Omniglot's own runs."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pml_center.evaluation import Episode, FewShotEvaluator, omniglot_runs, sample_episodes
from tests.evaluation.clusters import clusters


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 15), min_size=4, max_size=12),
    ways=st.integers(2, 3),
    shots=st.integers(1, 2),
    queries=st.integers(1, 2),
    seed=st.integers(0, 100),
)
def test_episodes_share_no_image_and_mix_no_class(sizes, ways, shots, queries, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    if (np.bincount(labels) >= shots + queries).sum() < ways:
        with pytest.raises(ValueError, match=f"labels must name at least {ways} classes"):
            sample_episodes(labels, ways, shots, queries)
        return
    episodes = sample_episodes(labels, ways, shots, queries, seed=seed)
    used = np.concatenate([np.concatenate([episode.support, episode.queries]) for episode in episodes])
    assert len(set(used.tolist())) == len(used) == len(episodes) * ways * (shots + queries)
    for episode in episodes:
        assert len(set(labels[episode.support].tolist())) == ways
        class_of = dict(zip(episode.support_classes.tolist(), labels[episode.support].tolist(), strict=True))
        assert [class_of[code] for code in episode.query_classes.tolist()] == labels[episode.queries].tolist()
        assert np.bincount(episode.support_classes).tolist() == [shots] * ways
        assert np.bincount(episode.query_classes).tolist() == [queries] * ways
    left = np.bincount(np.delete(labels, used), minlength=len(sizes)) >= shots + queries
    assert left.sum() < ways  # nothing more could be drawn


def test_episodes_depend_on_labels_and_seed_alone():
    _, labels = clusters()
    names = [f"class {label}" for label in labels]
    for one, other in zip(
        sample_episodes(labels, seed=1, queries=3), sample_episodes(names, seed=1, queries=3), strict=True
    ):
        for first, second in zip(one, other, strict=True):
            np.testing.assert_array_equal(first, second)
    again = sample_episodes(labels, seed=2, queries=3)
    assert not np.array_equal(again[0].support, one.support)


def test_most_images_are_used():
    _, labels = clusters(classes=20, per_class=20)
    assert len(sample_episodes(labels, ways=5, shots=1, queries=3)) >= 0.9 * 400 / 20


def test_episodes_that_may_share_images_are_as_many_as_asked_for():
    _, labels = clusters()
    assert len(sample_episodes(labels, queries=3, disjoint=False)) == 600
    episodes = sample_episodes(labels, queries=3, disjoint=False, episodes=50)
    assert len(episodes) == 50
    for episode in episodes:
        used = [*episode.support, *episode.queries]
        assert len(set(used)) == len(used)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ways": 1}, "ways must be at least 2, got 1"),
        ({"shots": 0}, "shots must be a positive integer, got 0"),
        ({"queries": 15}, r"labels must name at least 5 classes with 16 images each .* got 0 of 20 classes"),
        ({"ways": 21, "queries": 1}, "at least 21 classes with 2 images each"),
        ({"queries": 3, "episodes": 100}, r"episodes must be at most \d+, which is how many share no image, got 100"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_named(arguments, message):
    _, labels = clusters()
    with pytest.raises(ValueError, match=message):
        sample_episodes(labels, **arguments)


# The classifiers


def by_hand(embeddings, episode, classifier, neighbours, similarity):
    rows = embeddings.astype(np.float64)
    if similarity == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    right = []
    for query, truth in zip(episode.queries, episode.query_classes, strict=True):
        points, classes = rows[episode.support], episode.support_classes
        if classifier == "mean":
            points = np.stack([points[classes == code].mean(axis=0) for code in np.unique(classes)])
            classes = np.unique(classes)
            if similarity == "cosine":
                points = points / np.linalg.norm(points, axis=1, keepdims=True)
        nearness = -((points - rows[query]) ** 2).sum(axis=1) if similarity == "euclidean" else points @ rows[query]
        voters = classes[np.argsort(-nearness, kind="stable")][: 1 if classifier == "mean" else neighbours].tolist()
        right.append(max(voters, key=lambda code: (voters.count(code), -voters.index(code))) == truth)
    return np.mean(right)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize(("classifier", "neighbours"), [("mean", 1), ("knn", 1), ("knn", 3)])
def test_accuracy_is_that_of_each_query_by_hand(similarity, classifier, neighbours):
    embeddings, labels = clusters(spread=1.5)
    evaluator = FewShotEvaluator(
        shots=3, queries=4, classifier=classifier, neighbours=neighbours, similarity=similarity, ci=None
    )
    report = evaluator(embeddings, labels)
    episodes = sample_episodes(labels, shots=3, queries=4)
    expected = [by_hand(embeddings, episode, classifier, neighbours, similarity) for episode in episodes]
    np.testing.assert_allclose(report.per_unit["accuracy"], expected)
    by_query = replace(evaluator, ci="class")(embeddings, labels).per_unit["accuracy"]
    np.testing.assert_allclose(by_query.reshape(len(episodes), -1).mean(axis=1), expected)
    assert report["accuracy"] == pytest.approx(np.mean(expected))
    assert 0.3 < report["accuracy"] < 1


def test_one_shot_mean_and_nearest_neighbour_agree():
    embeddings, labels = clusters(spread=1.5)
    reports = [FewShotEvaluator(queries=4, classifier=kind, ci=None)(embeddings, labels) for kind in ("mean", "knn")]
    assert reports[0].metrics == reports[1].metrics


def test_more_shots_help_and_perfect_clusters_are_told_apart():
    noisy = clusters(per_class=60, spread=1.5)
    one, five = (FewShotEvaluator(shots=shots, queries=5, ci=None)(*noisy)["accuracy"] for shots in (1, 5))
    assert five > one + 0.1
    report = FewShotEvaluator(queries=4)(*clusters(spread=1e-3))
    assert report["accuracy"] == 1
    assert 0.6 < report.ci["accuracy"][0] < 0.9  # Wilson's interval of the classes
    by_episode = FewShotEvaluator(queries=4, ci="episode")(*clusters(spread=1e-3))
    assert 0.9 < by_episode.ci["accuracy"][0] < 1  # and of the queries


def test_collapsed_embeddings_are_right_by_chance():
    assert FewShotEvaluator(queries=4, ci=None)(np.ones((300, 4)), clusters()[1])["accuracy"] == pytest.approx(1 / 5)


def test_an_interval_says_what_it_leaves_out():
    embeddings, labels = clusters(spread=2)
    report = FewShotEvaluator(queries=4)(embeddings, labels)
    low, high = report.ci["accuracy"]
    assert low < report["accuracy"] < high
    assert 10 <= report.counts["episodes"] <= 300 // 25
    assert report.counts["queries"] == 20 * report.counts["episodes"]
    assert not report.warnings
    assert report.ci_method == "over 20 classes, left out one at a time"
    sharing = FewShotEvaluator(queries=4, disjoint=False)(embeddings, labels)
    assert sharing.ci["accuracy"][1] - sharing.ci["accuracy"][0] > (high - low) / 2  # no number of draws makes classes
    few = FewShotEvaluator(queries=10, ci="episode")(embeddings, labels)
    count = few.counts["episodes"]
    assert few.warnings == (f"only {count} episodes share no image: an interval over so few is a rough one",)
    with pytest.raises(ValueError, match="ci must be 'class' or None with disjoint=False, got 'episode'"):
        FewShotEvaluator(disjoint=False, ci="episode")


def test_two_models_meet_in_the_same_episodes():
    embeddings, labels = clusters(classes=40, per_class=20, spread=2)
    worse = embeddings + 2 * np.random.default_rng(0).normal(size=embeddings.shape)
    better, report = (FewShotEvaluator(queries=4)(rows, labels) for rows in (embeddings, worse))
    test = better.compare(report)["accuracy"]
    assert test.difference > 0.05
    assert test.p_value < 0.05


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (Episode(*map(np.array, ([0, 1], [0, 1], [2], [1]))), None),
        (Episode(*map(np.array, ([0, 9], [0, 1], [2], [1]))), r"rows in \[0, 4\), .* got 0 to 9 in episode 0"),
        (Episode(*map(np.array, ([0, -1], [0, 1], [2], [1]))), "got -1 to 2 in episode 0"),
        (Episode(*map(np.array, ([0, 1], [0, 1], [2], [2]))), "got none for class 2 in episode 0"),
        (Episode(*map(np.array, ([0, 1], [0, 2], [2], [2]))), "got none for class 1 in episode 0"),
    ],
)
def test_given_episodes_are_checked(episode, message):
    if message is None:
        assert FewShotEvaluator(ci=None).of_episodes(np.eye(4), [episode]).counts == {"episodes": 1, "queries": 1}
        return
    with pytest.raises(ValueError, match=message):
        FewShotEvaluator().of_episodes(np.eye(4), [episode])
    with pytest.raises(ValueError, match="episodes must be at least one, got none"):
        FewShotEvaluator().of_episodes(np.eye(4), [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classifier": "svm"}, "classifier must be a known name, got 'svm'"),
        ({"ci": "query"}, "ci must be a known name, got 'query'"),
        ({"neighbours": 0}, "neighbours must be a positive integer, got 0"),
        ({"ci_level": 1}, r"level must be in \(0, 1\), got 1"),
    ],
)
def test_an_evaluator_that_cannot_work_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        FewShotEvaluator(**arguments)
    with pytest.raises(ValueError, match="embeddings must be finite"):
        FewShotEvaluator()(np.full((3, 2), np.nan), [0, 1, 2])


# Omniglot's runs


@pytest.fixture
def archive(tmp_path):
    """An archive of two small runs, and how to change what their lists say."""

    def write(
        text="run01/test/item01.png run01/training/class02.png\nrun01/test/item02.png run01/training/class01.png\n",
    ):
        path = tmp_path / "all_runs.zip"
        with zipfile.ZipFile(path, "w") as file:
            for run in ("run01", "run02"):
                for name in ("test/item01", "test/item02", "training/class01", "training/class02"):
                    with file.open(f"{run}/{name}.png", "w") as image:
                        Image.new("1", (5, 5), "class" in name).save(image, "PNG")
                file.writestr(f"{run}/class_labels.txt", text.replace("run01", run))
        return path

    return write


def test_runs_are_read_with_their_answers(archive):
    images, episodes = omniglot_runs(archive())
    assert (len(images), len(episodes)) == (8, 2)
    assert images.classes == ["run01/class01", "run01/class02", "run02/class01", "run02/class02"]
    assert images.labels.tolist() == [0, 1, 1, 0, 2, 3, 3, 2]
    assert [part.tolist() for part in episodes[1]] == [[4, 5], [0, 1], [6, 7], [1, 0]]
    assert np.asarray(images[0][0]).tolist() == [[255] * 5] * 5
    report = FewShotEvaluator(ci=None).of_episodes(np.eye(4)[images.labels], episodes)
    assert report["accuracy"] == 1


def test_an_archive_without_runs_is_named(archive, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(
        ValueError, match=r"path must be an archive with run01/class_labels.txt, got none in .*other.zip"
    ):
        omniglot_runs(tmp_path / "other.zip")
    with pytest.raises(ValueError, match="must name a test and a training image in each line, got another in 'run01/"):
        omniglot_runs(archive("run01/test/item01.png\n"))


@pytest.mark.shared_data
def test_pixels_recognise_a_fifth_of_omniglots_characters(shared_data):
    images, episodes = omniglot_runs(shared_data / "omniglot" / "all_runs.zip")
    assert (len(images), images.num_classes, len(episodes)) == (800, 400, 20)
    assert {len(part) for episode in episodes for part in episode} == {20}
    pixels = np.stack([1 - np.asarray(image.resize((28, 28), Image.Resampling.BOX)) / 255.0 for image, _ in images])
    report = FewShotEvaluator().of_episodes(pixels.reshape(800, -1), episodes)
    assert 0.17 < report["accuracy"] < 0.27
    assert report.counts == {"episodes": 20, "queries": 400}
