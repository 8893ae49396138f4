"""Splits: what is on which side, and that the same arguments give the same split everywhere."""

import numpy as np
import pytest

from pml_center.data import split_classes, split_images

each_split = pytest.mark.parametrize("split", [split_classes, split_images])


@pytest.fixture
def labels():
    """40 classes of 1 to 12 images in random order."""
    rng = np.random.default_rng(1)
    return rng.permutation(np.repeat(np.arange(40), rng.integers(1, 13, 40)))


@each_split
def test_every_image_is_on_exactly_one_side(split, labels):
    train, held_out = split(labels, 0.3)
    assert train.dtype == held_out.dtype == np.int64
    assert np.array_equal(np.sort(np.concatenate([train, held_out])), np.arange(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()


@each_split
def test_the_same_seed_gives_the_same_split_and_another_seed_another(split, labels):
    first, again, other = split(labels, seed=3)[1], split(labels, seed=3)[1], split(labels, seed=4)[1]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@each_split
def test_numpy_s_own_random_state_is_left_alone(split, labels):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    split(labels)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@each_split
@pytest.mark.parametrize("held_out", [0, 1, -0.5, 30, float("nan")])
def test_a_fraction_outside_0_to_1_is_an_error(split, labels, held_out):
    with pytest.raises(ValueError, match=rf"held_out must be a fraction in \(0, 1\), got {held_out}"):
        split(labels, held_out)


@pytest.mark.parametrize(("fraction", "classes"), [(0.25, 10), (0.5, 20), (0.1, 4), (0.93, 37), (0.2625, 11)])
def test_no_class_is_on_both_sides(labels, fraction, classes):
    train, held_out = split_classes(labels, fraction)
    assert not set(labels[train]) & set(labels[held_out])
    assert len(set(labels[held_out])) == classes


def test_the_held_out_classes_depend_on_the_set_of_classes_only(labels):
    more = np.concatenate([labels[::-1], labels, np.full(100, 7)])
    assert set(labels[split_classes(labels, seed=5)[1]]) == set(more[split_classes(more, seed=5)[1]])


def test_the_split_of_classes_is_the_same_on_every_machine():
    held_out = split_classes(np.arange(12), 0.25, seed=0)[1]
    assert held_out.tolist() == [2, 7, 9]


def test_strings_are_classes_too():
    train, held_out = split_classes(["a", "b", "c", "d", "a"], 0.5)
    assert len(train) + len(held_out) == 5


@pytest.mark.parametrize(
    ("num_classes", "fraction", "message"),
    [
        (5, 0.2, r"0\.2 × 5 classes = 1 held out and 4 for training\. Use held_out=0\.5"),
        (5, 0.8, r"0\.8 × 5 classes = 4 held out and 1 for training"),
        (3, 0.5, r"0\.5 × 3 classes = 2 held out and 1 for training\. Add classes: 4 is the least"),
        (0, 0.5, r"0\.5 × 0 classes"),
    ],
)
def test_fewer_than_two_classes_on_a_side_is_an_error_with_the_arithmetic(num_classes, fraction, message):
    with pytest.raises(ValueError, match=message):
        split_classes(np.arange(num_classes), fraction)


def test_four_classes_can_be_halved():
    assert [len(side) for side in split_classes(np.arange(4), 0.5)] == [2, 2]


def test_every_class_is_split_by_the_same_fraction(labels):
    _, held_out = split_images(labels, 0.25)
    counts = np.bincount(labels, minlength=40)
    expected = np.minimum(np.floor(counts * 0.25 + 0.5), counts - 1)
    assert np.array_equal(np.bincount(labels[held_out], minlength=40), expected)


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.99])
def test_every_class_keeps_an_image_for_training(fraction):
    labels = np.repeat(np.arange(5), [1, 2, 3, 50, 100])
    train, _ = split_images(labels, fraction)
    assert set(labels[train]) == set(range(5))


def test_the_images_held_out_are_not_always_the_first():
    held_out = split_images(np.zeros(1000, int), 0.5)[1]
    assert 400 < held_out.mean() < 600


@pytest.mark.parametrize(
    "labels", [np.arange(20), np.repeat(np.arange(20), 4), []], ids=["singletons", "4 each", "none"]
)
def test_a_fraction_that_holds_out_no_image_is_an_error(labels):
    with pytest.raises(ValueError, match=r"held_out must hold out at least 1 image, got 0\.1 ×"):
        split_images(labels, 0.1)
