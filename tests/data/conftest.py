"""Small images on disk, each of its own shade."""

import zipfile
from io import BytesIO

import pytest
from PIL import Image


def content(shade, mode="L"):
    """A PNG file of one shade, 0..255."""
    stream = BytesIO()
    Image.new(mode, (4, 3), shade if mode == "L" else (shade,) * 3).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path):
    """A function that writes one image for each path below a folder, and gives the folder."""

    def make(*paths, root=tmp_path / "photos"):
        for shade, path in enumerate(paths):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content(shade))
        return root

    return make


@pytest.fixture
def zipped(tmp_path):
    """A function that writes one image for each path in a zip file, and gives its path."""

    def make(*paths):
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            for shade, path in enumerate(paths):
                archive.writestr(path, content(shade))
        return tmp_path / "photos.zip"

    return make


def names(data, root):
    """The names of the images below a folder."""
    return [data.name(i).removeprefix(f"{root}/") for i in range(len(data))]


def shades(data):
    """The shade of each image: the number of its path among those that were written."""
    return [data[i][0].getpixel((0, 0)) for i in range(len(data))]


def classes_of(data):
    """The class of each image, by name."""
    return [data.classes[label] for label in data.labels]
