"""Error rates over all pairs of N rows, exactly and without holding N² scores.

Two passes over blocks of scores. The first counts them in narrow bins, which tells in which bins the thresholds lie
that are asked for. The second counts what lies above those bins, and looks at the few pairs inside them one by one.

Scores of a block come from a matrix product, whose last bits depend on the block. They decide only what differs by more
than that: whatever lies within rounding of a threshold is scored again from its own two rows. The result is therefore a
function of the vectors alone.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.std import tqdm as Bar

from pml_center.evaluation.pair_intervals import KEPT, PairSample
from pml_center.evaluation.roc import Counts, Roc
from pml_center.evaluation.search import ExactSearch, Ids, Matrix
from pml_center.notebooks import progress_bar

BLOCK = (512, 2048)  # rows and columns of scores at a time
BINS = 2**15  # at most; a bin is never narrower than rounding


class AllPairs(NamedTuple):
    """What is known of all pairs: exactly around the thresholds asked for, in bins everywhere."""

    exact: Roc  # the points around the thresholds asked for; rates at these are those of all pairs
    binned: Roc  # a point for each bin, whose rates are off by the pairs of the bin at most; for plots
    sample: PairSample | None  # for the bootstrap


def all_pairs(search: ExactSearch, codes: Ids, far: Sequence[float], sampled: bool = False, seed: int = 0) -> AllPairs:
    """The receiver operating characteristic over all N(N − 1)/2 pairs of rows.

    Args:
        search: its (N, D) queries, scored by its similarity.
        codes: (N,) the identity of each row, numbered from 0.
        far: targets of the false accept rate, in (0, 1). Rates at these and at the equal error rate come out exactly.
        sampled: also draw pairs for the bootstrap: of impostor pairs the more the higher they score.
        seed: of these draws.

    Example:
        >>> search = ExactSearch([[1, 0], [0.8, 0.6], [0, 1], [0.6, -0.8]])
        >>> all_pairs(search, np.array([0, 0, 1, 1]), far=[0.5]).exact.tar_at(0.5)
        0.5
    """
    scores = _Scores(search, codes)
    total = (2 + sampled) * scores.pairs
    with progress_bar(total=total, desc="pairs", unit_scale=True, delay=2) as bar:
        binned, bin_of_point = _binned(scores, bar)
        bins = {int(bin_of_point[binned.index_at(target) + 1]) for target in far if binned.far[-1] > target}
        bins.add(int(bin_of_point[binned.index_at_equal_error]))
        exact = _exact(scores, bins, bar)
        return AllPairs(exact, binned, _sample(scores, binned, bin_of_point, seed, bar) if sampled else None)


class _Part(NamedTuple):
    """Some scores of one kind, from a block of all."""

    values: NDArray[np.float32]  # (n,)
    positions: Ids | None  # (n,) where they stand in the block, row by row; None for everywhere
    same: int  # 1 for genuine pairs, 0 for impostor pairs
    row: int  # of the block's first row
    column: int  # of its first column
    width: int  # of the block

    def rows(self, positions: Ids) -> tuple[Ids, Ids]:
        """The two rows of the scores at some positions of the block."""
        return self.row + positions // self.width, self.column + positions % self.width


class _Scores:
    """The scores of all pairs, block by block, of rows sorted by identity: genuine pairs then lie near the diagonal."""

    def __init__(self, search: ExactSearch, codes: Ids):
        sizes = np.bincount(codes)
        self.search, self.order = search, np.argsort(codes, kind="stable")
        self.codes = codes[self.order]
        self.ends = np.cumsum(sizes)[self.codes]  # (N,) where the identity of each row ends
        self.pairs = len(codes) * (len(codes) - 1) // 2
        self.genuine_pairs = int((sizes * (sizes - 1) // 2).sum())
        matrix = torch.from_numpy(search.queries[self.order])
        self.left = self.right = matrix
        norms = torch.linalg.vector_norm(matrix, dim=1, keepdim=True)
        size = float(norms.max()) ** 2
        if search.similarity == "euclidean":  # −|a − b|² as one product
            one, square, size = torch.ones_like(norms), norms.square(), 4 * size
            self.left, self.right = torch.cat([2 * matrix, -square, one], 1), torch.cat([matrix, one, -square], 1)
        float32 = np.finfo(np.float32)
        rounding = (matrix.shape[1] + 8) * (float(float32.eps) * size + float(float32.tiny))
        span = 2 * size + 4 * rounding
        self.bins = int(min(BINS, max(8, span / (4 * rounding))))
        self.low, self.high = -size - 2 * rounding, size + 2 * rounding

    def parts(self, bar: Bar) -> Iterator[_Part]:
        """All pairs once, genuine and impostor pairs apart. What was yielded is overwritten by the next."""
        count, (height, width) = len(self.codes), BLOCK
        buffer = torch.empty(height * width)
        for top in range(0, count, height):
            bottom = min(top + height, count)
            end = int(self.ends[bottom - 1])  # from here on there are only impostors
            edges = [*range(top, end, width), *range(end, count, width), count]
            for left, right in pairwise(edges):
                out = buffer[: (bottom - top) * (right - left)].view(bottom - top, right - left)
                torch.mm(self.left[top:bottom], self.right[left:right].t(), out=out)
                block = out.numpy()
                if left >= end:
                    yield _Part(block.ravel(), None, 0, top, left, right - left)
                else:
                    yield from self._split(block, top, left)
            bar.update(sum(count - 1 - row for row in range(top, bottom)))

    def exactly(self, first: Ids, second: Ids) -> Matrix:
        """The scores of some pairs of sorted rows, each from its own two rows alone."""
        return self.search.pair_scores(self.order[first], self.order[second])

    def _split(self, block: NDArray[np.float32], top: int, left: int) -> Iterator[_Part]:
        rows = np.arange(top, top + block.shape[0])[:, None]
        columns = np.arange(left, left + block.shape[1])
        ends = self.ends[rows]
        for same, mask in ((1, (columns > rows) & (columns < ends)), (0, columns >= ends)):
            positions = np.flatnonzero(mask)
            yield _Part(block.ravel()[positions], positions, same, top, left, block.shape[1])


def _binned(scores: _Scores, bar: Bar) -> tuple[Roc, Ids]:
    """The curve with a point for each bin that is not empty, and the bin of each point."""
    counts = np.zeros((2, scores.bins), dtype=np.int64)
    for part in scores.parts(bar):
        found = torch.histc(torch.from_numpy(part.values), scores.bins, scores.low, scores.high)
        counts[part.same] += found.numpy().astype(np.int64)
    bins = np.flatnonzero(counts.any(axis=0))[::-1]
    impostor, genuine = counts[:, bins].cumsum(axis=1)
    edges = scores.low + (scores.high - scores.low) / scores.bins * bins
    return _roc(scores, edges, genuine, impostor), np.concatenate([[scores.bins], bins])


def _exact(scores: _Scores, bins: set[int], bar: Bar) -> Roc:
    """The curve at every score in or beside some bins."""
    bands = _bands(scores, bins)
    for part in scores.parts(bar):
        values, positions = part.values, part.positions
        for band in bands:  # from low to high, so that each looks at less than the one before
            kept = np.flatnonzero(values >= band.low)
            values = values[kept]
            positions = kept if positions is None else positions[kept]
            inside = values < band.high
            band.above[part.same] += len(values) - int(np.count_nonzero(inside))
            band.tallies[part.same].add(scores.exactly(*part.rows(positions[inside])))
    pieces = [band.piece() for band in reversed(bands)]
    threshold, genuine, impostor = (np.concatenate(each) for each in zip(*pieces, strict=True))
    return _roc(scores, threshold, genuine, impostor)


def _sample(scores: _Scores, binned: Roc, bin_of_point: Ids, seed: int, bar: Bar) -> PairSample:
    """Pairs drawn with a probability that falls with the rank among the impostor scores, alike for genuine pairs."""
    chances = np.ones((2, scores.bins))
    chances[0][bin_of_point[1:]] = np.minimum(1, KEPT / np.maximum(1, binned.impostor[1:]))
    chances[1] = min(1, 2 * KEPT / scores.genuine_pairs)
    drawn: list[PairSample] = []
    for part in scores.parts(bar):
        bins = ((part.values - scores.low) * (scores.bins / (scores.high - scores.low))).astype(np.int64)
        chance = chances[part.same][bins.clip(0, scores.bins - 1)]
        random = np.random.default_rng((seed, part.row, part.column, part.same))
        kept = np.flatnonzero(random.random(len(chance)) < chance)
        first, second = part.rows(kept if part.positions is None else part.positions[kept])
        found = scores.exactly(first, second).astype(np.float64)
        people = np.stack([scores.codes[first], scores.codes[second]], axis=1)
        drawn.append(PairSample(found, np.full(len(kept), bool(part.same)), people, 1 / chance[kept]))
    return PairSample(*(np.concatenate(each) for each in zip(*(part[:4] for part in drawn), strict=True)))


def _bands(scores: _Scores, bins: set[int]) -> list["_Band"]:
    """What to look at closely: the bins and their neighbours, adjoining ones together, from low to high."""
    wanted = np.array(sorted({bin + step for bin in bins for step in (-1, 0, 1)}))
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
    width = (scores.high - scores.low) / scores.bins
    return [_Band(scores.low + width * run[0], scores.low + width * (run[-1] + 1)) for run in runs]


def _roc(scores: _Scores, threshold: NDArray, genuine: Counts, impostor: Counts) -> Roc:
    return Roc(
        np.concatenate([[np.inf], threshold]),
        np.concatenate([[0], genuine]),
        np.concatenate([[0], impostor]),
        scores.genuine_pairs,
        scores.pairs - scores.genuine_pairs,
    )


class _Band:
    """The scores in [low, high), and how many lie above."""

    def __init__(self, low: float, high: float):
        self.low, self.high = low, high
        self.above = [0, 0]  # impostor, genuine
        self.tallies = _Tally(), _Tally()

    def piece(self) -> tuple[NDArray, Counts, Counts]:
        """Thresholds in descending order, with the genuine and impostor pairs that each accepts."""
        tallies = [tally.counts() for tally in self.tallies]
        values = np.unique(np.concatenate([values for values, _ in tallies]))[::-1]
        counts = np.zeros((2, len(values) + 1), dtype=np.int64)
        for row, (own, times) in zip(counts, tallies, strict=True):
            row[1:][np.searchsorted(-values, -own)] = times
        counts[:, 0] = self.above
        impostor, genuine = counts.cumsum(axis=1)
        top = np.nextafter(max(self.high, *values[:1]), np.inf)  # accepts what lies above, and nothing inside
        return np.concatenate([[top], values]), genuine, impostor


class _Tally:
    """How often each score occurs, in memory for the different ones."""

    def __init__(self) -> None:
        self.values, self.times = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
        self.waiting: list[Matrix] = []

    def add(self, scores: Matrix) -> None:
        self.waiting.append(scores)
        if sum(map(len, self.waiting)) > BLOCK[0] * BLOCK[1]:
            self.counts()

    def counts(self) -> tuple[Matrix, Counts]:
        """The different scores, ascending, and how often each occurs."""
        ones = [np.ones(len(scores), dtype=np.int64) for scores in self.waiting]
        values, inverse = np.unique(np.concatenate([self.values, *self.waiting]), return_inverse=True)
        times = np.bincount(inverse, np.concatenate([self.times, *ones]), len(values))
        self.values, self.times, self.waiting = values, times.astype(np.int64), []
        return self.values, self.times
