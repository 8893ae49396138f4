"""The protocols by name: from embeddings and options to a report."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pml_center.cli.embeddings import is_embedding_folder
from pml_center.cli.options import EvalOptions, ModelOptions
from pml_center.cli.sources import Embedded, embedded, groups_by_name
from pml_center.evaluation import (
    ClusteringEvaluator,
    FewShotEvaluator,
    IdentificationEvaluator,
    OpenSetEvaluator,
    Pairs,
    Report,
    RetrievalEvaluator,
    Samples,
    VerificationEvaluator,
)
from pml_center.evaluation.pairs import read_pairs

if TYPE_CHECKING:
    from pml_center.training import Run

LOG = logging.getLogger("pml_center")
METRICS = tuple(RetrievalEvaluator.metrics)


@dataclass(frozen=True)
class Task:
    """What is measured: rows, those to search in, the pairs to verify, and a cohort that normalises their scores."""

    rows: Embedded
    gallery: Embedded | None
    pairs: Pairs | None
    options: EvalOptions
    cohort: Embedded | None = None

    @property
    def doubts(self) -> list[str]:
        """Sentences for every report on what makes the rows doubtful."""
        parts = [each for each in (self.rows, self.gallery, self.cohort) if each is not None]
        return list(dict.fromkeys(doubt for each in parts for doubt in each.doubts))

    def cut(self, width: int) -> "Task":
        """The same with the first numbers of each embedding alone.

        Raises:
            ValueError: embeddings that have fewer.
        """
        gallery = None if self.gallery is None else self.gallery.cut(width)
        return replace(self, rows=self.rows.cut(width), gallery=gallery)

    def settings(self, by_query: str, by_class: str | None = None) -> dict[str, Any]:
        """How embeddings are compared, and how sure the numbers are to be: arguments of every evaluator with intervals.

        Args:
            by_query: what the evaluator calls the unit that is resampled.
            by_class: the same where classes are to be resampled, if it can.
        """
        options = self.options
        return {
            "similarity": options.similarity,
            "ci": {"query": by_query, "class": by_class or by_query, "none": None}[options.ci or "class"],
            "ci_level": options.ci_level,
            "resamples": options.resamples,
            "seed": options.seed,
        }


def retrieval(task: Task) -> Report:
    """Each row searched for among the others, or in the gallery."""
    options, rows = task.options, task.rows.samples
    evaluator = RetrievalEvaluator(
        metrics=options.metrics or METRICS,
        recall_at=options.recall_at,
        index=options.index,
        singletons=options.singletons,
        **task.settings("query", "class"),
    )
    found: dict[str, Any] = {}
    if task.gallery is not None:
        gallery = task.gallery.samples
        found = {"gallery": gallery.embeddings, "gallery_labels": gallery.labels}
        found |= {"gallery_groups": gallery.groups, "gallery_names": gallery.names}
    return evaluator(rows.embeddings, rows.labels, query_groups=rows.groups, names=rows.names, **found)


def verification(task: Task) -> Report:
    """The pairs of a file, or all pairs."""
    options, rows = task.options, task.rows.samples
    evaluator = VerificationEvaluator(
        far=options.far, p_target=options.p_target, top_n=options.top_n, **task.settings("identity")
    )
    cohort = None if task.cohort is None else task.cohort.samples
    return evaluator(rows.embeddings, rows.labels, task.pairs, rows.names, cohort)


def identification(task: Task) -> Report:
    """Each row looked up in the gallery, or, without one, in the first rows of all classes."""
    options, rows = task.options, task.rows.samples
    evaluator = IdentificationEvaluator(ranks=options.ranks, **task.settings("query", "identity"))
    if task.gallery is not None:
        return evaluator(rows, gallery=task.gallery.samples)
    labels = np.asarray(rows.labels)
    enrolled = np.sort(np.unique(labels, return_index=True)[1])
    others = np.setdiff1d(np.arange(len(labels)), enrolled)
    if not len(others):
        raise ValueError(
            f"classes must have two images or more to identify one by the other, got {len(labels)} classes of one "
            "image. Give a --gallery."
        )
    embeddings = np.asarray(rows.embeddings)
    report = evaluator(embeddings[others], labels[others], embeddings[enrolled], labels[enrolled])
    return replace(report, protocol=f"{report.protocol}, the first image of each class enrolled")


def openset(task: Task) -> Report:
    """Each row told to be of a class of the gallery or of none; without one, by the logits of a run."""
    rows = task.rows.samples
    evaluator = OpenSetEvaluator(**task.settings("query", "class"))
    if task.gallery is not None:
        return evaluator(rows, gallery=task.gallery.samples)
    run, embeddings = task.rows.run, torch.from_numpy(np.array(rows.embeddings))
    terms = [] if run is None else run.load_loss(embeddings.shape[1]).losses
    loss: Any = next((loss for loss in terms if hasattr(loss, "get_logits")), None)
    if run is None or loss is None:
        raise ValueError(
            "--gallery must be given for --protocol openset, got none, and no run whose loss has logits. Name images "
            "of the known classes."
        )
    with torch.no_grad():
        logits = loss.get_logits(embeddings)
    report = evaluator.of_scores(logits, rows.labels or (), run.classes)
    return replace(report, protocol=f"the logits of {type(loss).__name__}")


def clustering(task: Task) -> Report:
    """k-means against the classes."""
    options, rows = task.options, task.rows.samples
    return ClusteringEvaluator(similarity=options.similarity or "cosine", seed=options.seed)(
        rows.embeddings, rows.labels
    )


def fewshot(task: Task) -> Report:
    """Episodes of a few known images per class."""
    options, rows = task.options, task.rows.samples
    sizes = (options.ways, options.shots, options.queries, options.episodes)
    return FewShotEvaluator(*sizes, **task.settings("episode", "class"))(rows.embeddings, rows.labels)


PROTOCOLS: dict[str, Callable[[Task], Report]] = {
    "retrieval": retrieval,
    "verification": verification,
    "identification": identification,
    "openset": openset,
    "clustering": clustering,
    "fewshot": fewshot,
}


def load_task(model: str, data: str | None, options: EvalOptions, model_options: ModelOptions) -> Task:
    """What a user asks to measure, with its embeddings.

    Raises:
        FileNotFoundError: a file or folder that is not there.
        ValueError: what does not fit together.
    """
    if data is not None and model_options.accept_changes:
        raise ValueError(
            f"accept_changes must be left out where data are given, got {data}: nothing was recorded of them. Leave "
            "--accept-changes out."
        )

    def look(names: list[str]) -> None:  # what is wrong with names is said before anything is embedded
        if options.groups is not None:
            groups_by_name(options.groups, names)
        if options.pairs is not None:
            pairs_of(options.pairs, Samples(None, [], names=names))

    rows = embedded(model, data, model_options, names=options.names, look=look)
    options = with_defaults(options, rows.run, rows.samples.labels)
    gallery = _beside("gallery", options.gallery, model, rows, model_options)
    cohort = _beside("cohort", options.cohort, model, rows, model_options)
    if options.groups is not None:
        rows = rows.in_groups(options.groups)
        gallery = gallery and gallery.in_groups(options.groups)
    elif gallery is not None and (rows.samples.groups is None) != (gallery.samples.groups is None):
        LOG.info("groups  not used: the %s none", "queries have" if rows.samples.groups is None else "gallery has")
        rows, gallery = rows.in_groups(None), gallery.in_groups(None)
    pairs = None if options.pairs is None else pairs_of(options.pairs, rows.samples)
    return Task(rows, gallery, pairs, options, cohort)


def _beside(name: str, source: str | None, model: str, rows: Embedded, model_options: ModelOptions) -> Embedded | None:
    """The gallery or the cohort: another data set by the model of the rows, or another folder of embeddings."""
    if source is None:
        return None
    is_folder = is_embedding_folder(source)
    if rows.model is None and not is_folder:
        raise ValueError(
            f"--{name} must be a folder of `pml-center embed` where {model} holds embeddings, got {source}. Embed it "
            "with the same model, or write it with save_samples."
        )
    other = embedded(source, None, model_options) if is_folder else embedded(model, source, model_options, rows.model)
    ours, theirs = rows.maker, other.maker
    if any(ours[key] != theirs[key] for key in ours.keys() & theirs.keys()):
        doubt = f"queries and {name} were not embedded alike: {source} is of other weights or another input"
        LOG.warning("%s", doubt)
        other = replace(other, doubts=(*other.doubts, doubt))
    return other


def with_defaults(options: EvalOptions, run: "Run | None", labels: Sequence[Hashable]) -> EvalOptions:
    """What was not asked for: as a run is measured at its end, or as any other model."""
    known = run is not None and run.knows(labels)
    own: list[str] = [] if run is None else [run.config.metric]
    similarity = options.similarity or ("cosine" if run is None else run.config.similarity)
    metrics = options.metrics or tuple(dict.fromkeys([*METRICS, *own]))
    return replace(options, similarity=similarity, metrics=metrics, ci=options.ci or ("query" if known else "class"))


def pairs_of(path: str, rows: Samples) -> Pairs:
    """The pairs of a file, of rows by name, see :func:`~pml_center.evaluation.pairs.read_pairs`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: rows without names, another format, images that are not among the rows.
    """
    if rows.names is None:
        raise ValueError(
            "--pairs must be of images by name, got embeddings without names. Give --names, a text file with the path "
            "of each row, or a folder with a column 'path' in samples.csv."
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"pairs must be an existing file, got {path!r}. Check the path.")
    return read_pairs(path, rows.names)
