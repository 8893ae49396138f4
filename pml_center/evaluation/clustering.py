"""Clustering: do clusters that know no labels find the classes again?"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pml_center.arrays import as_list, check_count, class_codes
from pml_center.checks import check_between, check_choices
from pml_center.evaluation.evaluator import Evaluator, labelled_samples
from pml_center.evaluation.report import Report
from pml_center.evaluation.search import Counts, ExactSearch, Matrix, Similarity, import_faiss
from pml_center.notebooks import progress_bar


def adjusted_mutual_information(labels: Iterable[Hashable], clusters: Iterable[Hashable]) -> float:
    """AMI: the mutual information of two partitions, less what chance alone would give; 1 for equal partitions.

    ``(MI − E[MI]) / ((H(labels) + H(clusters)) / 2 − E[MI])``, as in scikit-learn. The expectation, over all partitions
    with the same sizes, is summed over pairs of different sizes instead of pairs of a class and a cluster: the same
    number, in milliseconds where there are thousands of classes.

    Args:
        labels: (N,) the class of each sample, anything hashable.
        clusters: (N,) its cluster.

    Raises:
        TypeError: labels that are not hashable.
        ValueError: different lengths, none at all, NaN.

    Example:
        >>> adjusted_mutual_information("aabbcc", [1, 1, 0, 0, 2, 2])
        1.0
        >>> round(adjusted_mutual_information("aabbcc", [1, 1, 0, 0, 0, 2]), 4)
        0.5024

    Source: Vinh et al., Information Theoretic Measures for Clusterings Comparison, JMLR 11, 2010, equation 24a.
    """
    return _Table(labels, clusters).adjusted_mutual_information


def normalized_mutual_information(labels: Iterable[Hashable], clusters: Iterable[Hashable]) -> float:
    """NMI: ``MI / ((H(labels) + H(clusters)) / 2)``, in [0, 1]. It rises with the number of clusters; prefer AMI.

    Random embeddings with few samples per class reach high values, and a class for every sample reaches 1.

    Args:
        labels: (N,) the class of each sample, anything hashable.
        clusters: (N,) its cluster.

    Raises:
        TypeError: labels that are not hashable.
        ValueError: different lengths, none at all, NaN.

    Example:
        >>> round(normalized_mutual_information("aabbcc", [0, 1, 2, 3, 4, 5]), 4)
        0.7602
    """
    return _Table(labels, clusters).normalized_mutual_information


def pairwise_f1(labels: Iterable[Hashable], clusters: Iterable[Hashable]) -> float:
    """The harmonic mean of precision and recall of the pairs that share a cluster, against those that share a class.

    Args:
        labels: (N,) the class of each sample, anything hashable.
        clusters: (N,) its cluster.

    Returns:
        In [0, 1]; 1 also where neither has a pair.

    Raises:
        TypeError: labels that are not hashable.
        ValueError: different lengths, none at all, NaN.

    Example:
        >>> round(pairwise_f1("aabbcc", [1, 1, 0, 0, 0, 2]), 4)
        0.5714
    """
    return _Table(labels, clusters).pairwise_f1


class _Table:
    """How many samples each class and cluster share."""

    def __init__(self, labels: Iterable[Hashable], clusters: Iterable[Hashable]):
        known = as_list(labels, "labels")
        rows = class_codes(known, len(known))
        columns = class_codes(clusters, len(rows), "clusters")
        if not len(rows):
            raise ValueError("labels must be at least one, got none. Pass a label for each sample.")
        self.total = len(rows)
        self.classes, self.clusters = np.bincount(rows), np.bincount(columns)  # sizes, in order of appearance
        cells, self.shared = np.unique(rows * len(self.clusters) + columns, return_counts=True)
        self.row, self.column = cells // len(self.clusters), cells % len(self.clusters)

    @property
    def mutual_information(self) -> float:
        product = self.classes[self.row].astype(np.float64) * self.clusters[self.column]
        return math.fsum((self.shared / self.total * np.log(self.shared * (self.total / product))).tolist())

    @property
    def mean_entropy(self) -> float:
        from scipy.stats import entropy

        return float(entropy(np.sort(self.classes)) + entropy(np.sort(self.clusters))) / 2

    @property
    def normalized_mutual_information(self) -> float:
        if len(self.classes) == len(self.clusters) == 1:
            return 1.0
        return min(1.0, self.mutual_information / self.mean_entropy)  # rounding can reach beyond

    @property
    def adjusted_mutual_information(self) -> float:
        if len(self.classes) == len(self.clusters) == len(self.shared):  # equal partitions, whatever chance would give
            return 1.0
        expected = expected_mutual_information(self.classes, self.clusters)
        return float((self.mutual_information - expected) / (self.mean_entropy - expected))

    @property
    def pairwise_f1(self) -> float:
        both, in_class, in_cluster = (
            int((sizes * (sizes - 1) // 2).sum()) for sizes in (self.shared, self.classes, self.clusters)
        )
        return 2 * both / (in_class + in_cluster) if in_class + in_cluster else 1.0


def expected_mutual_information(classes: Counts, clusters: Counts) -> float:
    """The mean mutual information over all ways to deal samples into classes and clusters of given sizes.

    Args:
        classes: (C,) sizes, which add up to N.
        clusters: (K,) sizes, which add up to N.
    """
    from scipy.special import gammaln

    total = int(classes.sum())
    log_factorial = gammaln(np.arange(total + 2) + 1.0)
    sizes, times = np.unique(clusters, return_counts=True)
    expected = 0.0
    for size, multiplicity in zip(*np.unique(classes, return_counts=True), strict=True):
        low, high = np.maximum(1, size + sizes - total), np.minimum(size, sizes)  # of the samples that they share
        which = np.repeat(np.arange(len(sizes)), high - low + 1)
        shared = np.arange(len(which)) - np.repeat(np.cumsum(high - low + 1) - high - 1, high - low + 1)
        other = sizes[which]
        chance = log_factorial[size] + log_factorial[other] + log_factorial[total - size] + log_factorial[total - other]
        chance -= log_factorial[total] + log_factorial[shared] + log_factorial[size - shared]
        chance -= log_factorial[other - shared] + log_factorial[total - size - other + shared]
        information = shared / total * np.log(shared * (total / (float(size) * other)))
        expected += multiplicity * float((times[which] * information * np.exp(chance)).sum())
    return expected


@dataclass(frozen=True)
class ClusteringEvaluator(Evaluator[Report]):
    """Cluster embeddings with k-means and compare the clusters with the labels: AMI, NMI and pairwise F1.

    k-means begins at random: what it finds depends on the seed and on the order of the rows, and in its last digits on
    the number of threads. The report gives mean and standard deviation over several seeds. Not a number to quote first:
    retrieval and verification measure embeddings without this detour.

    Args:
        clusters: how many; None means as many as there are classes.
        similarity: ``"cosine"`` for spherical k-means of normalised rows, ``"euclidean"`` for k-means.
        runs: of k-means, with the seeds ``seed``, ``seed + 1``, ….
        iterations: of k-means in each run.
        seed: the first seed.

    Raises:
        ValueError: an unknown choice, or a number that is not positive.

    Example:
        >>> embeddings = [[1, 0], [0.9, 0.1], [0.8, 0], [0, 1], [0.1, 0.9], [-0.1, 0.8]]
        >>> print(ClusteringEvaluator(runs=3)(embeddings, ["ant", "ant", "ant", "bee", "bee", "bee"]))
        6 images, 2 classes, 2 clusters, 3 runs: k-means by cosine similarity, mean and standard deviation over runs
        ami             1.0000
        ami_sd          0.0000
        nmi             1.0000
        nmi_sd          0.0000
        pairwise_f1     1.0000
        pairwise_f1_sd  0.0000
    """

    clusters: int | None = None
    similarity: Similarity = "cosine"
    runs: int = 5
    iterations: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(similarity=(self.similarity, Similarity))
        if self.similarity == "dot":
            raise ValueError("similarity must be 'cosine' or 'euclidean', got 'dot'. k-means has no centre for it.")
        if self.clusters is not None:
            check_count("clusters", self.clusters)
        check_count("runs", self.runs)
        check_count("iterations", self.iterations)
        largest = 2**31 - self.runs  # faiss counts in 32 bits
        check_between(f"an integer in [0, {largest}]", "Use 0.", seed=self.seed)
        check_between(f"an integer in [1, {2**31 - 1}]", "Use 20.", iterations=self.iterations)

    def __call__(self, embeddings: Any, labels: Iterable[Hashable] | None = None) -> Report:
        """Cluster embeddings and compare with their labels.

        Args:
            embeddings: (N, D) finite real numbers: a numpy array or memmap, or a tensor on any device; or the folder of
                :func:`save_samples`, which holds labels too.
            labels: (N,) the class of each row, anything hashable; at least two classes.

        Raises:
            TypeError: embeddings that are not real numbers, labels that are not hashable.
            ValueError: NaN or infinity, a zero vector with ``"cosine"``, labels that do not match their rows, a single
                class, more clusters than rows.
        """
        samples = labelled_samples("embeddings", embeddings, labels)
        prepared = ExactSearch(samples.embeddings, similarity=self.similarity, names=(samples.names, None)).queries
        codes = class_codes(samples.labels, len(prepared))
        classes = int(codes.max()) + 1
        if classes < 2:
            raise ValueError("labels must name at least two classes, got 1. One class leaves nothing to find.")
        count = classes if self.clusters is None else self.clusters
        if count > len(prepared):
            raise ValueError(
                f"clusters must be at most {len(prepared)}, the number of rows, got {count}. Ask for fewer."
            )
        runs = progress_bar(range(self.runs), desc="k-means", unit="run", delay=2)
        found = [self._run(prepared, codes, count, self.seed + run) for run in runs]
        per_run = {name: np.array([scores[name] for scores in found]) for name in found[0]}
        metrics = {}
        for name, values in per_run.items():
            metrics[name] = float(values.mean())
            metrics[f"{name}_sd"] = float(values.std(ddof=1)) if self.runs > 1 else 0.0
        return Report(
            metrics=metrics,
            protocol=f"k-means by {self.similarity} similarity, mean and standard deviation over runs",
            counts={"images": len(prepared), "classes": classes, "clusters": count, "runs": self.runs},
            per_unit=per_run,
            unit="run",
            over="runs of k-means",
        )

    def _run(self, prepared: Matrix, codes: Counts, clusters: int, seed: int) -> dict[str, float]:
        kmeans = import_faiss().Kmeans(
            prepared.shape[1],
            clusters,
            niter=self.iterations,
            seed=seed,
            spherical=self.similarity == "cosine",
            min_points_per_centroid=1,  # no warning about small classes
            max_points_per_centroid=len(prepared),  # no sampling of large ones
        )
        kmeans.train(prepared)
        _, nearest = kmeans.index.search(prepared, 1)
        table = _Table(codes, nearest[:, 0])
        return {
            "ami": table.adjusted_mutual_information,
            "nmi": table.normalized_mutual_information,
            "pairwise_f1": table.pairwise_f1,
        }
