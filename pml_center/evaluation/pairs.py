"""Pairs to verify: which rows, whether they show one identity, and which fold they belong to."""

import posixpath
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import as_array, as_list, as_path, class_codes
from pml_center.evaluation.roc import Flags, checked_flags
from pml_center.evaluation.search import ExactSearch, Ids, Matrix, Similarity, image_named
from pml_center.text_files import read_columns, read_lines

OUTCOMES = {"target": True, "nontarget": False}  # Kaldi's words


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows, given by a protocol and never drawn by us: folds and order belong to the protocol.

    Args:
        first: (P,) row of one image.
        second: (P,) row of the other.
        same: (P,) whether both show one identity: booleans, or 0 and 1. Both must occur.
        folds: (P,) the fold of each pair, anything hashable, at least two different; None where the protocol has none.
        people: (P, 2) integers, who is on the two images; None where the protocol does not say.

    Raises:
        TypeError: rows or people that are not integers.
        ValueError: different lengths, a row paired with itself, flags, folds or people that do not fit.

    Example:
        >>> pairs = Pairs([0, 2, 0, 1], [1, 3, 2, 3], same=[True, True, False, False])
        >>> len(pairs), pairs.folds
        (4, None)
    """

    first: Ids
    second: Ids
    same: Flags
    folds: Ids | None = None
    people: Ids | None = None

    def __post_init__(self) -> None:
        first, second = _checked_sides(self.first, self.second)
        alike = np.flatnonzero(first == second)
        if len(alike):
            raise ValueError(
                f"pairs must be of two rows, got row {first[alike[0]]} with itself in pair {alike[0]} "
                f"({len(alike)} of {len(first)} pairs). An image always matches itself: leave these pairs out."
            )
        same = checked_flags(self.same, len(first))
        values: dict[str, NDArray] = {"first": first, "second": second, "same": same}
        if self.folds is not None:
            values["folds"] = checked_folds(self.folds, len(first))
        if self.people is not None:
            values["people"] = checked_people(self.people, same)
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen for everybody else

    def __len__(self) -> int:
        return len(self.first)

    @classmethod
    def of_paths(
        cls,
        first: Sequence[str],
        second: Sequence[str],
        same: Any,
        paths: Sequence[str],
        folds: Any = None,
        people: Any = None,
    ) -> "Pairs":
        r"""Pairs that a protocol gives by path: relative or absolute, slashes or backslashes, with a suffix or not.

        Args:
            first: (P,) the path of one image, or so many of its last parts as tell it apart.
            second: (P,) of the other.
            same: (P,) whether both show one identity.
            paths: (N,) of the images that the rows were made of, likewise.
            folds: (P,) the fold of each pair, or None.
            people: (P, 2) who is on the two images, or None.

        Raises:
            ValueError: a path that leads to no row, or to more than one.

        Example:
            >>> paths = ["photos/ann/1.png", "photos/ann/2.png", "photos/bob/1.png"]
            >>> pairs = Pairs.of_paths(["ann/1", "ann/1.png"], ["/data/photos/ann/2.png", "bob\\1.png"], [1, 0], paths)
            >>> pairs.first.tolist(), pairs.second.tolist()
            ([0, 0], [1, 2])
        """
        rows = _RowsByPath(as_list(paths, "paths"))
        first, second = as_list(first, "first"), as_list(second, "second")
        found = {path: rows[path] for path in dict.fromkeys([*first, *second])}
        missing = [path for path, row in found.items() if row is None]
        if missing:
            raise ValueError(_without_row(missing))
        ids = [np.array([found[path] for path in side], dtype=np.int64) for side in (first, second)]
        return cls(ids[0], ids[1], same, folds, people)

    @classmethod
    def of_names(
        cls,
        first: Sequence[Hashable],
        second: Sequence[Hashable],
        same: Any,
        names: Iterable[Hashable],
        folds: Any = None,
        people: Any = None,
    ) -> "Pairs":
        """Pairs that a protocol gives by name, such as image or template ids.

        Args:
            first: (P,) the name of one image.
            second: (P,) the name of the other.
            same: (P,) whether both show one identity.
            names: (N,) what each row of the embeddings is called.
            folds: (P,) the fold of each pair, or None.
            people: (P, 2) who is on the two images, or None.

        Raises:
            ValueError: a name that no row or more than one row has.

        Example:
            >>> Pairs.of_names(["a", "b"], ["b", "c"], [True, False], names=["c", "b", "a"]).first
            array([2, 1])
        """
        rows: dict[Hashable, int] = {}
        for row, name in enumerate(as_list(names, "names")):
            if rows.setdefault(name, row) != row:
                raise ValueError(
                    f"names must be different, got {name!r} in rows {rows[name]} and {row}. "
                    "Give each row a name of its own."
                )
        wanted = [as_list(first, "first"), as_list(second, "second")]
        missing = [name for name in dict.fromkeys([*wanted[0], *wanted[1]]) if name not in rows]
        if missing:
            raise ValueError(_without_row(missing))
        found = [np.array([rows[name] for name in side], dtype=np.int64) for side in wanted]
        return cls(found[0], found[1], same, folds, people)


class _RowsByPath:
    """The row of each path, however it is written."""

    def __init__(self, paths: Sequence[str]):
        self.parts = [_parts(path) for path in paths]
        # By name, and by folder and name, "" for none: thousands of folders may hold a 00001.wav.
        self.named: dict[tuple[str | None, str], list[int]] = {}
        for row, parts in enumerate(self.parts):
            for name in {parts[-1], PurePosixPath(parts[-1]).stem}:
                for folder in (None, parts[-2] if len(parts) > 1 else ""):
                    self.named.setdefault((folder, name), []).append(row)

    def __getitem__(self, path: str) -> int | None:
        """The row of a path; None where it has none.

        Raises:
            ValueError: a path that several rows have.
        """
        *folders, name = wanted = _parts(path)
        inside = (folders[-1], "") if folders else (None,)
        near = [row for folder in inside for row in self.named.get((folder, name), ())]
        rows = [row for row in near if self._alike(row, wanted)]
        whole = [row for row in rows if self.parts[row] == wanted]
        rows = whole or rows
        if len(rows) > 1:
            raise ValueError(
                f"pairs must name images that can be told apart, got {path!r}, which are rows {rows[0]} "
                f"({'/'.join(self.parts[rows[0]])}) and {rows[1]} ({'/'.join(self.parts[rows[1]])}). "
                "Write more of the path."
            )
        return rows[0] if rows else None

    def _alike(self, row: int, wanted: tuple[str, ...]) -> bool:
        """Whether the folders agree, as far as both are written."""
        folders, others = self.parts[row][-2::-1], wanted[-2::-1]
        return all(one == other for one, other in zip(folders, others, strict=False))


def _parts(path: str) -> tuple[str, ...]:
    normal = posixpath.normpath(str(path).strip().replace("\\", "/"))
    return PurePosixPath(normal).parts or (".",)


def _without_row(missing: Sequence[Hashable]) -> str:
    return (
        f"pairs must be of rows that exist, got {missing[0]!r} without one ({len(missing)} names). "
        "Embed every image of the protocol: leaving pairs out gives another protocol, with another result."
    )


def pair_scores(rows: Any, first: Any, second: Any, similarity: Similarity = "cosine") -> Matrix:
    """The score of each pair of rows, larger for more alike, computed from its own two rows alone.

    Args:
        rows: (N, D) finite real numbers: a numpy array or memmap, or a tensor on any device.
        first: (P,) rows, integers in [0, N).
        second: (P,) rows, likewise.
        similarity: ``"cosine"``, ``"dot"``, or ``"euclidean"``, whose score is the negative squared distance.

    Returns:
        (P,) float32: the same bits for the same two vectors, in either order and beside whatever other pairs.

    Raises:
        TypeError: embeddings that are not real numbers, rows that are not integers.
        ValueError: NaN or infinity, a zero vector with ``"cosine"``, rows that do not exist.

    Example:
        >>> pair_scores([[1, 0], [0, 1], [3, 4]], [0, 0], [1, 2])
        array([0. , 0.6], dtype=float32)
    """
    search = ExactSearch(rows, similarity=similarity)
    sides = _checked_sides(first, second)
    check_rows(*sides, count=len(search.queries))
    return search.pair_scores(*sides)


def lfw_pairs(path: str | Path, names: Iterable[str | Path]) -> Pairs:
    """The pairs of Labeled Faces in the Wild, from its own files.

    ``pairs.txt`` (View 2, to report) has ten folds, in order, of 300 genuine and 300 impostor pairs;
    ``pairsDevTrain.txt`` and ``pairsDevTest.txt`` (View 1, to develop) have one set without folds.

    Args:
        path: the file. Its first line holds the number of folds and of pairs of a kind in each, or only the latter;
            then follow lines ``person image image`` and ``person image person image``.
        names: (N,) the image of each row, e.g. its path: ``anywhere/Abel_Pacheco_0001.jpg``.

    Raises:
        ValueError: a file in another format, naming the line; an image that no row or more than one row has.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "pairs.txt")
        ...     with path.open("w") as file:
        ...         print("2 1", "Ann 1 2", "Ann 1 Bob 1", "Bob 1 3", "Ann 2 Bob 3", file=file, sep=chr(10))
        ...     pairs = lfw_pairs(path, ["Ann_0001.jpg", "Ann_0002.jpg", "Bob_0001.jpg", "Bob_0003.jpg"])
        >>> pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist(), pairs.folds.tolist()
        ([0, 0, 2, 1], [1, 2, 3, 3], [True, False, True, False], [0, 0, 1, 1])

    Source: Huang et al., Labeled Faces in the Wild, University of Massachusetts Amherst, report 07-49, 2007.
    """
    path = as_path(path, "path")
    lines = [line.split() for line in read_lines(path, "pairs")]
    header = lines[0] if lines else []
    if not 1 <= len(header) <= 2 or not all(word.isdigit() and int(word) for word in header):
        raise ValueError(
            f"path must be a file of LFW pairs, got {' '.join(header)[:40]!r} as the first line of {str(path)!r}. "
            "It should hold the number of folds and the number of pairs, such as '10 300', or the latter alone."
        )
    folds, pairs = (1, int(header[0])) if len(header) == 1 else map(int, header)
    lines = [line for line in lines[1:] if line]
    if len(lines) != 2 * folds * pairs:
        raise ValueError(
            f"path must hold {2 * folds * pairs} pairs as its first line says, got {len(lines)} in {str(path)!r}. "
            "Download it again."
        )
    same = np.tile(np.repeat([True, False], pairs), folds)
    images: list[tuple[str, str]] = []
    people: list[tuple[str, str]] = []
    for number, (line, genuine) in enumerate(zip(lines, same, strict=True), start=2):
        if len(line) != 4 - genuine or not (line[1].isdigit() and line[-1].isdigit()):
            form = "'person image image'" if genuine else "'person image person image'"
            raise ValueError(
                f"path must hold {form} in line {number}, got {' '.join(line)!r} in {str(path)!r}. "
                "Genuine pairs come first in each fold, then as many impostor pairs."
            )
        (one, image), (other, other_image) = line[:2], (line[0], line[2]) if genuine else line[2:]
        images.append((f"{one}_{int(image):04d}", f"{other}_{int(other_image):04d}"))
        people.append((one, other))
    return Pairs.of_names(
        first=[pair[0] for pair in images],
        second=[pair[1] for pair in images],
        same=same,
        names=[PurePosixPath(_parts(name)[-1]).stem for name in as_list(names, "names")],
        folds=np.repeat(np.arange(folds), 2 * pairs) if folds > 1 else None,
        people=np.unique(people, return_inverse=True)[1].reshape(-1, 2),
    )


def speaker_trials(path: str | Path, names: Iterable[str | Path]) -> Pairs:
    """The trials of speaker verification, from a file as VoxCeleb or Kaldi has it.

    Args:
        path: the file, with a trial a line: ``1 enrolment test`` where both are of one speaker and ``0 enrolment test``
            where not (VoxCeleb), or ``enrolment test target`` and ``enrolment test nontarget`` (Kaldi).
        names: (N,) the utterance of each row, by its id or path. Paths are compared from their ends, see
            :meth:`Pairs.of_paths`.

    Raises:
        ValueError: a file in another format, naming the line; an utterance that no row or more than one row has.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "trials.txt")
        ...     with path.open("w") as file:
        ...         print("1 id1/a/1.wav id1/b/1.wav", "0 id1/a/1.wav id2/c/1.wav", file=file, sep=chr(10))
        ...     pairs = speaker_trials(path, ["wav/id1/a/1.wav", "wav/id1/b/1.wav", "wav/id2/c/1.wav"])
        >>> pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()
        ([0, 0], [1, 2], [True, False])
    """
    path = as_path(path, "path")
    sides: tuple[list[str], list[str]] = ([], [])
    same = []
    for number, line in enumerate(read_lines(path, "trials"), start=1):
        match line.split():
            case [("0" | "1") as flag, one, other] if other not in OUTCOMES:
                same.append(flag == "1")
            case [one, other, outcome] if outcome in OUTCOMES:
                same.append(OUTCOMES[outcome])
            case []:
                continue
            case _:
                raise ValueError(
                    f"path must hold '1 enrolment test' or 'enrolment test target' in line {number}, got {line!r} in "
                    f"{str(path)!r}. Write 0 or nontarget for two speakers."
                )
        sides[0].append(one)
        sides[1].append(other)
    return Pairs.of_paths(*sides, np.array(same, dtype=bool), [str(name) for name in as_list(names, "names")])


def read_pairs(path: str | Path, names: Sequence[str]) -> Pairs:
    """The pairs of a file, of rows by name, in any format that is known.

    Args:
        path: a CSV file with a header: ``first``, ``second``, ``same`` (1 or 0) and, where there are folds, ``fold``;
            trials, by their three words a line; or else LFW's. Images are named by the ends of their paths, as far as
            these tell them apart, with or without suffix.
        names: (N,) of the rows.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, images that are not among the rows.
    """
    if str(path).lower().endswith(".csv"):
        columns = read_columns(path, "pairs", ("first", "second", "same"), ("fold",))
        first, second, same = columns["first"], columns["second"], columns["same"]
        if set(same) - {"0", "1"}:
            raise ValueError(
                f"same must be 0 or 1, got {(set(same) - {'0', '1'}).pop()!r} in {str(path)!r}. 1 is for one identity."
            )
        return Pairs.of_paths(first, second, [value == "1" for value in same], names, columns.get("fold"))
    lines = read_lines(path, "pairs")
    return (speaker_trials if lines and len(lines[0].split()) == 3 else lfw_pairs)(path, names)


def checked_folds(folds: Any, pairs: int) -> Ids:
    """The fold of each pair as a number from 0, (P,), in the order in which the folds come."""
    codes = class_codes(folds, pairs, "folds")
    if codes.max() == 0:
        raise ValueError(
            "folds must be at least two, got 1. The threshold of a fold is chosen on the others; "
            "leave folds out where a protocol has none."
        )
    return codes


def checked_people(people: Any, same: Flags) -> Ids:
    """Who is on the two images of each pair, (P, 2), which must agree with the flags."""
    values = as_array(people, "people")
    if values.shape != (len(same), 2):
        raise ValueError(f"people must have shape ({len(same)}, 2), got shape {values.shape}. Give two for each pair.")
    if values.dtype.kind not in "iu":
        raise TypeError(f"people must be integers, got dtype {values.dtype}. Number them from 0.")
    wrong = np.flatnonzero((values[:, 0] == values[:, 1]) != same)
    if len(wrong):
        raise ValueError(
            f"labels and pairs must agree, got {'one identity' if not same[wrong[0]] else 'two identities'} in pair "
            f"{wrong[0]}, which is said to be {'genuine' if same[wrong[0]] else 'impostor'} ({len(wrong)} of "
            f"{len(same)} pairs). Check the order of the labels, and which value means the same identity."
        )
    return values.astype(np.int64)


def check_rows(first: Ids, second: Ids, count: int) -> None:
    """The rows of pairs must exist."""
    largest = np.maximum(first, second)
    bad = np.flatnonzero(largest >= count)
    if len(bad):
        raise ValueError(
            f"pairs must be of rows in [0, {count}), the number of embeddings, got row {largest[bad[0]]} in pair "
            f"{bad[0]} ({len(bad)} of {len(first)} pairs). Pass the embeddings that the pairs were made for."
        )


def check_two_images(pairs: Pairs, names: Sequence[str]) -> None:
    """The two rows of a pair must be of two images, by the names of the rows."""
    codes = class_codes(map(image_named, names), len(names), "names")
    alike = np.flatnonzero(codes[pairs.first] == codes[pairs.second])
    if len(alike):
        raise ValueError(
            f"pairs must be of two images, got {names[pairs.first[alike[0]]]!r} twice in pair {alike[0]} ({len(alike)} "
            f"of {len(pairs)} pairs). An image always matches itself: leave these pairs out."
        )


def _checked_sides(first: Any, second: Any) -> tuple[Ids, Ids]:
    """The two rows of each pair (P,)."""
    sides = _checked_rows(first, "first"), _checked_rows(second, "second")
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"first and second must be as many, got {len(sides[0])} and {len(sides[1])}. Give two rows for each pair."
        )
    return sides


def _checked_rows(rows: Any, name: str) -> Ids:
    values = as_array(rows, name)
    if values.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be integers, got dtype {values.dtype}. Give the row of each image, or use Pairs.of_names."
        )
    if values.ndim != 1:
        raise ValueError(f"{name} must have shape (pairs,), got shape {values.shape}. Pass one row per pair.")
    bad = np.flatnonzero(values < 0)
    if len(bad):
        raise ValueError(
            f"{name} must be rows from 0 on, got {values[bad[0]]} in pair {bad[0]} ({len(bad)} of {len(values)} "
            "pairs). Look for a -1 that stands for a missing image."
        )
    return values.astype(np.int64)
