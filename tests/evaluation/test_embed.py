"""Embedding a data set: in evaluation mode, in order, and without traces in the model."""

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pml_center import create_embedder
from pml_center.data import LabeledImages, digits
from pml_center.evaluation import Samples, embed, embed_samples, load_samples, save_samples
from pml_center.text_files import read_columns


def data(rows=10):
    return TensorDataset(torch.arange(3.0 * rows).view(rows, 3), torch.arange(rows) % 4)


def model():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))


def test_rows_come_in_the_order_of_the_loader():
    embeddings, labels = embed(nn.Identity(), DataLoader(data(), batch_size=4))
    np.testing.assert_array_equal(embeddings, np.arange(30, dtype=np.float32).reshape(10, 3))
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert (embeddings.dtype, labels.dtype) == (np.float32, np.int64)


def test_batch_size_does_not_matter_because_the_model_evaluates():
    network = model()
    whole, _ = embed(network, DataLoader(data(), batch_size=10))
    parts, _ = embed(network, DataLoader(data(), batch_size=3))
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


def test_each_part_of_the_model_gets_its_mode_back():
    network = model().train()
    network[1].eval()  # a frozen batch norm
    before = [parameter.clone() for parameter in network.state_dict().values()]
    embed(network, DataLoader(data(), batch_size=4))
    assert [part.training for part in network.modules()] == [True, True, False, True]
    assert all(map(torch.equal, network.state_dict().values(), before))


def test_the_modes_come_back_after_an_error_too():
    network = model().train()
    with pytest.raises(RuntimeError):
        embed(network, [(torch.zeros(2, 99), torch.tensor([0, 1]))])
    assert network.training


def test_no_gradient_is_kept():
    network, seen = model(), []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    embed(network, DataLoader(data(), batch_size=10))
    assert seen == [False]


def test_half_precision_models_give_float32():
    embeddings, _ = embed(nn.Identity(), [(torch.ones(2, 3, dtype=torch.bfloat16), [0, 1])])
    assert embeddings.dtype == np.float32


def test_what_follows_images_and_labels_is_ignored():
    embeddings, labels = embed(nn.Identity(), [(torch.ones(2, 3), torch.tensor([4, 5]), ["a.png", "b.png"])])
    assert (embeddings.shape, labels.tolist()) == ((2, 3), [4, 5])


def test_the_model_goes_to_the_device():
    assert embed(model(), DataLoader(data(), batch_size=5), device="cpu")[0].shape == (10, 2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_follow_the_model_to_its_gpu():
    network = model()
    expected, _ = embed(network, DataLoader(data(), batch_size=5))
    np.testing.assert_allclose(embed(network.cuda(), DataLoader(data(), batch_size=5))[0], expected, rtol=1e-5)


def test_no_bar_is_drawn_where_no_one_watches(capsys):
    embed(nn.Identity(), DataLoader(data(), batch_size=5))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("network", "batches", "error", "message"),
    [
        (nn.Identity(), [], ValueError, "loader must have at least one batch, got none"),
        (nn.Identity(), [(torch.ones(2, 3, 4, 4), [0, 1])], ValueError, r"got shape \(2, 3, 4, 4\). Pool and flatten"),
        (nn.LSTM(3, 2), [(torch.ones(2, 3), [0, 1])], ValueError, "model must return embeddings .* got tuple"),
        (nn.Identity(), [(torch.ones(2, 3), ("cat", "dog"))], TypeError, "labels must be integers, got dtype <U3"),
        (nn.Identity(), [(torch.ones(2, 3), torch.ones(2))], TypeError, "labels must be integers, got dtype float32"),
        (nn.Identity(), [(torch.ones(2, 3), [0])], ValueError, r"got shape \(1,\) for 2 embeddings"),
        (nn.Identity(), [(torch.ones(2, 3), torch.eye(2).long())], ValueError, r"got shape \(2, 2\)"),
    ],
)
def test_what_cannot_be_embedded_is_named(network, batches, error, message):
    with pytest.raises(error, match=message):
        embed(network, batches)


# Samples: embeddings with what belongs to them


def test_samples_survive_their_folder(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    samples = Samples(
        torch.from_numpy(embeddings), np.array([7, 8, 7]), ["x", "y, z", "x"], ["a.png", "é.png", "c.png"]
    )
    save_samples(tmp_path / "new" / "folder", samples)
    read = load_samples(tmp_path / "new" / "folder")
    assert isinstance(read.embeddings, np.memmap)
    np.testing.assert_array_equal(read.embeddings, embeddings)
    assert read[1:] == (["7", "8", "7"], ["x", "y, z", "x"], ["a.png", "é.png", "c.png"])
    lines = (tmp_path / "new" / "folder" / "samples.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,label,group"


def test_samples_need_no_groups_and_no_names(tmp_path):
    save_samples(tmp_path, Samples(np.ones((2, 3)), ["a", "b"]))
    assert load_samples(tmp_path)[1:] == (["a", "b"], None, None)


def test_samples_that_do_not_fit_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"label must be one per row \(2\), got 3"):
        save_samples(tmp_path, Samples(np.ones((2, 3)), ["a", "b", "c"]))
    with pytest.raises(FileNotFoundError, match=r"without embeddings.npy and samples.csv"):
        load_samples(tmp_path / "nowhere")
    save_samples(tmp_path, Samples(np.ones((2, 3)), ["a", "b"]))
    (tmp_path / "samples.csv").write_text("label\na\n", encoding="utf-8")
    with pytest.raises(ValueError, match="a label for each of the 2 embeddings, got 1 rows"):
        load_samples(tmp_path)
    (tmp_path / "samples.csv").write_text("path\na\nb\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"got 2 rows with columns \['path'\]"):
        load_samples(tmp_path)


def test_images_get_the_transform_of_the_model_unless_they_have_one():
    images = digits().subset([0, 5, 9])
    samples = embed_samples(create_embedder("convnet", embedding_size=4).eval(), images)
    assert (samples.labels, samples.names) == (["0", "5", "9"], ["digits[0]", "digits[5]", "digits[9]"])
    pixels = embed_samples(nn.Flatten(), images.with_transform(lambda image: np.asarray(image, dtype=np.float32)))
    assert pixels.embeddings.shape == (3, images[0][0].size[0] ** 2)
    with pytest.raises(ValueError, match="data must have a transform because Flatten does not say"):
        embed_samples(nn.Flatten(), images)


def test_a_data_set_is_loaded_in_batches():
    samples = embed_samples(nn.Identity(), data(10), batch_size=3)
    np.testing.assert_array_equal(samples.embeddings, np.arange(30, dtype=np.float32).reshape(10, 3))
    assert samples.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert (samples.groups, samples.names) == (None, None)


def test_groups_of_a_data_set_go_with_its_embeddings():
    data = digits().subset(range(6))
    grouped = LabeledImages(data.images, data.labels, data.classes, groups=["left", "right"] * 3)
    model = create_embedder("convnet", embedding_size=4)
    assert embed_samples(model, grouped).groups == ["left", "right"] * 3
    assert embed_samples(model, data).groups is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("path,label\na,x\nb,y,z\n", "samples.csv, line 3: line must have 2 cells as the first has, got 3"),
        ("path,label\na,x\nb\n", "samples.csv, line 3: line must have 2 cells as the first has, got 1"),
        ("path,label\na,x\nb,\n", "samples.csv, line 3: label must not be empty"),
        ("path,label\na,x\n", "samples.csv must have a label for each of the 2 embeddings, got 1 rows"),
        ("", "samples.csv must have a label for each of the 2 embeddings, got 0 rows with columns"),
    ],
)
def test_a_line_of_samples_that_is_not_whole_is_named(tmp_path, lines, message):
    save_samples(tmp_path, Samples(np.ones((2, 3), np.float32), ["x", "y"], names=["a", "b"]))
    (tmp_path / "samples.csv").write_text(lines, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_samples(tmp_path)


@pytest.mark.parametrize("kind", ["archive", "empty", "cut off", "objects", "text"])
def test_a_file_that_is_no_array_is_named(tmp_path, kind):
    save_samples(tmp_path, Samples(np.ones((2, 3), np.float32), ["x", "y"]))
    path = tmp_path / "embeddings.npy"
    if kind == "archive":
        with path.open("wb") as file:
            np.savez(file, one=np.ones(3))
    elif kind == "objects":
        np.save(path, np.array([None, "a"], dtype=object), allow_pickle=True)
    else:
        path.write_bytes({"empty": b"", "cut off": path.read_bytes()[:-4], "text": b"0.1 0.2"}[kind])
    with pytest.raises(ValueError, match=r"array must be an .npy file of numbers or texts, got .*embeddings.npy"):
        load_samples(tmp_path)


def test_rows_that_are_written_anew_while_they_are_read_do_not_get_the_names_of_others(tmp_path, monkeypatch):
    save_samples(tmp_path, Samples(np.zeros((2, 3), np.float32), ["a", "b"]))

    def slow(*arguments):
        save_samples(tmp_path, Samples(np.ones((2, 3), np.float32), ["b", "a"]))
        return read_columns(*arguments)

    monkeypatch.setattr(sys.modules["pml_center.evaluation.embed"], "read_columns", slow)
    with pytest.raises(BlockingIOError, match=r"folder must stay as it is .* written anew"):
        load_samples(tmp_path)
