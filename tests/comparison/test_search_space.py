"""What a search tries: the same number of settings for every loss, all of which can be built."""

import pytest

from pml_center import losses
from pml_center.comparison.search_space import SPANS, tried_settings
from pml_center.training import parse_loss

PLAIN = sorted(
    set(losses.__all__)
    - {"BaseSoftmaxLoss", "BaseCenterLoss"}  # abstract
    - {"DynamicArcFaceLoss", "KappaFaceLoss", "HeteroCenterLoss"}  # need arguments, or two sets of images
)


def test_the_first_setting_is_the_one_that_is_given():
    assert tried_settings("2*CosFaceLoss", 0.1, 2)[0] == ("2*CosFaceLoss", 0.1)


def test_learning_rates_are_those_of_every_other_loss_and_all_differ():
    plain, joint = (
        [setting.lr for setting in tried_settings(formula, 0.002, 8)]
        for formula in ("NCALoss", "ArcFaceLoss + 0.1 * CenterLoss + TripletMarginLoss @ MultiSimilarityMiner")
    )
    assert plain == joint
    assert len(set(plain)) == 8
    assert all(1 / SPANS["lr"] <= lr / 0.002 <= SPANS["lr"] for lr in plain)
    assert min(plain) < 0.002 < max(plain)


@pytest.mark.parametrize("name", PLAIN)
def test_every_loss_can_be_built_with_all_that_is_tried(name):
    for setting in tried_settings(name, 0.002, 6):
        parse_loss(setting.loss, 8, 4)


def test_scale_margin_and_the_weight_of_a_center_loss_move_and_nothing_else_does():
    formula = "2 * CosFaceLoss(chunk_size=2) + 0.01 * CenterLoss(alpha=0.9) + TripletMarginLoss @ TripletMarginMiner"
    for setting in tried_settings(formula, 0.002, 6)[1:]:
        cosface, center, triplet = parse_loss(setting.loss, 4, 4).losses
        weights = parse_loss(setting.loss, 4, 4).weights
        assert weights[0] == 2
        assert weights[1] != 0.01
        assert 0.001 <= weights[1] <= 0.1
        assert 16 <= cosface.scale <= 256
        assert (cosface.chunk_size, center.alpha) == (2, 0.9)
        assert triplet.margin != 0.05
        assert "@ TripletMarginMiner" in setting.loss


def test_a_center_loss_alone_has_no_weight_to_move():
    assert {setting.loss for setting in tried_settings("CenterLoss(alpha=0.9)", 0.1, 4)} == {"CenterLoss(alpha=0.9)"}


def test_a_margin_that_is_an_integer_stays():
    assert all("margin" not in loss for loss, _ in tried_settings("LargeMarginSoftmaxLoss", 0.1, 4))
    assert all("margin=3" in loss for loss, _ in tried_settings("LargeMarginSoftmaxLoss(margin=3)", 0.1, 4))
