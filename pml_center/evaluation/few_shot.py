"""Few-shot classification: recognise new classes from one or a few examples of each."""

import io
import zipfile
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pml_center.arrays import as_array, as_list, check_count, check_several, class_codes
from pml_center.checks import check_choices
from pml_center.data import LabeledImages
from pml_center.decoding import convert, decode
from pml_center.evaluation.class_intervals import class_interval, over_classes
from pml_center.evaluation.evaluator import Evaluator, labelled_samples
from pml_center.evaluation.report import Report
from pml_center.evaluation.search import ExactSearch, Ids, Similarity
from pml_center.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    check_intervals,
    check_seed,
    few_units,
    mean_of,
    settled,
)
from pml_center.text_files import decoded

Classifier = Literal["mean", "knn"]
Resampled = Literal["class", "episode"]
FEW = 10  # episodes, over fewer of which an interval is a rough one
Matrix = NDArray[np.float64]


class Episode(NamedTuple):
    """One small task: a support set with its classes, and queries to tell apart by it."""

    support: Ids
    """(S,) rows of the embeddings."""
    support_classes: Ids
    """(S,) integers in [0, ways)."""
    queries: Ids
    """(M,) rows of the embeddings."""
    query_classes: Ids
    """(M,) integers in [0, ways)."""


def sample_episodes(
    labels: Iterable[Hashable],
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int | None = None,
    disjoint: bool = True,
    seed: int = 0,
) -> list[Episode]:
    """Draw N-way K-shot episodes. They depend on the labels and the seed alone: every model gets the same.

    Args:
        labels: (N,) the class of each row, anything hashable.
        ways: classes in an episode, at least 2.
        shots: support images of each class.
        queries: query images of each class.
        episodes: how many; None means as many as there are with ``disjoint``, 600 without.
        disjoint: no image is in two episodes. An interval over such episodes holds the uncertainty of the data;
            otherwise it holds that of the draws alone and is too narrow.
        seed: of the random numbers.

    Raises:
        TypeError: labels that are not hashable.
        ValueError: a number out of range; too few classes with enough images; fewer disjoint episodes than asked for.

    Example:
        >>> episodes = sample_episodes("aaaaabbbbbcccc", ways=2, shots=1, queries=1)
        >>> len(episodes), episodes[0].support_classes.tolist(), episodes[0].query_classes.tolist()
        (3, [0, 1], [0, 1])

    Source: Vinyals et al., Matching Networks, NeurIPS 2016, arXiv:1606.04080 (episodes); Lafargue et al., Oops, I
        Sampled it Again, 2024, arXiv:2409.02850 (why disjoint).
    """
    if check_count("ways", ways) < 2:
        raise ValueError("ways must be at least 2, got 1. One class leaves nothing to tell apart.")
    needed = check_count("shots", shots) + check_count("queries", queries)
    wanted = None if episodes is None else check_count("episodes", episodes)
    check_seed(seed)
    known = as_list(labels, "labels")
    codes = class_codes(known, len(known))
    sizes = np.bincount(codes)
    if (sizes >= needed).sum() < ways:
        raise ValueError(
            f"labels must name at least {ways} classes with {needed} images each (shots + queries), got "
            f"{(sizes >= needed).sum()} of {len(sizes)} classes. Ask for fewer ways, shots or queries."
        )
    random = np.random.default_rng(seed)
    pools = [random.permutation(np.flatnonzero(codes == code)) for code in range(len(sizes))]
    found: list[Episode] = []
    limit = wanted or (None if disjoint else 600)
    while limit is None or len(found) < limit:
        left = np.array([len(pool) // needed for pool in pools])  # episodes that each class could still be in
        if (left > 0).sum() < ways:
            break
        chosen = random.choice(len(pools), ways, replace=False, p=left / left.sum())
        drawn = np.stack([pools[c][:needed] if disjoint else random.choice(pools[c], needed, False) for c in chosen])
        if disjoint:
            for code in chosen:
                pools[code] = pools[code][needed:]
        of_support, of_queries = np.repeat(np.arange(ways), shots), np.repeat(np.arange(ways), queries)
        found.append(Episode(drawn[:, :shots].ravel(), of_support, drawn[:, shots:].ravel(), of_queries))
    if wanted is not None and len(found) < wanted:
        raise ValueError(
            f"episodes must be at most {len(found)}, which is how many share no image, got {wanted}. "
            "Ask for fewer, or pass disjoint=False and mistrust the interval."
        )
    return found


def omniglot_runs(path: str | Path) -> tuple[LabeledImages, list[Episode]]:
    """The 20 runs of 20-way one-shot classification that are part of Omniglot, from ``all_runs.zip``.

    Args:
        path: the archive, with ``run01/class_labels.txt`` naming a training image for each test image, and so on.

    Returns:
        The 800 images, black strokes on white, to embed in this order; label and class are those of ``run01/class01``
        and so on. And 20 episodes of 20 support and 20 query images, for :class:`FewShotEvaluator`.

    Raises:
        ValueError: an archive without runs, or a run that does not name its images.

    Source: Lake et al., Human-level concept learning through probabilistic program induction, Science 350, 2015 (people
        err in 4.5 % of these).
    """
    images: list[Image.Image] = []
    labels: list[int] = []
    classes: list[str] = []
    episodes = []
    with zipfile.ZipFile(path) as archive:
        lists = sorted(name for name in archive.namelist() if name.endswith("/class_labels.txt"))
        if not lists:
            raise ValueError(
                f"path must be an archive with run01/class_labels.txt, got none in {str(path)!r}. "
                "Use all_runs.zip of https://github.com/brendenlake/omniglot."
            )
        for name in lists:
            lines = decoded(archive.read(name), "path", f"{path}/{name}").split("\n")
            pairs = [line.split() for line in lines if line.strip()]
            if any(len(pair) != 2 for pair in pairs) or not pairs:
                raise ValueError(f"path must name a test and a training image in each line, got another in {name!r}.")
            training = sorted({pair[1] for pair in pairs})
            first = len(images)
            own = np.array([training.index(pair[1]) for pair in pairs])
            for file in [*training, *(pair[0] for pair in pairs)]:
                images.append(convert(decode(io.BytesIO(archive.read(file))), channels=1))
            labels += [len(classes) + code for code in [*range(len(training)), *own.tolist()]]
            classes += [f"{Path(name).parent.name}/{Path(file).stem}" for file in training]
            support = first + np.arange(len(training))
            queries = first + len(training) + np.arange(len(pairs))
            episodes.append(Episode(support, np.arange(len(training)), queries, own))
    return LabeledImages(images, labels, classes, source=Path(path).stem), episodes


@dataclass(frozen=True)
class FewShotEvaluator(Evaluator[Report]):
    """Accuracy of N-way K-shot classification by the nearest class mean or the nearest neighbours.

    Args:
        ways: classes in an episode, at least 2.
        shots: support images of each class.
        queries: query images of each class.
        episodes: how many; None means as many as share no image, or 600 where they may.
        disjoint: no image is in two episodes, see :func:`sample_episodes`.
        classifier: ``"mean"``: the class whose mean is nearest (prototypical); ``"knn"``: the class of most of the
            nearest support images, of several the one with the nearest.
        neighbours: of ``"knn"``.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``. With cosine, rows and means are normalised.
        ci: what could have been others: ``"class"``, where the classes are new to the model, which also holds where
            episodes share images (:func:`class_interval` of the queries of each class); or ``"episode"``, new images of
            known classes, by a bootstrap over episodes that share none. Episodes that were given are always resampled:
            nobody says which classes they have in common. None means no intervals.
        ci_level: the level of the intervals, in (0, 1).
        resamples: of the bootstrap.
        seed: of episodes and bootstrap. Use the same for the models that you compare.

    Raises:
        ValueError: an unknown choice, or a number out of range.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.repeat(["ant", "bee", "cat"], 40)
        >>> embeddings = np.repeat(np.eye(3), 40, axis=0) + 0.5 * rng.normal(size=(120, 3))
        >>> print(FewShotEvaluator(ways=3, queries=3)(embeddings, labels))
        10 episodes, 90 queries: 3-way 1-shot, nearest class mean by cosine similarity, episodes that share no image
        accuracy  0.7111  [0.2987, 0.9343]
        95 % intervals: over 3 classes, left out one at a time
        warning: 3 classes are few to judge others by: ...

    Source: Snell et al., Prototypical Networks, NeurIPS 2017, arXiv:1703.05175 (class means).
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    episodes: int | None = None
    disjoint: bool = True
    classifier: Classifier = "mean"
    neighbours: int = 1
    similarity: Similarity = "cosine"
    ci: Resampled | None = "class"
    ci_level: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(similarity=(self.similarity, Similarity), classifier=(self.classifier, Classifier))
        check_intervals(self.ci, Resampled, self.ci_level, self.resamples, self.seed)
        for name in ("ways", "shots", "queries", "neighbours"):
            check_count(name, getattr(self, name))
        if self.ci == "episode" and not self.disjoint:
            raise ValueError(
                "ci must be 'class' or None with disjoint=False, got 'episode': episodes that share images say nothing "
                "of other data, however many there are. Leave ci out."
            )

    def __call__(self, embeddings: Any, labels: Iterable[Hashable] | None = None) -> Report:
        """Classify in episodes that are drawn from labelled embeddings.

        Args:
            embeddings: (N, D) finite real numbers: a numpy array or memmap, or a tensor on any device; or the folder of
                :func:`save_samples`, which holds labels too.
            labels: (N,) the class of each row, anything hashable.

        Raises:
            TypeError: embeddings that are not real numbers, labels that are not hashable.
            ValueError: NaN or infinity, a zero vector with ``"cosine"``, labels that do not match their rows; as for
                :func:`sample_episodes`.
        """
        samples = labelled_samples("embeddings", embeddings, labels)
        prepared = ExactSearch(samples.embeddings, similarity=self.similarity, names=(samples.names, None)).queries
        codes = class_codes(samples.labels, len(prepared))
        episodes = sample_episodes(codes, self.ways, self.shots, self.queries, self.episodes, self.disjoint, self.seed)
        images = "episodes that share no image" if self.disjoint else "episodes that may share images"
        how = f"{self.ways}-way {self.shots}-shot, {self._rule}, {images}"
        return self._report(prepared.astype(np.float64), episodes, how, codes if self.ci == "class" else None)

    def of_episodes(self, embeddings: Any, episodes: Sequence[Episode]) -> Report:
        """Classify in episodes that a protocol gives, such as :func:`omniglot_runs`. Their sizes are their own.

        Args:
            embeddings: (N, D) finite real numbers.
            episodes: whose rows are those of the embeddings.

        Raises:
            TypeError: embeddings that are not real numbers.
            ValueError: NaN or infinity, a zero vector with ``"cosine"``, no episode, rows that do not exist, a class
                without support.
        """
        prepared = ExactSearch(embeddings, similarity=self.similarity).queries
        check_several(episodes=episodes)
        if not len(episodes):
            raise ValueError("episodes must be at least one, got none. See sample_episodes.")
        for number, episode in enumerate(episodes):
            _check_episode(episode, number, len(prepared))
        return self._report(prepared.astype(np.float64), episodes, f"given episodes, {self._rule}")

    @property
    def _rule(self) -> str:
        rule = "nearest class mean" if self.classifier == "mean" else f"{self.neighbours} nearest support images"
        return f"{rule} by {self.similarity} similarity"

    def _report(self, rows: Matrix, episodes: Sequence[Episode], how: str, codes: Ids | None = None) -> Report:
        """The report, by queries where ``codes`` says of which class each row is, else by episodes."""
        right = [(self._classify(rows, each) == each.query_classes).astype(np.float64) for each in episodes]
        counts = {"episodes": len(episodes), "queries": sum(map(len, right))}
        accuracy = np.array([each.mean() for each in right])
        common: dict[str, Any] = {"metrics": {"accuracy": mean_of(accuracy)}, "protocol": how, "counts": counts}
        common["ci_level"] = self.ci_level
        if codes is not None:
            values, classes = np.concatenate(right), codes[np.concatenate([each.queries for each in episodes])]
            number = len(np.unique(classes))
            return Report(
                **common,
                per_unit={"accuracy": values},
                clusters=classes,
                over="classes",
                ci={"accuracy": class_interval(values, classes, self.ci_level)},
                ci_method=over_classes(number),
                warnings=few_units(number, "classes"),
            )
        ci: dict[str, Interval] = {}
        warnings: tuple[str, ...] = ()
        if self.ci is not None:
            [interval] = bootstrap_interval(accuracy, None, self.ci_level, self.resamples, self.seed)
            ci = {"accuracy": settled(interval, counts["queries"], self.ci_level)}
            if len(episodes) < FEW:
                warnings = (f"only {len(episodes)} episodes share no image: an interval over so few is a rough one",)
        return Report(
            **common,
            per_unit={"accuracy": accuracy},
            unit="episode",
            over="episodes",
            ci=ci,
            ci_method=f"bootstrap over {len(episodes):,} episodes",
            warnings=warnings,
        )

    def _classify(self, rows: Matrix, episode: Episode) -> Ids:
        """The class (M,) that each query is given."""
        support, queries = rows[episode.support], rows[episode.queries]
        if self.classifier == "mean":
            return self._scores(queries, self._means(support, episode.support_classes)).argmax(axis=1)
        scores = self._scores(queries, support)
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, : self.neighbours]
        voted = episode.support_classes[nearest]  # (M, k), nearest first
        votes = (voted[:, :, None] == voted[:, None, :]).sum(axis=2)  # for the class of each neighbour
        return voted[np.arange(len(voted)), votes.argmax(axis=1)]

    def _means(self, support: Matrix, classes: Ids) -> Matrix:
        """The mean of each class, of length 1 with cosine."""
        means = np.stack([support[classes == code].mean(axis=0) for code in range(classes.max() + 1)])
        if self.similarity != "cosine":
            return means
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float64).tiny)

    def _scores(self, queries: Matrix, others: Matrix) -> Matrix:
        scores = queries @ others.T
        if self.similarity == "euclidean":
            scores = 2 * scores - (others**2).sum(axis=1)  # the query's own length changes no order
        return scores


def _check_episode(episode: Episode, number: int, rows: int) -> None:
    if not isinstance(episode, Episode):
        raise TypeError(
            f"episodes must be Episode, got {type(episode).__name__} as number {number}. Make them with it."
        )
    sizes = [(as_array(each, "episodes").shape, as_array(each).dtype.kind) for each in episode]
    whole = all(len(shape) == 1 and shape[0] and kind in "iu" for shape, kind in sizes)
    if not whole or sizes[0][0] != sizes[1][0] or sizes[2][0] != sizes[3][0]:
        raise ValueError(
            f"episodes must have integers (S,) and (S,) for the support and (M,) and (M,) for the queries, got shapes "
            f"{', '.join(str(shape) for shape, _ in sizes)} in episode {number}. Give a class for each row."
        )
    if both := set(as_list(episode.support)) & set(as_list(episode.queries)):
        raise ValueError(
            f"episodes must have other queries than support, got row {min(both)} as both in episode {number}. "
            "It would find itself: leave it out of one of them."
        )
    used = np.concatenate([episode.support, episode.queries])
    if used.min() < 0 or used.max() >= rows:
        raise ValueError(
            f"episodes must be of rows in [0, {rows}), the number of embeddings, got {used.min()} to {used.max()} in "
            f"episode {number}. Pass the embeddings that the episodes were made for."
        )
    classes = np.concatenate([episode.support_classes, episode.query_classes])
    if classes.min() < 0 or classes.max() >= len(classes):
        raise ValueError(
            f"episodes must number their classes from 0, got {classes.min()} to {classes.max()} in episode {number}. "
            "Use np.unique(classes, return_inverse=True)."
        )
    missing = set(range(classes.max() + 1)) - set(episode.support_classes.tolist())
    if missing:
        raise ValueError(
            f"episodes must have support for each class, got none for class {min(missing)} in episode {number}. "
            "Number the classes of an episode from 0, and give each a support image."
        )
