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
    from pml_center.training.loop import choose_device
    from pml_center.training.measurement import measure

    opened = Run.open(run)
    config = opened.config
    images = open_images(data) if data else opened.held_out(open_images(config.data))
    known = len(set(images.classes) & set(opened.classes))
    measurement = measure(opened.load_model().to(choose_device(config.device)), images, config)
    path = opened.write_measurement(measurement, data)
    show_measurement(measurement)
    if data and known:
        print(f"{known} of the {images.num_classes} classes have names that the model was trained on")
    print(f"report  {path}")


def show_measurement(measurement: "Measurement") -> None:
    """Print the metrics of a model beside those of raw pixels."""
    model, pixels = measurement.model, measurement.pixels
    rows = [[name, f"{value:.4f}", f"{pixels[name]:.4f}"] for name, value in model.metrics.items()]
    print(model.summary)
    show(["", "model", "raw pixels"], rows)
