"""Nearest neighbours: exact, without self-matches, and the same whatever the chunks and threads."""

import subprocess
import sys
import tracemalloc

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pml_center.evaluation import nearest_neighbours
from pml_center.evaluation.search import exact_search as search

SIMILARITIES = ("cosine", "dot", "euclidean")


def random_rows(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def all_scores(queries, references=None, similarity="cosine"):
    """The (Q, N) matrix in float64, a query's own place at minus infinity."""
    leave_one_out = references is None
    queries = queries.astype(np.float64)
    references = queries if leave_one_out else references.astype(np.float64)
    if similarity == "cosine":
        queries, references = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, references))
    scores = queries @ references.T
    if similarity == "euclidean":
        scores = -((queries[:, None] - references) ** 2).sum(axis=2)
    if leave_one_out:
        np.fill_diagonal(scores, -np.inf)
    return scores


def by_sorting(scores, k):
    """The definition: sorted by score and then by row."""
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("k", [1, 7, 299])
def test_neighbours_are_those_of_the_full_score_matrix(similarity, leave_one_out, k):
    queries = random_rows(300, 16)
    references = None if leave_one_out else random_rows(400, 16, seed=1)
    ids, scores = nearest_neighbours(queries, k, references, similarity)
    assert (ids.dtype, scores.dtype) == (np.int64, np.float32)
    assert all(len(set(row)) == k for row in ids.tolist())
    exact = all_scores(queries, references, similarity)
    _, best = by_sorting(exact, k)
    np.testing.assert_allclose(scores, best, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(exact, ids, axis=1), best, rtol=1e-6, atol=1e-5)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(data=st.data())
def test_ties_are_ranked_by_row_in_every_chunking(data):
    """On small integers every score is exact, so ties are many and the definition has one answer."""
    rows, width = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 4))
    embeddings = data.draw(arrays(np.int8, (rows, width), elements=st.integers(-2, 2)))
    k, chunk_size = data.draw(st.integers(1, rows - 1)), data.draw(st.integers(1, rows))
    for similarity in ("dot", "euclidean"):
        ids, scores = nearest_neighbours(embeddings, k, similarity=similarity, chunk_size=chunk_size)
        expected, expected_scores = by_sorting(all_scores(embeddings, similarity=similarity), k)
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(scores, expected_scores)


def test_a_query_is_removed_by_its_row_and_not_as_the_first_neighbour():
    embeddings = np.repeat(random_rows(10, 4), 3, axis=0)  # rows 3i, 3i+1, 3i+2 are equal
    for similarity in ("cosine", "euclidean"):
        ids, _ = nearest_neighbours(embeddings, 2, similarity=similarity)
        for row in range(30):
            assert ids[row].tolist() == [twin for twin in range(row // 3 * 3, row // 3 * 3 + 3) if twin != row]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_duplicates_rank_alike_in_every_chunking_and_number_of_threads(similarity):
    """At this size the matrix products of faiss give equal rows unequal scores, and other scores in other chunks."""
    embeddings = np.concatenate([random_rows(1000, 64)] * 3)[np.random.default_rng(1).permutation(3000)]
    ids, scores = nearest_neighbours(embeddings, 30, similarity=similarity)
    tied = scores[:, 1:] == scores[:, :-1]
    assert (ids[:, 1:] > ids[:, :-1])[tied].all()
    assert tied.sum() >= 3000 * 29 // 2
    threads = faiss.omp_get_max_threads()
    try:
        for number in (1, threads):
            faiss.omp_set_num_threads(number)
            for chunk_size in (7, 33, 1000):
                other = nearest_neighbours(embeddings, 30, similarity=similarity, chunk_size=chunk_size)
                np.testing.assert_array_equal(other[0], ids)
                np.testing.assert_array_equal(other[1], scores)
    finally:
        faiss.omp_set_num_threads(threads)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("chunk_size", [None, 1, 17])
def test_collapsed_embeddings_are_ranked_by_row(similarity, chunk_size):
    ids, scores = nearest_neighbours(np.full((200, 8), 0.3), 5, similarity=similarity, chunk_size=chunk_size)
    others = [[other for other in range(6) if other != row][:5] for row in range(200)]
    assert ids.tolist() == others
    assert len(np.unique(scores)) == 1


def test_near_ties_beyond_the_candidates_are_found():
    """The nearest reference hides in rounding behind a thousand others, after all of them in row order."""
    references = 1000 + random_rows(1001, 32, seed=2) * 1e-3
    query = references[-1:].astype(np.float64) + 1e-5
    ids, _ = nearest_neighbours(query, 3, references, "euclidean")
    expected, _ = by_sorting(all_scores(query.astype(np.float32), references, "euclidean"), 3)
    np.testing.assert_array_equal(ids, expected)
    assert ids[0, 0] == 1000


def test_proposals_may_be_wrong_by_their_rounding(monkeypatch):
    """Integer scores, proposed with an error of up to one half: ties at the boundary then hide behind wrong ones."""
    random = np.random.default_rng(0)
    queries, references = random.integers(-2, 3, size=(100, 3)), random.integers(-2, 3, size=(200, 3))
    propose = search._candidates

    def propose_roughly(queries, references, width, similarity):
        if width == len(references):
            return propose(queries, references, width, similarity)
        rough = queries @ references.T + random.uniform(-0.5, 0.5, size=(len(queries), len(references)))
        ids = np.ascontiguousarray(np.argsort(-rough, axis=1)[:, :width])
        return ids, np.take_along_axis(rough, ids, axis=1)[:, -1]

    monkeypatch.setattr(search, "_candidates", propose_roughly)
    monkeypatch.setattr(search, "_rounding", lambda norms, *rest: np.full(len(norms), 0.5))
    for k in (1, 10, 60):
        ids, _ = nearest_neighbours(queries, k, references, "dot")
        np.testing.assert_array_equal(ids, by_sorting(all_scores(queries, references, "dot"), k)[0])


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("width", [2, 64, 512])
def test_the_bound_on_rounding_holds_for_the_matrix_products_of_faiss(similarity, width):
    checked = search.ExactSearch(random_rows(50, width), random_rows(300, width, seed=1), similarity)
    sign, metric = (-1, faiss.METRIC_L2) if similarity == "euclidean" else (1, faiss.METRIC_INNER_PRODUCT)
    values, ids = faiss.knn(checked.queries, checked.references.whole, 300, metric=metric)
    exact = all_scores(checked.queries, checked.references.whole, "dot" if similarity == "cosine" else similarity)
    error = np.abs(sign * values - np.take_along_axis(exact, ids, axis=1))
    assert (error.max(axis=1) > 0).all()
    assert (error <= checked.rounding[:, None] / 2).all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_memory_bounds_change_nothing(similarity, monkeypatch):
    queries, references = random_rows(50, 8), random_rows(60, 8, seed=1)
    expected = nearest_neighbours(queries, 9, references, similarity)
    monkeypatch.setattr(search, "ENTRIES", 40)
    for one, other in zip(nearest_neighbours(queries, 9, references, similarity), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("sizes", [(3000,), (1234, 1766), (1, 2000, 999), (5, 500, 700, 31, 1000, 2, 762)])
def test_parts_of_a_gallery_are_searched_as_one(similarity, sizes):
    """Each row has a twin, in the same part or in another, and what ties at the last neighbour is spread over parts."""
    queries = random_rows(70, 32, seed=3)
    references = np.concatenate([random_rows(1500, 32)] * 2)[np.random.default_rng(1).permutation(3000)]
    parts = [part.copy() for part in np.split(references, np.cumsum(sizes)[:-1])]
    for k in (1, 30, 2999, 3000):
        expected = nearest_neighbours(queries, k, references, similarity)
        for one, other in zip(nearest_neighbours(queries, k, parts, similarity), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_gallery_in_parts_is_held_a_part_at_a_time(tmp_path):
    """Sixteen files of 1 MiB: neither their rows nor all unit vectors are in memory together."""
    parts = []
    for number in range(16):
        np.save(tmp_path / f"{number}.npy", random_rows(4096, 64, seed=number))
        parts.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    queries = random_rows(20, 64, seed=9)
    tracemalloc.start()
    try:
        ids, _ = nearest_neighbours(queries, 3, parts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(ids, nearest_neighbours(queries, 3, np.concatenate(parts))[0])
    assert peak < 8 * 2**20  # one part or two, their norms, and the candidates


def test_a_read_only_memmap_and_tensors_are_searched(tmp_path):
    embeddings = random_rows(40, 6)
    np.save(tmp_path / "embeddings.npy", embeddings)
    expected, _ = nearest_neighbours(embeddings, 4)
    for values in (
        np.load(tmp_path / "embeddings.npy", mmap_mode="r"),
        torch.from_numpy(embeddings).requires_grad_(),
        np.asfortranarray(embeddings.astype(np.float64)),
    ):
        np.testing.assert_array_equal(nearest_neighbours(values, 4)[0], expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu_are_searched():
    embeddings = torch.from_numpy(random_rows(40, 6))
    np.testing.assert_array_equal(nearest_neighbours(embeddings.cuda(), 4)[0], nearest_neighbours(embeddings, 4)[0])


def test_cosine_ignores_the_length_of_tiny_and_huge_vectors():
    embeddings = random_rows(50, 8)
    lengths = np.float32(10) ** np.random.default_rng(1).integers(-30, 30, size=(50, 1))
    np.testing.assert_array_equal(nearest_neighbours(embeddings * lengths, 5)[0], nearest_neighbours(embeddings, 5)[0])


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_scores_that_overflow_float32_are_refused(similarity):
    with pytest.raises(ValueError, match="embeddings must be small enough for their scores to fit float32"):
        nearest_neighbours([[1e20, 0], [0, 1e20], [1, 1]], 1, similarity=similarity)


def test_a_zero_vector_has_no_cosine():
    embeddings = random_rows(5, 3)
    embeddings[[2, 4]] = 0
    with pytest.raises(ValueError, match=r"embeddings must have a direction.*row 2 \(2 of 5 rows\)"):
        nearest_neighbours(embeddings, 1)
    with pytest.raises(ValueError, match="references must have a direction"):
        nearest_neighbours(random_rows(5, 3, seed=1), 1, embeddings)
    assert nearest_neighbours(embeddings, 1, similarity="euclidean")[0][2] == [4]


def test_the_same_rows_as_queries_and_references_are_refused():
    embeddings = random_rows(20, 4)
    tensor = torch.from_numpy(random_rows(20, 4))
    wide = embeddings.astype(np.float64)
    halves = [embeddings[:5].copy(), embeddings[5:].copy()]
    for queries, references in (
        (embeddings, embeddings),
        (embeddings, embeddings.copy()),
        (embeddings.tolist(), embeddings),
        (embeddings[:10], embeddings),
        (wide[5:10], wide),
        (tensor, tensor),
        (tensor[:3], tensor),
        (embeddings, halves),
        (halves[1][2:], halves),
    ):
        with pytest.raises(ValueError, match=r"must be two sets.*Leave references out for leave-one-out, or take"):
            nearest_neighbours(queries, 1, references)


def test_two_parts_of_one_array_are_two_sets():
    embeddings = random_rows(20, 4)
    for queries, references in ((embeddings[:8], embeddings[8:]), (embeddings[::2], embeddings[1::2])):
        nearest_neighbours(queries, 1, references)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 5}, r"k must be at most 4, the number of references other than the query, got 5\."),
        ({"k": 4, "references": random_rows(3, 2, seed=1)}, r"k must be at most 3, the number of references, got 4\."),
        ({"k": 0}, "k must be a positive integer, got 0"),
        ({"k": 1.5}, "k must be a positive integer, got 1.5"),
        ({"k": 1, "chunk_size": 0}, "chunk_size must be a positive integer, got 0"),
        ({"k": 1, "references": random_rows(3, 7)}, "must have the same width, got 2 and 7 columns"),
        ({"k": 1, "references": [np.eye(2), np.eye(3)]}, r"references\[0\] and references\[1\] must .* got 2 and 3"),
        ({"k": 1, "references": [np.eye(2), np.eye(2)[:0]]}, r"references\[1\] must have shape .* got shape \(0, 2\)"),
        ({"k": 1, "references": [np.eye(2), [[0, np.nan]]]}, r"references\[1\] must be finite, got nan in row 0"),
        ({"k": 1, "references": [np.eye(2), np.zeros((3, 2))]}, r"references\[1\] must have a direction"),
        ({"k": 5, "references": [np.eye(2), np.eye(2)]}, r"k must be at most 4, the number of references, got 5"),
        ({"k": 1, "references": np.zeros((0, 2))}, r"references must have shape .* got shape \(0, 2\)"),
        ({"k": 1, "references": [[0, np.nan]]}, r"references must be finite, got nan in row 0"),
        ({"k": 1, "queries": [[np.inf, 0]]}, r"embeddings must be finite, got inf in row 0"),
        ({"k": 1, "queries": [[np.inf, 0]], "references": [[1, 0]]}, r"queries must be finite, got inf in row 0"),
        ({"k": 1, "queries": [1, 2]}, r"embeddings must have shape .* got shape \(2,\)"),
        ({"k": 1, "similarity": "cosin"}, "similarity must be a known name, got 'cosin'. Did you mean 'cosine'?"),
        ({"k": 1, "queries": [[1.0, 2.0]]}, "k must be at most 0"),
    ],
)
def test_what_cannot_be_searched_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(**{"queries": random_rows(5, 2)} | arguments)


def test_importing_the_evaluation_does_not_import_faiss():
    check = "import sys, pml_center.evaluation; sys.exit('faiss' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_block_sizes_of_faiss_are_set_for_the_search_alone(monkeypatch):
    seen = []
    knn = faiss.knn

    def spy(*args, **kwargs):
        seen.append({name: getattr(faiss.cvar, name) for name in search.BLOCK})
        return knn(*args, **kwargs)

    monkeypatch.setattr(faiss, "knn", spy)
    before = {name: getattr(faiss.cvar, name) for name in search.BLOCK}
    nearest_neighbours(random_rows(100, 4), 3)
    assert seen == [search.BLOCK]
    assert {name: getattr(faiss.cvar, name) for name in search.BLOCK} == before != search.BLOCK
