"""Data sets with splits: where they are seen, that nothing is mistaken for a class, and how classes are numbered."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_center.data import digits, image_folder, open_images, open_splits
from pml_center.data.open_images import full_source
from tests.data.conftest import classes_of, content, names, shades

PATHS = ["train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "val/cat/1.png", "val/dog/1.png"]
PATHS += ["test/ant/1.png", "test/dog/1.png"]


def contents(splits):
    return {name: None if part is None else shades(part) for name, part in vars(splits).items()}


@pytest.mark.parametrize("kind", ["photos", "zipped"])
def test_a_folder_or_a_zip_file_brings_its_splits(kind, request):
    root = request.getfixturevalue(kind)(*PATHS)
    splits = open_splits(str(root))
    assert contents(splits) == {"train": [0, 1, 2], "val": [3, 4], "test": [5, 6]}
    assert splits.train.classes == ["cat", "dog"]
    together = open_images(root)
    assert shades(together) == list(range(7))
    assert classes_of(together) == ["cat", "dog", "dog", "cat", "dog", "ant", "dog"]
    assert [classes_of(open_images(root / name)) for name in ("val", "test")] == [["cat", "dog"], ["ant", "dog"]]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["train/a/1.png", "train/b/1.png"], {"train"}),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"], {"train", "test"}),
        (["Train/a/1.png", "Train/b/1.png", "valid/a/1.png", "valid/b/1.png"], {"train", "val"}),
        (["train/a/1.png", "train/b/1.png", "validation/x/a/1.png", "validation/x/b/1.png"], {"train", "val"}),
        (["cat/1.png", "train/1.png"], {"train"}),  # the vehicle
        (["test/1.png", "cat/a/1.png"], {"train"}),
    ],
)
def test_splits_are_known_by_their_names(photos, paths, found):
    splits = open_splits(photos(*paths))
    assert {name for name, part in vars(splits).items() if part is not None} == found
    assert len(splits.train) == 2


def test_files_that_are_no_images_may_lie_beside_the_splits(photos):
    root = photos(*PATHS)
    (root / "docs").mkdir()
    (root / "docs" / "readme.txt").touch()
    assert len(open_splits(root).train) == 3


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/1.png", "test/1.png"], r"must hold one folder of images per class .* 1 images directly in .*train'"),
        (
            [*PATHS, "extra/cat/1.png"],
            r"got images in 'extra' in .*Move them, or give one folder: .*/photos(\.zip)?/test'",
        ),
        ([*PATHS, "valid/cat/1.png"], r"must hold each split once, got .*'val' and 'valid'"),
        (["all/train/a/1.png", "all/test/a/1.png"], r"got .*/photos(\.zip)?' with the one folder 'all' .*/all'"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png"], r"at least 2 classes, got 1 in .*/val' \('a'\)"),
        (["val/a/1.png", "val/b/1.png", "test/a/1.png", "test/b/1.png"], r"splits must have train, got val and test"),
    ],
)
@pytest.mark.parametrize("kind", ["photos", "zipped"])
def test_no_split_is_mistaken_for_a_class(kind, paths, message, request):
    root = request.getfixturevalue(kind)(*paths)
    with pytest.raises(ValueError, match=message):
        open_splits(root)


def test_the_plain_reader_takes_a_folder_as_it_is(photos):
    assert image_folder(photos(*PATHS)).classes == [
        "test/ant", "test/dog", "train/cat", "train/dog", "val/cat", "val/dog",
    ]  # fmt: skip


def test_what_brings_no_splits_is_all_for_training(photos):
    splits = open_splits(photos("a/1.png", "b/1.png"))
    assert contents(splits) == {"train": [0, 1], "val": None, "test": None}
    assert len(open_splits("digits").train) == 1797
    assert open_splits("digits").test is None


def test_one_split_is_all_for_training(photos):
    root = photos(*PATHS)
    assert contents(open_splits(root / "test")) == {"train": [5, 6], "val": None, "test": None}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["train", "val", "test"])), min_size=2, max_size=20)
)
def test_a_class_has_one_number_and_those_of_train_come_first(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("table")
    (folder / "x.png").write_bytes(content(0))
    lines = ["path,label,split"]
    for i, (label, split) in enumerate([("a", "train"), ("b", "train"), *rows]):
        (folder / f"{i}.png").hardlink_to(folder / "x.png")
        lines.append(f"{i}.png,{label},{split}")
    (folder / "images.csv").write_text("\n".join(lines))
    splits, together = open_splits(folder / "images.csv"), open_images(folder / "images.csv")
    own = {label for label, split in rows if split == "train"} | {"a", "b"}
    assert splits.train.classes == sorted(own)
    assert splits.train.counts.min() > 0
    parts = [part for part in vars(splits).values() if part is not None]
    number = {name: i for i, name in enumerate(together.classes)}
    expected = {f"{i}.png": label for i, (label, _) in enumerate([("a", "train"), ("b", "train"), *rows])}
    for part in parts:
        assert classes_of(part) == [expected[name] for name in names(part, folder)]
        assert part.labels.tolist() == [number[name] for name in classes_of(part)]
        assert part.classes == together.classes[: len(part.classes)]
    np.testing.assert_array_equal(together.labels, np.concatenate([part.labels for part in parts]))


def test_a_source_is_known_from_any_folder(photos, monkeypatch, tmp_path):
    root = photos("torch/cifar10/a/1.png", "torch/cifar10/b/1.png")
    assert full_source("torch/cifar10") == "torch/cifar10"
    monkeypatch.chdir(root)
    assert full_source("torch/cifar10") == str(root / "torch/cifar10")  # a path that exists comes first
    assert len(open_images("torch/cifar10")) == 2
    assert full_source("photos.zip/test") == str(root / "photos.zip/test")


def test_digits_are_digits_everywhere():
    np.testing.assert_array_equal(open_images("digits").labels, digits().labels)


@pytest.mark.shared_data
def test_reads_the_splits_of_real_images_in_a_zip_file(shared_data):
    archive = shared_data / "cifar10_subset" / "cifar10_subset.zip"
    splits = open_splits(archive)
    assert (len(splits.train), splits.val, len(splits.test)) == (8000, None, 1500)
    assert splits.train.classes == splits.test.classes
    assert re.fullmatch(r".*\.zip/test/airplane/.*\.png", splits.test.name(0))
    assert splits.test[0][0].size == (32, 32)
    assert len(open_images(archive)) == 9500
