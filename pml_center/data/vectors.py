"""Vectors in the place of images: embeddings of a pretrained model, or of anything else, with the label of each."""

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import as_list, as_matrix, read_array
from pml_center.data.labeled_images import LabeledImages, Vector, encode_labels
from pml_center.data.split_folders import SPLITS, split_named
from pml_center.names import one_line, unknown_name
from pml_center.text_files import read_columns, read_rows

FILES = (".npy", ".npz")
MODEL_FILE = "model.json"  # in a folder of embeddings: the model that made them
DIGITS = 16  # of the digest of a name
IDENTITY = ("fingerprint", "flip_test", "recipe")  # weights, and how images are put before them
# What the arrays of an .npz file are called, the first of these names that there is.
ARRAYS = {
    "embeddings": ("embeddings", "features", "X", "x"),
    "label": ("labels", "label", "y", "targets"),
    "path": ("names", "paths", "path"),
    "group": ("groups", "group"),
    "split": ("splits", "split"),
}
COLUMNS = tuple(ARRAYS)[1:]


def is_vectors(source: str) -> bool:
    """Whether a path is that of vectors: an ``.npy`` or ``.npz`` file, or a folder that ``embed`` wrote.

    Example:
        >>> is_vectors("features.npy"), is_vectors("photos")
        (True, False)
    """
    path = Path(source).expanduser()
    return source.lower().endswith(FILES) or (path / "embeddings.npy").is_file()


def open_vectors(source: str, labels: str | None = None) -> dict[str, LabeledImages]:
    """Vectors by split; all of them in ``train`` where they have none.

    Args:
        source: a folder that ``pml-center embed`` wrote, with ``embeddings.npy`` and ``samples.csv``; an ``.npz`` file
            with arrays ``embeddings`` (or ``features``, ``X``) and ``labels`` (or ``y``), and ``names``, ``groups`` and
            ``splits`` if wanted; or an ``.npy`` file.
        labels: of an ``.npy`` file: another one, a text file with a line for each row, or a CSV file with a column
            ``label`` and, if wanted, ``path``, ``group`` and ``split``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: vectors that are not finite, or what does not fit together.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/some.npz"
        ...     np.savez(path, X=np.eye(4), y=["ant", "bee", "ant", "bee"], splits=["train", "train", "test", "test"])
        ...     parts = open_vectors(path)
        >>> list(parts), parts["test"].classes, parts["test"][0]
        (['train', 'test'], ['ant', 'bee'], (tensor([0., 0., 1., 0.]), 0))
    """
    path = Path(source).expanduser()
    if labels is not None and path.suffix.lower() != ".npy":
        raise ValueError(f"labels must come with an .npy file, got {source}, which has labels. Leave --labels out.")
    columns: Mapping[str, Sequence[Any]]
    if path.is_dir():
        rows = read_array(path / "embeddings.npy", mapped=True)
        columns = read_columns(path / "samples.csv", "samples.csv", ("label",), COLUMNS)
        check_as_written(path, rows, columns.get("path"))
    elif path.suffix.lower() == ".npz":
        rows, columns = _of_archive(path)
    elif labels is None:
        raise ValueError(f"labels must be given for the features {source}, got none. Name their file with --labels.")
    else:
        rows, columns = read_array(path, mapped=True), _of_labels(labels)
    # Of what is mapped from a file nobody may write.
    return _by_split(np.require(as_matrix(rows, "features"), requirements="W"), columns, source)


def made_by(source: str) -> dict[str, Any]:
    """What ``embed`` wrote down of the model that made features; nothing where nobody did.

    Raises:
        ValueError: a damaged file.
    """
    path = Path(source).expanduser() / MODEL_FILE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{MODEL_FILE} must be what `pml-center embed` wrote, got {str(path)!r} ({one_line(error)}). Embed again."
        ) from error


def maker_of(source: str) -> dict[str, Any]:
    """What tells the model that made features from others, as far as it is known, in values of JSON."""
    facts = made_by(source)
    return {name: facts[name] for name in IDENTITY if name in facts}


def doubts_of(source: str) -> list[str]:
    """Sentences on what makes numbers of features doubtful, as ``embed`` wrote them down."""
    facts = made_by(source)
    found = list(facts.get("doubts", []))
    return found or ([left_out(facts["skipped"], facts["images"])] if facts.get("skipped") else [])


def left_out(names: Sequence[str], kept: int) -> str:
    """A sentence on images that were left out, beside those that were kept."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    total = len(names) + kept
    return f"left out {len(names)} of {total:,} images, which cannot be read: {', '.join(names[:5])}{more}"


def check_as_written(folder: Path, rows: NDArray, names: Sequence[str] | None) -> None:
    """Features must be as ``embed`` wrote them, and names in their order, where it wrote that down.

    Raises:
        ValueError: others.
    """
    facts = made_by(str(folder))
    if facts.get("sum") not in (None, sum_of(rows)):
        raise ValueError(
            f"embeddings.npy must be as `pml-center embed` wrote it, got other numbers in {str(folder)!r}: the file is "
            "damaged, or was edited. Embed again; what is made of embeddings goes to another folder by save_samples."
        )
    order = facts.get("order")
    if order and names:
        now = name_order(names)
        if isinstance(order, str):
            then, there = (np.frombuffer(each.encode(), f"S{DIGITS}") for each in (order, now))
            rows = then != there if len(then) == len(there) else np.ones(len(there), bool)
            is_moved = bool(np.isin(there[rows], then).any())  # a name that was edited is none of those that there were
        else:  # of an earlier version: a digest of which names there were, and one of their order
            digests = [_digest("\n".join(each), 16) for each in (sorted(names), names)]
            is_moved = digests[0] == order[0] and digests[1] != order[1]
        if is_moved:
            raise ValueError(
                f"samples.csv must have its rows in the order of embeddings.npy, got another order in {str(folder)!r} "
                "than `pml-center embed` wrote. Restore the order, or embed again."
            )


def sum_of(embeddings: NDArray) -> int:
    """The CRC-32 of embeddings (N, D)."""
    return zlib.crc32(np.ascontiguousarray(embeddings).data)


def name_order(names: Sequence[str]) -> str:
    """A short digest of each name, in their order."""
    return "".join(_digest(name, DIGITS // 2) for name in names)


def _digest(text: str, size: int) -> str:
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=size).hexdigest()


def _by_split(
    matrix: NDArray[np.float32], columns: Mapping[str, Sequence[Any]], source: str
) -> dict[str, LabeledImages]:
    columns = {name: as_list(values, name) for name, values in columns.items()}
    for name, values in columns.items():
        if len(values) != len(matrix):
            raise ValueError(
                f"{name} must be one for each of the {len(matrix)} features, got {len(values)} in {source}. "
                "Give them in the same order."
            )
    codes, classes = encode_labels(columns["label"])
    if len(classes) < 2:
        raise ValueError(f"label must name at least 2 classes, got {len(classes)} in {source}. Look at the labels.")
    names = [str(name) for name in columns.get("path", [""] * len(matrix))]
    if set(names) != {""} and len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"path must come once, got {twice!r} twice in {source}. Remove one of the rows.")
    vectors = [Vector(row, name) for row, name in zip(matrix, names, strict=True)]
    groups = [str(group) for group in columns["group"]] if "group" in columns else None
    images = LabeledImages(vectors, codes, [str(name) for name in classes], source="features", groups=groups)
    if "split" not in columns:
        return {"train": images}
    splits = np.array([_split(name) for name in columns["split"]])
    return {split: images.subset(splits == split, renumber=True) for split in SPLITS if (splits == split).any()}


def _split(name: Any) -> str:
    split = split_named(str(name))
    if split is None:
        raise ValueError(unknown_name("split", str(name), SPLITS, "Write 'train', 'val' or 'test'."))
    return split


def _of_archive(path: Path) -> tuple[NDArray, dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"features must be an existing file, got {str(path)!r}. Check the path.")
    try:
        with np.load(path) as archive:
            found = {
                kind: archive[name]
                for kind, names in ARRAYS.items()
                if (name := next((name for name in names if name in archive.files), None)) is not None
            }
            inside = ", ".join(archive.files)
    except (ValueError, TypeError, BadZipFile, EOFError, AttributeError, zlib.error) as error:
        raise ValueError(
            f"features must be an .npz file of numbers and texts, got {str(path)!r} ({one_line(error)}). "
            "Write it again with np.savez."
        ) from error
    if not {"embeddings", "label"} <= found.keys():
        raise ValueError(
            f"features must hold arrays embeddings and labels, got {inside} in {str(path)!r}. Write it with "
            "np.savez(path, embeddings=..., labels=...)."
        )
    return found.pop("embeddings"), found


def _of_labels(path: str) -> dict[str, Any]:
    if path.lower().endswith(".npy"):
        return {"label": read_array(path)}
    if path.lower().endswith(".csv"):
        return dict(read_columns(path, "labels", ("label",), COLUMNS))
    return {"label": read_rows(path, "labels")}
