"""Mixup and cutmix."""

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup

from pml_center.training import TrainConfig, fit, parse_loss
from pml_center.training.mixing import mixed


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0), (0, 1.0), (0.4, 1.0)])
def test_images_are_mixed_as_timm_mixes_them(mixup, cutmix):
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    timm = Mixup(mixup, cutmix, num_classes=3, label_smoothing=0)
    for seed in range(4):
        np.random.seed(seed)  # noqa: NPY002
        theirs, targets = timm(images.clone(), labels)
        np.random.seed(seed)  # noqa: NPY002
        np.random.rand()  # noqa: NPY002 (whether to mix at all, which timm draws)
        ours, mixture = mixed(images, labels, mixup, cutmix)
        torch.testing.assert_close(ours, theirs)
        one, two = (torch.nn.functional.one_hot(each, 3) for each in (labels, mixture["other_labels"]))
        share = mixture["share"].unsqueeze(1)
        torch.testing.assert_close(share * one + (1 - share) * two, targets, check_dtype=False)


def test_nothing_is_mixed_unless_asked_for():
    images = torch.rand(2, 3)
    assert mixed(images, torch.tensor([0, 1]), 0, 0) == (images, {})


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"mixup": 0.4, "cutmix": 1.0, "accumulate": 2}], ids=str)
def test_a_run_with_mixed_images_learns(options, tmp_path):
    formula, out = "SoftmaxLoss + 0.01 * CenterLoss", str(tmp_path / "run")
    config = TrainConfig(loss=formula, image_size=8, channels=1, epochs=2, workers=0, out=out, **options)
    run, _ = fit(config, verbose=False)
    first, second = (event["loss"] for event in run.events("epoch"))
    assert second < first


@pytest.mark.parametrize("formula", ["TripletMarginLoss", "SoftmaxLoss + RangeLoss", "SoftmaxLoss @ BatchHardMiner"])
def test_a_loss_of_pairs_refuses_mixed_images(formula, tmp_path):
    loss = parse_loss(formula, 3, 2)
    with pytest.raises(ValueError, match=r"mixup and cutmix must be 0 with .* which knows samples of one class alone"):
        loss(torch.eye(2), torch.tensor([0, 1]), torch.tensor([1, 0]), torch.ones(2))
    config = TrainConfig(loss=formula, mixup=0.2, workers=0, per_class=4, image_size=8, out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="mixup and cutmix must be 0 with"):
        fit(config, verbose=False)


def test_features_are_mixed_and_not_cut(tmp_path):
    rows, labels = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 4
    shared = {"epochs": 1, "held_out": 0.5, "out": str(tmp_path / "run")}
    with pytest.raises(ValueError, match="cutmix must be left out, got features as data"):
        fit(TrainConfig((rows, labels), cutmix=1.0, **shared), verbose=False)
    fit(TrainConfig((rows, labels), mixup=1.0, **shared), verbose=False)


def test_an_alpha_below_0_is_refused():
    with pytest.raises(ValueError, match=r"mixup must be .*at least 0, got -1"):
        TrainConfig(mixup=-1.0)
