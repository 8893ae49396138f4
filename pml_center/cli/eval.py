"""eval: measure a model, or embeddings, by one protocol or several."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pml_center.cli.options import DATA, EvalOptions, ModelOptions
from pml_center.cli.output import show_files, show_json, show_table

if TYPE_CHECKING:
    from pml_center.cli.protocols import Task
    from pml_center.evaluation import Report

IMAGES = (
    f"{DATA} The classes may be new to the model. By default what a run held out. For an .npy file: its labels, an "
    ".npy file or a line each."
)


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

    protocols: tuple[str, ...] = options.protocol or ("retrieval" if options.pairs is None else "verification",)
    if options.pairs is not None and "verification" not in protocols:
        raise ValueError(f"pairs must come with --protocol verification, got {' and '.join(protocols)}. Add it.")
    task = load_task(model, data, options, model_options)
    reports, pixels = measured(task, protocols)
    files = write_reports(task, data, reports, pixels)
    if options.report is not None:
        files["page"] = write_page(Path(options.report), task, reports)
    if options.json:
        show_json("eval", _content(task, reports, pixels, files))
        return
    for name, report in reports.items():
        if len(reports) > 1:
            print(f"\n{name}")
        show_report(report, pixels if name == "retrieval" else None)
    known = task.rows.run and data and len(set(task.rows.samples.labels) & set(task.rows.run.classes))
    if known:
        print(f"{known} of the {task.rows.facts['classes']} classes have names that the model was trained on")
    show_files(files)


def measured(task: "Task", protocols: Sequence[str]) -> tuple[dict[str, "Report"], "Report | None"]:
    """A report for each protocol, and retrieval by raw pixels beside that by a run."""
    from pml_center.cli.protocols import PROTOCOLS

    reports = {name: PROTOCOLS[name](task) for name in protocols}
    reports = {name: replace(report, warnings=(*report.warnings, *task.doubts)) for name, report in reports.items()}
    return reports, _raw_pixels(task) if "retrieval" in reports else None


def show_report(report: "Report", pixels: "Report | None" = None) -> None:
    """Print the metrics of a model with their intervals, beside those of raw pixels where there are any."""
    if pixels is None:
        print(report)
        return
    rows = []
    for name, value in report.metrics.items():
        low, high = report.ci.get(name, (None, None))
        rows.append([name, f"{value:.4f}", "" if low is None else f"{low:.4f} … {high:.4f}", f"{pixels[name]:.4f}"])
    print(report.summary)
    show_table(["", "model", f"{100 * report.ci_level:g} % interval", "raw pixels"], rows)
    for warning in report.warnings:
        print(f"warning: {warning}")


def _raw_pixels(task: "Task") -> "Report | None":
    """Retrieval by raw pixels, which a run has to beat; None for other models, and where only embeddings are known."""
    from pml_center.cli.protocols import retrieval
    from pml_center.cli.sources import pixels

    if not task.rows.run or (task.gallery and not task.gallery.run):
        return None
    # Thumbnails have length 1, so that distances rank as cosines do; unlike a cosine, they take a plain image.
    options = replace(task.options, similarity="euclidean", ci="none")
    gallery = task.gallery and pixels(task.gallery)
    return retrieval(replace(task, rows=pixels(task.rows), gallery=gallery, options=options))


def write_reports(
    task: "Task", data: str | None, reports: dict[str, "Report"], pixels: "Report | None"
) -> dict[str, Path]:
    """Write the reports to the folder of the run, if there is one; the path of the first."""
    if not task.rows.run:
        return {}
    named = {"report" if name == "retrieval" else name: report for name, report in reports.items()}
    return {"report": task.rows.run.write_reports(named | ({} if pixels is None else {"pixels": pixels}), data)}


def write_page(path: Path, task: "Task", reports: dict[str, "Report"]) -> Path:
    """Write the page of what was measured."""
    from pml_center.evaluation import write_html
    from pml_center.pages.parts import history
    from pml_center.training.run_folder import environment

    rows, gallery = task.rows, task.gallery
    asked = {name: value for name, value in asdict(task.options).items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_html(
        path,
        {_heading(name) if len(reports) > 1 else "": report for name, report in reports.items()},
        images=rows.images,
        reference_images=None if gallery is None else gallery.images,
        embeddings=rows.samples.embeddings,
        references=None if gallery is None else gallery.samples.embeddings,
        title=f"Evaluation of {rows.name}",
        details={"Configuration": rows.facts | asked, "Environment": environment()},
        extra=history(rows.run.epochs, rows.run.events("val")) if rows.run else (),
    )


def _heading(protocol: str) -> str:
    return protocol.replace("fewshot", "few-shot").capitalize()


def _content(
    task: "Task", reports: dict[str, "Report"], pixels: "Report | None", files: dict[str, Path]
) -> dict[str, object]:
    content: dict[str, object] = dict(task.rows.facts)
    if task.gallery is not None:
        content["gallery"] = task.gallery.facts
    content["reports"] = {name: report.content() for name, report in reports.items()}
    if pixels is not None:
        content["pixels"] = pixels.content()
    return content | {"files": {name: str(path) for name, path in files.items()}}
