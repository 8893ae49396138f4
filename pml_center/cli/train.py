"""train: fit an embedding on one data set."""

from typing import Annotated

from cyclopts import Parameter

from pml_center.training.config import TrainConfig


def train(config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig()) -> None:  # noqa: B008 (frozen)
    """Fit an embedding on one data set, then measure retrieval on what was held out."""
    from pml_center.cli.eval import show_report
    from pml_center.training import fit

    run, measurement = fit(config)
    if measurement is not None:
        show_report(measurement.model, measurement.pixels)
    print(f"run     {run.folder}")
