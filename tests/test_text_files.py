"""Text files as people save them, in every place that takes one."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pml_center.data import image_table
from pml_center.evaluation import lfw_pairs, load_samples
from pml_center.evaluation.pairs import read_pairs
from pml_center.text_files import read_columns, read_lines, read_rows
from tests.data.conftest import content

WAYS = {
    "plain": lambda text: text.encode(),
    "mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "old Mac": lambda text: text.replace("\n", "\r").encode(),
    "blanks": lambda text: text.replace("\n", "  \t\n").replace(",", " , ").encode(),
    "more at the end": lambda text: (text + "\n\n").encode(),
    "less at the end": lambda text: text.rstrip("\n").encode(),
}


def labels(folder):
    return read_rows(str(folder / "file"), "labels")


def pairs(folder):
    found = read_pairs(str((folder / "file").rename(folder / "file.csv")), ["ä/1.png", "x/b"])
    return found.first.tolist(), found.same.tolist(), found.folds.tolist()


def lfw(folder):
    found = lfw_pairs(folder / "file", ["Ann_0001.jpg", "Ann_0002.jpg", "Jörg_0003.jpg"])
    return found.first.tolist(), found.second.tolist(), found.same.tolist()


def trials(folder):
    found = read_pairs(folder / "file", ["Ann/1.wav", "Ann/2.wav", "Jörg/3.wav"])
    return found.first.tolist(), found.second.tolist(), found.same.tolist()


def samples(folder):
    np.save(folder / "embeddings.npy", np.eye(2))
    (folder / "file").rename(folder / "samples.csv")
    return load_samples(folder)[1:]


def table(folder):
    for name in "12":
        (folder / f"{name}.png").write_bytes(content(0))
    images = image_table((folder / "file").rename(folder / "file.csv"))
    return images.classes, images.labels.tolist(), images.groups.tolist()


TEXTS = {
    labels: "Käse\ncat\nKäse\n",
    pairs: "first,second,same,fold\nä/1.png,x/b,1,0\nx/b,ä/1.png,0,1\n",
    lfw: "1\nAnn 1 2\nAnn 1 Jörg 3\n",
    trials: "1 Ann/1 Ann/2\n0 Ann/1 Jörg/3\n",
    samples: "path,label,group\nä.png,Käse,left\nb.png,cat,right\n",
    table: "path,label,group\n1.png,Käse,left\n2.png,cat,right\n",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read", TEXTS, ids=lambda read: read.__name__)
def test_a_list_is_the_same_however_it_was_saved(read, way, tmp_path):
    found = []
    for each in ("plain", way):
        folder = tmp_path / each
        folder.mkdir(exist_ok=True)
        (folder / "file").write_bytes(WAYS[each](TEXTS[read]))
        found.append(str(read(folder)).replace(str(folder), ""))
    assert found[0] == found[1]
    assert found[0] != "[]"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])  # the latter without a mark
@pytest.mark.parametrize("read", TEXTS, ids=lambda read: read.__name__)
def test_an_encoding_that_nothing_tells_is_refused_by_the_name_of_the_file(read, encoding, tmp_path):
    (tmp_path / "file").write_bytes(TEXTS[read].replace("a", "ä").encode(encoding))
    with pytest.raises(ValueError, match=rf"must be (a text )?in UTF-8, got '{tmp_path}/(file|samples\.csv)"):
        read(tmp_path)


def test_a_line_without_a_label_is_refused(tmp_path):
    (tmp_path / "file").write_text("cat\n\ndog\n")
    with pytest.raises(ValueError, match=r"labels must be one a line, got an empty line 2 in .*file'"):
        labels(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,cat\nb.png,\n", r"samples\.csv, line 3: label must not be empty"),
        ("path,label\na.png,cat\nb.png\n", r"samples\.csv, line 3: line must have 2 cells as the first has, got 1"),
        ("path,label\na.png,cat\nb.png,cat,left\n", r"samples\.csv, line 3: line must have 2 cells .* got 3"),
        ("path\na.png\nb.png\n", r"must have a label for each of the 2 embeddings, got 2 rows with columns \['path'\]"),
        ("path,label\na.png,cat\n", r"must have a label for each of the 2 embeddings, got 1"),
    ],
)
def test_a_wrong_line_of_samples_is_told(text, message, tmp_path):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=message):
        samples(tmp_path)


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=5), st.sampled_from([way for way in WAYS if way != "blanks"]))
def test_lines_that_were_written_are_read(tmp_path_factory, lines, way):
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(WAYS[way]("\n".join(lines) + "\n"))
    assert read_lines(path, "lines") == lines


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_whatever_is_in_a_file_ends_in_columns_or_a_sentence(tmp_path_factory, end):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"first,second\n" + end)
    with contextlib.suppress(ValueError):
        found = read_columns(path, "pairs", ("first", "second"))
        assert len(found["first"]) == len(found["second"])
