"""Folders that ``embed`` wrote: they need no model."""

from pathlib import Path

from pml_center.data.vectors import check_as_written
from pml_center.evaluation import Samples, load_samples


def is_embedding_folder(source: str) -> bool:
    """Whether a path is a folder that ``embed`` wrote."""
    return (Path(source) / "embeddings.npy").is_file()


def read_embeddings(folder: str | Path) -> Samples:
    """What ``embed`` wrote, whose rows still belong to their images.

    Raises:
        FileNotFoundError: no such files.
        ValueError: embeddings that are damaged, files that do not fit together, names that were put into another order.
    """
    samples = load_samples(folder)
    check_as_written(Path(folder), samples.embeddings, samples.names)
    return samples
