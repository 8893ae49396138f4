"""eval: measure a model, or embeddings, by one protocol or several."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pml_center.cli.options import DATA, EvalOptions, ModelOptions
from pml_center.cli.output import show_files, show_json, show_table
from pml_center.cli.page import write_page
from pml_center.training.config import numbers_of

if TYPE_CHECKING:
    from pml_center.cli.protocols import Task
    from pml_center.evaluation import Report
    from pml_center.training import Run

IMAGES = (
    f"{DATA} The classes may be new to the model. By default what a run held out. For an .npy file: its labels, an "
    ".npy file or a line each."
)

LOG = logging.getLogger("pml_center")
OF_NO_REPORT = ("protocol", "json", "report")  # options that decide nothing that stands in one


def run_protocols(
    model: str,
    data: Annotated[str | None, Parameter(help=IMAGES)] = None,
    /,
    *,
    options: Annotated[EvalOptions, Parameter(name="*")] = EvalOptions(),  # noqa: B008 (frozen)
    model_options: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),  # noqa: B008 (frozen)
) -> None:
    """Measure a model, or embeddings, by one protocol or several.

    Args:
        model: a run folder, any timm model, hf-hub:... or local-dir:...; or embeddings: a folder that
            `pml-center embed` wrote, or an .npy file.
        data: images, in one of the forms of ``pml_center.cli.options.DATA``; by default what a run held out.
        options: what to measure.
        model_options: how images become embeddings.
    """
    from pml_center.cli.protocols import load_task

    widths = numbers_of("widths", options.widths)
    protocols: tuple[str, ...] = options.protocol or ("retrieval" if options.pairs is None else "verification",)
    if options.pairs is not None and "verification" not in protocols:
        raise ValueError(f"pairs must come with --protocol verification, got {' and '.join(protocols)}. Add it.")
    needed = {"gallery": ("retrieval", "identification", "openset"), "groups": ("retrieval",)}
    needed |= {"cohort": ("verification",), "p_target": ("verification",)}
    for name, by in needed.items():
        if getattr(options, name) not in (None, ()) and not set(by) & set(protocols):
            asked = " and ".join(protocols)
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} must come with --protocol {' or '.join(by)}, got {asked}. Leave it out.")
    task = load_task(model, data, options, model_options)
    cut = {width: task.cut(width) for width in widths}
    reports, beside = measured(task, protocols)
    of_width = {width: _by_protocol(shorter, protocols) for width, shorter in cut.items()}
    short = {name: {width: found[name] for width, found in of_width.items()} for name in protocols}
    apart = {f"{name}-{width}": report for name in protocols for width, report in short[name].items()}
    try:
        files = write_reports(task, data, reports | apart, beside)
    except OSError as error:  # a folder that can only be read must not lose what was computed
        LOG.warning("reports are not kept: %s", error)
        files = {}
    notes = known_classes(task, data)
    if options.report is not None:
        of_short = [_said_of_short(reports[name], short[name]) for name in protocols if widths]
        files["page"] = write_page_of(Path(options.report), task, reports, beside, notes + of_short, facts_of(task))
    if options.json:
        show_json("eval", _content(task, reports | apart, beside, files))
        return
    for name, report in reports.items():
        if len(reports) > 1:
            print(f"\n{name}")
        run = task.rows.run
        show_report(report, beside if name == "retrieval" else None, run.config.metric if run else "")
        if widths:
            show_table(*report.table({f"first {width}": other for width, other in short[name].items()}))
    for note in notes:
        print(note)
    show_files(files)


def _said_of_short(report: "Report", short: "Mapping[int, Report]") -> str:
    """A sentence on the first metric of embeddings that are cut, beside that of the whole."""
    name = next(iter(report.metrics))
    values = [f"{other[name]:.4f} with the first {width} numbers" for width, other in short.items()]
    return f"{name} is {report[name]:.4f} with whole embeddings, and {', '.join(values)}"


def measured(task: "Task", protocols: Sequence[str]) -> tuple[dict[str, "Report"], dict[str, "Report"]]:
    """A report for each protocol, and beside that of retrieval by a run, retrieval by what needs no training."""
    reports = _by_protocol(task, protocols)
    beside, gone = _beside(task) if "retrieval" in reports else ({}, [])
    if gone:
        found = reports["retrieval"]
        reports["retrieval"] = replace(found, warnings=tuple(dict.fromkeys([*found.warnings, *gone])))
    if task.rows.run and beside:
        from pml_center.training.measurement import with_doubts  # and with it all of training

        reports["retrieval"] = with_doubts(reports["retrieval"], beside, task.rows.run.config)
    return reports, beside


def _by_protocol(task: "Task", protocols: Sequence[str]) -> dict[str, "Report"]:
    from pml_center.cli.protocols import PROTOCOLS

    reports = {name: PROTOCOLS[name](task) for name in protocols}
    return {name: replace(report, warnings=(*report.warnings, *task.doubts)) for name, report in reports.items()}


def show_report(report: "Report", beside: "Mapping[str, Report] | None" = None, metric: str = "") -> None:
    """Print the metrics of a model with their intervals, beside those of what needs no training if there are any."""
    if not beside:
        print(report)
        return
    from pml_center.evaluation.report import BESIDE
    from pml_center.training.measurement import gained

    print(report.summary)
    show_table(*report.table({BESIDE[name]: other for name, other in beside.items()}))
    for sentence in [*gained(report, beside, metric), *report.remarks]:
        print(sentence)


def _beside(task: "Task") -> tuple[dict[str, "Report"], list[str]]:
    """Retrieval by what needs no training, and sentences on what of it is gone; nothing for other models."""
    from pml_center.cli.protocols import retrieval
    from pml_center.cli.sources import before, pixels

    if not task.rows.run or (task.gallery and not task.gallery.run):
        return {}, []
    # Thumbnails have length 1, so that distances rank as cosines do; unlike a cosine, they take a plain image.
    by_pixels = replace(task.options, similarity="euclidean", ci="none")
    found: dict[str, Report] = {}
    doubts: list[str] = []
    for name, embed, options in (("before", before, task.options), ("pixels", pixels, by_pixels)):
        rows, gone = embed(task.rows)
        gallery = task.gallery and embed(task.gallery)[0]
        doubts += gone
        if rows is not None and (gallery is not None or task.gallery is None):
            found[name] = retrieval(replace(task, rows=rows, gallery=gallery, options=options))
    return found, doubts


def write_reports(
    task: "Task", data: str | None, reports: dict[str, "Report"], beside: dict[str, "Report"]
) -> dict[str, Path]:
    """Write the reports to the folder of the run, if there is one; the path of the first."""
    if not task.rows.run:
        return {}
    named = {"report" if name == "retrieval" else name: report for name, report in reports.items()}
    run, model = task.rows.run, task.rows.model
    path = run.write_reports(named | beside, data, _otherwise(task, run), model and model.weights_digest)
    if model is not None and model.weights_digest != run.weights_digest:
        LOG.warning("the run was trained on meanwhile: this is of weights that have given way to others")
    return {"report": path}


def _otherwise(task: "Task", run: "Run") -> dict[str, Any]:
    """In which options it is measured otherwise than by default, which is as at the end of training."""
    from pml_center.cli.protocols import with_defaults
    from pml_center.data.open_images import full_source
    from pml_center.training.run_folder import OF_OTHERS

    asked, usual = vars(task.options), vars(with_defaults(EvalOptions(), run, task.rows.samples.labels))
    options = {name: value for name, value in asked.items() if value != usual[name] and name not in OF_NO_REPORT}
    options |= {name: full_source(options[name]) for name in ("gallery", "cohort", "pairs") if name in options}
    options |= {"flip_test": True} if task.rows.facts["flip_test"] else {}
    warnings = [doubt for doubt in task.doubts if doubt not in run.accepted and not doubt.startswith(OF_OTHERS)]
    return options | ({"warnings": warnings} if warnings else {})


def known_classes(task: "Task", data: str | None) -> list[str]:
    """How many of the classes a model has seen in training, and of the images; not of what a run held out."""
    rows = task.rows
    if data is None and rows.run is not None:
        return []
    seen, classes, names = rows.seen, set(map(str, rows.samples.labels)), rows.samples.names or ()
    known = len(classes & seen.labels)
    opened = () if rows.model is None else rows.images.images
    where = data if rows.model is not None and data is not None else rows.facts["embeddings"]
    there = sum(run is not None for run in seen.among(names, where, opened)) if seen else 0
    notes = [f"{known} of the {len(classes)} classes have names that the model was trained on"] if known else []
    return notes + ([f"{there:,} of the {len(names):,} images are among those that it was trained on"] * bool(there))


def facts_of(task: "Task") -> dict[str, Any]:
    """What was measured and how, for a reader; of a run without what was never asked of it."""
    of_timm = ("pretrained", "weights", "image_size", "channels") if task.rows.run else ()
    facts = {name: value for name, value in task.rows.facts.items() if name not in of_timm}
    return facts | {name: value for name, value in vars(task.options).items() if value is not None}


def write_page_of(
    path: Path,
    task: "Task",
    reports: dict[str, "Report"],
    beside: dict[str, "Report"],
    notes: Sequence[str],
    facts: dict[str, Any] | None,
) -> Path:
    """Write the page of what was measured."""
    rows, gallery = task.rows, task.gallery
    return write_page(
        path,
        reports,
        rows.run,
        beside,
        notes,
        facts,
        images=rows.images,
        reference_images=None if gallery is None else gallery.images,
        embeddings=rows.samples.embeddings,
        references=None if gallery is None else gallery.samples.embeddings,
        name=rows.name,
    )


def _content(
    task: "Task", reports: dict[str, "Report"], beside: dict[str, "Report"], files: dict[str, Path]
) -> dict[str, object]:
    content: dict[str, object] = dict(task.rows.facts)
    for name, other in (("gallery", task.gallery), ("cohort", task.cohort)):
        if other is not None:
            content[name] = other.facts
    content["reports"] = {name: report.content() for name, report in reports.items()}
    content |= {name: report.content() for name, report in beside.items()}
    return content | {"files": {name: str(path) for name, path in files.items()}}
