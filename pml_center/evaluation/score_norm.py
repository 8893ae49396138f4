"""Normalised scores: how far two rows stand out from what each scores with others."""

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import joined, row_name
from pml_center.evaluation.embed import Samples
from pml_center.evaluation.search import ExactSearch, Ids, Similarity, check_two_sets


def as_norm(
    scores: NDArray[np.float64],
    first: Ids,
    second: Ids,
    rows: Samples,
    cohort: Samples,
    similarity: Similarity,
    top_n: int,
) -> tuple[NDArray[np.float64], str]:
    """Adaptive symmetric score normalisation (AS-Norm): ``½ ((s − μ₁) / σ₁ + (s − μ₂) / σ₂)``.

    μ and σ are the mean and the standard deviation (of the N, not N − 1) of the N largest scores that one of the two
    rows has with the cohort.

    Args:
        scores: (P,) of the pairs.
        first: (P,) row of one side.
        second: (P,) row of the other.
        rows: (N, D) embeddings of the pairs.
        cohort: (M, D) embeddings of others, at least two.
        similarity: of the scores.
        top_n: how many of the cohort count for each row, at least 2; a smaller cohort counts whole.

    Returns:
        The normalised scores (P,), and a few words on them.

    Raises:
        ValueError: as for :func:`nearest_neighbours`; a cohort of one, or one that is alike to a row.

    Source: Matejka et al., Analysis of score normalization in multilingual speaker recognition, Interspeech 2017
        (adaptive s-norm 1).
    """
    matrix = joined(rows.embeddings)
    used, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    names = None if rows.names is None else [rows.names[row] for row in used]
    search = ExactSearch(
        matrix[used], cohort.embeddings, similarity, names=(names, cohort.names), called=("embeddings", "cohort")
    )
    # All rows are asked, not those of the pairs alone.
    check_two_sets(matrix, search.references.parts, "embeddings", "cohort")
    count = min(top_n, len(search.references))
    if count < 2:
        raise ValueError("cohort must have two rows or more, got 1. Embed a few hundred others, none of the pairs.")
    mean, deviation = np.empty(len(used)), np.empty(len(used))
    for some, _, found in search.chunks(count):
        nearest = found[:, :count].astype(np.float64)  # (n, N), largest first
        mean[some] = nearest.mean(axis=1)
        deviation[some] = np.where(nearest[:, 0] == nearest[:, -1], 0, nearest.std(axis=1))
    alike = np.flatnonzero(deviation == 0)
    if len(alike):
        raise ValueError(
            f"cohort must differ, got {count:,} times the score {mean[alike[0]]:g} with "
            f"{row_name(int(used[alike[0]]), rows.names)} ({len(alike)} of {len(used)} rows). Leave copies out of it."
        )
    one, other = ((scores - mean[side]) / deviation[side] for side in np.split(places, 2))
    return (one + other) / 2, f"AS-Norm by the {count:,} nearest of a cohort of {len(search.references):,}"
