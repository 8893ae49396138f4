"""check_data: everything that is wrong with a data set, in one pass."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pml_center.data.digits import digits
from pml_center.data.image_folder import as_classes, empty_classes, scan
from pml_center.data.image_table import read_table
from pml_center.data.inspect_images import ImageFacts, inspect_images
from pml_center.data.labeled_images import LabeledImages
from pml_center.data.open_images import Parts, is_table, one_part, parts_of_table, split_apart
from pml_center.data.published import is_published, published
from pml_center.data.split_folders import SPLITS, split_folders


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
        loose: images in no folder of a class.
        missing: paths in a table that lead nowhere.
        wrong_lines: one sentence for every other wrong line of a table.
    """

    class_sizes: dict[str, dict[str, int]]
    image_sizes: dict[tuple[int, int], int]
    modes: dict[str, int]
    unreadable: dict[str, str]
    same: list[SameImages]
    empty_classes: list[str]
    loose: list[str]
    missing: list[str]
    wrong_lines: list[str]

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
        wrong = (self.unreadable, self.same, self.empty_classes, self.loose, self.missing, self.wrong_lines)
        return sum(map(len, wrong)) + len(self.too_few_classes)

    @property
    def to_remove(self) -> list[str]:
        """The images and folders without which the data set is sound, but for what has to be moved or corrected."""
        return [*self.unreadable, *(name for same in self.same for name in same.to_remove), *self.empty_classes]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "class_sizes": self.class_sizes,
            "image_sizes": [[*size, count] for size, count in self.image_sizes.items()],
            "modes": self.modes,
            "singletons": self.singletons,
            "problems": self.problems,
            "unreadable": self.unreadable,
            "same": [
                {
                    "images": same.names,
                    "splits": same.splits,
                    "classes": same.classes,
                    "across_splits": same.across_splits,
                    "two_labels": same.two_labels,
                }
                for same in self.same
            ],
            "empty_classes": self.empty_classes,
            "loose": self.loose,
            "missing": self.missing,
            "wrong_lines": self.wrong_lines,
            "too_few_classes": self.too_few_classes,
        }


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
    contents = _contents(str(source), root)
    facts = {split: inspect_images(part, workers) for split, part in contents.parts.items()}
    every = [fact for each in facts.values() for fact in each]
    return DataCheck(
        class_sizes={split: _class_sizes(part) for split, part in contents.parts.items()},
        image_sizes=dict(Counter(fact.size for fact in every if fact.size).most_common()),
        modes=dict(Counter(fact.mode for fact in every if fact.mode).most_common()),
        unreadable={
            contents.parts[split].name(i): fact.error
            for split, each in facts.items()
            for i, fact in enumerate(each)
            if fact.error
        },
        same=_same(contents.parts, facts),
        empty_classes=contents.empty_classes,
        loose=contents.loose,
        missing=contents.missing,
        wrong_lines=contents.wrong_lines,
    )


@dataclass
class _Contents:
    """The images of a data set, and what can be seen to be wrong without opening them."""

    parts: Parts
    empty_classes: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_lines: list[str] = field(default_factory=list)


def _contents(source: str, root: str | Path | None) -> _Contents:
    whole, split = split_apart(source)
    path = Path(whole).expanduser()
    if source == "digits":
        return _Contents({"train": digits()})
    if is_published(whole) and not path.exists():
        return _Contents(one_part(published(whole, root), split, source))
    if is_table(whole):
        table = read_table(path)
        parts = one_part(parts_of_table(table), split, source)
        return _Contents(parts, missing=list(table.missing), wrong_lines=table.faults)
    folders = scan(path)
    found = split_folders(path, folders) or {"train": (path, folders)}
    contents = _Contents({split: as_classes(where, part[1:]) for split, (where, part) in found.items()})
    for where, part in found.values():
        contents.empty_classes += [str(where / name) for name in empty_classes(part)]
        contents.loose += sorted(part[0].images)
    return contents


def _class_sizes(images: LabeledImages) -> dict[str, int]:
    sizes = zip(images.classes, images.counts.tolist(), strict=True)
    return {name: count for name, count in sizes if count}


def _same(parts: Parts, facts: dict[str, list[ImageFacts]]) -> list[SameImages]:
    """The images of each digest that comes more than once, in the order of the first of them."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for split, part in parts.items():
        for i, fact in enumerate(facts[split]):
            if fact.digest:
                found.setdefault(fact.digest, []).append((part.name(i), split, part.classes[part.labels[i]]))
    return [SameImages(*map(list, zip(*each, strict=True))) for each in found.values() if len(each) > 1]
