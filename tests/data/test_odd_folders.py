"""Folders and zip files as people have them: what the check passes can be read, what cannot be read it names."""

import os
import socket
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pml_center.data import (
    archives,
    check_data,
    eval_transform,
    image_folder,
    image_table,
    open_images,
    open_splits,
    split_folders,
)
from tests.data.conftest import content, names


def picture(mode, kind="PNG", shade=1, **options):
    stream = BytesIO()
    Image.new(mode, (4, 3), shade).save(stream, kind, **options)
    return stream.getvalue()


FILES = {
    "grey": picture("L"),
    "colour": picture("RGB", shade=(1, 2, 3)),
    "palette": picture("P", transparency=1),
    "drawing": picture("1"),
    "clear": picture("RGBA", shade=(0, 0, 0, 9)),
    "clear colour": picture("RGB", transparency=(0, 1, 2)),
    "inks": picture("CMYK", "JPEG", (1, 2, 3, 4)),
    "16 bits": picture("I;16"),
    "16 bits and a clear grey": picture("I;16", transparency=1),
    "floats": picture("F", "TIFF"),
    "moving": picture("P", "GIF"),
    "large floats": picture("F", "TIFF", 2),
    "integers": picture("I", "TIFF", 70000),
    "LAB": picture("LAB", "TIFF", (1, 2, 3)),
    "cut": picture("L")[:-30],
    "cut early": picture("L")[:9],
    "empty": b"",
    "text": b"no image",
}
OTHERS = {
    "folder": lambda path: path.mkdir(),
    "folder with a file": lambda path: (path.mkdir(), (path / "1.png").write_bytes(FILES["grey"])),
    "pipe": os.mkfifo,
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link upward": lambda path: path.symlink_to(".."),
}
NAMES = ["1.png", "2.jpg", "3.tif", "4.PNG", ".5.png", "notes.txt", "x", "@eaDir", "\udcf6.png"]
CLASSES = ["cat", "dog", "cat/kitten", "train/cat", "Test/cat", "Test/dog", "seg_train/a", "query", "tset/cat"]


def make(root, entries):
    for folder, name, kind in entries:
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            path.write_bytes(FILES[kind]) if kind in FILES else OTHERS[kind](path)


def outcome(root):
    """What the check names, or its error; and what cannot be read, or why nothing can be opened."""
    try:
        check = check_data(root)
    except (ValueError, OSError) as error:
        check = error
    try:
        data = open_images(root)
    except (ValueError, OSError) as error:
        return check, error
    unread = set()
    for channels in (1, 3):
        seen = data.with_transform(eval_transform(4, channels, (0.5,) * channels, (0.5,) * channels))
        for i in range(len(seen)):
            try:
                assert seen[i][0].isfinite().all()
            except ValueError as error:
                unread.add(seen.name(i) if seen.name(i) in str(error) else f"an error without a name: {error}")
    return check, unread


@settings(max_examples=120, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(CLASSES), st.sampled_from(NAMES), st.sampled_from([*FILES, *OTHERS])),
        min_size=2,
        max_size=10,
    )
)
@example([("cat", "1.png", "grey"), ("dog", "1.png", "colour")])
@example([("cat", "1.png", "grey"), ("dog", "1.png", "pipe")])
@example([("cat", "1.png", "grey"), ("dog", "1.png", "colour"), ("dog", "\udcf6.png", "floats")])
def test_whatever_the_check_passes_can_be_read_and_whatever_cannot_it_names(entries):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "photos")
        make(root, entries)
        check, unread = outcome(root)
        if isinstance(check, Exception):
            assert isinstance(unread, Exception), f"only the check refuses: {check}"
        elif isinstance(unread, Exception):
            assert check.problems, f"the check passes what cannot be opened: {unread}"
        else:
            assert unread == set(check.unreadable)


def test_what_was_not_taken_is_counted_and_said(photos, caplog):
    root = photos(
        *("cat/1.png", "cat/2.png", "dog/1.png", "cat/@eaDir/1.png/THUMB.jpg", "$RECYCLE.BIN/1.png", "dog/.DS_Store"),
        *("dog/Thumbs.db", "cat/3.heic", "cat/4.HEIC", ".ipynb_checkpoints/1.png", "__MACOSX/cat/._1.png", "dog/x"),
    )
    with caplog.at_level("INFO", "pml_center"):
        assert open_images(root).classes == ["cat", "dog"]
    expected = {".heic": 2, "@eaDir/": 1, "$RECYCLE.BIN/": 1, "hidden file": 1, ".db": 1, "no suffix": 1}
    expected |= {".ipynb_checkpoints/": 1, "__MACOSX/": 1}
    check = check_data(root)
    assert (check.passed_over, check.problems) == (expected, 0)
    [line] = caplog.messages
    assert line.startswith(f"{root}: passed over .heic (2), ")
    assert all(f"{kind} (" in line for kind in expected)


def test_a_class_inside_a_class_is_a_problem_of_the_check(photos):
    root = photos("cat/1.png", "cat/kitten/1.png", "dog/1.png", "owl/day/1.png", "owl/night/1.png")
    check = check_data(root)
    assert check.nested_classes == [f"{root}/cat/kitten"]
    assert check.problems == 1


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_only_regular_files_are_images(kind, photos, tmp_path, monkeypatch):
    root = photos("cat/1.png", "dog/1.png")
    odd = root / "cat" / "x.png"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "device":
        odd.symlink_to("/dev/zero")
    else:
        monkeypatch.chdir(odd.parent)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(odd.name)
    assert list(check_data(root).unreadable) == [str(odd)]
    with pytest.raises(ValueError, match=r"cat/x\.png .*no regular file"):
        open_images(root)[1]


def test_links_that_lead_back_up_end(photos):
    root = photos("cat/1.png", "dog/1.png", "dog/inner/2.png")
    (root / "dog" / "inner" / "up").symlink_to(root)
    (root / "self.png").symlink_to("self.png")
    (root / "cat" / "all").symlink_to("..")
    check = check_data(root)
    assert check.passed_over == {"link to a folder above": 2}
    assert check.loose == [f"{root}/self.png"]
    assert check.class_sizes == {"train": {"cat": 1, "dog": 1, "dog/inner": 1}}


def test_names_that_are_no_utf_8_are_named_before_anything_is_opened(photos, tmp_path):
    root = photos("cat/1.png", "dog/1.png")
    odd = os.fsdecode(os.fsencode(root / "cat") + b"/H\xf6he.png")
    Path(odd).write_bytes(content(9))
    check = check_data(root)
    assert (check.misnamed, check.problems) == ([odd], 1)
    with pytest.raises(ValueError, match=r"names must be in UTF-8, got .*/cat/H\\xf6he\.png\. Rename them"):
        open_images(root)
    os.rename(root, os.fsencode(tmp_path) + b"/f\xfcnf")
    (tmp_path / "f\udcfcnf" / "images.csv").write_text("path,label\ncat/1.png,cat\ndog/1.png,dog\n")
    with pytest.raises(ValueError, match=r"names must be in UTF-8, got .*/f\\xfcnf/cat/1\.png and 1 more"):
        image_table(tmp_path / "f\udcfcnf" / "images.csv")


def test_names_of_a_zip_file_are_read_however_they_are_written(zipped):
    root = zipped("./cat/1.png", "cat//2.png", "/cat/3.png", "dog\\4.png", "./dog/./5.png", "../6.png", "dog/../7.png")
    data = open_images(root)
    assert names(data, root) == ["cat/1.png", "cat/2.png", "cat/3.png", "dog/4.png", "dog/5.png"]
    assert [data[i][0].getpixel((0, 0)) for i in range(len(data))] == [0, 1, 2, 3, 4]
    check = check_data(root)
    assert check.passed_over == {"entry that leads out of the zip file": 2}
    assert check.problems == 0
    assert image_folder(root.parent / "photos.zip").classes == ["cat", "dog"]


def test_an_entry_that_comes_again_in_a_zip_file_counts_once(zipped, recwarn):
    root = zipped("cat/1.png", "dog/1.png", "cat/1.png")
    check = check_data(root)
    assert (check.passed_over, check.class_sizes) == ({"entry that comes again": 1}, {"train": {"cat": 1, "dog": 1}})
    assert open_images(root)[0][0].getpixel((0, 0)) == 2  # the later one, as where they are unpacked


def test_a_file_in_a_zip_file_that_would_fill_the_memory_is_named(zipped, monkeypatch):
    root = zipped("cat/1.png", "dog/1.png")
    with zipfile.ZipFile(root, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dog/2.png", bytes(2**21))
    monkeypatch.setattr(archives, "MOST_BYTES", 2**20)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda archive, info: pytest.fail(f"{info.filename} was unpacked"))
    with pytest.raises(ValueError, match=r"dog/2\.png .*must have at most 1 MiB, got 2 MiB"):
        open_images(root)[2]


C = ["apple", "kiwi"]


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Test", "test"),
        ("train", "dev", "val"),
        ("training", "evaluation", "test"),
        ("seg_train", "seg_test", "test"),
        ("train_images", "VALID images", "val"),
        ("train2017", "val2017", "val"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
    ],
)
def test_splits_have_the_names_of_the_field(photos, train, other, split):
    root = photos(*(f"{part}/{name}/{i}.png" for part in (train, other) for name in C for i in range(2)))
    found = open_splits(root)
    assert found.train.classes == getattr(found, split).classes == C
    assert set(check_data(root).class_sizes) == {"train", split}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["query", "gallery"], r"eval RUN .*/query --gallery .*/gallery"),
        (["train", "query", "gallery"], r"eval RUN .*/query --gallery .*/gallery"),
        (["train", "tset"], r"got 'tset' beside 'train' .*Did you mean 'test'\?"),
        (["trian", "tset"], r"Did you mean '(train|test)'\?"),
        (["train", "unseen"], r"got 'train' beside 'unseen' with classes of the same names"),
        (["my_train", "your_test"], r"Did you mean '(train|test)'\?"),
        (["bounding_box_train", "bounding_box_test", "query"], "eval RUN"),
    ],
)
def test_what_is_nearly_a_split_is_no_class(photos, folders, message):
    root = photos(*(f"{folder}/{name}/1.png" for folder in folders for name in C))
    for read in (open_images, check_data):
        with pytest.raises(ValueError, match=message):
            read(root)


@pytest.mark.parametrize(
    "paths",
    [
        ["train/1.png", "bus/1.png", "plane/1.png"],
        ["train_station/1.png", "test_tube/1.png"],
        ["Greek/character01/1.png", "Latin/character01/1.png"],
        ["train/red/1.png", "bus/red/1.png", "plane/1.png"][::2],
    ],
)
def test_classes_may_sound_like_splits(photos, paths):
    assert open_images(photos(*paths)).classes == sorted(path.rpartition("/")[0] for path in paths)


def test_a_table_takes_the_names_of_splits_that_folders_take(photos):
    root = photos("1.png", "2.png", "3.png")
    (root / "images.csv").write_text("path,label,split\n1.png,a,Training\n2.png,b,training\n3.png,a,Dev\n")
    assert np.array_equal(open_splits(root / "images.csv").val.labels, [0])


def test_classes_are_not_compared_with_each_other(photos, monkeypatch):
    """Of thousands that would take minutes; no name is near that of a split."""
    monkeypatch.setattr(split_folders, "_same_classes", lambda parts: pytest.fail("compared"))
    assert open_images(str(photos("ann/1.png", "bob/1.png", "bob/2.png"))).num_classes == 2
