"""The images of the study, as folders that `pml-center` takes."""

import csv
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
from PIL import Image

Images = dict[str, list[Any]]  # by class: what `open_image` of the source opens
OF_TRAINING = ("title", "options", "widths", "weights")  # entries of a task that its images do not depend on
LEAST_SIMILARITY = 0.2  # of a face to its person, below which the label is mostly wrong


class Source(NamedTuple):
    """The images of a data set, by class."""

    seen: Images  # to train on, and unseen ones where there are no others
    unseen: Images | None
    open_image: Callable[[Any], Image.Image]


def write_task(task: dict[str, Any], sources: Path, folder: Path, seed: int = 0) -> None:
    """Write the images of a task: ``images/train``, ``known`` with others of the same classes, and ``images/test``.

    ``images/test`` holds unseen classes, or the known images where the task has no unseen ones.

    Args:
        task: an entry of ``tasks`` in config.yaml.
        sources: the folder of the data sets; see the page.
        folder: to write to.
        seed: chooses classes and images.
    """
    asked = json.dumps({key: value for key, value in task.items() if key not in OF_TRAINING})
    mark = folder / "task.json"
    if mark.exists():
        if mark.read_text(encoding="utf-8") != asked:
            raise ValueError(f"task must be as it was when {folder} was written. Choose another --work.")
        return
    random = np.random.default_rng(seed)
    source = READERS[task["source"]](sources)
    least = task["known"] + 6  # so that every class has some to train on
    names = [name for name in sorted(source.seen) if len(source.seen[name]) >= least]
    names = random.permutation(names).tolist()
    trained, rest = names[: task["classes"]], names[task["classes"] :]
    for name in trained:
        images = _shuffled(source.seen[name], random)
        known, train = images[: task["known"]], images[task["known"] :][: task["train"]]
        _write(source, train, folder / "images" / "train" / name, task["side"])
        for part in ("known",) if "unseen" in task else ("known", "images/test"):
            _write(source, known, folder / part / name, task["side"])
    if "unseen" in task:
        others = {name: source.seen[name] for name in rest} if source.unseen is None else source.unseen
        chosen = random.permutation([name for name in sorted(others) if len(others[name]) > 1])
        for name in chosen[: task.get("unseen_classes")]:
            images = _shuffled(others[name], random)[: task["unseen"]]
            _write(source, images, folder / "images" / "test" / name, task["side"])
    if task["source"] == "faces":
        _write_pairs(source, sources / "lfw" / "pairs.txt", folder, task["side"])
    mark.write_text(asked, encoding="utf-8")


def _shuffled(images: list[Any], random: np.random.Generator) -> list[Any]:
    return [images[i] for i in random.permutation(len(images))]


def _write(source: Source, images: list[Any], folder: Path, side: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        opened = source.open_image(image)
        opened.resize((side, side), Image.Resampling.BOX).save(folder / f"{number:04}.png")


def _write_pairs(source: Source, protocol: Path, folder: Path, side: int) -> None:
    """The images that the pairs name, with the names that they have there, and the protocol beside them."""
    folds, *lines = protocol.read_text(encoding="utf-8").splitlines()
    by_name = {Path(image[1]).stem: image for images in source.unseen.values() for image in images}
    for line in lines:
        first, *others = line.split("\t")
        named = [first, *others] if len(others) == 3 else [first, others[0], first, others[1]]
        for person, number in zip(named[::2], named[1::2], strict=True):
            path = folder / "pairs" / person / f"{person}_{int(number):04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            opened = source.open_image(by_name[path.stem])
            opened.resize((side, side), Image.Resampling.BOX).save(path)
    (folder / "pairs.txt").write_text("\n".join([folds, *lines]) + "\n", encoding="utf-8")


def _digits(sources: Path) -> Source:
    from pml_center.data import digits

    images = digits()
    return Source(_by_class((str(label), i) for i, label in enumerate(images.labels)), None, lambda i: images[i][0])


def _mnist(sources: Path) -> Source:
    """MNIST's training images."""
    pixels, labels = (
        np.frombuffer(gzip.decompress((sources / "mnist" / f"train-{name}.gz").read_bytes()), np.uint8, offset=offset)
        for name, offset in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
    )
    pixels = pixels.reshape(-1, 28, 28)
    return Source(_by_class((str(label), i) for i, label in enumerate(labels)), None, lambda i: _of(pixels[i]))


def _cifar(sources: Path) -> Source:
    """The training images of the subset of CIFAR-10."""
    names = _names(sources / "cifar10_subset" / "cifar10_subset.zip", "train/")
    return Source(_by_class((name[1].split("/")[1], name) for name in names), None, from_zip)


def _omniglot(sources: Path) -> Source:
    """Characters of the background set to train on, of the evaluation set to search."""
    seen, unseen = (
        _by_class(
            ("-".join(name[1].split("/")[1:3]), name) for name in _names(sources / "omniglot" / f"images_{part}.zip")
        )
        for part in ("background", "evaluation")
    )
    return Source(seen, unseen, _grey)


def _faces(sources: Path) -> Source:
    """People of CelebA to train on, without what is mostly a wrong label; people of LFW to search."""
    with (sources / "celeba_faces" / "index.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    archive = sources / "celeba_faces" / "celeba_112.zip"
    kept = [row for row in rows if float(row["sim_to_identity_mean"]) >= LEAST_SIMILARITY]
    seen = _by_class((row["identity"], (archive, row["file"])) for row in kept)
    lfw = _names(sources / "lfw" / "lfw_aligned_112.zip")
    return Source(seen, _by_class((name[1].split("/")[-2], name) for name in lfw), _grey)


def _by_class(pairs: Iterator[tuple[str, Any]]) -> Images:
    found = defaultdict(list)
    for name, image in pairs:
        found[name].append(image)
    return found


def _names(archive: Path, start: str = "") -> list[tuple[Path, str]]:
    with ZipFile(archive) as opened:
        names = sorted(opened.namelist())
    return [(archive, name) for name in names if name.startswith(start) and name.endswith((".png", ".jpg"))]


_opened = cache(ZipFile)


def from_zip(name: tuple[Path, str]) -> Image.Image:
    archive, member = name
    return Image.open(io.BytesIO(_opened(archive).read(member)))


def _grey(name: tuple[Path, str]) -> Image.Image:
    return from_zip(name).convert("L")


def _of(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


READERS = {"digits": _digits, "mnist": _mnist, "cifar": _cifar, "omniglot": _omniglot, "faces": _faces}
