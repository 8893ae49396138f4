"""Reports as one page of HTML that holds everything it shows."""

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from pml_center import __version__
from pml_center.evaluation.report import BESIDE, Report, told_once
from pml_center.evaluation.retrieval_report import RetrievalReport
from pml_center.evaluation.verification import VerificationReport
from pml_center.pages.parts import Material, Part, curves
from pml_center.pages.retrieval import RetrievalParts
from pml_center.pages.thumbnails import Thumbnails
from pml_center.pages.verification import verification_parts

PACKAGES = ("torch", "pytorch-metric-learning", "faiss-cpu", "timm", "numpy")


def write_html(
    path: str | Path,
    reports: Mapping[str, Report],
    *,
    images: Sequence[Any] | None = None,
    reference_images: Sequence[Any] | None = None,
    embeddings: Any = None,
    references: Any = None,
    before: Report | None = None,
    pixels: Report | None = None,
    title: str = "Evaluation",
    first: Sequence[str] = (),
    notes: Sequence[str] = (),
    details: Mapping[str, Mapping[str, Any]] | None = None,
    extra: Sequence[Part] = (),
) -> Path:
    """Write reports to one page that can be read from disk, without a network and without JavaScript.

    Retrieval: what was found for some queries, the hardest mistakes and positives, likely label errors,
    near-duplicates, confused classes, every class. Verification: the pairs judged wrongly. Plots of whatever there is.
    Pictures are small JPEGs in the page itself, 500 at most, so that it stays below 10 MB.

    Args:
        path: of the page.
        reports: by the name of what each measured; a single one may be called ``""``.
        images: of the queries or rows, in their order: a :class:`~pml_center.data.LabeledImages`, paths, PIL images or
            uint8 arrays. None shows names.
        reference_images: likewise of the references, where these are another set.
        embeddings: (Q, D) of the queries or rows: for the hardest positives, the histogram and the projection.
        references: (N, D) of the references, where these are another set.
        before: a report on the model before training, whose metrics stand beside those of retrieval.
        pixels: likewise on raw pixels.
        title: the heading.
        first: sentences below it, what it comes to; one that is a warning of a report stands there in a box.
        notes: more sentences, below these.
        details: tables of configuration and environment, by their name; None has the versions of the packages.
        extra: more parts, below the reports.

    Returns:
        The path.

    Raises:
        ValueError: an image that cannot be read or is of another kind; embeddings that do not fit.

    Example:
        >>> import tempfile
        >>> from pml_center.evaluation import RetrievalEvaluator
        >>> rows = [[1, 0], [0.9, 0.3], [0, 1], [0.4, 0.8]]
        >>> report = RetrievalEvaluator(ci=None)(rows, ["a", "a", "b", "b"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_html(Path(folder, "report.html"), {"Retrieval": report}, embeddings=rows)
        ...     "leave-one-out" in page.read_text(encoding="utf-8")
        True
    """
    has_roc = any("roc" in report.curves for report in reports.values())
    material = Material(images, reference_images, embeddings, references, has_roc)
    thumbnails, numbers = Thumbnails(), count()
    others = {BESIDE["before"]: before, BESIDE["pixels"]: pixels}
    beside = {name: report for name, report in others.items() if report is not None}
    chapters = [_chapter(name, report, material, thumbnails, beside) for name, report in reports.items()]
    warnings = {warning for report in reports.values() for warning in report.warnings}
    leading = [(sentence, sentence in warnings) for sentence in first]
    for chapter in chapters:
        chapter["warnings"] = [warning for warning in chapter["warnings"] if warning not in first]
    if extra:
        chapters.append(
            dict.fromkeys(("title", "anchor", "summary", "level", "warnings", "metrics", "beside"), "")
            | {"parts": extra}
        )
    for chapter in chapters:
        chapter["parts"] = [_placed(part, next(numbers)) for part in chapter["parts"]]
    if details is None:
        details = {"Environment": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}}
    text = _template().render(
        title=title, first=leading, notes=notes, chapters=chapters, details=details, version=__version__
    )
    path = Path(path)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files need not be valid UTF-8
    return path


def _parts_of(report: Report, material: Material, thumbnails: Thumbnails) -> Iterator[Part]:
    """The parts that a report has, by its kind and by what there is to show."""
    if isinstance(report, RetrievalReport):
        yield from RetrievalParts(report, material, thumbnails)
    elif isinstance(report, VerificationReport):
        yield from verification_parts(report, material, thumbnails)
    else:
        drawings = curves(report)
        if drawings:
            yield Part("Curves", kind="plots", plots=drawings)


def _chapter(
    name: str, report: Report, material: Material, thumbnails: Thumbnails, beside: Mapping[str, Report]
) -> dict[str, Any]:
    thresholds = getattr(report, "thresholds", {})
    beside = beside if isinstance(report, RetrievalReport) else {}
    return {
        "title": name,
        "anchor": _anchor(name),
        "summary": report.summary,
        "warnings": report.warnings,
        "level": f"{100 * report.ci_level:g} %" if report.ci else "",
        "ci_method": report.ci_method,
        "thresholds": bool(thresholds),
        "beside": list(beside),
        "metrics": [
            _metric(report, name, thresholds.get(name), list(beside.values())) for name in told_once(report.metrics)
        ],
        "parts": list(_parts_of(report, material, thumbnails)),
    }


def _metric(report: Report, name: str, threshold: float | None, beside: Sequence[Report]) -> dict[str, Any]:
    value = report.metrics[name]
    interval, bar = "", None
    if name in report.ci:
        low, high = report.ci[name]
        interval = f"{low:.4f} … {high:.4f}"
        if 0 <= low <= high <= 1 and 0 <= value <= 1:
            bar = {"low": f"{100 * low:.2f}", "width": f"{100 * (high - low):.2f}", "value": f"{100 * value:.2f}"}
    return {
        "name": name,
        "value": f"{value:.4f}",
        "interval": interval,
        "bar": bar,
        "beside": [f"{other.metrics[name]:.4f}" if name in other.metrics else "" for other in beside],
        "threshold": "" if threshold is None else f"{threshold:.4f}",
    }


def _placed(part: Part, number: int) -> dict[str, Any]:
    """A part with an anchor, and with drawings whose inner names differ from those of all others on the page."""
    from markupsafe import Markup

    drawings = [
        (Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\1p{number}-{place}-", plot.svg)), plot.caption)
        for place, plot in enumerate(part.plots)
    ]
    return vars(part) | {
        "anchor": f"part-{number}",
        "plots": [{"svg": svg, "caption": caption} for svg, caption in drawings],
    }


def _anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("pml_center.pages", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.jinja")
