"""Folders of images: which are classes, in which order, and what is no data set."""

import zipfile

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from pml_center.data import image_folder
from pml_center.data.image_folder import SUFFIXES


@pytest.fixture
def tree(tmp_path):
    """A function that makes one empty file for each path below a folder, and gives the folder."""

    def make(*paths):
        for path in paths:
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path

    return make


def names(data):
    return [data.name(i).removeprefix(data.source + "/") for i in range(len(data))]


def test_each_folder_of_images_is_a_class(tree):
    data = image_folder(tree("cat/a.png", "dog/b.jpg", "cat/c.JPEG"))
    assert data.classes == ["cat", "dog"]
    assert data.labels.tolist() == [0, 0, 1]
    assert names(data) == ["cat/a.png", "cat/c.JPEG", "dog/b.jpg"]


def test_a_class_at_any_depth_is_named_by_its_path(tree):
    data = image_folder(tree("Greek/alpha/1.png", "Greek/beta/1.png", "Latin/a/1.png", "Latin/2.png"))
    assert data.classes == ["Greek/alpha", "Greek/beta", "Latin", "Latin/a"]


def test_classes_and_images_come_in_natural_order_regardless_of_case(tree):
    data = image_folder(tree("c10/x10.png", "c10/x9.png", "C2/B.png", "C2/a.png", "c1/1.png"))
    assert data.classes == ["c1", "C2", "c10"]
    assert names(data) == ["c1/1.png", "C2/a.png", "C2/B.png", "c10/x9.png", "c10/x10.png"]


def test_hidden_and_other_files_do_not_count(tree):
    root = tree(
        "a/1.png",
        "a/._1.png",
        "a/notes.txt",
        "b/1.png",
        ".git/x.png",
        "__MACOSX/a/1.png",
        "readme.md",
        "a/.thumbs/1.png",
    )
    data = image_folder(root)
    assert data.classes == ["a", "b"]
    assert names(data) == ["a/1.png", "b/1.png"]


def test_linked_class_folders_count(tree, tmp_path):
    root = tree("all/a/1.png", "all/b/1.png", "all/c/1.png", "few/a/1.png") / "few"
    (root / "z").symlink_to(tmp_path / "all" / "c")
    assert image_folder(root).classes == ["a", "z"]


def test_the_root_may_be_text_or_a_path(tree):
    root = tree("a/1.png", "b/1.png")
    assert names(image_folder(str(root))) == names(image_folder(root))


def test_nothing_is_opened_before_it_is_asked_for(tree):
    data = image_folder(tree("a/1.png", "b/1.png"))  # empty files
    with pytest.raises(ValueError, match=r"a/1\.png"):
        data[0]


def test_images_directly_in_the_root_are_an_error(tree):
    with pytest.raises(ValueError, match=r"got 2 images directly in .*e\.g\. 'y2\.png'.*Move each"):
        image_folder(tree("a/1.png", "y10.png", "y2.png"))


def test_class_folders_without_an_image_are_named(tree, tmp_path):
    root = tree("a/1.png", "b/1.png", "docs/readme.txt")
    (tmp_path / "c" / "d").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"got 2 folders without an image in .*: 'c/d', 'docs'\. Remove them"):
        image_folder(root)


def test_at_most_five_empty_folders_are_named(tree, tmp_path):
    root = tree("a/1.png", "b/1.png")
    for i in range(12):
        (tmp_path / f"e{i}").mkdir()
    with pytest.raises(ValueError, match=r"12 folders.*: 'e0', 'e1', 'e2', 'e3', 'e4' and 7 more\. Remove"):
        image_folder(root)


def test_one_class_is_too_few(tree):
    with pytest.raises(ValueError, match=r"at least 2 classes, got 1 in .* \('a'\)"):
        image_folder(tree("a/1.png"))


def test_an_empty_root_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least 2 classes, got 0"):
        image_folder(tmp_path)


def test_a_missing_root_is_an_error_that_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"got 'nowhere' \\(from '{tmp_path}'\\)"):
        image_folder("nowhere")


@pytest.fixture
def zipped(tmp_path):
    """A function that makes a zip file with one small image for each path, and gives its path."""

    def make(*paths):
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for shade, path in enumerate(paths):
                with archive.open(path, "w") as file:
                    Image.new("L", (2, 2), shade).save(file, "png")
        return tmp_path / "images.zip"

    return make


def test_a_zip_file_is_read_in_place_as_the_folder_that_it_holds(zipped):
    root = zipped("c10/2.png", "c2/1.png", "c10/1.PNG", "c2/.hidden.png", "__MACOSX/c2/1.png", "c2/notes.txt")
    data = image_folder(root)
    assert data.classes == ["c2", "c10"]
    assert names(data) == ["c2/1.png", "c10/1.PNG", "c10/2.png"]
    assert [data[i][0].getpixel((0, 0)) for i in range(3)] == [1, 2, 0]


def test_a_folder_in_a_zip_file_is_a_root_too(zipped):
    archive = zipped("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "tests/c/1.png")
    assert image_folder(archive).classes == ["test/a", "test/b", "tests/c", "train/a", "train/b"]
    data = image_folder(archive / "test")
    assert data.classes == ["a", "b"]
    assert data[1][0].getpixel((0, 0)) == 3


def test_processes_read_a_zip_file_side_by_side(zipped):
    paths = [f"{name}/{i}.png" for name in "ab" for i in range(40)]
    data = image_folder(zipped(*paths))
    data[0]  # opened here already, so that the workers inherit the handle
    loader = DataLoader(data.with_transform(lambda image: image.getpixel((0, 0))), batch_size=4, num_workers=2)
    shades = [shade for batch, _ in loader for shade in batch.tolist()]
    assert shades == list(range(80))


@pytest.mark.parametrize("path", ["images.zip", "images.zip/a", "images.zip/nowhere"])
def test_the_layout_of_a_zip_file_is_checked_as_that_of_a_folder(zipped, path):
    root = zipped("a/b/notes.txt", "a/1.png").parent / path
    with pytest.raises(ValueError, match="root must hold one folder of images per class"):
        image_folder(root)


def test_a_file_that_is_no_zip_file_is_an_error(tree, tmp_path):
    with pytest.raises(NotADirectoryError, match=r"got the file .*images\.tar'.*zip file"):
        image_folder(tree("images.tar") / "images.tar")
    with pytest.raises(ValueError, match=r"must be a whole zip file, got .*images\.zip'"):
        image_folder(tree("images.zip") / "images.zip")


def test_an_image_that_is_gone_from_a_zip_file_is_named(zipped):
    data = image_folder(zipped("a/1.png", "b/1.png"))
    zipped("a/2.png", "b/1.png")
    with pytest.raises(ValueError, match=r"must be a readable image file, got .*images\.zip/a/1\.png"):
        data[0]


@pytest.mark.shared_data
def test_reads_omniglot_as_it_is_published(shared_data, tmp_path):
    alphabets = ("images_background/Greek/", "images_background/Japanese_(hiragana)/character01/")
    with zipfile.ZipFile(shared_data / "omniglot" / "images_background.zip") as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith(alphabets)])
    data = image_folder(tmp_path / "images_background")
    assert data.num_classes == 25
    assert data.classes[-1] == "Japanese_(hiragana)/character01"
    assert (data.counts == 20).all()
    image, label = data[0]
    assert (image.mode, image.size, label) == ("1", (105, 105), 0)


@pytest.mark.shared_data
def test_reads_faces_from_a_zip_file(shared_data):
    data = image_folder(shared_data / "celeba_faces" / "celeba_112.zip")
    assert (len(data), data.num_classes) == (3665, 180)
    assert data[0][0].size == (112, 112)
    assert isinstance(data[0][0], Image.Image)


def test_images_are_those_that_torchvision_knows():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert set(SUFFIXES) == set(IMG_EXTENSIONS)
