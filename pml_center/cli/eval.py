"""eval: measure retrieval with a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING

from pml_center.cli.tables import show

if TYPE_CHECKING:
    from pml_center.training.measurement import Measurement


def evaluate(run: Path, data: str | None = None, /) -> None:
    """Measure retrieval with the model of a run: each image is searched among all others.

    Args:
        run: the folder that `pml-center train` wrote.
        data: 'digits', or a folder with one sub-folder of images per class, whose classes may be new to the model; by
            default what the run held out.
    """
    from pml_center.data import open_images
    from pml_center.training import Run
    from pml_center.training.loop import choose_device, split
    from pml_center.training.measurement import measure

    opened = Run.open(run)
    config = opened.config
    images = open_images(data) if data else split(open_images(config.data), config)[1]
    if images is None:
        raise ValueError(f"data must be given because {run} was trained with held_out=0, got none. Name a folder.")
    measurement = measure(opened.load_model().to(choose_device(config.device)), images, config)
    path = opened.write_measurement(Path(data).resolve().name if data else "held-out", measurement)
    show_measurement(measurement)
    print(f"report  {path}")


def show_measurement(measurement: "Measurement") -> None:
    """Print the metrics of a model beside those of raw pixels."""
    model, pixels = measurement.model, measurement.pixels
    rows = [[name, f"{value:.4f}", f"{pixels[name]:.4f}"] for name, value in model.metrics.items()]
    print(model.summary)
    show(["", "model", "raw pixels"], rows)
