"""From a model and images to embeddings, and the folder that keeps them."""

import csv
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pml_center.arrays import as_array, as_list, as_path, read_array
from pml_center.checks import check_size, check_workers
from pml_center.data import LabeledImages, eval_transform
from pml_center.notebooks import progress_bar
from pml_center.text_files import read_columns


class Samples(NamedTuple):
    """Embeddings, and the label, group and name of each."""

    embeddings: Any
    """(N, D), an array, a memory-mapped file or a tensor."""
    labels: Any
    """(N,) the class of each row: integers, strings or anything hashable."""
    groups: Sequence[Hashable] | None = None
    """(N,) the camera, sequence or session of each row; None where there are none."""
    names: Sequence[str] | None = None
    """(N,) what to call each row, e.g. its path; None where nobody said."""


def save_samples(folder: str | Path, samples: Samples, splits: Sequence[str] | None = None) -> None:
    """Write ``embeddings.npy`` and ``samples.csv`` (path, label, group, split), which every evaluator takes.

    Args:
        folder: to write to; made where it is missing.
        samples: what to write. Labels, groups and names are written as text.
        splits: (N,) what the data have each row for, train, val or test; training goes by it.

    Raises:
        ValueError: columns of other lengths than the embeddings.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_samples(folder, Samples(np.ones((2, 3), np.float32), ["ant", "bee"], names=["a.png", "b.png"]))
        ...     read = load_samples(folder)
        ...     read.embeddings.shape, read.labels, read.groups, read.names
        ((2, 3), ['ant', 'bee'], None, ['a.png', 'b.png'])
    """
    folder = as_path(folder, "folder")
    embeddings = as_array(samples.embeddings, "embeddings")
    if embeddings.ndim != 2:
        raise ValueError(
            f"embeddings must have shape (rows, embedding_size), got shape {embeddings.shape}. Give each row its own."
        )
    columns = _columns(samples) | {"split": splits}
    present = {name: as_list(values, name) for name, values in columns.items() if values is not None}
    for name, values in present.items():
        if len(values) != len(embeddings):
            raise ValueError(f"{name} must be one per row ({len(embeddings)}), got {len(values)}. Give them in order.")
        if "" in values:
            raise ValueError(f"{name} must not be empty, got '' in row {values.index('')}. Name each row.")
    folder.mkdir(parents=True, exist_ok=True)
    # Names of other rows must never stand beside these; who reads the old array, as ``samples`` may, goes on with it.
    for name in ("samples.csv", "embeddings.npy"):
        (folder / name).unlink(missing_ok=True)
    np.save(folder / "embeddings.npy", embeddings)
    partial = folder / "samples.csv.partial"  # a table that was cut off could still have a line for each row
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(present)
        writer.writerows(zip(*present.values(), strict=True))
    partial.replace(folder / "samples.csv")


def _columns(samples: Samples) -> dict[str, Any]:
    return {"path": samples.names, "label": samples.labels, "group": samples.groups}


def load_samples(folder: str | Path) -> Samples:
    """Read a folder that :func:`save_samples` wrote. Embeddings stay on disk until they are looked at.

    Raises:
        FileNotFoundError: no such files.
        ValueError: files that do not fit together.
        BlockingIOError: another process writes to the folder.
    """
    folder = as_path(folder, "folder")
    missing = [name for name in ("embeddings.npy", "samples.csv") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"folder must hold embeddings.npy and samples.csv, got {str(folder)!r} without {' and '.join(missing)}. "
            f"Write them with `pml-center embed RUN DATA --out {folder}`, or with save_samples, and give that folder."
        )
    file = (folder / "embeddings.npy").stat()
    embeddings = read_array(folder / "embeddings.npy", mapped=True)
    count = len(embeddings) if embeddings.ndim else 0
    columns = read_columns(folder / "samples.csv", "samples.csv", (), ("path", "label", "group"))
    rows = len(next(iter(columns.values()), []))
    if not os.path.samestat(file, (folder / "embeddings.npy").stat()):
        raise BlockingIOError(
            f"folder must stay as it is while it is read, got {str(folder)!r}, which was written anew. Try again."
        )
    if rows != count or "label" not in columns:
        raise ValueError(
            f"samples.csv must have a label for each of the {count} embeddings, got {rows} rows with columns "
            f"{list(columns)} in {str(folder)!r}. Embed the data set again."
        )
    return Samples(embeddings, columns["label"], columns.get("group"), columns.get("path"))


def load_parts(folders: Sequence[str | Path]) -> Samples:
    """The samples of several folders; embeddings of each remain an array of its own."""
    parts = [load_samples(folder) for folder in folders]
    columns = [[name for name, values in _columns(part).items() if values is not None] for part in parts]
    for folder, has in zip(folders, columns, strict=True):
        if has != columns[0]:
            raise ValueError(
                f"folders must have the same columns, got {', '.join(columns[0])} in {str(folders[0])!r} but "
                f"{', '.join(has)} in {str(folder)!r}. Embed them alike."
            )
    if len(parts) == 1:
        return parts[0]
    embeddings, *others = zip(*parts, strict=True)
    return Samples(list(embeddings), *(None if each[0] is None else list(chain(*each)) for each in others))


def embed_samples(
    model: nn.Module,
    data: Any,
    device: str | torch.device | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = True,
) -> Samples:
    """Embed a data set, with the labels, groups and names that it knows.

    Args:
        model: images (B, ...) -> embeddings (B, D).
        data: a DataLoader of (images, labels, ...), a data set of (image, label, ...), or
            :class:`~pml_center.data.LabeledImages`, which names its classes and files. Where these have no transform,
            they get the one that the model asks for.
        device: see :func:`embed`.
        batch_size: images at a time, where ``data`` is not a DataLoader.
        workers: processes that read images, likewise.
        progress: see :func:`embed`.

    Raises:
        TypeError: as for :func:`embed`.
        ValueError: as for :func:`embed`; images without a transform for a model that does not say what it needs.

    Example:
        >>> from pml_center import create_embedder
        >>> from pml_center.data import digits
        >>> samples = embed_samples(create_embedder("convnet", embedding_size=4), digits().subset([0, 1, 1000]))
        >>> samples.embeddings.shape, samples.labels, samples.names
        ((3, 4), ['0', '1', '1'], ['digits[0]', 'digits[1]', 'digits[1000]'])
    """
    check_model(model)
    names, classes, groups = None, None, None
    if isinstance(data, LabeledImages):
        names, classes = [data.name(i) for i in range(len(data))], data.classes
        groups = None if data.groups is None else data.groups.tolist()
        data = data if data.transform else data.with_transform(transform_of(model))
    if isinstance(data, Dataset):
        check_workers(workers)
        check_size("batch_size", batch_size, "Use 64.")
        data = DataLoader(data, batch_size, num_workers=workers)
    embeddings, labels = embed(model, data, device, progress)
    return Samples(embeddings, labels if classes is None else [classes[label] for label in labels], groups, names)


def embed(
    model: nn.Module, loader: Iterable, device: str | torch.device | None = None, progress: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embed all images of a loader, in evaluation mode and without gradients.

    Every part of the model gets its training or evaluation mode back afterwards.

    Args:
        model: images (B, ...) -> embeddings (B, D).
        loader: a DataLoader, or any iterable, of batches (images, labels, ...); whatever follows is ignored.
        device: where to compute; the model is moved there. None means where the model's first parameter is.
        progress: show a progress bar on stderr when that is a terminal.

    Returns:
        embeddings, (N, D) float32, and labels, (N,) int64, in the order of the loader.

    Raises:
        TypeError: a model or a loader of another type, labels that are not integers.
        ValueError: a loader without batches, a model whose output is not (B, D), another number of labels.

    Example:
        >>> batches = [(torch.ones(2, 3), torch.tensor([7, 8])), (torch.zeros(1, 3), torch.tensor([9]))]
        >>> embeddings, labels = embed(nn.Identity(), batches)
        >>> embeddings.shape, labels
        ((3, 3), array([7, 8, 9]))
    """
    check_model(model)
    if isinstance(loader, (Tensor, np.ndarray, str, os.PathLike)) or not isinstance(loader, Iterable):
        raise TypeError(
            f"data must be a DataLoader or a data set, got {type(loader).__name__}. Give one of (images, labels), or "
            "call the evaluator with embeddings and their labels."
        )
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    else:
        model.to(device)
    embeddings, labels = [], []
    with _evaluating(model), torch.no_grad():
        for batch in progress_bar(loader, is_shown=progress, desc="embed", unit="batch"):
            images, batch_labels = _pair(batch)
            output, numbers = model(images.to(device, non_blocking=True)), as_array(batch_labels, "labels")
            _check_batch(output, numbers)
            embeddings.append(output.float().cpu().numpy())
            labels.append(numbers.astype(np.int64))
    if not embeddings:
        raise ValueError("loader must have at least one batch, got none. Check the data set, or drop_last=True.")
    return np.concatenate(embeddings), np.concatenate(labels)


def check_model(model: object) -> None:
    """What embeds must be a module.

    Raises:
        TypeError: anything else, such as embeddings.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}. Give a network; embeddings and their labels "
            "are measured by calling the evaluator: evaluator(embeddings, labels)."
        )


def _pair(batch: Any) -> tuple[Tensor, Any]:
    """The images and the labels of a batch."""
    if isinstance(batch, (tuple, list)) and len(batch) >= 2 and isinstance(batch[0], Tensor):
        return batch[0], batch[1]
    got = type(batch).__name__
    if isinstance(batch, (tuple, list)):
        got += f" of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    raise TypeError(
        f"batches must be (images, labels, ...), images a tensor, got {got}. Let the data set return such a pair, and "
        "turn pictures into tensors by its transform."
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and outside again the mode of each module: some may be frozen in a training model."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_batch(output: Tensor, labels: NDArray) -> None:
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"model must return embeddings of shape (batch, embedding_size), got {got}. "
            "Pool and flatten feature maps; timm models do both with num_classes=0."
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"labels must be integers, got dtype {labels.dtype}. Let the data set return class numbers and map them to "
            "names afterwards."
        )
    if labels.shape != output.shape[:1]:
        is_column = labels.ndim == 2 and labels.shape[1] == 1
        raise ValueError(
            f"labels must have shape (batch,), got shape {labels.shape} for {len(output)} embeddings. "
            f"Use labels.{'flatten()' if is_column else 'argmax(1) for one-hot labels'}."
        )


def transform_of(model: nn.Module) -> Any:
    """What turns an image into what a model takes; None for a model of vectors.

    Raises:
        ValueError: a model that does not say.
    """
    if getattr(model, "image_size", 0) is None:
        return None
    needed = [getattr(model, name, None) for name in ("image_size", "in_chans", "mean", "std")]
    if None in needed:
        raise ValueError(
            f"data must have a transform because {type(model).__name__} does not say what its input looks like, got "
            "none. Use data.with_transform(...), or a model of create_embedder."
        )
    return eval_transform(*needed)  # type: ignore[arg-type]
