from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_center.data import EpochBatches

LABELS = np.repeat(np.arange(10), [3, 5, 7, 100, 20, 30, 9, 8, 40, 60])


@given(st.integers(0, 5), st.integers(1, 4), st.sampled_from([0, 4, 8]))
@settings(max_examples=30, deadline=None)
def test_batches_follow_from_seed_and_epoch_alone(seed, epoch, per_class):
    one, other = (EpochBatches(LABELS, 32, per_class, seed) for _ in range(2))
    one.epoch = other.epoch = epoch
    whole = list(one)
    assert whole == list(other) == list(one)
    other.start = 3
    assert list(other) == whole[3:]
    other.epoch, other.start = epoch + 1, 0
    assert list(other) != whole


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("per_class", [0, 4])
def test_processes_share_the_batches_of_one(parts, per_class):
    whole = list(EpochBatches(LABELS, 32, per_class, 7))
    shares = [list(EpochBatches(LABELS, 32, per_class, 7, rank, parts)) for rank in range(parts)]
    assert [list(chain.from_iterable(own)) for own in zip(*shares, strict=True)] == whole
    sizes = {len(batch) for share in shares for batch in share}
    assert max(sizes) - min(sizes) <= 1


def test_shuffled_batches_have_each_image_at_most_once():
    rows = EpochBatches(LABELS, 32).rows(1)
    assert rows.shape == (len(LABELS) // 32, 32)
    assert len(np.unique(rows)) == rows.size


@given(st.integers(0, 100), st.sampled_from([(32, 4), (20, 2), (10, 1), (40, 8), (36, 4)]))
@settings(max_examples=30, deadline=None)
def test_batches_by_class_have_as_many_images_of_each(seed, sizes):
    batch_size, per_class = sizes
    for row in EpochBatches(LABELS, batch_size, per_class, seed).rows(1):
        classes, counts = np.unique(LABELS[row], return_counts=True)
        assert len(classes) == batch_size // per_class
        assert set(counts) == {per_class}


def test_no_image_of_a_class_comes_twice_before_all_came():
    rows = EpochBatches(LABELS, 20, 2).rows(1)
    seen = np.bincount(rows.ravel(), minlength=len(LABELS))
    for label in range(10):
        own = seen[label == LABELS]
        assert own.max() - own.min() <= 1


def test_each_class_comes_once_before_any_comes_again():
    rows = EpochBatches(LABELS, 8, 4).rows(1)  # two classes a batch, so that a round has no rest
    for start in range(0, len(rows) - 4, 5):
        classes = [LABELS[row] for row in rows[start : start + 5]]
        assert len(np.unique(classes)) == 10


def test_a_class_of_fewer_images_repeats_them():
    rows = EpochBatches([0, 1, 1, 1, 1, 1], 6, 3).rows(1)
    assert (rows == 0).sum() == 3


def test_every_place_draws_its_own_numbers():
    seeds = [seed for batch in EpochBatches(LABELS, 32) for _, seed in batch]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((500,), "batch_size must be at most the 282 images for training, got 500"),
        (
            (32, 5),
            "multiple of per_class .*got 32 with per_class=5 and 10 classes, .* 6.4 classes .*batch_size=30",
        ),
        ((64, 4), "at most per_class × classes, got 64 with per_class=4 and 10 classes, .* Use e.g. batch_size=40"),
        ((2, 4), "which is 0.5 classes of 4 images. Use e.g. batch_size=4"),
        ((2, 0, 0, 0, 3), "batch_size must be at least the 3 processes, got 2"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochBatches(LABELS, *arguments)
