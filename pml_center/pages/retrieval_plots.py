"""The plots on the page of a report on retrieval."""

import numpy as np

from pml_center import plots
from pml_center.arrays import joined, parts_of
from pml_center.evaluation.retrieval_report import RetrievalReport
from pml_center.evaluation.roc import roc
from pml_center.evaluation.search import ExactSearch
from pml_center.pages.pair_samples import pairs_to_show, row_scores
from pml_center.pages.parts import Material, Plot, curves, drawn, histogram, measured, roc_and_det

SHOWN = 100_000  # pairs of each kind, for the histogram
PROJECTED = 3_000  # points


def retrieval_plots(report: RetrievalReport, material: Material, search: ExactSearch | None) -> list[Plot]:
    """How far classes are apart, every curve, whether short embeddings go wrong, and all in two dimensions.

    Args:
        report: on retrieval.
        material: the embeddings, where they are to be shown.
        search: among them; None where scores cannot be told again.
    """
    values = next(iter(report.per_unit.values()))
    found = [] if search is None else _of_pairs(report, search, material.has_roc)
    found += [_classes(report)] if len(report.classes) > 1 else []
    found += curves(report)
    if "cmc" not in report.curves:
        reached = np.maximum.accumulate(report.hits, axis=1)[~np.isnan(values)].mean(axis=0)
        ranks = np.arange(1, len(reached) + 1)
        found.append(drawn(lambda ax: plots.cmc(ranks, reached, ax=ax), f"Over {measured(report)}."))
    if material.embeddings is not None and len(report.codes) > 1:
        found += [*_error_by_norm(report, material), _projection(report, material, search)]
    return found


def _classes(report: RetrievalReport) -> Plot:
    """The mean of each class, which the mean of all hides."""
    name = report.ranked_by
    means = report.per_class()[name]
    interval = report.ci.get(name)
    low = f", and its {100 * report.ci_level:g} % interval, {report.ci_method}" if interval else ""
    caption = f"{len(means):,} classes, a dot each. Below them the mean of all queries{low}."
    return drawn(lambda ax: plots.class_means(means, report[name], interval, name, ax=ax), caption)


def score_name(report: RetrievalReport) -> str:
    """What the scores of neighbours are."""
    return "minus squared distance" if report.similarity == "euclidean" else f"{report.similarity} similarity"


def _of_pairs(report: RetrievalReport, search: ExactSearch, has_roc: bool) -> list[Plot]:
    """Scores of genuine and impostor pairs, and what a threshold would make of them."""
    first, second, same, is_all = pairs_to_show(report.codes, report.reference_codes, report.leave_one_out, SHOWN)
    if report.excluded is not None:
        exist = report.excluded[0][first] != report.excluded[1][second]
        first, second, same = first[exist], second[exist], same[exist]
    if not same.any() or same.all():
        return []
    curve = roc(row_scores(search, first, second), same)
    caption = _which_pairs(int(same.sum()), int((~same).sum()), is_all)
    told = f"{caption} The threshold is that of equal errors."
    found = [histogram(curve.histogram(), curve.equal_error_threshold, score_name(report), told)]
    if not has_roc:
        points = curve.points()
        found += roc_and_det({"far": points["far"], "tar": points["tar"]}, caption)
    return found


def _which_pairs(genuine: int, impostor: int, is_all: dict[bool, bool]) -> str:
    """What was taken of the pairs.

    Example:
        >>> _which_pairs(450, 4500, {True: True, False: True})
        'All 450 genuine and all 4,500 impostor pairs.'
        >>> _which_pairs(450, 100_000, {True: True, False: False})
        'All 450 genuine pairs, and 100,000 impostor pairs drawn at random.'
    """
    if is_all[True] and is_all[False]:
        return f"All {genuine:,} genuine and all {impostor:,} impostor pairs."
    if is_all[True]:
        return f"All {genuine:,} genuine pairs, and {impostor:,} impostor pairs drawn at random."
    if is_all[False]:
        return f"{genuine:,} genuine pairs drawn at random, and all {impostor:,} impostor pairs."
    return f"{genuine:,} genuine and {impostor:,} impostor pairs, drawn at random."


def _error_by_norm(report: RetrievalReport, material: Material) -> list[Plot]:
    """Whether embeddings of small norm go wrong; none where all have the same."""
    name, values = next(iter(report.per_unit.items()))
    known = ~np.isnan(values)
    parts = parts_of(material.embeddings)
    norms = np.concatenate([np.linalg.norm(np.asarray(part, dtype=np.float64), axis=1) for part in parts])[known]
    if norms.min() > 0.999 * norms.max():
        return []
    errors = 1 - values[known]
    caption = f"Error: 1 − {name}. {len(norms):,} queries in groups of like norm, ten at most; dotted: the mean of all."
    return [drawn(lambda ax: plots.error_by_norm(norms, errors, ax=ax), caption)]


def _projection(report: RetrievalReport, material: Material, search: ExactSearch | None) -> Plot:
    codes = report.codes
    rows = np.sort(np.random.default_rng(0).permutation(len(codes))[:PROJECTED])
    points = (search.queries if search is not None else joined(material.embeddings))[rows]
    names = [str(label) for label in report.classes]
    shown = "All queries" if len(rows) == len(codes) else f"{len(rows):,} queries drawn at random"
    coloured = "the ten largest classes have a colour" if len(names) > 10 else "each class has a colour"
    return drawn(
        lambda ax: plots.projection(points, codes[rows], names, ax=ax),
        f"{shown}; {coloured}. Distances in two dimensions say little of those in {points.shape[1]}.",
    )
