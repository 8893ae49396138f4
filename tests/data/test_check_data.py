"""What is wrong with a data set: all of it is found, nothing else is, and without it nothing is wrong."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pml_center.data import LabeledImages, check_data, inspect_images, open_images
from pml_center.data.inspect_images import readable
from tests.data.conftest import content, names


@pytest.fixture
def flawed(photos):
    """A folder with splits and with one of each flaw."""
    paths = ["train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "train/dog/2.png"]
    root = photos(*paths, "test/cat/3.png", "test/dog/3.png")
    (root / "train" / "cat" / "cut.png").write_bytes(content(0)[:45])
    (root / "train" / "cat" / "none.jpg").touch()
    (root / "train" / "eel").mkdir()
    (root / "train" / "loose.png").write_bytes(content(99))
    (root / "train" / "dog" / "0 again.png").write_bytes(content(3))  # train/dog/2.png
    (root / "train" / "dog" / "leak.png").write_bytes(content(5, "RGB"))  # test/dog/3.png
    (root / "test" / "dog" / "cat.png").write_bytes(content(1))  # train/cat/2.png
    return root


def test_every_flaw_is_found(flawed):
    check = check_data(flawed)
    assert {Path(name).name: error for name, error in check.unreadable.items()} == {
        "cut.png": "OSError: image file is truncated",
        "none.jpg": "no image format that is known",
    }
    assert check.empty_classes == [f"{flawed}/train/eel"]
    assert check.loose == [f"{flawed}/train/loose.png"]
    assert [[name.removeprefix(f"{flawed}/") for name in same.names] for same in check.same] == [
        ["train/cat/2.png", "test/dog/cat.png"],
        ["train/dog/0 again.png", "train/dog/2.png"],
        ["train/dog/leak.png", "test/dog/3.png"],
    ]
    assert [same.across_splits for same in check.same] == [True, False, True]
    assert [same.two_labels for same in check.same] == [True, False, False]
    assert check.problems == 2 + 1 + 1 + 3
    assert check.class_sizes == {"train": {"cat": 4, "dog": 4}, "test": {"cat": 1, "dog": 2}}
    assert check.singletons == {"train": [], "test": ["cat"]}
    assert (check.image_sizes, check.modes) == ({(4, 3): 9}, {"L": 8, "RGB": 1})


def test_nothing_is_wrong_without_what_is_to_be_removed(flawed):
    check = check_data(flawed)
    removed = [Path(name).relative_to(flawed).as_posix() for name in check.to_remove]
    assert sorted(removed) == sorted(
        [
            "train/cat/cut.png",
            "train/cat/none.jpg",
            "train/cat/2.png",  # both, for nobody knows which label is right
            "test/dog/cat.png",
            "train/dog/2.png",
            "train/dog/leak.png",  # the one of test stays
            "train/eel",
        ]
    )
    for name in check.to_remove:
        path = Path(name)
        path.rmdir() if path.is_dir() else path.unlink()
    (flawed / "train" / "loose.png").unlink()
    assert check_data(flawed).problems == 0
    assert len(open_images(flawed)) == 5


def test_a_sound_data_set_has_no_problems(photos, zipped):
    paths = ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/ant/1.png"]
    for root in (photos(*paths), zipped(*paths)):
        check = check_data(root)
        assert (check.problems, check.to_remove) == (0, [])
        assert check.singletons == {"train": ["cat", "dog"], "test": ["ant", "cat"]}
    assert check_data("digits").problems == 0


def test_every_wrong_line_of_a_table_is_told(photos, tmp_path):
    photos("1.png", "2.png", "3.png", root=tmp_path)
    (tmp_path / "4.png").write_bytes(content(0))
    table = tmp_path / "images.csv"
    rows = ["1.png,cat,train", "2.png,,train", "3.png,dog,tset", "9.png,dog,train", "1.png,cat,test", "4.png,cat,test"]
    table.write_text("\n".join(["path,label,split", *rows]))
    check = check_data(table)
    assert check.missing == ["9.png"]
    starts = [" ".join(line.removeprefix(f"{table}, ").split()[:3]) for line in check.wrong_lines]
    assert starts == ["line 3: label", "line 4: split", "line 6: path"]
    assert [same.names for same in check.same] == [[str(tmp_path / "1.png"), str(tmp_path / "4.png")]]
    assert check.problems == 1 + 3 + 1 + 2
    assert check.too_few_classes == ["train", "test"]
    assert check_data(f"{table}/test").same == []


def test_what_is_no_data_set_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="root must be an existing folder"):
        check_data(tmp_path / "nowhere")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="must have columns path and label"):
        check_data(tmp_path / "x.csv")


@pytest.mark.parametrize("paths", [[], ["a/1.png", "a/2.png"]])
def test_fewer_than_two_classes_are_too_few(photos, tmp_path, paths):
    photos(*paths, root=tmp_path)
    check = check_data(tmp_path)
    assert (check.too_few_classes, check.problems) == (["train"], 1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["L", "RGB"])), min_size=1, max_size=14))
def test_images_are_the_same_if_their_pixels_are(rows):
    images = [Image.new(mode, (2, 2), shade if mode == "L" else (shade,) * 3) for shade, mode in rows]
    digests = [fact.digest for fact in inspect_images(LabeledImages(images, [0] * len(rows), ["x"]))]
    for i, (shade, _) in enumerate(rows):
        assert [digest == digests[i] for digest in digests] == [other == shade for other, _ in rows]


def test_size_counts_as_well_as_pixels():
    images = [np.zeros((2, 8), np.uint8), np.zeros((8, 2), np.uint8), np.zeros((4, 4), np.uint8)]
    assert len({fact.digest for fact in inspect_images(LabeledImages(images, [0, 0, 0], ["x"]))}) == 3


def test_palettes_count_as_the_colours_that_they_stand_for():
    images = [Image.new("P", (2, 2), 0) for _ in range(2)]
    images[0].putpalette([255, 0, 0])
    images[1].putpalette([0, 0, 255])
    images.append(Image.new("RGB", (2, 2), (255, 0, 0)))
    first, second, third = inspect_images(LabeledImages(images, [0, 0, 0], ["x"]))
    assert first.digest == third.digest != second.digest
    assert [fact.mode for fact in (first, second, third)] == ["P", "P", "RGB"]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_can_be_read_stay_in_order(photos, workers):
    root = photos("a/1.png", "b/1.png", "b/2.png", "c/1.png", "c/2.png")
    (root / "a" / "1.png").write_text("no image")
    (root / "c" / "1.png").write_text("no image")
    kept, bad = readable(open_images(root), workers)
    assert names(kept, root) == ["b/1.png", "b/2.png", "c/2.png"]
    assert (kept.classes, kept.labels.tolist()) == (["b", "c"], [0, 0, 1])
    assert bad == [f"{root}/a/1.png", f"{root}/c/1.png"]


def test_images_that_can_all_be_read_or_none(photos):
    root = photos("a/1.png", "b/1.png")
    data = open_images(root)
    assert readable(data) == (data, [])
    for path in root.glob("*/*.png"):
        path.write_text("no image")
    with pytest.raises(ValueError, match=r"must have one that can be read, got 2 that cannot, e\.g\. .*/a/1\.png"):
        readable(data)


@pytest.mark.shared_data
def test_a_face_that_is_in_a_real_data_set_twice_is_found(shared_data):
    archive = shared_data / "celeba_faces" / "celeba_112.zip"
    [same] = check_data(archive).same
    assert [name.removeprefix(f"{archive}/") for name in same.names] == ["7246/186446.jpg", "7246/194317.jpg"]
