"""What is accepted as embeddings and labels, and what is said about the rest."""

import numpy as np
import pytest
import torch

from pml_center.arrays import as_matrix, check_count, class_codes

PLAIN = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)

KINDS = {
    "float16": PLAIN.astype(np.float16),
    "float64": PLAIN.astype(np.float64),
    "big endian": PLAIN.astype(">f4"),
    "integers": PLAIN.astype(np.uint8),
    "Fortran order": np.asfortranarray(PLAIN),
    "every second column": np.repeat(PLAIN, 2, axis=1)[:, ::2],
    "reversed": PLAIN[::-1].copy()[::-1],
    "lists": PLAIN.tolist(),
    "tensor": torch.from_numpy(PLAIN),
    "bfloat16 tensor": torch.from_numpy(PLAIN).bfloat16(),
    "half tensor": torch.from_numpy(PLAIN).half(),
    "tensor with gradient": torch.from_numpy(PLAIN).clone().requires_grad_(),
    "transposed tensor": torch.from_numpy(PLAIN).T.contiguous().T,
}


@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS)
def test_every_kind_of_numbers_becomes_the_same_matrix(values):
    matrix = as_matrix(values, "embeddings")
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix, PLAIN)


def test_what_is_right_already_is_not_copied(tmp_path):
    np.save(tmp_path / "embeddings.npy", PLAIN)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    for values in (PLAIN, torch.from_numpy(PLAIN), mapped):
        assert np.shares_memory(as_matrix(values, "embeddings"), np.asarray(values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(4), r"embeddings must have shape \(rows, embedding_size\).*got shape \(4,\)"),
        (np.zeros((2, 3, 4)), r"got shape \(2, 3, 4\)"),
        (np.float32(1), r"got shape \(\)"),
        (np.zeros((0, 4)), r"at least one of each, got shape \(0, 4\)"),
        (np.zeros((4, 0)), r"got shape \(4, 0\)"),
        ([[1, 2], [np.inf, 0], [np.nan, 0]], r"must be finite, got inf in row 1 \(2 of 3 rows\)"),
        ([[1.0, 1e300]], r"must be finite, got inf in row 0 \(1 of 1 rows\)"),
    ],
)
def test_a_matrix_that_cannot_be_used_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        as_matrix(values, "embeddings")


@pytest.mark.parametrize("values", [[["a"]], [[None]], [[1j]], [[True]]])
def test_embeddings_must_be_real_numbers(values):
    with pytest.raises(TypeError, match="embeddings must be real numbers, got dtype"):
        as_matrix(values, "embeddings")


@pytest.mark.parametrize(
    "labels",
    [
        [7, 9, 7],
        (2**53, 2**53 + 1, 2**53),
        ["cat", "dog", "cat"],
        [("a", 1), ("a", 2), ("a", 1)],
        [1, "1", 1],
        np.array([2**24, 2**24 + 1, 2**24]),
        np.array(["x", "y", "x"]),
        torch.tensor([-1, 0, -1]),
        (label for label in "aba"),
    ],
)
def test_labels_of_any_hashable_kind_are_numbered(labels):
    assert class_codes(labels, 3).tolist() == [0, 1, 0]


def test_two_sets_of_labels_share_their_numbers():
    known = {}
    assert class_codes(["a", "b"], 2, known=known).tolist() == [0, 1]
    assert class_codes(torch.tensor([1, 1]), 2, known=known).tolist() == [2, 2]
    assert class_codes(["b", "c"], 2, known=known).tolist() == [1, 3]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_arrays_are_numbered_in_order_of_appearance_as_lists_are(dtype):
    labels = np.random.default_rng(0).integers(0, 9, 200).astype(dtype)
    known, listed = {3: 0, "x": 1}, {3: 0, "x": 1}
    codes = class_codes(labels, 200, known=known)
    np.testing.assert_array_equal(codes, class_codes(labels.tolist(), 200, known=listed))
    np.testing.assert_array_equal(codes, class_codes(torch.from_numpy(labels), 200, known=listed))
    assert known == listed


def test_labels_that_cannot_be_used_are_named():
    with pytest.raises(ValueError, match=r"labels must be one per row \(3\), got 2"):
        class_codes([0, 1], 3)
    with pytest.raises(TypeError, match=r"labels must be hashable, got \[1, 0\] at position 0"):
        class_codes(torch.tensor([[1, 0], [0, 1]]), 2)
    with pytest.raises(ValueError, match=r"labels must not be NaN, got nan at position 1"):
        class_codes([0.0, float("nan")], 2)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, "2"])
def test_a_count_is_a_positive_integer(value):
    with pytest.raises(ValueError, match=r"k must be a positive integer, got .*"):
        check_count("k", value)
    assert check_count("k", np.int64(3)) == 3
