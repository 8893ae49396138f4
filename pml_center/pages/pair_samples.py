"""Pairs of a query and a reference that show how far classes are apart: the nearest of one class, some at random."""

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import ENTRIES
from pml_center.evaluation.search import ExactSearch


def nearest_mates(search: ExactSearch, codes: NDArray, reference_codes: NDArray) -> tuple[NDArray, NDArray]:
    """The most similar reference of each query's own class, and its score; -1 and NaN where there is none.

    References that ``search`` excludes for a query are none.
    """
    mates, scores = np.full(len(codes), -1), np.full(len(codes), np.nan)
    order = np.argsort(reference_codes, kind="stable")
    starts = np.searchsorted(reference_codes[order], np.arange(codes.max() + 2))
    by_class = np.argsort(codes, kind="stable")
    for queries in np.split(by_class, np.flatnonzero(np.diff(codes[by_class])) + 1):
        own = order[starts[codes[queries[0]]] : starts[codes[queries[0]] + 1]]
        step = max(1, ENTRIES // max(1, len(own)))
        for rows in np.split(queries, range(step, len(queries), step)):
            block = block_scores(search, rows, own)
            search.exclude(block, rows, own)
            if not block.size:
                continue
            best = block.argmax(axis=1)
            found = np.isfinite(block[np.arange(len(rows)), best])
            mates[rows[found]], scores[rows[found]] = own[best[found]], block.max(axis=1)[found]
    return mates, scores


def block_scores(search: ExactSearch, queries: NDArray, references: NDArray) -> NDArray:
    """The score of some queries with some references, (q, n)."""
    left, right = search.queries[queries], search.references[references]
    products = left @ right.T
    if search.similarity != "euclidean":
        return products
    return 2 * products - np.square(left).sum(axis=1)[:, None] - np.square(right).sum(axis=1)


def row_scores(search: ExactSearch, queries: NDArray, references: NDArray) -> NDArray:
    """The score of each query with the reference beside it, (P,)."""
    scores = np.empty(len(queries), dtype=np.float32)
    step = max(1, ENTRIES // search.queries.shape[1])
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        left, right = search.queries[queries[part]], search.references[references[part]]
        if search.similarity == "euclidean":
            scores[part] = -np.square(left - right).sum(axis=1)
        else:
            scores[part] = np.einsum("ij,ij->i", left, right)
    return scores


def pairs_to_show(
    codes: NDArray, reference_codes: NDArray, leave_one_out: bool, count: int
) -> tuple[NDArray, NDArray, NDArray, dict[bool, bool]]:
    """All genuine pairs, and all impostor ones, or as many of them drawn at random where there are more.

    Args:
        codes: (Q,) the class of each query, numbered from 0.
        reference_codes: (N,) the class of each reference.
        leave_one_out: whether the references are the queries. Then a query is no reference of its own, and two images
            are one pair.
        count: the most of a kind.

    Returns:
        Query rows (P,), reference rows (P,), whether both are of one class (P,), and whether these are all, of genuine
        pairs (True) and of impostor ones (False).

    Example:
        >>> codes = np.repeat(np.arange(10), 10)
        >>> _, _, same, is_all = pairs_to_show(codes, codes, True, count=1000)
        >>> int(same.sum()), int((~same).sum()), is_all
        (450, 1000, {True: True, False: False})
    """
    sizes = np.bincount(reference_codes, minlength=codes.max() + 1)
    genuine, every = int(sizes[codes].sum()), len(codes) * len(reference_codes)
    if leave_one_out:
        genuine, every = (genuine - len(codes)) // 2, (every - len(codes)) // 2
    is_all = {True: genuine <= count, False: every - genuine <= count}
    found = [_all_pairs(codes, reference_codes, leave_one_out, kind) for kind in (True, False) if is_all[kind]]
    if not all(is_all.values()):
        queries, references, same = sampled_pairs(codes, reference_codes, leave_one_out, count, seed=0)
        drawn = np.where(same, not is_all[True], not is_all[False])
        found.append((np.stack([queries, references])[:, drawn], same[drawn]))
    pairs, kinds = (np.concatenate(each, axis=-1) for each in zip(*found, strict=True))
    return pairs[0], pairs[1], kinds, is_all


def _all_pairs(codes: NDArray, reference_codes: NDArray, leave_one_out: bool, same: bool) -> tuple[NDArray, NDArray]:
    """Rows (2, P) of all pairs of a kind, and that kind (P,)."""
    order = np.argsort(reference_codes, kind="stable")
    starts = np.searchsorted(reference_codes[order], np.arange(codes.max() + 2))
    by_class = np.argsort(codes, kind="stable")
    found = []
    for queries in np.split(by_class, np.flatnonzero(np.diff(codes[by_class])) + 1):
        start, end = starts[codes[queries[0]]], starts[codes[queries[0]] + 1]
        others = order[start:end] if same else np.concatenate([order[:start], order[end:]])
        pairs = np.stack(np.meshgrid(queries, others, indexing="ij")).reshape(2, -1)
        found.append(pairs[:, pairs[0] < pairs[1]] if leave_one_out else pairs)
    pairs = np.concatenate(found, axis=1)
    return pairs, np.full(pairs.shape[1], same)


def sampled_pairs(
    codes: NDArray, reference_codes: NDArray, leave_one_out: bool, count: int, seed: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Pairs of a query and a reference, drawn with replacement: as many genuine as impostor ones, where there are any.

    Args:
        codes: (Q,) the class of each query, numbered from 0.
        reference_codes: (N,) the class of each reference.
        leave_one_out: whether the references are the queries, so that a query is no reference of its own.
        count: of pairs of a kind.
        seed: of the random numbers.

    Returns:
        Query rows (P,), reference rows (P,) and whether both are of one class (P,).

    Example:
        >>> queries, references, same = sampled_pairs(np.array([0, 0, 1]), np.array([0, 0, 1]), True, count=4, seed=0)
        >>> same.tolist()
        [True, True, True, True, False, False, False, False]
        >>> sorted(zip(queries[:4].tolist(), references[:4].tolist()))[0]
        (0, 1)
    """
    random = np.random.default_rng(seed)
    order = np.argsort(reference_codes, kind="stable")
    starts = np.searchsorted(reference_codes[order], np.arange(max(codes.max(), reference_codes.max()) + 2))
    sizes = np.diff(starts)
    place = np.empty(len(order), dtype=np.int64)  # of each reference among those of its class
    place[order] = np.arange(len(order)) - starts[reference_codes[order]]
    found = []
    for same in (True, False):
        choices = sizes[codes] - leave_one_out if same else len(order) - sizes[codes]  # references to each query
        if not choices.sum():
            continue
        queries = random.choice(len(codes), count, p=choices / choices.sum())
        places = random.integers(choices[queries])
        own = codes[queries]
        if same:
            places += starts[own] + (places >= place[queries] if leave_one_out else 0)
        else:
            places += np.where(places >= starts[own], sizes[own], 0)
        found.append((queries, order[places], np.full(count, same)))
    queries, references, flags = (np.concatenate(each) for each in zip(*found, strict=True))
    return queries, references, flags
