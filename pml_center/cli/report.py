"""report: the page of a run."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pml_center.cli.options import EvalOptions, Json, ModelOptions, Protocol
from pml_center.cli.output import show_files, show_json


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
    from pml_center.cli.eval import measured, write_page, write_reports
    from pml_center.cli.protocols import load_task
    from pml_center.training import Run

    task = load_task(str(Run.open(run).folder), data, EvalOptions(protocol=protocol), model_options)
    reports, pixels = measured(task, protocol)
    files = write_reports(task, data, reports, pixels)
    files["page"] = write_page(out or files["report"].with_name("report.html"), task, reports)
    if json_:
        show_json("report", {**task.rows.facts, "files": {name: str(path) for name, path in files.items()}})
        return
    show_files(files)
