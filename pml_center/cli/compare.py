"""compare: which loss is best, over seeds, and whether the difference is real."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pml_center.cli.config_file import ConfigFile
from pml_center.cli.options import Flag, Json
from pml_center.cli.output import show_files, show_json, show_table
from pml_center.cli.train import section
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
    from pml_center.comparison.compare import Plan
    from pml_center.comparison.result import Comparison

DEFAULT_SEEDS = (0, 1, 2)
WHERE = ("device", "workers")  # options that may change when a comparison goes on
_NO_OPTION = Parameter(parse=False)  # of train, which has another option for it here


@dataclass(frozen=True)
class ComparedData(DataConfig):
    """The images.

    Attributes:
        data: the images, where SOURCES names none.
        workers: processes of each run that read images; 0 reads in the run itself. The result does not depend on it.
    """

    data: str = "digits"
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class ComparedBatches(LossConfig):
    """The batches that every loss sees."""

    loss: Annotated[str, _NO_OPTION] = LossConfig.loss


@dataclass(frozen=True, kw_only=True)
class ComparedRuns(RunConfig):
    """The runs.

    Attributes:
        out: the folder of the comparison; by default runs/DATE_MODEL_compare. One that was begun there goes on.
        overwrite: delete the comparison that is in this folder already.
    """

    seed: Annotated[int, _NO_OPTION] = 0
    out: str | None = None
    overwrite: bool = False


def compare(
    sources: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    /,
    *,
    losses: tuple[str, ...] = (),
    seeds: tuple[int, ...] = DEFAULT_SEEDS,
    search: int = 0,
    search_seed: int = 0,
    hold: tuple[str, ...] = (),
    retry: Flag = False,
    jobs: int | None = None,
    data: Annotated[ComparedData, section("Data", 1)] = ComparedData(),
    model: Annotated[ModelConfig, section("Model", 2)] = ModelConfig(),  # noqa: B008
    batches: Annotated[ComparedBatches, section("Batches", 3)] = ComparedBatches(),
    optimizer: Annotated[OptimizerConfig, section("Optimizer", 4)] = OptimizerConfig(),  # noqa: B008
    measuring: Annotated[MeasuringConfig, section("Measuring", 5)] = MeasuringConfig(),  # noqa: B008
    run: Annotated[ComparedRuns, section("Run", 6)] = ComparedRuns(),
    config: ConfigFile = None,
    dry_run: Flag = False,
    json_: Json = False,
) -> None:
    """Train several losses alike, with several seeds, and say which is best and whether the difference is real.

    Without --losses, compare runs that exist; or go on with a comparison that was interrupted, by its folder.

    Args:
        sources: with --losses the data: 'digits', or a folder with one sub-folder of images per class, or a zip file of
            one. Without, the folders of runs, or of comparisons.
        losses: formulas, each as train --loss takes it.
        seeds: of the runs of each loss.
        search: settings to try for every loss before: learning rates, batches by class, and what the loss says of
            itself, such as its margin. They are judged by validation images, never by those held out; the best three
            are trained again before one is chosen. 0 tries none.
        search_seed: of the runs of the search.
        hold: arguments of losses, and of lr, loss_lr, per_class and weight, that the search leaves as they are.
        retry: try again what failed before.
        jobs: runs at a time; by default as many as there are processor cores, and one with a GPU. On a CPU each run
            computes with one thread. The result does not depend on it.
        data: which images.
        model: which network.
        batches: which batches.
        optimizer: how weights move.
        measuring: what is looked at; the metric also ranks the losses.
        run: where and how.
        config: a YAML file of these options, such as the compare.yaml of a comparison; flags go before it.
        dry_run: say what would be trained and how long it would take, and stop.
        json_: print one JSON object.
    """
    from pml_center.comparison.compare import FILE, Plan, carry_out, compare_runs
    from pml_center.comparison.page import write_comparison
    from pml_center.training.owner import owned
    from pml_center.training.run_folder import default_folder

    sections = (data, model, batches, optimizer, measuring, run)
    if losses:
        if len(sources) > 1:
            raise ValueError(f"data must be one source with --losses, got {' '.join(sources)}. Compare one by one.")
        asked = TrainConfig.of_sections(*sections, data=sources[0] if sources else data.data)
        plan = Plan.new(asked, losses, seeds, search, search_seed=search_seed, hold=hold, retry=retry)
    else:
        others = {"search": search, "search_seed": search_seed, "hold": hold, "retry": retry, "dry_run": dry_run}
        given = _given(sections, seeds=seeds != DEFAULT_SEEDS, jobs=jobs is not None, **others)
        goes_on = len(sources) == 1 and not run.out and (Path(sources[0]) / FILE).is_file()
        _refuse_training(given, (*WHERE, "jobs", "retry", "dry_run") if goes_on else ())
        if not goes_on:
            _check_runs(sources)
            comparison = compare_runs(sources)
            folder = Path(run.out or default_folder(TrainConfig(model="runs", loss="compare")))
            with owned(folder):
                write_comparison(comparison, folder, {"runs": " ".join(sources)})
            return _show(comparison, folder, json_)
        plan = Plan.of(Path(sources[0]))
        where = {name: given[name] for name in WHERE if name in given}
        plan = replace(plan, config=replace(plan.config, **where), retry=retry)
    if dry_run:
        return _show_expected(plan, jobs, json_)
    return _show(carry_out(plan, jobs), plan.folder, json_)


def _given(sections: Sequence[Any], **others: Any) -> dict[str, Any]:
    """The options that say more than their defaults, without the folder to write to."""
    of_sections = {
        name: value
        for section in sections
        for name, value in asdict(section).items()
        if value != getattr(type(section)(), name) and name != "out"
    }
    return of_sections | {name: value for name, value in others.items() if value}


def _refuse_training(given: dict[str, Any], allowed: Sequence[str]) -> None:
    """Options that say how to train have no meaning for runs that exist."""
    refused = [name for name in given if name not in allowed]
    if refused:
        raise ValueError(
            f"losses must be given where something is to be trained, got --{refused[0].replace('_', '-')} without "
            "them. Name them with --losses."
        )


def _check_runs(sources: Sequence[str]) -> None:
    """Without losses, anything but runs is likely to be data to train on."""
    from pml_center.comparison.compare import FILE

    files = (FILE, "config.yaml")
    others = [source for source in sources if not any((Path(source) / file).is_file() for file in files)]
    if others or not sources:
        raise FileNotFoundError(
            f"sources must be folders of runs or of comparisons, got {others[0] if others else 'none'}. "
            "To train on data, name the losses with --losses."
        )


def _show(comparison: "Comparison", folder: Path, as_json: bool) -> None:
    from pml_center.comparison.page import FILES
    from pml_center.comparison.result import table

    files = {name: str(folder / file) for name, file in FILES.items()}
    if as_json:
        print(json.dumps(comparison.content() | {"files": files}))
    else:
        print(comparison.summary)
        columns, rows = table(comparison, digits=3)
        if any(one.chosen for one in comparison.candidates):  # beside the name, which a narrow terminal wraps
            columns, rows = columns[:-1], [[f"{row[0]}: {row[-1]}" if row[-1] else row[0], *row[1:-1]] for row in rows]
        show_table(columns, rows)
        if comparison.unseen:
            print(comparison.unseen)
        for doubt in comparison.doubts:
            print(f"warning: {doubt}")
        show_files(files)
        print(f"again   {comparison.rows[0].candidate.command}")
        print(comparison.verdict)
    comparison.check_complete(folder)


def _show_expected(plan: "Plan", jobs: int | None, as_json: bool) -> None:
    from pml_center.comparison.compare import expected

    found = expected(plan, jobs)
    if as_json:
        show_json("compare --dry-run", found)
        return
    rows = [
        [
            loss,
            str(one["steps_per_epoch"]),
            f"{one['seconds_per_step']:.4f}",
            f"{one['start_seconds']:.1f}",
            f"{one['measure_seconds']:.1f}",
            f"{one['minutes_in_all']:.2f}",
        ]
        for loss, one in found["losses"].items()
    ]
    show_table(["loss", "steps an epoch", "s a step", "s to start", "s to measure", "minutes a run"], rows)
    print(f"{found['runs']} runs, {found['jobs']} at a time: {found['minutes_in_all']:.1f} minutes in all")
