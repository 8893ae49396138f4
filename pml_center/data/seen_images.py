"""Which images weights were trained on, in a table that goes wherever the weights go."""

import csv
import io
import os
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from pml_center.data.archives import open_file
from pml_center.data.labeled_images import StoredImage, Vector
from pml_center.data.open_images import full_source, is_table, split_apart

FILE = "seen.csv"  # in a run folder, in one of embeddings, in an export


class Seen(NamedTuple):
    """An image that a run was trained on."""

    by: str  # the folder of the run
    label: str
    name: str = ""  # a digest of its full name; empty of a class of which no image is known
    content: str = ""  # bytes and CRC-32; empty where it is not known, and of features, which have names of images


@dataclass(frozen=True)
class SeenImages:
    """All images that weights, or what they started from, were trained on.

    Example:
        >>> seen = SeenImages([Seen("runs/first", "ant", digest_of("/photos/ant/1.png"), "9-1f")])
        >>> here, copied, replaced = (
        ...     Seen("", "", digest_of(name), content)
        ...     for name, content in [("/photos/ant/1.png", ""), ("/more/2.png", "9-1f"), ("/photos/ant/1.png", "9-2f")]
        ... )
        >>> seen.runs_of([here, copied, replaced])
        ['runs/first', 'runs/first', None]
    """

    rows: Sequence[Seen] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    @classmethod
    def read(cls, folder: Path) -> "SeenImages | None":
        """Those that a folder says; None where it says nothing.

        Raises:
            ValueError: another file.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                return cls([Seen(**row) for row in csv.DictReader(file)])
        except (csv.Error, TypeError) as error:
            raise ValueError(
                f"{path} must be as it was written, with columns {', '.join(Seen._fields)}, got {error}. Restore it."
            ) from error

    @property
    def text(self) -> str:
        """A CSV table, a line each."""
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([Seen._fields, *self.rows])
        return lines.getvalue()

    @property
    def labels(self) -> set[str]:
        """The names of the classes trained on."""
        return {row.label for row in self.rows} - {""}

    def and_before(self, *others: "SeenImages") -> "SeenImages":
        """With those of earlier runs; of an image that several saw, the first that did stands there."""
        every = {row[1:]: row for rows in (*others[::-1], self) for row in rows.rows[::-1]}
        return SeenImages(list(every.values())[::-1])

    def runs_of(self, images: Iterable[Seen]) -> list[str | None]:
        """The run that saw each image, None where none did.

        The same bytes are the same image, and other bytes another one, whatever it is called. Where one side does not
        know them, names decide.
        """
        contents = {row.content: row.by for row in self.rows if row.content}
        names = {row.name: row.by for row in self.rows if row.name}
        vague = {row.name: row.by for row in self.rows if row.name and not row.content}
        return [
            contents.get(image.content) or (vague if image.content else names).get(image.name) if image.name else None
            for image in images
        ]

    def among(self, names: Iterable[str], data: str, images: Sequence[Any] = ()) -> list[str | None]:
        """As :meth:`runs_of`, of images by name.

        Args:
            names: of N images.
            data: the source that they come from, as it was typed.
            images: the same, of which are read what has no name that was seen, and of files those of a size that was.
        """
        asked = [Seen("", "", digest_of(name)) for name in full_names(names, data)]
        runs = self.runs_of(asked)
        sizes = {row.content.partition("-")[0] for row in self.rows}
        for i, image in enumerate(images):
            if runs[i] is None and _may_have(image, sizes):
                (runs[i],) = self.runs_of([asked[i]._replace(content=content_of(image))])
        return runs

    def also_in(self, folder: Path, names: Sequence[str], data: str, images: Sequence[Any]) -> "SeenImages":
        """With what was seen by the names that it has among features, which are all that is known of these.

        Args:
            folder: of the features.
            names: of images in it.
            data: where they come from.
            images: the same.
        """
        here = full_names(names, str(folder))
        known, runs = self.among(names, str(folder)), self.among(names, data, images)
        named = zip(here, runs, known, strict=True)
        return self.and_before(
            SeenImages([Seen(run, "", digest_of(name)) for name, run, old in named if run and not old])
        )

    def without_folders(self) -> "SeenImages":
        """The same for others, whom folders of this machine do not concern."""
        return SeenImages([row._replace(by=os.path.basename(row.by)) for row in self.rows])


NOTHING = SeenImages()


def digest_of(name: str) -> str:
    """A text in the place of a name, which says nothing of whose images they were."""
    return blake2b(os.fsencode(name), digest_size=8).hexdigest()


def place_of(data: str) -> str:
    """Where names of images are relative to: a folder, a file that holds them, or the folder of a table."""
    whole, _ = split_apart(data)
    return os.path.dirname(whole) if is_table(whole) else whole


def without_place(name: str, data: str) -> str:
    """A path relative to the data: to a folder, a zip file, or the folder of a table.

    Example:
        >>> without_place("/photos/cat/1.png", "/photos"), without_place("/photos/cat/1.png", "/photos/some.csv/test")
        ('cat/1.png', 'cat/1.png')
    """
    return name.removeprefix(f"{place_of(data)}{os.sep}")


def full_names(names: Iterable[str], data: str) -> list[str]:
    """Names that are the same whichever way the data are typed.

    Example:
        >>> full_names(["cat/1.png", "/photos/cat/1.png"], "/photos/../photos")
        ['/photos/cat/1.png', '/photos/cat/1.png']
        >>> full_names(["digits[3]"], "digits"), full_names(["features[3]"], "/some.npz/test")
        (['digits[3]'], ['/some.npz/features[3]'])
    """
    typed, place = place_of(str(Path(data).expanduser())), place_of(full_source(data))
    inner = [name.removeprefix(f"{typed}{os.sep}") for name in names]
    return [name if os.path.isabs(name) or not os.path.isabs(place) else f"{place}{os.sep}{name}" for name in inner]


def content_of(image: Any) -> str:
    """Bytes and CRC-32 of a file, or of pixels. Empty for what cannot be read, and for what others store."""
    if image is None or isinstance(image, StoredImage):
        return ""
    try:
        if isinstance(image, (str, os.PathLike)):
            with open_file(image) as file:
                content = file.read()
        else:
            content = np.asarray(image).tobytes()
    except (OSError, KeyError, ValueError, BadZipFile, zlib.error):  # of which the reader of its pixels tells
        return ""
    return f"{len(content)}-{zlib.crc32(content):08x}"


def _may_have(image: Any, sizes: Collection[str]) -> bool:
    """Whether an image can have the content of one that was seen, as far as that is known without reading it."""
    if isinstance(image, Vector):
        return not image.name
    try:
        return not isinstance(image, (str, os.PathLike)) or str(os.stat(image).st_size) in sizes
    except OSError:  # in a zip file
        return True
