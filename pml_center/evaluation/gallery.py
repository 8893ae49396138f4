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

from pml_center.evaluation.ordering import Keys, order_keys, rows_of
from pml_center.evaluation.ranking import Ranking
from pml_center.evaluation.search import ExactSearch, Ids, Matrix, Members, import_faiss, spans

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
    size = min(search.block_size(ENTRIES), chunk_size or len(rows))
    buffer = np.empty((min(size, len(rows)), len(reference_codes)), dtype=np.uint64)
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        yield _rank(search, members, codes, reference_codes, chunk, ties, buffer[: len(chunk)])


def _rank(
    search: ExactSearch,
    members: Members,
    codes: Ids,
    reference_codes: Ids,
    rows: Ids,
    ties: Ties,
    keys: Keys,
) -> tuple[Ids, Ranking, NDArray[np.bool_]]:
    owners, ids = members.of(codes[rows])
    if search.excluded is not None:
        exists = search.excluded[0][rows[owners]] != search.excluded[1][ids]
        owners, ids = owners[exists], ids[exists]
    block = search.block(rows)
    exact = search.exact_scores(block, rows, owners, ids)
    order = np.lexsort((-exact, owners))
    owners, exact = owners[order], exact[order]
    _sort(block, keys)
    first, last = _bands(keys, owners, exact, search.rounding[rows][owners])

    # Bands that touch are sorted together.
    opens = np.ones(len(owners), dtype=bool)
    opens[1:] = (owners[1:] != owners[:-1]) | (first[1:] >= last[:-1])
    closes = np.append(opens[1:], True)[: len(opens)]
    owners, first, last = owners[opens], first[opens], last[closes]
    places = spans(first, last - first)  # (P,) of all that lies in a band
    owner = np.repeat(owners, last - first)
    ids = rows_of(keys[owner, places])
    keys[owner, places] = order_keys(search.exact_scores(block, rows, owner, ids), ids)
    for row, start, end in zip(owners.tolist(), first.tolist(), last.tolist(), strict=True):
        if end - start > 1:
            keys[row, start:end].sort()
    found = keys[owner, places]
    relevant = reference_codes[rows_of(found)] == codes[rows][owner]
    return rows, *_groups(owner, places, found >> np.uint64(32), relevant, len(rows), keys.shape[1], ties)


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


def _bands(keys: Keys, owners: Ids, exact: NDArray, rounding: NDArray) -> tuple[Ids, Ids]:
    """The first and the last place, exclusive, in its sorted row where a score may be on either side of ``exact``."""
    high = order_keys((exact + rounding).astype(np.float32), 0)
    low = order_keys((exact - rounding).astype(np.float32), 2**32 - 1)
    first, last = np.empty(len(owners), dtype=np.int64), np.empty(len(owners), dtype=np.int64)
    ends = np.bincount(owners, minlength=len(keys)).cumsum()
    start = 0
    for row, end in zip(keys, ends.tolist(), strict=True):
        first[start:end] = row.searchsorted(high[start:end])
        last[start:end] = row.searchsorted(low[start:end], side="right")
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
