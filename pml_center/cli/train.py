"""train: fit an embedding on one data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from pml_center.cli.config_file import ConfigFile
from pml_center.cli.options import Flag, Json
from pml_center.cli.output import show_files, show_json
from pml_center.training.config import (
    DataConfig,
    LossConfig,
    MeasuringConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)

if TYPE_CHECKING:
    from pml_center.training import Run
    from pml_center.training.measurement import Measurement


def section(name: str, place: int) -> Parameter:
    """The options of a dataclass, below a heading of their own in the help."""
    return Parameter(name="*", group=Group(name, sort_key=place))


def train(
    data: Annotated[DataConfig, section("Data", 1)] = DataConfig(),  # noqa: B008 (frozen, as all of these)
    model: Annotated[ModelConfig, section("Model", 2)] = ModelConfig(),  # noqa: B008
    loss: Annotated[LossConfig, section("Loss and batches", 3)] = LossConfig(),  # noqa: B008
    optimizer: Annotated[OptimizerConfig, section("Optimizer", 4)] = OptimizerConfig(),  # noqa: B008
    measuring: Annotated[MeasuringConfig, section("Measuring", 5)] = MeasuringConfig(),  # noqa: B008
    run: Annotated[RunConfig, section("Run", 6)] = RunConfig(),  # noqa: B008
    *,
    config: ConfigFile = None,
    dry_run: Flag = False,
    json_: Json = False,
) -> None:
    """Fit an embedding on one data set, then measure retrieval on what was held out.

    Args:
        data: which images.
        model: which network.
        loss: which loss, on which batches.
        optimizer: how weights move.
        measuring: what is looked at.
        run: where and how.
        config: a YAML file of these options, such as the config.yaml of a run; flags go before it.
        dry_run: build everything, take a few steps, write and read one checkpoint, estimate time and memory, and stop.
        json_: print one JSON object.
    """
    from pml_center.training import fit
    from pml_center.training.dry_run import estimate

    asked = TrainConfig.of_sections(data, model, loss, optimizer, measuring, run)
    if dry_run:
        found = estimate(asked)
        if found:  # in the first of several processes
            show_estimate(found, json_)
    else:
        run_folder, measurement = fit(asked)
        show_run(run_folder, measurement, json_)


def show_run(run: "Run", measurement: "Measurement | None", as_json: bool) -> None:
    """Say what came of a run, from the first of several processes."""
    from pml_center.cli.eval import show_report
    from pml_center.cli.page import chosen_epoch
    from pml_center.training.interrupt import explain_interrupt

    if not run.writes:
        return
    reports = {} if measurement is None else measurement.reports
    chosen = run.best_epoch
    with explain_interrupt(run.how_to_go_on):
        page = None if measurement is None else _write_page(run, measurement)
    if as_json:
        content = {"run": str(run.folder), "best_epoch": chosen, "page": page and str(page)}
        content["reports"] = {name: report.content() for name, report in reports.items()}
        show_json("train", content)
        return
    for note in chosen_epoch(run):
        print(note)
    if measurement is not None:
        show_report(measurement.model, measurement.beside, run.config.metric)
    if measurement is not None and measurement.accuracy is not None:
        print(measurement.accuracy)
    show_files({"run": run.folder} | ({} if page is None else {"page": page}))


def _write_page(run: "Run", measurement: "Measurement") -> Path:
    from pml_center.cli.page import write_page
    from pml_center.data import open_images

    reports = {"retrieval": measurement.model}
    reports |= {} if measurement.accuracy is None else {"accuracy": measurement.accuracy}
    return write_page(
        run.report_folder() / "report.html",
        reports,
        run,
        measurement.beside,
        images=run.held_out(  # as it was measured
            open_images(run.config.data, run.config.data_root, run.config.labels), accept_changes=True
        ),
        embeddings=measurement.embeddings,
    )


def show_estimate(found: dict[str, object], as_json: bool) -> None:
    """Say what a dry run found."""
    import yaml

    if as_json:
        show_json("train --dry-run", found)
        return
    print(yaml.safe_dump(found.pop("config"), sort_keys=False))
    for name, value in found.items():
        print(f"# {name:<22}{value}")
