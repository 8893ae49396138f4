"""Where all relevant references of a query stand in the whole gallery, without a list of the gallery per query.

A block of scores comes from a matrix product, sorted along with the rows. Around the exact score of each relevant
reference lies a band, as wide as rounding can be wrong, of scores that may belong on either side. Only inside the bands
are scores computed again pair by pair and sorted again. The ranks are then a function of the vectors alone.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pml_center.evaluation.search.exact_search import ExactSearch, Members, import_faiss, spans
from pml_center.evaluation.search.ordering import Keys, order_keys, rows_of
from pml_center.evaluation.search.ranking import Ranking
from pml_center.evaluation.search.references import Ids, Matrix

Ties = Literal["index", "expected"]

CACHED = 2**17  # keys that are made and sorted while they are in the cache
ENTRIES = 2**22  # scores in a block, which takes about 50 MiB with the keys that it is sorted by


def rank_gallery(
    search: ExactSearch,
    codes: Ids,
    reference_codes: Ids,
    rows: Ids,
    ties: Ties = "index",
    chunk_size: int | None = None,
) -> Iterator[tuple[Ids, Ranking, NDArray[np.bool_]]]:
    """Rank the relevant references of some queries, a chunk of queries at a time.

    Args:
        search: the two sets.
        codes: (Q,) the class of each query.
        reference_codes: (N,) the class of each reference.
        rows: the queries to rank for.
        ties: ``"index"`` ranks equal scores by row; ``"expected"`` keeps them together as groups.
        chunk_size: at most this many queries at a time; None lets memory decide.

    Returns:
        An iterator of query rows (c,), their ranking, and whether a relevant and another reference tie (c,).

    Example:
        >>> search = ExactSearch([[0.0], [1.0], [3.0], [4.0]], similarity="euclidean")
        >>> codes = np.array([0, 1, 0, 1])
        >>> [(_, ranking, tied)] = rank_gallery(search, codes, codes, np.arange(4))
        >>> ranking.before, tied
        (array([1, 2, 2, 1]), array([False, False, False, False]))
    """
    members = Members(reference_codes)
    size = min(search.block_size(ENTRIES), chunk_size or len(rows), len(rows))
    buffer = np.empty(size * search.references.longest, dtype=np.uint64)
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        yield _rank(search, members, codes, reference_codes, chunk, ties, buffer)


def _rank(
    search: ExactSearch,
    members: Members,
    codes: Ids,
    reference_codes: Ids,
    rows: Ids,
    ties: Ties,
    buffer: Keys,
) -> tuple[Ids, Ranking, NDArray[np.bool_]]:
    owners, ids = members.of(codes[rows])
    if search.excluded is not None:
        exists = search.excluded[0][rows[owners]] != search.excluded[1][ids]
        owners, ids = owners[exists], ids[exists]
    owners, low, high = _bands(owners, search.exact_scores(rows, owners, ids), search.rounding[rows])
    before = np.zeros(len(owners), dtype=np.int64)  # scores above a band
    inside, found = [], []
    for start, block in search.blocks(rows):
        keys = buffer[: block.size].reshape(block.shape)
        _sort(block, keys)
        first, last = _places(keys, owners, low, high)
        before += first
        band = np.repeat(np.arange(len(owners)), last - first)
        ids = start + rows_of(keys[owners[band], spans(first, last - first)])
        inside.append(band)
        found.append(order_keys(search.exact_scores(rows, owners[band], ids), ids))
    band, keys = np.concatenate(inside), np.concatenate(found)
    order = np.lexsort((keys, band))
    band, keys = band[order], keys[order]
    counts = np.bincount(band, minlength=len(owners))
    places = spans(before, counts)  # (P,) of all that lies in a band
    relevant = reference_codes[rows_of(keys)] == codes[rows][owners[band]]
    return rows, *_groups(owners[band], places, keys >> np.uint64(32), relevant, len(rows), len(reference_codes), ties)


def _sort(block: Matrix, keys: Keys) -> None:
    """Write the sorted keys of each row of scores, on as many threads as faiss may use."""
    threads = import_faiss().omp_get_max_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_sort_part, np.array_split(block, threads), np.array_split(keys, threads)))


def _sort_part(block: Matrix, keys: Keys) -> None:
    columns = np.arange(block.shape[1], dtype=np.uint32)
    rows = max(1, CACHED // block.shape[1])
    for start in range(0, len(block), rows):
        part = keys[start : start + rows]
        order_keys(block[start : start + rows], columns, out=part)
        part.sort(axis=1)


def _bands(owners: Ids, exact: NDArray, rounding: NDArray) -> tuple[Ids, Keys, Keys]:
    """Where scores may be on either side of an ``exact`` one: whose they are (B,), and the first and last key of each.

    Bands of one owner that touch are one. They come by owner, and then by score, largest first.
    """
    order = np.lexsort((-exact, owners))
    owners, exact, rounding = owners[order], exact[order], rounding[owners[order]]
    low = order_keys((exact + rounding).astype(np.float32), 0)
    high = order_keys((exact - rounding).astype(np.float32), 2**32 - 1)
    opens = np.ones(len(owners), dtype=bool)
    opens[1:] = (owners[1:] != owners[:-1]) | (low[1:] > high[:-1])
    closes = np.append(opens[1:], True)[: len(opens)]
    return owners[opens], low[opens], high[closes]


def _places(keys: Keys, owners: Ids, low: Keys, high: Keys) -> tuple[Ids, Ids]:
    """The first and the last place, exclusive, of each band in the sorted keys of its owner."""
    first, last = np.empty(len(owners), dtype=np.int64), np.empty(len(owners), dtype=np.int64)
    ends = np.bincount(owners, minlength=len(keys)).cumsum()
    start = 0
    for row, end in zip(keys, ends.tolist(), strict=True):
        first[start:end] = row.searchsorted(low[start:end])
        last[start:end] = row.searchsorted(high[start:end], side="right")
        start = end
    return first, last


def _groups(
    owner: Ids, places: Ids, scores: NDArray, relevant: NDArray[np.bool_], queries: int, depth: int, ties: Ties
) -> tuple[Ranking, NDArray[np.bool_]]:
    """Groups of equal score among sorted places (P,)."""
    opens = np.ones(len(owner), dtype=bool)
    opens[1:] = (owner[1:] != owner[:-1]) | (scores[1:] != scores[:-1])
    which = opens.cumsum() - 1
    size, hits = np.bincount(which), np.bincount(which, relevant).astype(np.int64)
    query, before = owner[opens], places[opens]
    tied = np.zeros(queries, dtype=bool)
    tied[query[(hits > 0) & (hits < size)]] = True
    total = np.bincount(owner, relevant, minlength=queries).astype(np.int64)
    if ties == "index":
        query, before = owner[relevant], places[relevant]
        size = hits = np.ones_like(query)
    query, before, size, hits = (values[hits > 0] for values in (query, before, size, hits))
    hits_before = hits.cumsum() - hits
    hits_before -= (total.cumsum() - total)[query]
    return Ranking(total, depth, query, before, size, hits, hits_before), tied
