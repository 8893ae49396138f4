"""A data set that never changes, and names what it cannot read."""

import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pml_center.data import LabeledImages, StoredImage, encode_labels, eval_transform

CLASSES = ["ant", "bee", "cat", "dog"]


@pytest.fixture
def data():
    pixels = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8)
    return LabeledImages(pixels, [3, 0, 3, 1, 1], CLASSES, source="drawn")


@pytest.fixture
def files(tmp_path):
    """Three readable images and their paths."""
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("L", (8, 8), 80 * i).save(path)
    return paths


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def test_an_item_is_an_image_and_an_int_label(data):
    image, label = data[2]
    assert isinstance(image, Image.Image)
    assert type(label) is int
    assert label == 3
    np.testing.assert_array_equal(image, data.images[2])


def test_counts_include_classes_without_an_image(data):
    assert data.counts.tolist() == [1, 2, 0, 2]
    assert data.num_classes == 4


def test_labels_become_int64_whatever_they_were():
    for labels in ([0, 1], np.array([0, 1], np.uint8), torch.tensor([0, 1], dtype=torch.int32)):
        assert LabeledImages(np.zeros((2, 8, 8), np.uint8), labels, CLASSES).labels.dtype == np.int64


def test_paths_pil_images_and_arrays_decode_to_the_same_pixels(files):
    pixels = np.asarray(Image.open(files[2]))
    for image in (files[2], str(files[2]), Image.open(files[2]), pixels):
        np.testing.assert_array_equal(LabeledImages([image], [0], ["ant"])[0][0], pixels)


def test_a_colour_array_is_an_rgb_image():
    assert LabeledImages([np.zeros((4, 6, 3), np.uint8)], [0], ["ant"])[0][0].mode == "RGB"


def test_a_file_is_named_by_its_path_and_an_array_by_its_position(files, data):
    assert LabeledImages(files, [0, 0, 1], CLASSES).name(1) == str(files[1])
    assert data.name(4) == "drawn[4]"


def test_a_subset_keeps_order_labels_classes_and_names(data):
    part = data.subset([4, 0])
    assert part.labels.tolist() == [1, 3]
    assert part.classes == CLASSES
    assert [part.name(0), part.name(1)] == ["drawn[4]", "drawn[0]"]
    np.testing.assert_array_equal(part[0][0], data[4][0])


def test_a_subset_of_a_subset_still_names_the_first_data_set(data):
    assert data.subset([4, 2, 0]).subset([1]).name(0) == "drawn[2]"


def test_renumbering_leaves_no_class_without_an_image(data):
    part = data.subset([4, 0, 2], renumber=True)
    assert part.labels.tolist() == [0, 1, 1]
    assert part.labels.dtype == np.int64
    assert part.classes == ["bee", "dog"]
    assert part.counts.all()


def test_a_subset_takes_a_mask_negative_positions_and_nothing_at_all(data):
    assert data.subset(data.labels == 1).indices.tolist() == [3, 4]
    assert data.subset([-1]).indices.tolist() == [4]
    assert len(data.subset([])) == 0
    assert data.subset([], renumber=True).classes == []


def test_a_subset_outside_the_data_is_an_error(data):
    with pytest.raises(IndexError, match="5"):
        data.subset([5])


def test_another_transform_is_another_data_set(data):
    other = data.with_transform(eval_transform(16, 1, (0.5,), (0.5,)))
    assert other[0][0].shape == (1, 16, 16)
    assert data.transform is None
    assert other.images is data.images
    assert other.subset([1]).transform is other.transform
    assert other.with_transform(None)[0][0].size == (8, 8)


def test_survives_pickling_and_workers(data):
    data = pickle.loads(pickle.dumps(data.with_transform(eval_transform(8, 1, (0.5,), (0.5,)))))
    images, labels = next(iter(DataLoader(data, batch_size=5, num_workers=2)))
    assert images.shape == (5, 1, 8, 8)
    assert labels.tolist() == data.labels.tolist()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "truncated"),
        (lambda path: path.write_bytes(b"not an image"), "cannot identify image file"),
        (lambda path: path.write_bytes(b""), "cannot identify image file"),
        (lambda path: path.unlink(), "No such file"),
    ],
    ids=["truncated", "another format", "empty", "absent"],
)
def test_an_unreadable_image_is_named_with_the_reason_and_the_remedy(files, damage, reason):
    damage(files[1])
    data = LabeledImages(files, [0, 0, 1], CLASSES)
    data[0], data[2]
    with pytest.raises(ValueError, match=reason) as error:
        data[1]
    assert str(files[1]) in str(error.value)
    assert "Repair the file or remove it" in str(error.value)


def test_an_unreadable_image_is_named_through_workers_too(files):
    truncate(files[1])
    data = LabeledImages(files, [0, 0, 1], CLASSES, eval_transform(8, 1, (0.5,), (0.5,)))
    batches = iter(DataLoader(data, batch_size=3, num_workers=1))
    with pytest.raises(ValueError, match=rf"{re.escape(str(files[1]))} .*truncated"):
        next(batches)
    assert list(batches) == []  # lets the workers end, which an abandoned iterator waits 5 seconds for


def test_an_error_of_the_transform_is_not_taken_for_a_broken_image(files):
    def explode(image):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        LabeledImages(files, [0, 0, 1], CLASSES, explode)[0]


def test_float_pixels_are_an_error_that_names_the_image():
    data = LabeledImages([np.zeros((8, 8))], [0], ["ant"])
    with pytest.raises(ValueError, match=r"got dtype float64 in images\[0\]"):
        data[0]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1, 4], ValueError, r"labels must be in \[0, 4\).*got 4 at position 2"),
        ([0, -1, 1], ValueError, r"got -1 at position 1"),
        ([0, 1], ValueError, r"labels must have shape \(3,\).*got shape \(2,\)"),
        ([0.0, 1.0, 2.0], TypeError, r"labels must be integers, got dtype float64"),
        (["a", "b", "c"], TypeError, r"labels must be integers.*encode_labels"),
    ],
)
def test_labels_that_do_not_fit_are_an_error(labels, error, message):
    with pytest.raises(error, match=message):
        LabeledImages(np.zeros((3, 8, 8), np.uint8), labels, CLASSES)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["img10", "img2", "IMG3", "img2"], ["img2", "IMG3", "img10"]),
        (["a", "A", "b"], ["A", "a", "b"]),
        ([10, -5, 9], [-5, 9, 10]),
        ([2**24 + 1, 2**24, 2**60 + 1, 2**60], [2**24, 2**24 + 1, 2**60, 2**60 + 1]),
        ([("b", 1), ("a", 2)], [("a", 2), ("b", 1)]),
        (["x10", 3, "x9"], [3, "x9", "x10"]),
        ([], []),
    ],
    ids=["natural", "case", "negative", "above 2**24", "tuples", "mixed", "none"],
)
def test_codes_follow_natural_order_and_lead_back_to_the_labels(labels, names):
    codes, found = encode_labels(labels)
    assert found == names
    assert codes.dtype == np.int64
    assert [found[code] for code in codes] == labels


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_arrays_and_tensors_encode_as_lists_do(kind):
    codes, names = encode_labels(kind([2**40 + 1, 7, 2**40 + 1]))
    assert codes.tolist() == [1, 0, 1]
    assert names == [7, 2**40 + 1]
    assert type(names[0]) is int


@pytest.mark.parametrize("missing", [None, float("nan")], ids=str)
def test_a_missing_label_is_an_error_with_its_position(missing):
    with pytest.raises(ValueError, match=r"position 1 \(2 of 4 are missing\)"):
        encode_labels(["a", missing, "b", missing])


def test_one_hot_labels_are_an_error():
    with pytest.raises(ValueError, match=r"got shape \(4, 4\).*argmax"):
        encode_labels(np.eye(4, dtype=int))


def test_groups_go_with_their_images(data):
    grouped = LabeledImages(data.images, data.labels, CLASSES, groups=["x", "y", "x", "z", "y"])
    assert grouped.subset([4, 0]).groups.tolist() == ["y", "x"]
    assert grouped.subset(grouped.labels == 3, renumber=True).groups.tolist() == ["x", "x"]
    assert grouped.with_transform(None).groups.tolist() == ["x", "y", "x", "z", "y"]
    assert data.subset([1]).groups is None


@pytest.mark.parametrize("groups", [["x"], [["x"]] * 5, []])
def test_each_image_has_one_group_or_none_has(data, groups):
    with pytest.raises(ValueError, match=r"groups must have shape \(5,\) because there are 5 images"):
        LabeledImages(data.images, data.labels, CLASSES, groups=groups)


def test_an_image_of_another_data_set_is_fetched_when_it_is_asked_for(data):
    class Counted:
        asked = 0

        def __getitem__(self, i):
            self.asked += 1
            return data[i] if i < 5 else (np.zeros((2, 2)), 0)

    other = Counted()
    images = LabeledImages([StoredImage(other, i) for i in (2, 6)], [0, 1], CLASSES, source="other")
    part = images.subset([0])
    assert (len(images), other.asked) == (2, 0)
    np.testing.assert_array_equal(np.asarray(images[0][0]), data.images[2])
    np.testing.assert_array_equal(np.asarray(images.images[0]), data.images[2])
    assert part.name(0) == "other[0]"
    with pytest.raises(ValueError, match=r"got other\[1\] \(TypeError: image must be a PIL image, got ndarray"):
        images[1]
