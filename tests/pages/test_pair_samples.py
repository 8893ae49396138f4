"""Pairs that show how far classes are apart."""

import numpy as np
import pytest

from pml_center.evaluation.search.exact_search import ExactSearch
from pml_center.pages.pair_samples import nearest_mates, pairs_to_show, row_scores, sampled_pairs


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_sampled_pairs_are_what_they_say_and_cover_all(leave_one_out):
    codes = np.array([0, 0, 0, 1, 1, 2])
    others = codes if leave_one_out else np.array([1, 0, 3, 1])
    queries, references, same = sampled_pairs(codes, others, leave_one_out, count=2000, seed=0)
    assert ((codes[queries] == others[references]) == same).all()
    pairs = {(q, r) for q in range(6) for r in range(len(others)) if not (leave_one_out and q == r)}
    assert set(zip(queries.tolist(), references.tolist(), strict=True)) == pairs
    counts = np.unique(np.stack([queries, references])[:, same], axis=1, return_counts=True)[1]
    assert counts.min() > 0.7 * counts.mean()  # each with the same probability


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("count", [3, 6, 1000])
def test_all_pairs_are_shown_once_where_there_are_no_more_than_would_be_drawn(leave_one_out, count):
    codes = np.array([2, 0, 1, 0, 0, 1])
    others = codes if leave_one_out else np.array([1, 0, 3, 1])
    queries, references, same, is_all = pairs_to_show(codes, others, leave_one_out, count)
    for kind in (True, False):
        found = list(zip(queries[same == kind].tolist(), references[same == kind].tolist(), strict=True))
        pairs = {(q, r) for q in range(6) for r in range(len(others)) if (codes[q] == others[r]) == kind}
        pairs = {(q, r) for q, r in pairs if q < r} if leave_one_out else pairs
        assert is_all[kind] == (len(pairs) <= count)
        assert sorted(found) == sorted(pairs) if is_all[kind] else len(found) == count
    assert is_all[True] >= is_all[False]


def test_a_mate_of_the_query_s_group_is_none():
    codes, groups = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 2])
    rows = np.array([[0.0], [0.1], [5], [7], [8]])
    search = ExactSearch(rows, similarity="euclidean", excluded=(groups, groups))
    mates, scores = nearest_mates(search, codes, codes)
    assert mates.tolist() == [2, 2, 1, -1, -1]
    assert scores[:3] == pytest.approx([-25, -24.01, -24.01], rel=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_the_nearest_mate_is_the_most_similar_of_the_class(similarity, leave_one_out):
    random = np.random.default_rng(0)
    codes, other_codes = random.integers(6, size=60), random.integers(1, 7, size=40)
    rows, others = random.normal(size=(60, 5)), random.normal(size=(40, 5))
    search = ExactSearch(rows, None if leave_one_out else others, similarity)
    other_codes = codes if leave_one_out else other_codes
    mates, scores = nearest_mates(search, codes, other_codes)
    everything = row_scores(search, *(grid.ravel() for grid in np.indices((60, len(other_codes))))).reshape(60, -1)
    everything[codes[:, None] != other_codes] = -np.inf
    if leave_one_out:
        np.fill_diagonal(everything, -np.inf)
    alone = np.isinf(everything).all(axis=1)
    assert (mates[alone] == -1).all()
    assert np.isnan(scores[alone]).all()
    np.testing.assert_array_equal(mates[~alone], everything.argmax(axis=1)[~alone])
    np.testing.assert_allclose(scores[~alone], everything.max(axis=1)[~alone], rtol=1e-4, atol=1e-4)
