"""Retrieval: each query is searched for among references, and what is found is measured."""

import logging
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import check_count, check_several
from pml_center.checks import check_choices
from pml_center.evaluation.class_intervals import Absence, class_interval, over_classes
from pml_center.evaluation.embed import Samples
from pml_center.evaluation.evaluator import Evaluator, labelled_samples
from pml_center.evaluation.retrieval_metrics import Metric, metric_named
from pml_center.evaluation.retrieval_report import RetrievalReport
from pml_center.evaluation.retrieval_task import RetrievalTask, with_bar
from pml_center.evaluation.search import (
    Ids,
    Neighbours,
    Similarity,
    Ties,
    Values,
    duplicates,
    import_faiss,
    native_similarity,
    queries_among,
)
from pml_center.evaluation.statistics import (
    Interval,
    bootstrap_intervals,
    check_intervals,
    few_units,
    mean_of,
    means_by_class,
)
from pml_center.names import unknown_name

LOG = logging.getLogger("pml_center")

Singletons = Literal["skip", "zero", "error"]
Resampled = Literal["query", "class"]

KEPT = 10  # neighbours that a report keeps of each query
MANY_TIES = 0.01  # share of queries from which on a report warns


@dataclass(frozen=True)
class RetrievalEvaluator(Evaluator[RetrievalReport]):
    """Retrieval metrics of embeddings, by exact search unless asked otherwise, with confidence intervals.

    The metrics bear PML's names and equal PML's values. As many neighbours are searched for as the metrics need. The
    same object is an ``accuracy_calculator`` for PML's testers and hooks.

    Args:
        metrics: which to measure. ``"precision_at_K"``, ``"ir_recall_at_K"``, ``"map_at_K"`` and ``"ndcg_at_K"`` for
            any K; ``"r_precision"`` and ``"mean_average_precision_at_r"`` look at as many neighbours as there are
            relevant references; ``"mean_average_precision"``, ``"mean_reciprocal_rank"`` and
            ``"mean_inverse_negative_penalty"`` rank the whole gallery, which takes longer.
        recall_at: the K of each ``recall_at_K``.
        similarity: ``"cosine"``, ``"dot"``, ``"euclidean"`` or a distance of PML.
        index: ``"Flat"`` searches exactly. Any other string for ``faiss.index_factory``, or a ``knn_func`` of PML,
            proposes candidates, and the report says how many of the true neighbours they hold.
        singletons: what to do with a query that has nothing to find. ``"skip"`` leaves it out and counts it, as PML
            leaves it out; ``"zero"`` counts it as found wrong in every metric; ``"error"`` refuses it.
        ties: ``"index"`` ranks equal scores by row; ``"expected"`` takes the mean over all orders of equal scores, and
            ranks the whole gallery for it.
        ci: what could have been others, and so what intervals and :meth:`Report.compare` are about: ``"class"``, where
            the classes are new to the model (:func:`class_interval`), or ``"query"``, new images of known classes (a
            percentile bootstrap). Metrics of the whole gallery, and all with ``ties="expected"``, leave a class out of
            the queries alone, which makes intervals a little too short. None means no intervals, and tests by class,
            of the queries alone.
        ci_level: the level of the intervals, in (0, 1).
        resamples: of the bootstrap over queries.
        seed: of its random numbers.
        chunk_size: at most this many queries at a time; None lets memory decide. The result does not depend on it.

    Raises:
        ImportError: faiss is not installed.
        TypeError: a similarity that is neither a name nor a PML distance.
        ValueError: an unknown choice or metric, a K that is not a positive integer, a metric of the whole gallery or
            ``ties="expected"`` with an index that does not rank it.

    Example:
        >>> embeddings = [[1, 0], [0.9, 0.3], [0, 1], [0.4, 0.8], [0.7, 0.7]]
        >>> print(RetrievalEvaluator(recall_at=(1, 2))(embeddings, ["a", "a", "b", "b", "c"]))
        4 queries, 5 references, 1 skipped: exact cosine search, leave-one-out, ties 0.0 %
        recall_at_1                  0.7500  [0.0103, 0.9988]
        recall_at_2                  1.0000  [0.0122, 1.0000]
        r_precision                  0.7500  [0.0103, 0.9988]
        mean_average_precision_at_r  0.7500  [0.0103, 0.9988]
        95 % intervals: over 2 classes, left out one at a time
        warning: 2 classes are few to judge others by: ...

    """

    metrics: Sequence[str] = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    recall_at: Sequence[int] = (1, 2, 4, 8)
    similarity: Any = "cosine"
    index: Any = "Flat"
    singletons: Singletons = "skip"
    ties: Ties = "index"
    ci: Resampled | None = "class"
    ci_level: float = 0.95
    resamples: int = 1000
    seed: int = 0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        import_faiss()
        if not isinstance(self.index, str) and not callable(self.index):
            raise TypeError(f"index must be a string of faiss or a knn_func of PML, got {self.index!r}. Use 'Flat'.")
        check_several(metrics=self.metrics, recall_at=self.recall_at)
        check_choices(singletons=(self.singletons, Singletons), ties=(self.ties, Ties))
        check_intervals(self.ci, Resampled, self.ci_level, self.resamples, self.seed)
        if isinstance(self.similarity, str):
            check_choices(similarity=(self.similarity, Similarity))
        elif native_similarity(self.similarity) is None and self.index != "Flat":
            raise ValueError(
                f"index must be 'Flat' with {type(self.similarity).__name__}, got {self.index!r}. "
                "faiss cannot index that distance."
            )
        for k in self.recall_at:
            check_count("recall_at", k)
        if self.chunk_size is not None:
            check_count("chunk_size", self.chunk_size)
        if not self._all_metrics:
            raise ValueError("metrics must name at least one metric, got none. Name one, or a K in recall_at.")
        if self._ranks_gallery and self.index != "Flat":
            reason = "ties='expected'" if self.ties == "expected" else "metrics of the whole gallery"
            raise ValueError(f"index must be 'Flat' with {reason}, got {self.index!r}. An index gives only neighbours.")

    def __call__(
        self,
        embeddings: Any,
        labels: Iterable[Hashable] | None = None,
        gallery: Any = None,
        gallery_labels: Iterable[Hashable] | None = None,
        query_groups: Iterable[Hashable] | None = None,
        gallery_groups: Iterable[Hashable] | None = None,
        names: Sequence[str] | None = None,
        gallery_names: Sequence[str] | None = None,
    ) -> RetrievalReport:
        """Evaluate embeddings, each against all the others or against a gallery.

        Args:
            embeddings: (Q, D) finite real numbers: a numpy array or memmap, or a tensor on any device. Or a folder that
                ``save_samples`` wrote, which brings labels, groups and names along.
            labels: (Q,) the class of each row: integers, strings or anything hashable.
            gallery: (N, D) references to search in, or a folder. Or a list of such matrices or folders, which are one
                gallery: of memory-mapped files, memory holds one at a time. None means leave-one-out: each row is
                searched for among the others.
            gallery_labels: (N,) the class of each reference, of all parts in one list.
            query_groups: (Q,) the camera, sequence or session of each query. References with the label and the group of
                a query do not exist for it.
            gallery_groups: (N,) the group of each reference; not for leave-one-out.
            names: (Q,) what the report calls the queries, e.g. their paths.
            gallery_names: (N,) what it calls the references.

        Returns:
            The report: means over the queries, the values of each query, and its first neighbours.

        Raises:
            TypeError: embeddings that are not real numbers, labels that are not hashable.
            ValueError: as for :func:`nearest_neighbours`; labels or groups that do not match their rows; a gallery
                without labels; no query with a relevant reference.
        """
        queries = labelled_samples("embeddings", embeddings, labels, query_groups, names)
        if gallery is None and gallery_labels is None:
            if gallery_groups is not None:
                raise ValueError("gallery_groups must come with a gallery, got only groups. Pass query_groups alone.")
            return self._evaluate(queries, None)
        return self._evaluate(
            queries, labelled_samples("gallery", gallery, gallery_labels, gallery_groups, gallery_names)
        )

    def get_accuracy(
        self,
        query: Any,
        query_labels: Any,
        reference: Any = None,
        reference_labels: Any = None,
        ref_includes_query: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> dict[str, float]:
        """Evaluate as PML's ``AccuracyCalculator`` does, for its testers: each metric's mean, without intervals.

        Args:
            query: (Q, D) embeddings.
            query_labels: (Q,) the class of each.
            reference: (N, D); None means leave-one-out.
            reference_labels: (N,) the class of each.
            ref_includes_query: the first Q references are the queries, each of which is left out for itself.
            include: the metrics to return; none means all.
            exclude: metrics not to return.

        Raises:
            ValueError: as for calling the evaluator; names of metrics that it does not measure; first references that
                are not the queries although ``ref_includes_query`` says so. As in PML, queries may be among the
                references, and where no query has anything to find the metrics are NaN; a warning says either.
        """
        wanted = _wanted(self.get_curr_metrics(), include, exclude)
        queries = labelled_samples("embeddings", query, query_labels)
        references = None if reference is None else labelled_samples("reference", reference, reference_labels)
        evaluator = replace(self, metrics=wanted, recall_at=(), ci=None)
        task = RetrievalTask.of(queries, references, self.similarity, self.index, ref_includes_query, overlap=True)
        if not task.relevant.any() and self.singletons == "skip":
            LOG.warning("none of %s queries has a reference of its label: every metric is nan", len(task.codes))
            return dict.fromkeys(wanted, math.nan)
        _check_found(task, self.singletons)
        values, _, neighbours, _ = evaluator._measure(task, kept=1)
        alike = 0 if references is None or ref_includes_query else duplicates(task.search, neighbours.ids[:, 0])
        if alike:
            LOG.warning(
                "reference holds the very embedding of %s of %s queries, which find themselves. "
                "ref_includes_query=True leaves them out",
                f"{alike:,}",
                f"{len(task.codes):,}",
            )
        return {name: mean_of(value) for name, value in values.items()}

    def get_curr_metrics(self) -> list[str]:
        """The names of the metrics, as PML's hooks ask for them."""
        return list(self._all_metrics)

    def description(self) -> str:
        """What PML's testers add to the name of a record: nothing."""
        return ""

    @property
    def _all_metrics(self) -> dict[str, Metric]:
        return {name: metric_named(name) for name in [*(f"recall_at_{k}" for k in self.recall_at), *self.metrics]}

    @property
    def _ranks_gallery(self) -> bool:
        return self.ties == "expected" or any(metric.looks_at == "gallery" for metric in self._all_metrics.values())

    def _evaluate(self, queries: Samples, references: Samples | None) -> RetrievalReport:
        """Evaluate queries among references, or among themselves."""
        task = RetrievalTask.of(queries, references, self.similarity, self.index)
        _check_found(task, self.singletons)
        values, tied, neighbours, absence = self._measure(task, min(KEPT, int(task.search.available.max())))
        measured = ~np.isnan(next(iter(values.values())))
        tie_rate = float(tied[measured].mean())
        metrics, ci = _summary(self, values, task.codes, absence)
        alike = duplicates(task.search, neighbours.ids[:, 0])
        few = few_units(len(np.unique(task.codes[measured])), "classes") if self.ci == "class" else ()
        return RetrievalReport(
            metrics=metrics,
            protocol=self._protocol(task, tie_rate, queries.groups is not None),
            counts={
                "queries": int(measured.sum()),
                "references": len(task.reference_codes),
                "skipped": int((~measured).sum()),
                "duplicates": alike,
            },
            per_unit=values,
            ci=ci,
            ci_level=self.ci_level,
            ci_method=_ci_method(self.ci, metrics, task.codes[measured], [n for n in values if n not in absence]),
            clusters=None if self.ci == "query" else task.codes,
            absence=absence if self.ci == "class" else {},
            over="queries" if self.ci == "query" else "classes",
            warnings=_warnings(task, tie_rate, alike) + few,
            classes=task.classes,
            codes=task.codes,
            reference_codes=task.reference_codes,
            neighbours=neighbours,
            similarity=task.search.similarity,
            leave_one_out=references is None,
            names=queries.names,
            reference_names=(references or queries).names,
            tie_rate=tie_rate,
            excluded=task.search.excluded,
        )

    def _measure(
        self, task: RetrievalTask, kept: int
    ) -> tuple[dict[str, Values], NDArray[np.bool_], Neighbours, dict[str, Absence]]:
        """Each metric's values (Q,), NaN for a query that is left out; where ties decide (Q,); neighbours (Q, kept).

        And what would change of each metric of the first neighbours without each class, for intervals over classes.
        """
        metrics, queries = self._all_metrics, len(task.codes)
        deepest = max((metric.k for metric in metrics.values()), default=0)
        empty = np.full(queries, 0.0 if self.singletons == "zero" else np.nan)
        values = {name: empty.copy() for name in metrics}
        tied = np.zeros(queries, dtype=bool)
        whole = {name: each for name, each in metrics.items() if self.ties == "expected" or each.looks_at == "gallery"}
        among = {name: each for name, each in metrics.items() if name not in whole}
        absent = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((len(among), 0)))]
        neighbours = Neighbours.none(queries, kept)
        needed = np.full(queries, min(deepest, len(task.reference_codes)))  # what lies beyond costs nothing
        if any(metric.looks_at == "r" for metric in among.values()):
            needed = np.maximum(task.relevant, needed)
        passes = [(among, task.first_neighbours(needed, kept, self.chunk_size, deepest))]
        if whole:
            passes.append((whole, task.whole_gallery(self.ties, deepest, self.chunk_size)))
        for own, chunks in passes:
            for rows, ranking, undecided, found, others in with_bar(chunks, queries):
                some = ranking.relevant > 0
                tied[rows] = undecided & some
                if found is not None:
                    neighbours.put(rows, *found)
                for name, metric in own.items():
                    values[name][rows[some]] = metric(ranking)[some]
                for of, gone, without in others if own and self.ci == "class" else ():
                    change = [metric(without) - values[name][of] for name, metric in own.items()]
                    absent.append((gone, task.codes[of], np.array(change)))
        gone, finder, changes = (np.concatenate(parts, axis=-1) for parts in zip(*absent, strict=True))
        absence = {name: Absence(gone, finder, change) for name, change in zip(among, changes, strict=True)}
        return values, tied, neighbours, absence

    def _protocol(self, task: RetrievalTask, tie_rate: float, groups: bool) -> str:
        parts = [task.search.protocol, "leave-one-out" if task.search.leave_one_out else "separate references"]
        if groups:
            parts.append("without references of the same label and group")
        if self.singletons == "zero":
            parts.append("0 for queries without a relevant reference")
        parts.append(f"ties {100 * tie_rate:.1f} %")
        if self.ties == "expected":
            parts[-1] += " in expectation"
        return ", ".join(parts)


def _summary(
    evaluator: RetrievalEvaluator, values: dict[str, Values], codes: Ids, absence: dict[str, Absence]
) -> tuple[dict[str, float], dict[str, Interval]]:
    """The means over queries, and over classes where these have different numbers of queries; their intervals."""
    measured = ~np.isnan(next(iter(values.values())))
    known, codes = {name: value[measured] for name, value in values.items()}, codes[measured]
    sizes = np.unique(codes, return_counts=True)[1]
    metrics = {name: mean_of(value) for name, value in known.items()}
    ci: dict[str, Interval] = {}
    if evaluator.ci == "query":
        ci = bootstrap_intervals(known, evaluator.ci_level, evaluator.resamples, evaluator.seed)
    several = len(sizes) > 1 and evaluator.ci is not None
    if several and evaluator.ci == "class":
        ci = {name: class_interval(known[name], codes, evaluator.ci_level, False, absence.get(name)) for name in known}
    if sizes.min() < sizes.max():
        numbers = np.unique(codes, return_inverse=True)[1]
        for name, value in known.items():
            metrics[f"macro_{name}"] = mean_of(means_by_class(value, numbers))
            if several:
                ci[f"macro_{name}"] = class_interval(value, codes, evaluator.ci_level, True, absence.get(name))
    return metrics, ci


def _ci_method(ci: Resampled | None, metrics: Mapping[str, float], codes: Ids, gallery: Sequence[str]) -> str:
    """What intervals are over, and of which metrics a class is not left out of the gallery."""
    classes = over_classes(len(np.unique(codes)))
    if ci == "class":
        alone = f" of {', '.join(gallery)}" if len(gallery) < len(metrics) else ""
        return classes + (f", of the queries alone in intervals{alone}" if gallery else "")
    macro = any(name.startswith("macro_") for name in metrics)
    return f"bootstrap over {len(codes):,} queries" + (f", {classes} for macro averages" if macro else "")


def _check_found(task: RetrievalTask, singletons: Singletons) -> None:
    """Queries must have something to find, all of them where ``singletons`` says so."""
    alone = np.flatnonzero(task.relevant == 0)
    if len(alone) == len(task.codes):
        raise ValueError(
            f"labels must be shared by queries and references, got {len(alone)} queries without a reference of "
            "their label. Check that both sets name their classes alike and that classes repeat."
        )
    if len(alone) and singletons == "error":
        raise ValueError(
            f"labels must each have a reference because singletons='error', got "
            f"{task.classes[task.codes[alone[0]]]!r} at position {alone[0]} without one ({len(alone)} of "
            f"{len(task.codes)} queries). Use singletons='skip' or 'zero', or remove these queries."
        )


def _wanted(known: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> tuple[str, ...]:
    """The metrics that PML's testers ask for, all where they name none."""
    check_several(include=include, exclude=exclude)
    include, exclude = list(include), list(exclude)
    for name in (*include, *exclude):
        if str(name) not in known:
            clusters = " AMI and NMI are measured by ClusteringEvaluator." if str(name) in ("AMI", "NMI") else ""
            remedy = f"This evaluator has {', '.join(known)}.{clusters}"
            raise ValueError(unknown_name("metric", str(name), known, remedy))
    return tuple(name for name in include or known if name not in exclude)


def _warnings(task: RetrievalTask, tie_rate: float, alike: int) -> tuple[str, ...]:
    found = []
    if tie_rate > MANY_TIES:
        found.append(
            f"equal scores may decide about {tie_rate:.1%} of the queries. Have the embeddings collapsed, or were they "
            "quantised? ties='expected' does not depend on the order of the rows."
        )
    elif not task.search.leave_one_out:
        found += queries_among(alike, len(task.codes))
    if len(task.classes) == 1:
        found.append("all labels are equal, so that whatever is found is right. Are these the labels of the classes?")
    return tuple(found)
