"""The cache of embeddings: what it takes to be the same, and what it must not."""

import os

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from pml_center.data import LabeledImages, digits, image_folder
from pml_center.data.data_folder import cache_folder
from pml_center.evaluation import embedding_cache
from pml_center.evaluation.embedding_cache import cached_embeddings, model_fingerprint

CPU = torch.device("cpu")


def tensor(image):
    return pil_to_tensor(image.convert("L").resize((8, 8))).float()


class Counted(nn.Module):
    """A linear model that counts the images it has seen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 4)
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return self.linear(images.flatten(1))


@pytest.fixture
def model():
    return Counted()


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        digits()[i][0].save(path)
    return tmp_path / "photos"


def embeddings(model, images, cache, recipe="pixels"):
    return cached_embeddings(model, images.with_transform(tensor), recipe, CPU, batch_size=4, workers=0, folder=cache)


@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_the_same_model_sees_the_same_images_once(model, folder, tmp_path, kind):
    images = image_folder(folder) if kind == "files" else digits().subset(range(6))
    first = embeddings(model, images, tmp_path / "cache")
    again = image_folder(folder) if kind == "files" else digits().subset(range(6))
    second = embeddings(model, again, tmp_path / "cache")
    assert model.seen == 6
    np.testing.assert_array_equal(first, second)
    assert first.dtype == second.dtype == np.float32


def change_a_weight(model, images, folder):
    with torch.no_grad():
        model.linear.bias[0] += 1


def change_the_time_of_a_file(model, images, folder):
    os.utime(images.images[0], ns=(0, 0))


def change_an_image(model, images, folder):
    digits()[9][0].save(images.images[0])


@pytest.mark.parametrize("change", [change_a_weight, change_the_time_of_a_file, change_an_image])
def test_whatever_changes_is_embedded_again(model, folder, tmp_path, change):
    images = image_folder(folder)
    first = embeddings(model, images, tmp_path / "cache")
    change(model, images, folder)
    second = embeddings(model, images, tmp_path / "cache")
    assert model.seen == 12
    assert np.array_equal(first, second) == (change is change_the_time_of_a_file)


def test_a_file_that_is_replaced_by_one_of_its_size_and_age_is_embedded_again(model, tmp_path):
    paths = [tmp_path / "photos" / name for name in ("a/1.bmp", "b/1.bmp")]
    for path, shade in zip(paths, (50, 90), strict=True):
        path.parent.mkdir(parents=True)
        Image.new("L", (8, 8), shade).save(path)
    first = embeddings(model, image_folder(tmp_path / "photos"), tmp_path / "cache")
    before = paths[0].stat()
    Image.new("L", (8, 8), 200).save(paths[0])
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (paths[0].stat().st_size, paths[0].stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = embeddings(model, image_folder(tmp_path / "photos"), tmp_path / "cache")
    assert model.seen == 4
    assert not np.array_equal(first[0], second[0])


def test_another_recipe_other_images_and_another_order_are_embedded_again(model, folder, tmp_path):
    images = image_folder(folder)
    embeddings(model, images, tmp_path / "cache")
    embeddings(model, images, tmp_path / "cache", recipe="larger pixels")
    assert model.seen == 12
    backwards = embeddings(model, images.subset([5, 4, 3, 2, 1, 0]), tmp_path / "cache")
    assert model.seen == 18
    np.testing.assert_array_equal(backwards[::-1], embeddings(model, images, tmp_path / "cache"))


def test_without_a_folder_nothing_is_kept(model, folder, tmp_path):
    for _ in range(2):
        embeddings(model, image_folder(folder), None)
    assert model.seen == 12


def test_an_image_in_a_zip_file_is_as_old_as_the_zip_file(model, folder, tmp_path):
    import shutil

    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", folder)
    embeddings(model, image_folder(archive), tmp_path / "cache")
    embeddings(model, image_folder(archive), tmp_path / "cache")
    assert model.seen == 6
    os.utime(archive, ns=(0, 0))
    embeddings(model, image_folder(archive), tmp_path / "cache")
    assert model.seen == 12


def test_the_oldest_go_where_there_are_too_many(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_cache, "MOST_BYTES", 500)  # two files of 224 bytes
    for age, recipe in enumerate("abc"):
        embeddings(model, image_folder(folder), tmp_path / "cache", recipe)
        newest = max((tmp_path / "cache").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (age, age))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    seen = model.seen
    embeddings(model, image_folder(folder), tmp_path / "cache", "c")
    assert model.seen == seen


def test_a_disk_that_takes_nothing_loses_nothing(model, folder, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file in the place of the folder")
    assert embeddings(model, image_folder(folder), tmp_path / "cache").shape == (6, 4)
    assert "embeddings are not kept" in caplog.text


def test_where_embeddings_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("PML_CENTER_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("PML_CENTER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "all"))
    assert cache_folder() == tmp_path / "all" / "pml-center"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "pml-center"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_a_model_of_any_type_of_numbers_has_a_fingerprint(kind):
    model = nn.Module()
    model.register_buffer("numbers", torch.zeros((), dtype=kind))
    before = model_fingerprint(model)
    model.numbers = torch.ones((), dtype=kind)
    assert model_fingerprint(model) != before


def test_images_in_memory_are_the_same_if_a_model_sees_the_same(model, tmp_path):
    """Pixels of a palette are numbers of colours, and an orientation is none of them."""
    grey, lying, red, blue = (Image.new(mode, (8, 4)) for mode in "LLPP")
    grey.putpixel((0, 0), 255)
    lying.putpixel((0, 0), 255)
    lying.getexif()[ExifTags.Base.Orientation] = 3
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    for number, image in enumerate([grey, lying, red, blue], start=1):
        embeddings(model, LabeledImages([image], [0], ["a"]), tmp_path / "cache")
        assert model.seen == number


@pytest.mark.parametrize("left", [0, 60, 130, -8])
def test_a_damaged_entry_is_made_anew(model, folder, tmp_path, left, caplog):
    cache = tmp_path / "cache"
    first = embeddings(model, image_folder(folder), cache)
    [entry] = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:left])
    np.testing.assert_array_equal(embeddings(model, image_folder(folder), cache), first)
    assert f"{entry} is damaged" in caplog.text
    assert model.seen == 12
    np.testing.assert_array_equal(embeddings(model, image_folder(folder), cache), first)
    assert model.seen == 12


def test_a_bit_that_flipped_in_an_entry_is_found(model, folder, tmp_path, caplog):
    first = embeddings(model, image_folder(folder), tmp_path / "cache")
    [entry] = (tmp_path / "cache").iterdir()
    content = bytearray(entry.read_bytes())
    content[-20] ^= 64
    entry.write_bytes(content)
    np.testing.assert_array_equal(embeddings(model, image_folder(folder), tmp_path / "cache"), first)
    assert "is damaged" in caplog.text


def test_an_entry_of_other_images_is_made_anew(model, folder, tmp_path):
    first = embeddings(model, image_folder(folder), tmp_path / "cache")
    [entry] = (tmp_path / "cache").iterdir()
    np.save(entry, first[:-1])
    np.testing.assert_array_equal(embeddings(model, image_folder(folder), tmp_path / "cache"), first)
