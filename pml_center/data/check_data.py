"""check_data: everything that is wrong with a data set, in one pass."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pml_center.data.image_folder import as_classes, empty_classes, misnamed, nested_classes
from pml_center.data.image_table import read_table
from pml_center.data.inspect_images import inspect_images
from pml_center.data.labeled_images import LabeledImages
from pml_center.data.open_images import is_name, is_table, one_part, parts_by_name, parts_of_table, split_apart
from pml_center.data.published import Parts
from pml_center.data.split_folders import SPLITS, scan_splits
from pml_center.data.vectors import is_vectors


@dataclass(frozen=True)
class SameImages:
    """Images with the same pixels, once they are converted to RGB with 8 bits.

    Attributes:
        names: of the images, two or more.
        splits: of each.
        classes: of each.
    """

    names: list[str]
    splits: list[str]
    classes: list[str]

    @property
    def across_splits(self) -> bool:
        """Whether one is trained on and another one measured on, which makes results too good."""
        return len(set(self.splits)) > 1

    @property
    def two_labels(self) -> bool:
        """Whether they are of several classes, so that one label at least is wrong."""
        return len(set(self.classes)) > 1

    @property
    def to_remove(self) -> list[str]:
        """All of them where labels differ; else all but the first one of test, or of val, or of train."""
        if self.two_labels:
            return self.names
        kept = max(range(len(self.names)), key=lambda i: (SPLITS.index(self.splits[i]), -i))
        return [name for i, name in enumerate(self.names) if i != kept]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        places = {"images": self.names, "splits": self.splits, "classes": self.classes}
        return places | {"across_splits": self.across_splits, "two_labels": self.two_labels}


@dataclass(frozen=True)
class DataCheck:
    """What a data set holds, and what is wrong with it.

    Attributes:
        class_sizes: images of each class that has any, by split.
        image_sizes: how many images have this width and height, most frequent first.
        modes: how many images have this mode of PIL, most frequent first.
        unreadable: images that cannot be decoded, and why.
        same: images with the same pixels, within a split and across splits.
        empty_classes: folders that hold neither images nor folders.
        nested_classes: folders of images inside a folder of images, each of which is a class of its own.
        loose: images in no folder of a class.
        misnamed: images whose paths are no UTF-8.
        missing: paths in a table that lead nowhere.
        wrong_lines: one sentence for every other wrong line of a table.
        passed_over: how many files and folders of each kind were not taken, such as ``.txt`` or ``@eaDir/``.
    """

    class_sizes: dict[str, dict[str, int]]
    image_sizes: dict[tuple[int, int], int]
    modes: dict[str, int]
    unreadable: dict[str, str]
    same: list[SameImages]
    empty_classes: list[str] = field(default_factory=list)
    nested_classes: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_lines: list[str] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)

    @property
    def singletons(self) -> dict[str, list[str]]:
        """The classes with one image in a split, where it has no other to be found by."""
        return {
            split: [name for name, count in sizes.items() if count == 1] for split, sizes in self.class_sizes.items()
        }

    @property
    def too_few_classes(self) -> list[str]:
        """The splits with fewer than 2 classes, which nothing can be learned from."""
        return [split for split, sizes in self.class_sizes.items() if len(sizes) < 2]

    @property
    def problems(self) -> int:
        """How many things are wrong. Singletons are not: evaluation leaves them out and says so."""
        folders = (self.empty_classes, self.nested_classes, self.too_few_classes)
        files = (self.unreadable, self.same, self.loose, self.misnamed, self.missing, self.wrong_lines)
        return sum(map(len, (*folders, *files)))

    @property
    def to_remove(self) -> list[str]:
        """The images and folders without which the data set is sound, but for what has to be moved or corrected."""
        return [*self.unreadable, *(name for same in self.same for name in same.to_remove), *self.empty_classes]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        found = {
            "class_sizes": self.class_sizes,
            "image_sizes": [[*size, count] for size, count in self.image_sizes.items()],
            "modes": self.modes,
            "singletons": self.singletons,
            "problems": self.problems,
            "unreadable": self.unreadable,
            "same": [same.to_dict() for same in self.same],
        }
        rest = {name: value for name, value in vars(self).items() if name not in found}
        return found | rest | {"too_few_classes": self.too_few_classes}


def check_data(source: str | Path, root: str | Path | None = None, workers: int = 0) -> DataCheck:
    """Look at every image of a data set, and list all that is wrong instead of stopping at the first.

    Args:
        source: see :func:`~pml_center.data.open_images`.
        root: likewise.
        workers: processes that read images; 0 reads in this one.

    Raises:
        ValueError: what is no data set at all: a damaged zip file, a table without columns, splits in a wrong place.
        FileNotFoundError: no such folder or file.
        ImportError: a package that timm needs to read the data set is missing.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as photos:
        ...     for name in ["train/bee/1.png", "train/cat/1.png", "train/cat/2.png"]:
        ...         Path(photos, name).parent.mkdir(parents=True, exist_ok=True)
        ...         Image.new("L", (8, 8), len(name) + int("cat/2" in name)).save(Path(photos, name))
        ...     _ = Path(photos, "train/bee/2.png").write_text("no image")
        ...     check = check_data(photos)
        >>> check.problems, list(check.unreadable)[0].endswith("train/bee/2.png"), check.same[0].two_labels
        (2, True, True)
    """
    parts, faults = _contents(str(source), root)
    inspected = [
        (fact, part.name(i), split, part.classes[part.labels[i]])
        for split, part in parts.items()
        for i, fact in enumerate(inspect_images(part, workers))
    ]
    facts = [fact for fact, *_ in inspected]
    same: dict[str, list[list[str]]] = {}  # by digest, in the order of the first image
    for fact, *place in inspected:
        if fact.digest:
            same.setdefault(fact.digest, []).append(place)
    return DataCheck(
        class_sizes={split: _class_sizes(part) for split, part in parts.items()},
        image_sizes=dict(Counter(fact.size for fact in facts if fact.size).most_common()),
        modes=dict(Counter(fact.mode for fact in facts if fact.mode).most_common()),
        unreadable={name: fact.error for fact, name, _, _ in inspected if fact.error},
        same=[SameImages(*map(list, zip(*places, strict=True))) for places in same.values() if len(places) > 1],
        **faults,
    )


def _contents(source: str, root: str | Path | None) -> tuple[Parts, dict[str, Any]]:
    """The images of a data set, and what can be seen to be wrong without opening them, by the names in DataCheck."""
    whole, split = split_apart(source)
    path = Path(whole).expanduser()
    if is_name(whole):
        return one_part(parts_by_name(whole, root), split, source), {}
    if is_table(whole):
        table = read_table(path)
        parts = one_part(parts_of_table(table), split, source)
        return parts, {"misnamed": _misnamed(parts), "missing": list(table.missing), "wrong_lines": table.faults}
    if is_vectors(whole):
        raise ValueError(
            f"data must be images to be looked at, got features in {source!r}. Training checks these itself."
        )
    found, kinds = scan_splits(path)
    parts = {split: as_classes(where, part[1:]) for split, (where, part) in found.items()}
    return parts, {
        "empty_classes": [str(where / name) for where, part in found.values() for name in empty_classes(part)],
        "nested_classes": [str(where / name) for where, part in found.values() for name in nested_classes(part)],
        "loose": [image for _, part in found.values() for image in sorted(part[0].images)],
        "misnamed": _misnamed(parts),
        "passed_over": kinds,
    }


def _misnamed(parts: Parts) -> list[str]:
    return [name for part in parts.values() for name in misnamed(part.images)]


def _class_sizes(images: LabeledImages) -> dict[str, int]:
    sizes = zip(images.classes, images.counts.tolist(), strict=True)
    return {name: count for name, count in sizes if count}
