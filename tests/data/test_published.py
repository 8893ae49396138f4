"""Data sets by name: each package's own reader, on files in the form that it expects."""

import gzip
import hashlib
import json
import pickle
import socket
import struct
import sys
import zipfile

import numpy as np
import pytest
import pytorch_metric_learning
import timm.data
from PIL import Image
from pytorch_metric_learning import datasets as pml_datasets
from timm.data.dataset import ImageDataset, IterableImageDataset
from timm.data.readers.reader import Reader
from torchvision import datasets as torchvision_datasets

from pml_center.data import inspect_images, open_images, open_splits
from pml_center.data.published import TIMM, is_published
from tests.data.conftest import classes_of, content, shades


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No test of this file reaches a network, wherever it runs."""

    def refuse(*_arguments, **_options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def idx(array):
    """The file format of MNIST."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """MNIST with 4 images to train on and 2 to test on."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, labels in (("train", [7, 2, 7, 0]), ("t10k", [2, 7])):
        images = np.stack([np.full((28, 28), 10 * i + len(name), np.uint8) for i in range(len(labels))])
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.array(labels, np.uint8)))
    return tmp_path


@pytest.mark.parametrize("name", ["torchvision/MNIST", "torch/mnist"])
def test_mnist_by_torchvision_and_by_timm(mnist, name, capsys):
    splits = open_splits(name, mnist)
    assert classes_of(splits.train) == ["7 - seven", "2 - two", "7 - seven", "0 - zero"]
    assert splits.train.classes == ["0 - zero", "2 - two", "7 - seven"]
    assert shades(splits.train) == [5, 15, 25, 35]
    assert (shades(splits.test), classes_of(splits.test), splits.val) == ([4, 14], ["2 - two", "7 - seven"], None)
    assert splits.test.labels.tolist() == [1, 2]
    assert capsys.readouterr().out == ""


def test_an_image_has_one_name_however_it_is_opened(mnist):
    every = open_images("torchvision/MNIST", mnist)
    assert shades(every) == [5, 15, 25, 35, 4, 14]
    test = open_images("torchvision/MNIST/test", mnist)
    assert [test.name(i) for i in range(2)] == ["torchvision/MNIST[4]", "torchvision/MNIST[5]"]
    assert [every.name(i) for i in (4, 5)] == ["torchvision/MNIST[4]", "torchvision/MNIST[5]"]
    assert open_splits("torchvision/MNIST", mnist).test.name(1) == "torchvision/MNIST[5]"


def test_cifar_in_colour(tmp_path, monkeypatch):
    kind, files = torchvision_datasets.CIFAR10, {}
    for i, name in enumerate(["data_batch_1", "test_batch"]):
        data = np.full((2, 3 * 32 * 32), 50 * i, np.uint8)
        data[:, :1024] = 200  # red
        files[name] = pickle.dumps({"data": data, "labels": [3, 0]})
    files["batches.meta"] = pickle.dumps({"label_names": ["airplane", "automobile", "bird", "cat"]})
    (tmp_path / kind.base_folder).mkdir()
    for name, text in files.items():
        (tmp_path / kind.base_folder / name).write_bytes(text)
    sums = {name: hashlib.md5(text).hexdigest() for name, text in files.items()}
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums["batches.meta"]})
    data = open_images("torchvision/CIFAR10", tmp_path)
    assert classes_of(data) == ["cat", "airplane", "cat", "airplane"]
    assert [data[i][0].getpixel((0, 0)) for i in (0, 2)] == [(200, 0, 0), (200, 50, 50)]


def test_images_that_lie_in_files_keep_their_paths_and_are_opened_by_us(tmp_path):
    folder = tmp_path / "fgvc-aircraft-2013b" / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("707\n727\n")
    for split, rows in {"train": ["1 707"], "val": ["2 727"], "test": ["3 707", "4 727"]}.items():
        (folder / f"images_variant_{split}.txt").write_text("\n".join(rows))
        for row in rows:
            (folder / "images" / f"{row.split()[0]}.jpg").write_bytes(content(int(row[0])))
    (folder / "images" / "4.jpg").write_bytes(b"no image")
    splits = open_splits("torchvision/FGVCAircraft", tmp_path)
    assert [classes_of(part) for part in vars(splits).values()] == [["707"], ["727"], ["707", "727"]]
    assert splits.test.name(0) == str(folder / "images" / "3.jpg")
    assert splits.test[0][0].getpixel((0, 0)) == 3
    with pytest.raises(ValueError, match=r"must be a readable image file, got .*/4\.jpg"):
        splits.test[1]


def test_omniglot_has_other_characters_to_test_on(tmp_path, monkeypatch):
    kind, sums = torchvision_datasets.Omniglot, {}
    for part, characters in {
        "images_background": ["Greek/character01", "Greek/character02"],
        "images_evaluation": ["Oriya/character01", "Oriya/character02"],
    }.items():
        path = tmp_path / kind.folder / f"{part}.zip"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for i, character in enumerate(characters):
                archive.writestr(f"{part}/{character}/{i}.png", content(i))
        zipfile.ZipFile(path).extractall(path.parent)
        sums[part] = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(kind, "zips_md5", sums)
    splits = open_splits("torchvision/Omniglot", tmp_path)
    assert splits.train.classes == ["Greek/character01", "Greek/character02"]
    assert classes_of(splits.test) == ["Oriya/character01", "Oriya/character02"]
    assert splits.test.labels.tolist() == [2, 3]
    assert [shades(part) for part in (splits.train, splits.test)] == [[0, 1], [0, 1]]


def test_two_classes_with_one_name_stay_apart(tmp_path, monkeypatch):
    class Cranes(torchvision_datasets.FakeData):
        classes = ["crane", "dog", "crane"]  # noqa: RUF012 (a bird and a machine, as in ImageNet)
        targets = [0, 2, 1, 0]  # noqa: RUF012

        def __init__(self, root):
            super().__init__(size=4)

    monkeypatch.setattr(torchvision_datasets, "Cranes", Cranes, raising=False)
    assert classes_of(open_images("torchvision/Cranes", tmp_path)) == ["crane (0)", "crane (2)", "dog", "crane (0)"]


def test_labels_are_read_from_the_images_where_nothing_else_has_them(tmp_path, monkeypatch):
    class Shapes(torchvision_datasets.VisionDataset):
        def __init__(self, root, split="train"):
            self.pairs = [(Image.new("1", (2, 2)), number) for number in (5, 9)]

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return self.pairs[i]

    class Boxes(Shapes):
        def __getitem__(self, i):
            return Image.new("1", (2, 2)), {"box": [0, 0, 1, 1]}

    monkeypatch.setattr(torchvision_datasets, "Shapes", Shapes, raising=False)
    monkeypatch.setattr(torchvision_datasets, "Boxes", Boxes, raising=False)
    data = open_images("torchvision/Shapes/train", tmp_path)
    assert (classes_of(data), data[1][0].mode) == (["5", "9"], "1")
    with pytest.raises(ValueError, match="one class number, got an object of type dict from 'torchvision/Boxes'"):
        open_images("torchvision/Boxes", tmp_path)


def cub(root):
    """Two images of four birds."""
    folder = root / "CUB_200_2011"
    birds = {1: "001.Albatross", 2: "002.Auklet", 101: "101.Pelican", 102: "102.Pewee"}
    images, labels = [], []
    for number, bird in birds.items():
        for _ in range(2):
            images.append(f"{len(images) + 1} {bird}/{len(images)}.jpg")
            labels.append(f"{len(images)} {number}")
            path = folder / "images" / bird / f"{len(images) - 1}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(len(images)))
    (folder / "images.txt").write_text("\n".join(images))
    (folder / "image_class_labels.txt").write_text("\n".join(labels))


def test_an_older_pml_has_no_data_sets_and_says_since_when(tmp_path, monkeypatch):
    monkeypatch.delattr(pytorch_metric_learning, "datasets", raising=False)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.datasets", None)
    with pytest.raises(ValueError, match=r"PML has, which has them from 2\.8\.1 on, .*learning>=2\.8\.1'$"):
        open_splits("pml/CUB", tmp_path)


@pytest.mark.parametrize("where", ["", "CUB"])  # PML downloads to a folder of its own
def test_birds_of_pml_are_named_and_those_to_test_on_are_others(tmp_path, where):
    cub(tmp_path / where)
    splits = open_splits("pml/CUB", tmp_path)
    assert splits.train.classes == ["001.Albatross", "002.Auklet"]
    assert classes_of(splits.test) == ["101.Pelican"] * 2 + ["102.Pewee"] * 2
    assert splits.test.labels.tolist() == [2, 2, 3, 3]
    assert shades(splits.test) == [5, 6, 7, 8]
    assert splits.train.name(0) == str(tmp_path / where / "CUB_200_2011" / "images" / "001.Albatross" / "0.jpg")
    assert open_images("pml/CUB/test", tmp_path).classes == ["101.Pelican", "102.Pewee"]


def test_products_of_pml_are_numbered_because_their_folders_are_no_classes(tmp_path):
    folder = tmp_path / "Stanford_Online_Products"
    (folder / "bicycle_final").mkdir(parents=True)
    for split, rows in {"train": ["1 7", "2 8"], "test": ["3 9", "4 9"]}.items():
        lines = [f"{row} 1 bicycle_final/{row.split()[0]}.JPG" for row in rows]
        (folder / f"Ebay_{split}.txt").write_text("\n".join(["image_id class_id super_class_id path", *lines]))
        for row in rows:
            (folder / "bicycle_final" / f"{row.split()[0]}.JPG").write_bytes(content(int(row[0])))
    splits = open_splits("pml/StanfordOnlineProducts", tmp_path)
    assert [classes_of(part) for part in (splits.train, splits.test)] == [["7", "8"], ["9", "9"]]
    assert shades(splits.test) == [3, 4]


def test_cars_of_pml_are_split_by_class_whatever_their_folders(tmp_path):
    names = [f"Car {number}" for number in range(1, 197)]
    names[98] = "Ram C/V"
    (tmp_path / "names.csv").write_text("\n".join(names))
    for split, rows in {"train": ["1.jpg,0,0,0,0,1", "2.jpg,0,0,0,0,99"], "test": ["3.jpg,0,0,0,0,1"]}.items():
        (tmp_path / f"anno_{split}.csv").write_text("\n".join(rows) + "\n")
    splits = open_splits("pml/Cars196", tmp_path)
    assert classes_of(splits.train) == ["Car 1", "Car 1"]
    assert classes_of(splits.test) == ["Ram C-V"]
    assert splits.test.name(0) == f"{tmp_path}/car_data/car_data/train/Ram C-V/2.jpg"


def test_species_of_pml(tmp_path):
    for part, ids in {"train": (1, 2), "val": (3, 4)}.items():
        table = {
            "images": [{"id": i, "file_name": f"train_val2018/Aves/{i // 2}/{i}.jpg"} for i in ids],
            "annotations": [{"image_id": i, "category_id": i // 2} for i in ids],
        }
        (tmp_path / f"{part}2018.json").write_text(json.dumps(table))
    (tmp_path / "Inat_dataset_splits").mkdir()
    for split, ids in {"train": (1, 2, 3), "test": (4,)}.items():
        lines = [f"train_val2018/Aves/{i // 2}/{i}.jpg" for i in ids]
        (tmp_path / "Inat_dataset_splits" / f"Inaturalist_{split}_set1.txt").write_text("\n".join(lines))
    splits = open_splits("pml/INaturalist2018", tmp_path)
    assert [classes_of(part) for part in (splits.train, splits.test)] == [["0", "1", "1"], ["2"]]


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("torchvision/CIFAR10", "'{0}'"),
        ("torchvision/Flowers102", "'{0}'"),
        ("torchvision/ImageNet", "'{0}'"),
        ("pml/CUB", "'{0}' or '{0}/CUB'"),
        ("pml/INaturalist2018", "'{0}' or '{0}/INaturalist2018'"),
        ("torch/kmnist", "'{0}'"),
    ],
)
def test_a_download_that_fails_ends_in_one_sentence(name, where, tmp_path, capsys):
    with pytest.raises(FileNotFoundError) as caught:
        open_splits(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name} must be in {where.format(tmp_path)} or be downloaded, got ")
    assert message.endswith("Go online, put its files there, or say with --data-root (root) where they are.")
    assert "\n" not in message
    assert capsys.readouterr().out == ""


def test_half_a_download_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    def half(data_set):
        (tmp_path / "CUB" / "CUB_200_2011.tgz").write_text("half")
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(pml_datasets.CUB, "download_and_remove", half)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="got ConnectionResetError: Connection reset by peer"):
            open_images("pml/CUB", tmp_path)
        assert not (tmp_path / "CUB").exists()


def test_the_root_is_the_folder_of_caches_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("PML_CENTER_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"must be in '{tmp_path}/data' or be downloaded"):
        open_images("torchvision/MNIST")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/CIFAR", "Did you mean 'CIFAR10' or 'CIFAR100'"),
        ("pml/BaseDataset", "must be a known name, got 'BaseDataset'"),
        ("pml/Cub", "Did you mean 'CUB'"),
        ("torchvision/EMNIST", "no more than a root, got 'torchvision/EMNIST', which needs root, split"),
        ("torchvision/FakeData", "which needs none"),
        ("torch/nowhere", "one that timm knows, got 'torch/nowhere'"),
    ],
)
def test_names_that_are_none_are_told(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_images(name, tmp_path)


def test_other_texts_are_paths():
    assert not any(map(is_published, ["digits", "photos/train", "torchvision", "pml/", "/torch/x", "images.csv"]))


class InMemory(Reader):
    """A reader of timm with random access: three files, of which one is damaged."""

    class_to_idx = {"ant": 0, "bee": 1}  # noqa: RUF012 (as timm's readers have it)

    def __init__(self, folder):
        super().__init__()
        self.files = sorted(folder.iterdir())

    def __getitem__(self, i):
        return self.files[i].open("rb"), i % 2

    def __len__(self):
        return len(self.files)

    def _filename(self, index, basename=False, absolute=False):
        return str(self.files[index])

    def iter_targets(self):
        return (i % 2 for i in range(len(self.files)))


class Stream:
    """A reader of timm that can only be read in order."""

    def __init__(self, shades, promised):
        self.shades, self.promised = shades, promised

    def __iter__(self):
        return ((Image.new("L", (2, 2), shade), shade % 2) for shade in self.shades)

    def __len__(self):
        return self.promised


@pytest.fixture
def readers(monkeypatch):
    """A function that puts readers in the place of those of a package that timm reads with, by the name of a split."""

    def put(by_split, kind):
        def create(name, root, split, **_options):
            if split not in by_split:
                raise ValueError(f'Unknown split "{split}". Should be one of {list(by_split)}.')
            return kind(root, reader=by_split[split])

        monkeypatch.setattr(timm.data, "create_dataset", create)
        monkeypatch.setitem(TIMM, "hfds", None)

    return put


def test_a_reader_of_timm_is_read_strictly(readers, photos, tmp_path):
    root = photos("1.png", "2.png", "3.png")
    (root / "2.png").write_bytes((root / "2.png").read_bytes()[:40])
    readers(
        {"train": InMemory(root), "validation": InMemory(photos("4.png", "5.png", root=tmp_path / "val"))}, ImageDataset
    )
    splits = open_splits("hfds/org/insects", tmp_path)
    assert classes_of(splits.train) == ["ant", "bee", "ant"]
    assert classes_of(splits.val) == ["ant", "bee"]
    assert splits.test is None
    assert splits.train[2][0].getpixel((0, 0)) == 2
    with pytest.raises(ValueError, match=r"must be a readable image file, got hfds/org/insects\[1\]"):
        splits.train[1]  # timm's own data set gives the third image here
    assert [bool(fact.error) for fact in inspect_images(splits.train)] == [False, True, False]


def test_a_stream_of_timm_is_kept(readers, tmp_path):
    readers({"train": Stream([4, 5, 6], 3), "test": Stream([8, 9], 0)}, IterableImageDataset)
    splits = open_splits("hfds/insects", tmp_path)
    assert (shades(splits.train), classes_of(splits.train)) == ([4, 5, 6], ["0", "1", "0"])
    assert shades(open_images("hfds/insects/test", tmp_path)) == [8, 9]


def test_a_stream_that_loses_images_is_an_error(readers, tmp_path):
    readers({"train": Stream([4, 5, 6], 4)}, IterableImageDataset)
    with pytest.raises(ValueError, match="must give the 4 images that it says it has, got 3"):
        open_images("hfds/insects", tmp_path)


@pytest.mark.parametrize(("name", "package"), [("tfds/mnist", "tensorflow-datasets"), ("wds/x", "webdataset")])
def test_a_package_that_is_missing_is_named(name, package, tmp_path, monkeypatch):
    monkeypatch.setattr("pml_center.data.published.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=f"{package} is not installed, .*: pip install {package}"):
        open_images(name, tmp_path)


@pytest.mark.shared_data
def test_reads_mnist_as_it_is_published(shared_data, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for path in (shared_data / "mnist").glob("*.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    splits = open_splits("torchvision/MNIST", tmp_path)
    assert (len(splits.train), len(splits.test)) == (60_000, 10_000)
    assert classes_of(splits.train)[0] == "5 - five"
    assert splits.train.num_classes == 10
