"""What a search tries: every loss says what is moved, and what means the same moves alike."""

from dataclasses import replace

import pytest

from pml_center import losses
from pml_center.comparison.search_space import LOSS_LR, LR, SearchSpace, check_hold, tuned
from pml_center.comparison.tuned_of_pml import TUNED
from pml_center.names import constructor_parameters
from pml_center.training import TrainConfig, parse_loss
from pml_center.training.loss_formula import known_losses

CONFIG = TrainConfig()
KNOWN = known_losses()
NEEDS = {  # arguments that a loss cannot be built without
    "ManifoldLoss": "l=4",
    "RankedListLoss": "margin=0.4, Tn=2",
}
# Two sets of images, a bad name of an argument that training gives, and no labels.
UNUSABLE = {"HeteroCenterLoss", "pml.HeteroCenterLoss", "pml.P2SGradLoss", "VICRegLoss", "pml.VICRegLoss"}
pytestmark = [  # of PML, with numpy 2; and of one of its losses beyond the edge of its range
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Values of Tp or Tn:UserWarning"),
]
USABLE = sorted(KNOWN.keys() - UNUSABLE)
NOTHING_ELSE = {
    "AdaCosLoss",
    "AngularCenterLoss",
    "CenterLoss",
    "DynamicSoftMarginLoss",
    "FastAPLoss",
    "HistogramLoss",
    "NPairsLoss",
    "P2SGradLoss",
    "SoftmaxLoss",
}


def space(formula, *hold, **changes):
    return SearchSpace(formula, replace(CONFIG, **changes), hold, num_classes=200)


def formula_of(name):
    return f"{name}({NEEDS.get(name.removeprefix('pml.'), '')})"


def names(formula, *hold):
    return [knob.name for knob in space(formula, *hold).knobs]


def test_the_first_setting_is_the_one_that_is_given():
    given = space("2*CosFaceLoss", lr=0.1).settings(2)[0]
    assert (given.loss, given.lr, given.loss_lr, given.per_class) == ("2*CosFaceLoss", 0.1, None, 0)


def test_rates_are_those_of_every_other_loss_and_all_differ():
    one, other = (
        space(formula).settings(9)
        for formula in ("ArcFaceLoss", "SoftmaxLoss + 0.1 * CenterLoss + TripletMarginLoss @ MultiSimilarityMiner")
    )
    assert [(each.lr, each.loss_lr, each.per_class) for each in one] == [
        (each.lr, each.loss_lr, each.per_class) for each in other
    ]
    rates = [setting.lr for setting in one]
    assert len(set(rates)) == 9
    assert LR.low <= min(rates) / 0.002 < 0.5
    assert LR.high >= max(rates) / 0.002 > 2
    assert max(setting.loss_lr for setting in one[1:]) > LOSS_LR.high / 4 * 0.002
    assert {setting.per_class for setting in one} == {0, 4}


@pytest.mark.parametrize("name", USABLE)
def test_every_loss_can_be_built_with_all_that_is_tried(name):
    searched = space(formula_of(name))
    settings = searched.settings(6)
    assert len({setting.loss for setting in settings}) == (6 if len(searched.knobs) > len(rates_of(searched)) else 1)
    for setting in [*settings, *(searched.widened(each, settings, 6) for each in settings)]:
        parse_loss(setting.loss, 4, 4, class_counts=1)


def rates_of(searched):
    return [knob for knob in searched.knobs if knob.term < 0]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_what_is_tuned_are_arguments_and_losses_of_pml_are_in_the_table(name):
    kind = KNOWN[name]
    assert hasattr(kind, "tuned") or kind.__name__ in TUNED or hasattr(losses, kind.__name__)
    found = tuned(kind).keys() - constructor_parameters(kind).keys()
    assert found <= {"margin", "scale"}  # of the family or of the loss of ours, which not every other has


def test_only_losses_without_anything_else_have_no_more_than_rates():
    plain = {name for name in USABLE if len((found := space(formula_of(name))).knobs) == len(rates_of(found))}
    assert {name.removeprefix("pml.") for name in plain} == NOTHING_ELSE


@pytest.mark.parametrize(
    ("formula", "same"),
    [
        ("CosFaceLoss(margin=0, scale=64)", "NormalizedSoftmaxLoss(temperature=0.015625)"),
        ("NormalizedSoftmaxLoss(scale=64)", "NormalizedSoftmaxLoss(temperature=0.015625)"),
    ],
)
def test_two_spellings_of_one_function_try_the_same(formula, same):
    one, other = (space(each, "margin").settings(33) for each in (formula, same))
    for first, second in zip(one, other, strict=True):
        assert (first.lr, first.loss_lr, first.per_class) == (second.lr, second.loss_lr, second.per_class)
        scales = [parse_loss(setting.loss, 4, 4).losses[0].scale for setting in (first, second)]
        assert scales[0] == pytest.approx(scales[1], rel=1e-15)
    assert len({setting.loss for setting in one}) == 33


def test_a_sum_and_the_loss_that_is_that_sum_try_the_same():
    joint = space("SoftmaxCenterLoss(center_weight=0.01)").settings(9)
    terms = space("SoftmaxLoss + 0.01 * CenterLoss").settings(9)
    for one, other in zip(joint, terms, strict=True):
        assert parse_loss(one.loss, 4, 4).losses[0].center_weight == parse_loss(other.loss, 4, 4).weights[1]
        assert (one.lr, one.loss_lr) == (other.lr, other.loss_lr)


def test_what_a_loss_says_moves_and_weights_beside_the_first_loss_and_nothing_else():
    formula = "2 * CosFaceLoss(chunk_size=2) + 0.01 * CenterLoss(alpha=0.9) + TripletMarginLoss @ TripletMarginMiner"
    for setting in space(formula).settings(6)[1:]:
        built = parse_loss(setting.loss, 4, 4, class_counts=1)
        cosface, center, triplet = built.losses
        assert built.weights[0] == 2
        assert built.weights[1] != 0.01
        assert 0.001 <= built.weights[1] <= 0.1
        assert 4 <= cosface.scale <= 128
        assert (cosface.chunk_size, center.alpha) == (2, 0.9)
        assert triplet.margin != 0.05
        assert "@ TripletMarginMiner" in setting.loss


def test_a_center_loss_alone_has_no_weight_to_move():
    assert {setting.loss for setting in space("CenterLoss(alpha=0.9)").settings(4)} == {"CenterLoss(alpha=0.9)"}


def test_a_margin_that_is_an_integer_stays():
    assert all("margin" not in setting.loss for setting in space("LargeMarginSoftmaxLoss").settings(4))
    assert all("margin=3" in setting.loss for setting in space("LargeMarginSoftmaxLoss(margin=3)").settings(4))


def test_draws_cover_each_range_however_long_the_formula():
    formula = "ArcFaceLoss + 0.1 * CenterLoss + 0.1 * CircleLoss + 0.1 * ContrastiveLoss"
    searched = space(formula, "per_class")
    settings = searched.settings(9)[1:]
    for number, knob in enumerate(searched.knobs):
        places = sorted(knob.range.place_of(setting.values[number]) for setting in settings)
        assert [int(8 * min(place, 0.999) + 0.1) for place in places] == pytest.approx(range(8), abs=1), knob.name


def test_more_settings_begin_with_the_same():
    assert space("ArcFaceLoss").settings(16)[:4] == space("ArcFaceLoss").settings(4)


def test_what_is_held_stays_and_must_be_there():
    assert names("ArcFaceLoss", "margin", "per_class", "lr") == ["loss_lr", "scale"]
    check_hold(["margin", "lr"], ["ArcFaceLoss", "NTXentLoss"], CONFIG)
    with pytest.raises(ValueError, match=r"hold must be a known name, got 'margni'\. Did you mean 'margin'"):
        check_hold(["margni"], ["ArcFaceLoss"], CONFIG)


def test_batches_by_class_are_tried_where_there_are_enough_classes():
    assert "per_class" not in [knob.name for knob in SearchSpace("ArcFaceLoss", CONFIG, num_classes=10).knobs]
    by_class = SearchSpace("ArcFaceLoss", replace(CONFIG, per_class=8), num_classes=16).settings(9)
    assert {setting.per_class for setting in by_class} == {0, 8}


def test_a_choice_at_an_edge_is_named_and_the_range_is_widened_there():
    searched = space("CosFaceLoss", "per_class", "loss_lr")
    tried = [searched.at(values) for values in ([0.001, 20.0, 0.0], [0.002, 40.0, 0.2], [0.004, 80.0, 0.4])]
    assert searched.edges(tried[1], tried) == {}
    assert searched.edges(tried[2], tried) == {"lr": "largest", "scale": "largest", "margin": "largest"}
    assert searched.edges(tried[0], tried) == {"lr": "smallest", "scale": "smallest"}  # a margin ends at 0
    lr, scale, margin = searched.widened(tried[2], tried, 3).values
    assert (lr, scale, margin) == (pytest.approx(0.008, rel=0.01), pytest.approx(190, rel=0.01), pytest.approx(0.575))
    assert searched.widened(tried[1], tried, 3) == searched.point(3)
    other = space("NormalizedSoftmaxLoss", "per_class", "loss_lr")
    cold = [other.at([0.002, temperature]) for temperature in (1 / 20, 1 / 40, 1 / 80)]
    assert 1 / other.widened(cold[2], cold, 3).values[1] == pytest.approx(scale)
