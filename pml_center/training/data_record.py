"""DataRecord: which images a run trains on, chooses by and holds out, and what has become of them since."""

import csv
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pml_center.data import ImageSplits, LabeledImages, StoredImage
from pml_center.data.labeled_images import natural_key
from pml_center.data.seen_images import NOTHING, Seen, SeenImages, content_of, digest_of, full_names, without_place

SPLITS = ("train", "val", "test")
KINDS = (
    "renamed",
    "gone",
    "added",
    "labelled anew",
    "replaced",
    "grouped anew",
    "moved",
)  # of changes, as they are said
SHOWN = 6  # changes in a sentence
READERS = 16  # files that are read at a time: a disk, or a network, has to be waited for
SAMPLED = 128  # images of a published data set, each of which has to be decoded, whose pixels are recorded


class Recorded(NamedTuple):
    """What is recorded of an image. An empty text, for a group None, is not known, and equals any other."""

    split: str  # what it is for: train, val or test
    label: str
    path: str  # or another name, without where the data lie
    group: str | None = None  # empty where the data have no groups
    content: str = ""  # bytes and CRC-32


@dataclass(frozen=True)
class DataRecord:
    """The images of a run, and the classes that it trains on.

    Args:
        classes: the names of the C classes, in the order of the loss.
        rows: an entry for each image, those of a split in their order.
        seen: what the weights that the run started from, and the model behind its features, were trained on before.
    """

    classes: Sequence[str]
    rows: Sequence[Recorded]
    seen: SeenImages = NOTHING

    @classmethod
    def of(cls, images: ImageSplits, data: str) -> "DataRecord":
        """That of images which were opened. Each file is read once.

        Args:
            images: of a run.
            data: the source that they come from.

        Example:
            >>> from pml_center.data import digits
            >>> record = DataRecord.of(ImageSplits(digits().subset([0, 1], renumber=True)), "digits")
            >>> record.classes, record.rows[0]
            (['0', '1'], Recorded(split='train', label='0', path='digits[0]', group='', content='64-32512398'))
        """
        return cls(images.train.classes, list(listing(parts_of(images), data).values()))

    @classmethod
    def read(cls, path: Path, classes: Sequence[str], seen: SeenImages | None = None) -> "DataRecord":
        """That which a file holds, see :meth:`text`, with what stands in another.

        Raises:
            ValueError: another file.
        """
        try:
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                return cls(classes, [Recorded(**row) for row in csv.DictReader(file)], seen or NOTHING)
        except (csv.Error, TypeError) as error:
            raise ValueError(
                f"{path} must be as training wrote it, with columns {', '.join(Recorded._fields)}, got {error}. "
                "Restore the file, or train again."
            ) from error

    @property
    def text(self) -> str:
        """A CSV table of the images, a line each."""
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([Recorded._fields, *self.rows])
        return lines.getvalue()

    @property
    def digest(self) -> str:
        """A text that differs where anything recorded differs."""
        content = json.dumps(list(self.classes)) + self.text + (self.seen.text if self.seen else "")
        return blake2b(content.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    @property
    def by_path(self) -> dict[str, Recorded]:
        """The images by their names."""
        return {row.path: row for row in self.rows}

    def names(self, split: str) -> list[str]:
        """Those of the images of a split."""
        return [row.path for row in self.rows if row.split == split]

    def as_seen(self, split: str, data: str, of_features: bool, by: str = "") -> list[Seen]:
        """The images of a split as others can tell them.

        Args:
            split: which.
            data: the source that they come from.
            of_features: whether features stand in their place; these are known by the names of the images.
            by: the run that is trained on them.
        """
        rows = [row for row in self.rows if row.split == split]
        return [
            Seen(
                by,
                row.label,
                digest_of(name),
                "" if of_features and not row.path.startswith("features[") else row.content,
            )
            for row, name in zip(rows, full_names((row.path for row in rows), data), strict=True)
        ]

    def found_in(self, now: Mapping[str, Recorded], drawn: Collection[str] = ()) -> "Found":
        """Where each image is among others, by its name, or else by its content.

        Args:
            now: images by name.
            drawn: splits that the data do not bring: their images are in ``train`` now.

        Example:
            >>> before = DataRecord(["a", "b"], [Recorded("train", "a", "a/1.png", "", "9-1f")])
            >>> found = before.found_in({"c/1.png": Recorded("train", "c", "c/1.png", "", "9-1f")})
            >>> [path for _, path in found.pairs], found.said()
            (['c/1.png'], 'renamed: class a (1 image), now c')
        """
        names = [row.path for row in self.rows]
        known, elsewhere = set(names), dict(zip(_below_all(now), now, strict=True))
        moved = {name: elsewhere[key] for name, key in zip(names, _below_all(names), strict=True) if key in elsewhere}
        moved = {name: path for name, path in moved.items() if name not in now and path not in known}
        known |= set(moved.values())
        # A number in the place of a name says nothing of what is there by now.
        shifted = {
            row.path
            for row in self.rows
            if row.path.startswith("features[") and row.path in now and _differ(row.content, now[row.path].content)
        }
        added = {path: row for path, row in now.items() if path not in known or path in shifted}
        by_content: dict[str, list[str]] = defaultdict(list)
        for name, row in added.items():
            by_content[row.content].append(name)
        paths: list[str | None] = []
        changes = []
        for row in self.rows:
            path: str | None = moved.get(row.path, row.path)
            if path not in now or path in shifted:
                same = by_content[row.content] if row.content else []
                path = same.pop(0) if same else None
                added.pop(path or "", None)
            paths.append(path)
            there = None if path is None else now[path]
            if there is not None and row.path in moved:
                there = there._replace(path=row.path)
            changes.append(_change(row, there, drawn))
        new = [Change("added", row.label, "", row.path, "") for row in added.values()]
        sizes = Counter(row.label for row in self.rows), Counter(row.label for row in now.values())
        return Found(
            list(zip(self.rows, paths, strict=True)), [change for change in changes if change is not None] + new, *sizes
        )


class Change(NamedTuple):
    """What became of an image."""

    kind: str
    label: str  # that it had, or has if it is new
    now: str  # what it is in place of that, in the kinds that have it
    path: str  # as recorded
    split: str  # that it was recorded for; empty for one that is new


@dataclass(frozen=True)
class Found:
    """What recorded images are now.

    Args:
        pairs: each image, and its name now; None for one that is gone.
        changes: of the images.
        before: images of each class.
        after: the same now.
    """

    pairs: Sequence[tuple[Recorded, str | None]]
    changes: Sequence[Change]
    before: Mapping[str, int]
    after: Mapping[str, int]

    def of_split(self, split: str) -> list[tuple[Recorded, str | None]]:
        """The pairs of a split."""
        return [pair for pair in self.pairs if pair[0].split == split]

    def said(self, split: str | None = None) -> str:
        """The changes of a split, or all, in a few phrases by kind and class; empty where there are none."""
        names: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for change in self.changes:
            if split in (None, change.split):
                names[change.kind, change.label, change.now].append(change.path)
        keys = sorted(names, key=lambda key: KINDS.index(key[0]))
        phrases = [self._phrase(*key, names[key]) for key in keys]
        more = len(phrases) - SHOWN
        return "; ".join(phrases[:SHOWN] + ([f"and {more:,} more changes"] if more > 0 else []))

    def _phrase(self, kind: str, label: str, now: str, paths: Sequence[str]) -> str:
        before, after = self.before.get(label, 0), self.after.get(label, 0)
        is_new_class = kind == "added" and not before
        is_class = is_new_class or (len(paths) == before and not after and kind in ("gone", "renamed"))
        images = f"{len(paths):,} image{'s' * (len(paths) > 1)}"
        of_class = f"class {label} ({images})" if is_class else f"{images} of class {label}" if label else images
        example = "" if is_class else f", e.g. {paths[0]}"
        return f"{kind}: {of_class}{now and f', now {now}'}{example}"


def listing(
    parts: Mapping[str, LabeledImages], data: str, is_read: Callable[[str], bool] = lambda _: True
) -> dict[str, Recorded]:
    """Images by name.

    Args:
        parts: by split.
        data: the source that they come from.
        is_read: whether the content of an image is looked at, by its name.
    """
    places = [(split, part, i) for split, part in parts.items() for i in range(len(part))]
    names = [image_name(part, i, data) for _, part, i in places]
    images = [part.images[i] if is_read(name) else None for name, (_, part, i) in zip(names, places, strict=True)]
    with ThreadPoolExecutor(READERS) as readers:
        contents = list(readers.map(content_of, images))
    for place, image in enumerate(images):  # one by one: not every data set can be read by several threads
        if isinstance(image, StoredImage):
            contents[place] = _content_if_sampled(image)
    return {
        name: Recorded(
            split,
            part.classes[part.labels[i]],
            name,
            "" if part.groups is None else str(part.groups[i]),
            content,
        )
        for name, content, (split, part, i) in zip(names, contents, places, strict=True)
    }


def parts_of(images: ImageSplits) -> dict[str, LabeledImages]:
    """The splits that there are, by name."""
    return {split: part for split in SPLITS if (part := getattr(images, split)) is not None}


def image_name(images: LabeledImages, i: int, data: str) -> str:
    """The name of an image that does not depend on where the data lie."""
    return without_place(images.name(i), data)


def taken(
    pairs: Sequence[tuple[Recorded, str | None]],
    parts: Mapping[str, LabeledImages],
    data: str,
    classes: Sequence[str],
) -> LabeledImages:
    """The images that are still there, in the order and with the labels of a record.

    Args:
        pairs: images, and what each is called now; None for one that is gone.
        parts: where they are.
        data: the source that they come from.
        classes: the first names of classes; others that the images have follow, in natural order.
    """
    places = {image_name(part, i, data): (part, i) for part in parts.values() for i in range(len(part))}
    kept = [(row, *places[path]) for row, path in pairs if path is not None]
    labels = [row.label or part.classes[part.labels[i]] for row, part, i in kept]
    names = [*classes, *sorted(set(labels) - set(classes), key=natural_key)]
    number = {name: i for i, name in enumerate(names)}
    groups = [part.groups[i] for _, part, i in kept if part.groups is not None]
    return LabeledImages(
        [part.images[i] for _, part, i in kept],
        np.array([number[label] for label in labels], dtype=np.int64),
        names,
        source=next(iter(parts.values())).source,
        indices=np.array([part.indices[i] for _, part, i in kept], dtype=np.int64),
        groups=groups if kept and len(groups) == len(kept) else None,
    )


def _below_all(names: Iterable[str]) -> list[str]:
    """Names, of which full paths go from the folder that all of these have in common: data may have moved as a whole.

    Example:
        >>> _below_all(["/old/photos/cat/1.png", "/old/photos/dog/1.png", "bee/1.png"])
        ['/cat/1.png', '/dog/1.png', 'bee/1.png']
    """
    names = list(names)
    folders = [os.path.dirname(name) for name in names if os.path.isabs(name)]
    place = os.path.commonpath(folders) if folders else ""
    return [name.removeprefix(place) if os.path.isabs(name) else name for name in names]


def _content_if_sampled(image: StoredImage) -> str:
    """That of the pixels of every n-th image of a data set, the same ones every time; empty for the others."""
    if image.position % -(-len(image.data_set) // SAMPLED):
        return ""
    try:
        return content_of(np.asarray(image))
    except Exception:  # decoders raise what they like, and tell of it where the image is used
        return ""


def _change(row: Recorded, now: Recorded | None, drawn: Collection[str]) -> Change | None:
    """What became of an image, None where it is as it was."""
    kind, other = "", ""
    if now is None:
        kind = "gone"
    elif now.path != row.path:
        kind, other = "renamed", now.label if _differ(now.label, row.label) else ""
    elif _differ(row.label, now.label):
        kind, other = "labelled anew", now.label
    elif _differ(row.split, now.split) and not (now.split == "train" and row.split in drawn):
        kind, other = "moved", f"in {now.split}"
    elif _differ(row.content, now.content):
        kind = "replaced"
    elif None not in (row.group, now.group) and row.group != now.group:
        kind, other = "grouped anew", f"in {now.group}" if now.group else "without groups"
    return Change(kind, row.label, other, row.path, row.split) if kind else None


def _differ(one: str, other: str) -> bool:
    return bool(one and other) and one != other
