"""Embeddings made ready for search, and a gallery of several parts of which one at a time is in memory."""

from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import ENTRIES, Names, as_matrix, check_width, parts_of, row_name

Similarity = Literal["cosine", "dot", "euclidean"]
Ids = NDArray[np.int64]
Matrix = NDArray[np.float32]


class References:
    """The rows to search in, in one part or several, as faiss is to compare them.

    A gallery larger than memory comes in parts: memory-mapped files, say, each no larger than memory allows. The part
    that is being searched is held in memory, and the others stay where they are.

    Args:
        values: (N, D) finite real numbers, or a list of such matrices, which are one gallery in that order.
        called: what to call it in an error.
        similarity: how rows are compared; ``"cosine"`` gives them length 1.
        names: (N,) what to call the rows in an error, e.g. their paths.

    Raises:
        TypeError: embeddings that are not real numbers.
        ValueError: NaN or infinity, a zero vector with ``"cosine"``, an empty part, parts of different widths.

    Example:
        >>> references = References([[[1.0], [2.0]], [[3.0], [4.0], [5.0]]], "references", "dot")
        >>> len(references), references[np.array([4, 0])].tolist()
        (5, [[5.0], [1.0]])
        >>> [(ids.tolist(), rows.shape) for ids, rows in references.open()]
        [([0, 1], (2, 1)), ([2, 3, 4], (3, 1))]
    """

    def __init__(self, values: Any, called: str, similarity: Similarity, names: Names = None):
        self.parts = parts_of(values, called)
        self._similarity = similarity
        self._called = [called] if len(self.parts) == 1 else [f"{called}[{i}]" for i in range(len(self.parts))]
        self._held: tuple[Any, Any] = (None, None)  # which part, and its rows
        self._earlier: dict[int, Ids] = {}
        self.largest = 0.0  # norm of a row
        bounds = [0]
        for number, (part, name) in enumerate(zip(self.parts, self._called, strict=True)):
            check_width(self.parts[0], part, self._called[0], name)
            rows, norms = checked_rows(part, name, similarity, None if names is None else names[bounds[-1] :])
            bounds.append(bounds[-1] + len(rows))
            self.largest = max(self.largest, float(norms.max()))
            self._held = ((number, None), rows)
        self._bounds = np.array(bounds)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @property
    def longest(self) -> int:
        """Rows of the longest part."""
        return int(np.diff(self._bounds).max())

    @property
    def whole(self) -> Matrix:
        """All rows, of references in one part."""
        return self._part(0)

    def __getitem__(self, ids: Ids) -> Matrix:
        """Some rows (n, D)."""
        if len(self.parts) == 1:
            return self.whole[ids]
        found = np.empty((len(ids), self.parts[0].shape[1]), dtype=np.float32)
        for places, rows, own in self.split(ids):
            found[places] = rows[own]
        return found

    def split(self, ids: Ids) -> Iterator[tuple[Any, Matrix, Ids]]:
        """Where in (n,) ids those of a part stand, the rows of the part, and which of them; for each part with any."""
        if len(self.parts) == 1:
            yield slice(None), self.whole, ids
            return
        part = np.searchsorted(self._bounds, ids, side="right") - 1
        for number in np.unique(part).tolist():
            places = np.flatnonzero(part == number)
            yield places, self._part(number), ids[places] - self._bounds[number]

    def open(self, copies: int | None = None) -> Iterator[tuple[Ids, Matrix]]:
        """The parts, one after the other: the numbers of rows (n,), and the rows (n, D).

        Args:
            copies: leave out what stands behind so many equal rows; None means nothing.
        """
        for number, (start, stop) in enumerate(pairwise(self._bounds)):
            ids = np.arange(start, stop)
            if copies is not None:
                earlier = self._earlier_copies(number)
                if earlier.max() >= copies:
                    yield ids[earlier < copies], self._part(number, copies)
                    continue
            yield ids, self._part(number)

    def _part(self, number: int, copies: int | None = None) -> Matrix:
        if self._held[0] != (number, copies):
            self._held = (None, None)  # makes room
            matrix = np.ascontiguousarray(self.parts[number], dtype=np.float32)
            rows, _ = prepare(matrix, self._called[number], self._similarity)
            if copies is not None:
                rows = rows[self._earlier_copies(number) < copies]
            self._held = ((number, copies), rows)
        return self._held[1]

    def _earlier_copies(self, number: int) -> Ids:
        if number not in self._earlier:
            self._earlier[number] = earlier_copies(self._part(number))
        return self._earlier[number]


def checked_rows(
    values: Any, name: str, similarity: Similarity, names: Names = None
) -> tuple[Matrix, NDArray[np.float64]]:
    """:func:`prepare`, of any real numbers that are finite."""
    return prepare(as_matrix(values, name, names=names), name, similarity, names)


def prepare(
    matrix: Matrix, name: str, similarity: Similarity, names: Names = None
) -> tuple[Matrix, NDArray[np.float64]]:
    """The rows (N, D) as faiss is to compare them, and their norms (N,).

    Raises:
        ValueError: a zero vector with ``"cosine"``.
    """
    rows = max(1, ENTRIES // matrix.shape[1])
    norms = np.concatenate(
        [np.linalg.norm(matrix[i : i + rows].astype(np.float64), axis=1) for i in range(0, len(matrix), rows)]
    )
    if similarity != "cosine":
        return matrix, norms
    zero = np.flatnonzero(norms == 0)
    if len(zero):
        raise ValueError(
            f"{name} must have a direction for cosine similarity, got a zero vector in {row_name(zero[0], names)} "
            f"({len(zero)} of {len(matrix)} rows). Remove these rows, or use similarity='euclidean'."
        )
    unit = np.divide(matrix, norms[:, None], out=np.empty_like(matrix), casting="same_kind")
    return unit, np.ones(len(unit))


def earlier_copies(rows: Matrix) -> Ids:
    """How many equal rows come before each row, (N,). Only rows that add up to the same are looked at.

    Example:
        >>> earlier_copies(np.array([[1, 2], [3, 4], [1, 2], [1, 2]], dtype=np.float32))
        array([0, 0, 1, 2])
    """
    earlier = np.zeros(len(rows), dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = rows.sum(axis=1)  # of each row alone, so that equal rows have equal sums
    _, which, counts = np.unique(sums, return_inverse=True, return_counts=True)
    seen: Counter[bytes] = Counter()
    for row in np.flatnonzero(counts[which] > 1).tolist():
        content = blake2b(rows[row], digest_size=16).digest()
        earlier[row] = seen[content]
        seen[content] += 1
    return earlier
