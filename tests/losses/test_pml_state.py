"""What was trained with PML's losses goes on with ours, and back: weights, arguments, moments of an optimizer."""

import copy
import warnings

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers, regularizers

from pml_center import losses
from pml_center.losses.pml_state import BEYOND_PML, load_optimizer_state
from pml_center.names import constructor_arguments

TWINS = [name for name in losses.__all__ if hasattr(pml_losses, name)]
C, D = 5, 8
each_twin = pytest.mark.parametrize("name", TWINS)
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of PML


def theirs(name, classes=C, **arguments):
    width = {"descriptors_dim" if name == "P2SGradLoss" else "embedding_size": D}
    return getattr(pml_losses, name)(num_classes=classes, **width, **arguments)


@pytest.fixture
def batch(generator):
    return torch.randn(20, D, generator=generator), torch.arange(20) % C


def same_state(loss, other):
    before, after = loss.state_dict(), other.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def plain(loss):
    """The numbers among its attributes, and the kinds of its parts."""
    parts = {name: type(part) for name, part in loss.named_children()}
    return parts | {name: value for name, value in vars(loss).items() if isinstance(value, int | float | str)}


def test_twins_were_found():
    assert len(TWINS) >= 7


@each_twin
def test_there_and_back_is_the_same_to_the_bit(name, batch):
    before = theirs(name)
    ours = getattr(losses, name).from_pml(before)
    after = ours.to_pml()
    assert type(after) is type(before)
    assert same_state(before, after)
    assert plain(before) == plain(after)
    assert torch.equal(before(*batch), after(*batch))
    again = getattr(losses, name).from_pml(ours.to_pml())
    assert same_state(ours, again)
    assert torch.equal(ours(*batch), again(*batch))


@each_twin
def test_what_was_given_and_frozen_goes_there_and_back(name, batch):
    arguments = {"reducer": reducers.SumReducer(), "embedding_regularizer": regularizers.LpRegularizer()}
    if name != "P2SGradLoss":
        arguments |= {"weight_regularizer": regularizers.RegularFaceRegularizer(), "weight_reg_weight": 0.3}
    before = theirs(name, **arguments).double().eval().requires_grad_(False)
    ours = getattr(losses, name).from_pml(before)
    for loss in (ours, ours.to_pml()):
        assert not loss.training
        assert not any(p.requires_grad for p in loss.parameters())
        assert {p.dtype for p in loss.parameters()} == {torch.float64}
        if name != "P2SGradLoss":  # of which PML's is 2 / C
            torch.testing.assert_close(loss(batch[0].double(), batch[1]), before(batch[0].double(), batch[1]))
        assert loss.embedding_regularizer is before.embedding_regularizer
        assert getattr(loss, "weight_regularizer", None) is getattr(before, "weight_regularizer", None)


@pytest.mark.parametrize("prefix", ["", "criterion."])
@pytest.mark.parametrize("strict", [True, False])
@each_twin
def test_the_state_of_pml_is_taken_under_any_prefix(name, strict, prefix):
    before, ours = theirs(name), getattr(losses, name)(C, D)
    module = torch.nn.ModuleDict({"criterion": ours}) if prefix else ours
    module.load_state_dict({prefix + key: value for key, value in before.state_dict().items()}, strict=strict)
    assert torch.equal(ours.W, before.state_dict()[ours.pml_weight])


BEYOND = {
    "bias": True,
    "sample_rate": 0.5,
    "label_smoothing": 0.1,
    "gradient": "detached",
    "margin_schedule": lambda step: 1,
    "scale_schedule": lambda step: 1,
    "sub_centers": 2,
    "loss_weights": [1, 2, 3, 4, 5],
    "ignore_index": -1,
    "miner_weighting": "count",
    "beyond_pi": "rotate",
    "scale_by_norm": False,
    "learn_scale": True,
    "normalize_weights": False,
    "prior_weight": 1,
    "hard_negatives": 2,
    "update": "fixed",
}
WITH = {"prior_weight": {"class_counts": 3}, "hard_negatives": {"hard_negative_margin": 0.1}}


@each_twin
def test_an_option_that_pml_does_not_have_is_refused(name):
    kind = getattr(losses, name)
    for option in BEYOND.keys() & set(constructor_arguments(kind)) - set(
        constructor_arguments(getattr(pml_losses, name))
    ):
        try:
            loss = kind(C, D, **{option: BEYOND[option]}, **WITH.get(option, {}))
        except ValueError:  # this loss does not have it either
            continue
        with pytest.raises(ValueError, match=rf"^{option} must be left out for to_pml, because PML's {name} has no"):
            loss.to_pml()


def test_sphereface_r_is_not_in_pml():
    with pytest.raises(ValueError, match="must be left out for to_pml"):
        losses.SphereFaceLoss(C, D, version="r").to_pml()


NO_MATTER = {"chunk_size", "product_precision", "sparse_gradient", "sample_correction"}  # how, not what
NO_MATTER |= {"init", "init_length"}  # where weights start
NO_MATTER |= {"class_counts", "hard_negative_margin"}  # only with another that is looked at
BY_OTHERS = {"version", "scale", "embedding_size"}  # whose values stand in gradient, temperature, descriptors_dim


@each_twin
def test_every_option_is_known_to_pml_or_looked_at(name):
    ours = set(constructor_arguments(getattr(losses, name), stop=torch.nn.Module))
    pml = set(constructor_arguments(getattr(pml_losses, name), stop=torch.nn.Module))
    mixin = {"weight_init_func", "weight_regularizer", "weight_reg_weight"}  # which PML's P2SGradLoss lacks
    assert ours - pml - BEYOND_PML.keys() - NO_MATTER - BY_OTHERS <= (mixin if name == "P2SGradLoss" else set())
    assert BEYOND_PML.keys() == BEYOND.keys()


def test_a_loss_without_a_twin_and_a_loss_of_ours_are_refused():
    with pytest.raises(TypeError, match="loss must have a class of its name in PML, got AdaFaceLoss"):
        losses.AdaFaceLoss(C, D).to_pml()
    with pytest.raises(TypeError, match="loss must be PML's ArcFaceLoss, got our own ArcFaceLoss"):
        losses.ArcFaceLoss.from_pml(losses.ArcFaceLoss(C, D))
    with pytest.raises(TypeError, match="loss must be PML's ArcFaceLoss, got SubCenterArcFaceLoss"):
        losses.ArcFaceLoss.from_pml(theirs("SubCenterArcFaceLoss"))


def test_p2sgrad_has_the_names_of_pml(batch):
    loss = losses.P2SGradLoss(descriptors_dim=D, num_classes=C)
    assert (loss.embedding_size, loss.descriptors_dim, loss.num_classes) == (D, D, C)
    pml_loss = theirs("P2SGradLoss")
    loss.load_state_dict(pml_loss.state_dict())
    torch.testing.assert_close(loss(*batch), pml_loss(*batch) * C / 2)
    for sizes in ({}, {"embedding_size": D, "descriptors_dim": D}):
        with pytest.raises(TypeError, match="embedding_size must be given once, by this name or by PML's, descriptors"):
            losses.P2SGradLoss(num_classes=C, **sizes)


def test_a_state_that_a_filter_left_nothing_of_is_reported(batch):
    loss, saved = losses.CosFaceLoss(C, D), theirs("CosFaceLoss").state_dict()
    own = loss.state_dict()
    own.update({name: value for name, value in saved.items() if name in own})
    with pytest.warns(
        UserWarning, match="CosFaceLoss was given the very class weights that it has.* its 'W'"
    ) as caught:
        loss.load_state_dict(own)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss.load_state_dict(copy.deepcopy(own))
        loss.load_state_dict(saved)


def trained(loss, kind, batch):
    """The optimizer of a loss after two steps."""
    optimizer = kind([torch.nn.Parameter(torch.ones(3)), *loss.parameters()], lr=0.1)
    for _ in range(2):
        step(loss, optimizer, batch)
    return optimizer


def step(loss, optimizer, batch):
    optimizer.zero_grad()
    loss(*batch).backward()
    optimizer.step()


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


@pytest.mark.parametrize("first", ["loss", "optimizer"])
@pytest.mark.parametrize("kind", [momentum, torch.optim.Adam])
@pytest.mark.parametrize("classes", [C, D])
@each_twin
def test_an_optimizer_goes_on_with_moments_of_pml(name, classes, kind, first, batch):
    if name == "P2SGradLoss":
        return  # whose gradient is another
    pml_loss = theirs(name, classes)
    before = trained(pml_loss, kind, batch)
    ours = getattr(losses, name)(classes, D)
    saved = copy.deepcopy((pml_loss.state_dict(), before.state_dict()))
    optimizer = kind([torch.nn.Parameter(torch.ones(3)), *ours.parameters()], lr=0.7)
    if first == "optimizer":
        load_optimizer_state(optimizer, saved[1], ours)
    ours.load_state_dict(saved[0])
    if first == "loss":
        load_optimizer_state(optimizer, saved[1], ours)
    for _ in range(2):
        step(pml_loss, before, batch), step(ours, optimizer, batch)
    torch.testing.assert_close(ours.W, pml_loss.W, rtol=1e-3, atol=1e-4)
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("classes", [C, D])
def test_moments_of_pml_that_nobody_turned_are_refused(classes, batch):
    pml_loss = theirs("CosFaceLoss", classes)
    before = trained(pml_loss, torch.optim.Adam, batch)
    ours = losses.CosFaceLoss.from_pml(pml_loss)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3)), *ours.parameters()], lr=0.1)
    optimizer.load_state_dict(before.state_dict())
    for _ in range(2):  # not the first time alone
        with pytest.raises(ValueError, match=r"optimizer must be new, or have moments of our class weights, .*PML's"):
            step(ours, optimizer, batch)
    new = torch.optim.Adam(ours.parameters())
    step(ours, new, batch)
    step(ours, new, batch)


def test_what_cannot_be_turned_is_refused(batch):
    pml_loss, ours = theirs("CosFaceLoss"), losses.CosFaceLoss(C, D)
    mine = trained(ours, torch.optim.Adam, batch)
    with pytest.raises(ValueError, match=r"state_dict must have moments of PML's class weights, \(8, 5\), got exp_avg"):
        load_optimizer_state(mine, mine.state_dict(), ours)
    sums = trained(pml_loss, torch.optim.Adafactor, batch).state_dict()
    with pytest.raises(ValueError, match=r"state_dict must have moments .* got row_var of shape \(8, 1\)"):
        load_optimizer_state(mine, sums, ours)
    with pytest.raises(TypeError, match="losses must be ours with class weights, got CosFaceLoss, TripletMarginLoss"):
        load_optimizer_state(mine, sums, pml_loss, losses.TripletMarginLoss())
    with pytest.raises(ValueError, match="optimizer must have the class weights of losses, got none"):
        load_optimizer_state(torch.optim.SGD([torch.nn.Parameter(torch.ones(3))]), sums, ours)


def test_losses_of_pml_are_there_by_their_names():
    assert losses.TripletMarginLoss is pml_losses.TripletMarginLoss
    assert losses.ArcFaceLoss is not pml_losses.ArcFaceLoss
    assert all(hasattr(losses, name) for name, found in vars(pml_losses).items() if isinstance(found, type))
    assert set(losses.__all__) & {"TripletMarginLoss", "NTXentLoss"} == set()
    with pytest.raises(AttributeError, match=r"module 'pml_center\.losses' has no attribute 'ArcFaseLoss'"):
        losses.ArcFaseLoss  # noqa: B018
    assert not hasattr(losses, "arcface_losses")


def test_a_flag_by_position_is_no_rate_of_centers():
    with pytest.raises(ValueError, match=r"alpha must be .*positive, got True"):
        losses.CenterLoss(C, D, True)  # use_gpu, as another code has it
