"""resume: go on with a run."""

from pathlib import Path

from pml_center.cli.options import Flag, Json


def resume(
    run: Path,
    /,
    *,
    epochs: int | None = None,
    checkpoint: str = "last",
    device: str | None = None,
    workers: int | None = None,
    accept_changes: Flag = False,
    json_: Json = False,
) -> None:
    """Go on with a run that stopped, as if it never had.

    Args:
        run: the folder of the run.
        epochs: train for more epochs than were planned.
        checkpoint: the folder below RUN/checkpoints to start from.
        device: 'cpu', 'cuda', or 'auto'; by default as before.
        workers: processes that read images; by default as before.
        accept_changes: go on although the data have changed since the run began, with those of its images that are
            still there, in the classes that they had; every report then says so.
        json_: print one JSON object.
    """
    from pml_center.cli.train import show_run
    from pml_center.training import resume as go_on

    resumed, measurement = go_on(run, epochs, checkpoint, device, workers=workers, accept_changes=accept_changes)
    show_run(resumed, measurement, json_)
