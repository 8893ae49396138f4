"""Ranks in the whole gallery: those of sorting all scores, whatever the size of the blocks."""

import tracemalloc

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pytorch_metric_learning.distances import LpDistance

from pml_center.evaluation import Ranking, nearest_neighbours
from pml_center.evaluation.search import gallery_ranking
from pml_center.evaluation.search.distance_search import DistanceSearch
from pml_center.evaluation.search.exact_search import ExactSearch
from pml_center.evaluation.search.gallery_ranking import rank_gallery

SIMILARITIES = ("cosine", "dot", "euclidean")


def random_rows(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def whole(searched, codes, reference_codes, ties="index"):
    """The rankings of all chunks as tuples per query."""
    found, tied = {}, {}
    rows = np.arange(len(codes))
    for chunk, ranking, undecided in rank_gallery(searched, codes, reference_codes, rows, ties):
        columns = np.stack([ranking.before, ranking.size, ranking.hits, ranking.hits_before], axis=1)
        for i, row in enumerate(chunk.tolist()):
            found[row] = list(map(tuple, columns[ranking.query == i].tolist()))
            tied[row] = bool(undecided[i])
            assert ranking.relevant[i] == columns[ranking.query == i, 2].sum()
    return found, tied


def by_sorting(scores, codes, reference_codes):
    """The definition: sorted by score and then by row, with what does not exist at minus infinity."""
    found = {}
    for row, line in enumerate(scores):
        order = np.argsort(-line, kind="stable")
        order = order[line[order] > -np.inf]
        places = np.flatnonzero(reference_codes[order] == codes[row]).tolist()
        found[row] = [(place, 1, 1, i) for i, place in enumerate(places)]
    return found


def grouped(scores, codes, reference_codes):
    """The definition of groups of equal score."""
    found, tied = {}, {}
    for row, line in enumerate(scores):
        groups, before, hits_before = [], 0, 0
        for score in sorted({score for score in line.tolist() if score > -np.inf}, reverse=True):
            same = reference_codes[line == score] == codes[row]
            if same.any():
                groups.append((before, len(same), int(same.sum()), hits_before))
            before, hits_before = before + len(same), hits_before + int(same.sum())
        found[row], tied[row] = groups, any(hits < size for _, size, hits, _ in groups)
    return found, tied


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_ranks_continue_those_of_the_nearest_neighbours(similarity, leave_one_out):
    queries = random_rows(120, 16)
    references = None if leave_one_out else random_rows(150, 16, seed=1)
    random = np.random.default_rng(2)
    codes = random.integers(8, size=120)
    reference_codes = codes if leave_one_out else random.integers(8, size=150)
    found, tied = whole(ExactSearch(queries, references, similarity), codes, reference_codes)
    k = len(reference_codes) - leave_one_out
    ids, _ = nearest_neighbours(queries, k, references, similarity)
    hits = reference_codes[ids] == codes[:, None]
    ranking = Ranking.of(hits, hits.sum(axis=1))
    for row in range(120):
        assert [group[0] for group in found[row]] == ranking.before[ranking.query == row].tolist()
    assert not any(tied.values())


@settings(deadline=None, derandomize=True, max_examples=40)
@given(data=st.data())
def test_ties_are_ranked_by_row_or_kept_as_groups(data):
    """On small integers every score is exact, so ties are many and the definition has one answer."""
    rows, width = data.draw(st.integers(2, 30)), data.draw(st.integers(1, 3))
    embeddings = data.draw(arrays(np.int8, (rows, width), elements=st.integers(-2, 2)))
    codes = data.draw(arrays(np.int64, rows, elements=st.integers(0, 3)))
    groups = data.draw(st.one_of(st.none(), arrays(np.int64, rows, elements=st.integers(0, 2))))
    excluded = None if groups is None else (4 * groups + codes,) * 2
    entries = data.draw(st.integers(1, 200))
    exact = embeddings.astype(np.float64)
    for similarity in ("dot", "euclidean"):
        scores = exact @ exact.T
        if similarity == "euclidean":
            scores = -((exact[:, None] - exact) ** 2).sum(axis=2)
        scores[np.equal.outer(*(excluded or (np.arange(rows),) * 2))] = -np.inf
        searched = ExactSearch(embeddings, None, similarity, excluded)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gallery_ranking, "ENTRIES", entries)
            found, tied = whole(searched, codes, codes)
            assert found == by_sorting(scores, codes, codes)
            found, also_tied = whole(searched, codes, codes, "expected")
            assert (found, tied) == grouped(scores, codes, codes)
            assert also_tied == tied


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_duplicates_rank_alike_in_every_block_and_number_of_threads(similarity, monkeypatch):
    """At this size matrix products give equal rows unequal scores, and other scores in other blocks."""
    random = np.random.default_rng(1)
    embeddings = np.concatenate([random_rows(200, 64)] * 3)[random.permutation(600)]
    codes = random.integers(20, size=600)
    expected, groups = (
        whole(ExactSearch(embeddings, None, similarity), codes, codes, t)[0] for t in ("index", "expected")
    )
    assert sum(size > 1 for row in groups.values() for _, size, _, _ in row) > 1000
    threads = faiss.omp_get_max_threads()
    try:
        for number in (1, threads):
            faiss.omp_set_num_threads(number)
            for entries in (1, 3000, 50_000):
                monkeypatch.setattr(gallery_ranking, "ENTRIES", entries)
                assert whole(ExactSearch(embeddings, None, similarity), codes, codes)[0] == expected
    finally:
        faiss.omp_set_num_threads(threads)


def test_the_block_may_be_wrong_by_its_rounding(monkeypatch):
    """Integer scores, wrong in the block by up to one half: only the pairwise scores can then decide."""
    random = np.random.default_rng(0)
    queries, references = random.integers(-2, 3, size=(100, 3)), random.integers(-2, 3, size=(200, 3))
    codes, reference_codes = random.integers(5, size=100), random.integers(5, size=200)
    searched = ExactSearch(queries, references, "dot")
    searched.rounding = np.full(100, 0.5)
    [(_, scores)] = searched.blocks(np.arange(100))
    noise = random.uniform(-0.5, 0.5, size=scores.shape).astype(np.float32)
    monkeypatch.setattr(ExactSearch, "blocks", lambda self, rows: [(0, scores[rows] + noise[rows])])
    assert whole(searched, codes, reference_codes)[0] == by_sorting(scores, codes, reference_codes)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("width", [64, 512])
def test_the_bound_on_rounding_holds_for_a_block(similarity, width):
    searched = ExactSearch(random_rows(50, width), random_rows(300, width, seed=1), similarity)
    [(_, block)] = searched.blocks(np.arange(50))
    queries, ids = (values.ravel() for values in np.indices(block.shape))
    error = np.abs(block - searched.pair_scores(queries, ids).reshape(block.shape).astype(np.float64))
    assert error.max() > 0
    assert (error <= searched.rounding[:, None] / 2).all()


def test_a_distance_of_pml_ranks_by_its_own_values():
    queries, references = random_rows(30, 5), random_rows(40, 5, seed=1)
    random = np.random.default_rng(2)
    codes, reference_codes = random.integers(4, size=30), random.integers(4, size=40)
    searched = DistanceSearch(queries, references, LpDistance(p=1, normalize_embeddings=False))
    scores = -np.abs(queries[:, None] - references).sum(axis=2)
    assert whole(searched, codes, reference_codes)[0] == by_sorting(scores, codes, reference_codes)


def test_few_queries_of_a_large_gallery_are_ranked_in_blocks(monkeypatch):
    sizes = []
    blocks = ExactSearch.blocks

    def spy(self, rows):
        sizes.append(len(rows))
        return blocks(self, rows)

    monkeypatch.setattr(ExactSearch, "blocks", spy)
    monkeypatch.setattr(gallery_ranking, "ENTRIES", 1000)
    codes = np.arange(300) % 3
    whole(ExactSearch(random_rows(300, 4)), codes, codes)
    assert set(sizes) == {3}


def test_ranking_needs_neither_all_scores_nor_a_list_per_query(monkeypatch):
    monkeypatch.setattr(gallery_ranking, "ENTRIES", 2**17)
    codes = np.arange(3000) % 100
    searched = ExactSearch(random_rows(3000, 8))
    tracemalloc.start()
    try:
        for _ in rank_gallery(searched, codes, codes, np.arange(3000)):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3000 * 3000  # bytes: a quarter of what the scores alone would take
