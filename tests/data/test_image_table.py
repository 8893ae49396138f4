"""Tables of images: what is read from them, and what is said of a line that is wrong."""

import csv
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_center.data import image_table, open_images, open_splits
from pml_center.data.image_table import read_table
from tests.data.conftest import classes_of, content, names, shades


@pytest.fixture
def table(photos, tmp_path):
    """A function that writes a table beside three images, and gives its path."""
    photos("1.png", "2.png", "b/3.png", root=tmp_path)

    def make(text, encoding="utf-8"):
        path = tmp_path / "images.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return make


def test_paths_are_relative_to_the_table(table, tmp_path, monkeypatch):
    path = table("path,label\n1.png,dog\n./b/3.png,cat\nb/../2.png,dog\n")
    monkeypatch.chdir("/")
    data = image_table(path)
    assert names(data, tmp_path) == ["1.png", "b/3.png", "2.png"]
    assert classes_of(data) == ["dog", "cat", "dog"]
    assert shades(data) == [0, 2, 1]
    assert data.groups is None


def test_a_path_may_be_absolute_or_lead_into_a_zip_file(table, tmp_path):
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("cat/1.png", content(77))
    data = image_table(table(f"path,label\n{tmp_path}/1.png,dog\nmore.zip/cat/1.png,cat\n"))
    assert shades(data) == [0, 77]
    with pytest.raises(FileNotFoundError, match=r"got 'more\.zip/cat/2\.png'"):
        image_table(table("path,label\n1.png,dog\nmore.zip/cat/2.png,cat\n"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # Excel writes a mark before the first column
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_columns_come_in_any_order_with_others_between(table, encoding, end):
    lines = [
        "group, label,note,path,split",
        "left,Käse,x,1.png,train",
        "right,cat,,2.png,TEST",
        "left,cat,y,b/3.png,train",
    ]
    path = table(end.join([*lines, ""]), encoding)
    data = image_table(path)
    assert classes_of(data) == ["Käse", "cat", "cat"]
    assert data.groups.tolist() == ["left", "right", "left"]
    splits = open_splits(path)
    assert splits.train.groups.tolist() == ["left", "left"]
    assert splits.test.groups.tolist() == ["right"]
    assert open_images(path).groups.tolist() == ["left", "left", "right"]
    assert shades(open_images(f"{path}/test")) == [1]
    assert open_images(f"{path}/test").classes == ["cat"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"must have columns path and label, got none in .*path and label not found"),
        ("file,label\n1.png,a\n", r"must have columns path and label, got 'file', 'label' in .*: path not found"),
        ("path;label\n1.png;a\n", r"got 'path;label' in .*with commas between them"),
        ("path,label,label\n1.png,a,b\n", "each column once, got 'label' twice"),
        ("path,label\n1.png,a\n2.png,\n", r"images\.csv, line 3: label must not be empty"),
        ("path,label\n1.png,a\n,b\n", "line 3: path must not be empty"),
        ("path,label,group\n1.png,a,x\n2.png,b,\n", "line 3: group must not be empty"),
        ("path,label\n1.png,a\n2.png,b,c\n", "line 3: line must have 2 cells as the first has, got 3"),
        ("path,label\n1.png,a\n\n./1.png,b\n", r"line 4: path must come once, got '\./1\.png' in line 2 too"),
        ("path,label\n1.png\n2.png\n", r"line 2: .*got 1\..* 1 more lines are wrong\."),
        ("path,label,split\n1.png,a,tset\n", "line 2: split must be a known name, got 'tset'. Did you mean 'test'?"),
        ("path,label\n1.png,a\n2.png,a\n", "label must name at least 2 classes, got 1"),
        ("path,label\n", "label must name at least 2 classes, got 0"),
    ],
)
def test_a_wrong_table_is_an_error_that_says_where(table, text, message):
    with pytest.raises(ValueError, match=message):
        image_table(table(text))


def test_an_image_that_is_not_there_is_named(table):
    path = table("path,label\n1.png,a\n7.png,b\n8.png,b\n")
    with pytest.raises(
        FileNotFoundError, match=r"line 3: path must lead .* got '7\.png' and 1 more, which is not there"
    ):
        image_table(path)


def test_a_table_that_is_not_there_or_not_a_text_is_an_error(table, tmp_path):
    with pytest.raises(FileNotFoundError, match="table must be an existing CSV file"):
        open_images(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="must be in UTF-8"):
        image_table(table("path,label\n1.png,Käse\n", "latin-1"))


def test_a_split_that_the_table_lacks_is_an_error(table):
    path = table("path,label,split\n1.png,a,train\n2.png,b,train\n")
    with pytest.raises(ValueError, match=r"split must be one of train, got 'test' in .*images\.csv/test'"):
        open_images(f"{path}/test")


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["train", "val", "test"])), min_size=2, max_size=8))
def test_what_was_written_is_read(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("table")
    for i in range(len(rows)):
        (folder / f"{i}, {i}.png").touch()
    with (folder / "images.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "label", "group", "split"]])
        csv.writer(file).writerows([f"{i}, {i}.png", *row] for i, row in enumerate(rows))
    read = read_table(folder / "images.csv")
    found = zip(classes_of(read.images), read.images.groups.tolist(), read.splits, strict=True)
    assert list(found) == rows
    assert (read.missing, read.faults) == ({}, [])
    assert names(read.images, folder) == [f"{i}, {i}.png" for i in range(len(rows))]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60), st.sampled_from(["", "path,label\n", "label,split,path,group\n"]))
def test_whatever_is_in_a_file_ends_in_a_sentence(tmp_path_factory, text, header):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(header.encode() + (text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")))
    with pytest.raises((ValueError, FileNotFoundError), match=r".*any\.csv"):
        open_splits(path)
