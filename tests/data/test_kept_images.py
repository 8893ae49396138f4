"""Images that are decoded once: in a file that processes share, and never another image than that of the file."""

import os
import pickle
import re

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from pml_center.data import LabeledImages, eval_transform, train_transform
from pml_center.data.kept_images import KeptImages, folder_of_kept, let_go
from pml_center.data.transforms import Squash
from pml_center.training.seeding import seed_everything

SIZE, HALF = (6, 5), (0.5,) * 3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PML_CENTER_CACHE", str(tmp_path / "cache"))
    return folder_of_kept()


@pytest.fixture
def files(tmp_path):
    draw = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        Image.fromarray(draw.integers(256, size=(9, 7, 3), dtype=np.uint8)).save(path)
    return paths


def behind(files, transform, is_kept=True):
    data = LabeledImages(files, [0, 0, 1, 1, 2], ["ant", "bee", "cat"], transform)
    return data.decoded_once(transform.squash) if is_kept else data


def tensors(data):
    """What comes of the same random numbers."""
    seed_everything(0)
    return [data[i][0].tolist() for i in range(len(data))]


@pytest.mark.parametrize(
    "transform",
    [
        eval_transform(SIZE, 3, HALF, HALF),
        eval_transform(SIZE, 1, (0.5,), (0.5,)),
        train_transform(SIZE, 3, HALF, HALF, crop_scale=0.5),
    ],
)
def test_an_image_is_the_same_to_the_bit_and_is_decoded_once_for_all(files, transform):
    wanted = tensors(behind(files, transform, is_kept=False))
    assert tensors(behind(files, transform)) == wanted
    again = behind(files, transform)  # as another run has it
    again._read = None  # which nobody asks for
    assert tensors(again) == wanted


def test_a_subset_finds_its_own(files):
    data = behind(files, eval_transform(SIZE, 3, HALF, HALF))
    wanted = tensors(data)
    part = data.subset([4, 3, 1]).subset([1, 2])
    part._read = None
    assert tensors(part) == [wanted[3], wanted[1]]


def test_workers_fill_what_all_read(files):
    data = behind(files, eval_transform(SIZE, 3, HALF, HALF))
    (images, _), *_ = DataLoader(data, batch_size=5, num_workers=1)
    data._read = None
    assert tensors(data) == images.tolist()
    assert tensors(pickle.loads(pickle.dumps(data))) == images.tolist()  # as a process has it that is not forked


def test_another_transform_decodes(files):
    data = behind(files, eval_transform(SIZE, 3, HALF, HALF))
    assert data.with_transform(None)[0][0].size == (7, 9)
    assert data.with_transform(eval_transform(4, 3, HALF, HALF))[0][0].shape == (3, 4, 4)


def test_a_file_that_changes_is_decoded_anew(files):
    transform = eval_transform(SIZE, 3, HALF, HALF)
    before = tensors(behind(files, transform))
    Image.new("RGB", (9, 7)).save(files[2])
    after = tensors(behind(files, transform))
    assert after == tensors(behind(files, transform, is_kept=False))
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False, True, True]


def test_what_is_damaged_is_decoded_anew(files, cache):
    transform = eval_transform(SIZE, 3, HALF, HALF)
    wanted = tensors(behind(files, transform))
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert tensors(behind(files, transform)) == wanted
    path.write_bytes(content[:-1])
    assert tensors(behind(files, transform)) == wanted
    assert path.stat().st_size == len(content)


def test_an_image_that_cannot_be_read_is_named_each_time(files):
    files[1].write_bytes(b"not an image")
    data = behind(files, eval_transform(SIZE, 3, HALF, HALF))
    for _ in range(2):
        with pytest.raises(ValueError, match=re.escape(str(files[1]))):
            data[1]
    assert data[2][0].shape == (3, *SIZE)


def test_images_that_are_no_files_or_have_nowhere_to_be_are_kept_in_memory(files, cache, caplog):
    squash = Squash(SIZE, 3)
    assert KeptImages(squash, [Image.new("L", (2, 2))]).path is None
    assert KeptImages(squash, [files[0], files[0].with_name("gone.png")]).path is None
    cache.parent.mkdir()
    cache.write_text("in the way")
    kept = KeptImages(squash, files)
    assert "decoded images are kept in memory" in caplog.text
    first = kept.get(0, lambda: Image.new("RGB", SIZE[::-1], "red"))
    assert kept.get(0, lambda: None).tolist() == first.tolist()


def test_a_file_that_another_run_deletes_meanwhile_leaves_memory(files, monkeypatch, caplog):
    """Not a file of 0 bytes, which cannot be mapped."""
    changed = os.utime

    def too_late(path, *times):
        os.unlink(path)
        changed(path, *times)

    monkeypatch.setattr(os, "utime", too_late)
    kept = KeptImages(Squash(SIZE, 3), files)
    assert "decoded images are kept in memory" in caplog.text
    assert not kept.path.exists()
    assert kept.get(0, lambda: Image.new("RGB", SIZE[::-1], "red")).shape == (*SIZE, 3)


@pytest.mark.parametrize("count", [0, 2])
def test_arrays_are_kept_too_and_no_images_need_no_room(count):
    transform = eval_transform(SIZE, 1, (0.5,), (0.5,))
    data = LabeledImages(np.zeros((count, 8, 8), np.uint8), [0] * count, ["ant"], transform)
    assert tensors(data.decoded_once(transform.squash)) == tensors(data)


def test_what_is_not_used_goes_first(files, cache):
    squash = Squash(SIZE, 3)
    for number in (1, 2, 3):
        KeptImages(squash, files[:number])
    sizes = sorted(path.stat().st_size for path in cache.iterdir())
    KeptImages(squash, files[:1])
    let_go(cache, sizes[0] + sizes[2])
    assert sorted(path.stat().st_size for path in cache.iterdir()) == [sizes[0], sizes[2]]


def test_vectors_in_the_place_of_images_are_not_what_was_kept_of_them(files):
    data = behind(files, eval_transform(SIZE, 3, HALF, HALF))
    vectors = data.as_vectors(np.ones((len(files), 2), np.float32))
    assert vectors.__getitems__([0])[0][0].tolist() == [1.0, 1.0]
