import signal

import numpy as np
import pytest
import torch
from PIL import Image

from pml_center import create_embedder
from pml_center.data import ImageSplits, LabeledImages
from pml_center.data.labeled_images import StoredImage
from pml_center.training import TrainConfig
from pml_center.training.batches import decoded_once, leave_signals_to_main, training_loader


class Counted:
    """Images that count how often each is asked for."""

    def __init__(self, count):
        self.asked = [0] * count

    def __getitem__(self, i):
        self.asked[i] += 1
        return Image.fromarray((np.arange(64, dtype=np.uint8) + 30 * i).reshape(8, 8)), 0


def two_epochs(workers=0, **options):
    images = Counted(6)
    data = LabeledImages([StoredImage(images, i) for i in range(6)], [0, 0, 1, 1, 2, 2], ["ant", "bee", "cat"])
    config = TrainConfig(batch_size=3, workers=workers, **options)
    model = create_embedder("convnet", 4, image_size=8)
    loader = training_loader(decoded_once(ImageSplits(data), model, config).train, model, config, rank=0, parts=1)
    seen = []
    for epoch in (1, 2):
        loader.batch_sampler.epoch = epoch
        seen.append(
            sorted((image.tolist(), int(label)) for x, y, _ in loader for image, label in zip(x, y, strict=True))
        )
    return images.asked, seen


def test_images_that_no_epoch_changes_are_read_once():
    asked, (first, second) = two_epochs()
    assert set(asked) == {1}
    assert first == second
    assert len({str(image) for image, _ in first}) == 6


@pytest.mark.parametrize("options", [{"hflip": 0.5}, {"crop_scale": 0.5}, {"auto_augment": "rand-m9-mstd0.5"}])
def test_images_that_a_transform_changes_are_read_once_and_change_as_before(options):
    asked, seen = two_epochs(**options)
    assert set(asked) == {1}
    assert seen[0] != seen[1]
    assert two_epochs(**options, decoded_gib=0.0) == ([2] * 6, seen)


def test_images_that_do_not_fit_are_read_anew(caplog):
    caplog.set_level("INFO", "pml_center")
    size = 6 * (8 * 8 + 8) / 2**30  # with the sum over each
    assert set(two_epochs(decoded_gib=size)[0]) == {1}
    assert set(two_epochs(decoded_gib=size - 1 / 2**30)[0]) == {2}
    assert "they would take 4.02e-07 GiB, 4.01e-07 are left" in caplog.text


def test_nothing_is_kept_where_no_room_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv("PML_CENTER_CACHE", str(tmp_path))
    file = tmp_path / "images" / "older.pixels"
    file.parent.mkdir()
    file.write_bytes(b"pixels")
    two_epochs()
    assert file.exists()
    two_epochs(decoded_gib=0.0)
    assert not file.exists()


def test_workers_give_the_same():
    assert two_epochs(workers=1)[1] == two_epochs()[1]


def test_a_worker_outlives_a_signal_that_reaches_the_whole_group():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        leave_signals_to_main(0)
        for number in before:
            signal.raise_signal(number)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # the second, torch's to one that hangs, ends it
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_layout_of_images_in_memory_does_not_change_an_embedding():
    embedder = create_embedder("convnet", 4, image_size=8).double().eval()
    images = torch.rand(3, 1, 8, 8, dtype=torch.double)
    torch.testing.assert_close(embedder(images), embedder.neck(embedder.trunk(images)), rtol=1e-12, atol=1e-12)
