"""report: the page of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pml_center.cli.options import EvalOptions, Json, ModelOptions, Protocol
from pml_center.cli.output import show_files, show_json

if TYPE_CHECKING:
    from pml_center.cli.protocols import Task
    from pml_center.evaluation import Report


def report(
    run: Path,
    data: str | None = None,
    /,
    *,
    protocol: tuple[Protocol, ...] = ("retrieval",),
    out: Path | None = None,
    json_: Json = False,
    model_options: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),  # noqa: B008 (frozen)
) -> None:
    """Write the page of a run anew: what it is worth, with images, plots and the course of its training.

    Args:
        run: the folder that `pml-center train` wrote.
        data: what to measure it on, as for `pml-center eval`; by default what the run held out.
        protocol: one or several, with the settings that `pml-center eval` has by default.
        out: the file to write; by default report.html beside the report in the run folder.
        json_: print one JSON object.
        model_options: how images become embeddings.
    """
    from pml_center.cli.eval import facts_of, known_classes, measured, write_page_of, write_reports
    from pml_center.cli.protocols import load_task
    from pml_center.training import Run

    task = load_task(str(Run.open(run).folder), data, EvalOptions(protocol=protocol), model_options)
    reports, pixels = measured(task, protocol)
    as_trained = data is None and not model_options.flip_test
    if as_trained and "retrieval" in protocol:
        reports |= _accuracy(task)
    files = write_reports(task, data, reports, pixels)
    facts = None if as_trained and protocol == ("retrieval",) else facts_of(task)
    page = out or files["report"].with_name("report.html")
    files["page"] = write_page_of(page, task, reports, pixels, known_classes(task, data), facts)
    if json_:
        show_json("report", {**task.rows.facts, "files": {name: str(path) for name, path in files.items()}})
        return
    show_files(files)


def _accuracy(task: "Task") -> dict[str, "Report"]:
    """The loss as a classifier, where the run trained on the classes of the images."""
    from pml_center.training.measurement import accuracy, of_known_classes

    rows = task.rows
    if rows.run is None or rows.model is None or not of_known_classes(rows.images, rows.run.classes):
        return {}
    model = rows.model.embedder
    classify = rows.run.load_loss(model.embedding_size).classifier
    if classify is None:
        return {}
    return {"accuracy": accuracy(rows.samples.embeddings, rows.images.labels, classify, model.cpu())}
