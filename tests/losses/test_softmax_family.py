"""What is particular to the softmax family: equality with PML, golden values, margins."""

import math

import pytest
import torch
from pytorch_metric_learning import distances
from pytorch_metric_learning import losses as pml_losses

from pml_center import losses
from pml_center.losses.base_softmax_loss import Batch

SAME_NAME = [
    "ArcFaceLoss",
    "CosFaceLoss",
    "LargeMarginSoftmaxLoss",
    "NormalizedSoftmaxLoss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of PML
@pytest.mark.parametrize("name", SAME_NAME)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_equals_the_loss_of_that_name_in_pml(name, dtype, chunk_size, generator):
    theirs = getattr(pml_losses, name)(num_classes=9, embedding_size=6).to(dtype)
    ours = getattr(losses, name)(9, 6, chunk_size=chunk_size).to(dtype)
    with torch.no_grad():
        ours.class_weights.weight.copy_(theirs.W.t())
    labels = torch.randint(9, (20,), generator=generator)
    embeddings = torch.randn(20, 6, generator=generator, dtype=dtype)
    mine, other = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    value, expected = ours(mine, labels), theirs(other, labels)
    value.backward(), expected.backward()
    close = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(value, expected, **close)
    torch.testing.assert_close(mine.grad, other.grad, **close)
    torch.testing.assert_close(ours.class_weights.weight.grad.t(), theirs.W.grad, **close)
    torch.testing.assert_close(ours.get_logits(embeddings), theirs.get_logits(embeddings), **close)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of PML
@pytest.mark.parametrize("name", SAME_NAME)
def test_is_made_from_the_loss_of_that_name_in_pml(name, generator):
    theirs = getattr(pml_losses, name)(num_classes=9, embedding_size=6)
    ours = getattr(losses, name).from_pml(theirs)
    embeddings, labels = torch.randn(20, 6, generator=generator), torch.randint(9, (20,), generator=generator)
    torch.testing.assert_close(ours(embeddings, labels), theirs(embeddings, labels), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of PML
@pytest.mark.parametrize("name", SAME_NAME)
def test_has_the_parameters_and_defaults_of_pml(name):
    ours, theirs = getattr(losses, name)(3, 2), getattr(pml_losses, name)(num_classes=3, embedding_size=2)
    shared = {"margin", "scale", "temperature"} & set(theirs._record_these)
    assert shared
    for parameter in shared:
        value = getattr(theirs, parameter)
        value = math.degrees(value) if name.endswith("ArcFaceLoss") and parameter == "margin" else value
        assert getattr(ours, parameter) == pytest.approx(value)


@pytest.mark.parametrize(
    "loss", [losses.ArcFaceLoss(3, 2), losses.ArcFaceLoss(3, 2, margin=120), losses.CosFaceLoss(3, 2)]
)
def test_a_margin_only_makes_the_target_harder(loss):
    cosine = torch.linspace(1, -1, 2001, dtype=torch.double)  # θ from 0 to π
    target = loss.target_cosine(Batch(cosine, torch.ones_like(cosine), torch.zeros(2001, dtype=torch.long)))
    assert (target <= cosine + 1e-6).all()
    assert (target.diff() <= 0).all()


@pytest.mark.parametrize("norm", [1.0, 20.0, 90.0])
@pytest.mark.parametrize(
    "name", ["AdaFaceLoss", "MagFaceLoss", "ElasticFaceLoss", "DynamicArcFaceLoss", "LiArcFaceLoss"]
)
def test_a_larger_angle_is_never_rewarded(name, norm):
    loss = getattr(losses, name)(3, 2, **({"class_counts": 20} if name == "DynamicArcFaceLoss" else {})).double().eval()
    if name == "AdaFaceLoss":
        loss.batch_std.fill_(10.0)  # so that a long embedding has a negative angular margin
    cosine = torch.linspace(1, -1, 2001, dtype=torch.double)  # θ from 0 to π
    target = loss.target_cosine(Batch(cosine, torch.full_like(cosine, norm), torch.zeros(2001, dtype=torch.long)))
    assert (target.diff() <= 0).all()


def test_embeddings_keep_their_length_where_pml_lets_them(generator):
    distance = distances.DotProductSimilarity(normalize_embeddings=False)
    theirs = pml_losses.NormalizedSoftmaxLoss(9, 6, temperature=0.5, distance=distance)
    ours = losses.NormalizedSoftmaxLoss(9, 6, temperature=0.5, distance=distance)
    ours.load_state_dict(theirs.state_dict())
    embeddings, labels = torch.randn(20, 6, generator=generator), torch.randint(9, (20,), generator=generator)
    torch.testing.assert_close(ours(embeddings, labels), theirs(embeddings, labels))
    torch.testing.assert_close(ours.get_logits(embeddings), theirs.get_logits(embeddings))


def test_sphereface_r_is_a_version_with_defaults_of_its_own():
    loss, other = losses.SphereFaceLoss(3, 2, version="r"), losses.SphereFaceLoss(3, 2, margin=2, scale=9, version="r")
    assert (loss.margin, loss.scale, loss.gradient, loss.scale_by_norm) == (1.7, 30, "detached", False)
    assert (other.margin, other.scale) == (2, 9)


def test_tiny_losses_keep_their_relative_precision():
    loss = losses.SoftmaxLoss(2, 1, bias=False)
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.tensor([[50.0], [38.0]]))
    assert loss(torch.ones(1, 1), torch.tensor([0])).item() == pytest.approx(math.log1p(math.exp(-12)), rel=1e-6)


def test_the_default_start_is_that_of_xavier():
    assert losses.CosFaceLoss(1000, 64).W.std().item() == pytest.approx((2 / 1064) ** 0.5, rel=0.02)


def test_a_margin_in_radians_is_questioned():
    with pytest.warns(UserWarning, match=r"0.5 degrees, almost no margin.* margin=28.6"):
        losses.ArcFaceLoss(3, 2, margin=0.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: losses.ArcFaceLoss(3, 2, margin=181), r"margin must be in \[0, 180\] degrees, got 181"),
        (lambda: losses.LargeMarginSoftmaxLoss(3, 2, margin=2.5), r"margin must be an integer of at least 1, got 2.5"),
        (lambda: losses.SphereFaceLoss(3, 2, margin=0.9), r"margin must be at least 1, got 0.9"),
        (lambda: losses.CombinedMarginLoss(3, 2, m1=0), r"m1 must be positive, got 0"),
        (lambda: losses.CombinedMarginLoss(3, 2, m2=4), r"m2 must be in \[0, π\] radians, got 4"),
        (
            lambda: losses.CombinedMarginLoss(3, 2, m3=-0.1),
            r"m3 must be in \[0, 2\], a difference of cosines, got -0.1",
        ),
        (lambda: losses.SubCenterArcFaceLoss(3, 2, margin=-1), r"margin must be in \[0, 180\] degrees, got -1"),
        (lambda: losses.LiArcFaceLoss(3, 2, margin=-1), r"margin must be in \[0, π\] radians, got -1"),
        (lambda: losses.COCOLoss(3, 2, scale=0), r"scale must be positive, got 0"),
        (lambda: losses.NormalizedSoftmaxLoss(3, 2, scale="big"), r"scale must be a number, 'auto' or None, got 'big'"),
        (lambda: losses.NormalizedSoftmaxLoss(3, 2, scale=-2), r"scale must be positive, got -2"),
        (lambda: losses.CurricularFaceLoss(3, 2, margin=4), r"margin must be in \[0, π\] radians, got 4"),
        (lambda: losses.CurricularFaceLoss(3, 2, momentum=2), r"momentum must be in \[0, 1\], got 2"),
        (lambda: losses.MVSoftmaxLoss(3, 2, "angular", 4), r"margin must be in \[0, π\] radians, got 4"),
        (lambda: losses.MVSoftmaxLoss(3, 2, hardness=-1), r"hardness must be at least 0, got -1"),
        (lambda: losses.AdaFaceLoss(3, 2, margin=2), r"margin must be in \[0, π/2\] radians, got 2"),
        (lambda: losses.AdaFaceLoss(3, 2, concentration=-1), r"concentration must be at least 0, got -1"),
        (lambda: losses.AdaFaceLoss(3, 2, momentum=-1), r"momentum must be in \[0, 1\], got -1"),
        (lambda: losses.MagFaceLoss(3, 2, lower_norm=0), r"lower_norm must be positive and below upper_norm=110, got"),
        (lambda: losses.MagFaceLoss(3, 2, lower_margin=0.9), r"lower_margin must be in \[0, upper_margin=0.8\]"),
        (lambda: losses.MagFaceLoss(3, 2, regularizer_weight=-1), r"regularizer_weight must be at least 0, got -1"),
        (lambda: losses.ElasticFaceLoss(3, 2, std=-1), r"std must be at least 0, got -1"),
        (lambda: losses.ElasticFaceLoss(3, 2, "angle"), r"variant must be a known name, got 'angle'. Did you mean"),
        (lambda: losses.AdaptiveFaceLoss(3, 2, initial_margin=2), r"initial_margin must be in \[0, 1\], got 2"),
        (lambda: losses.AdaptiveFaceLoss(3, 2, margin_weight=-1), r"margin_weight must be at least 0, got -1"),
        (lambda: losses.DynamicArcFaceLoss(3, 2, 5, factor=4), r"factor must be in \[0, π\] radians, and factor \+"),
        (lambda: losses.DynamicArcFaceLoss(3, 2, 5, exponent=-1), r"exponent must be at least 0, got -1"),
        (lambda: losses.KappaFaceLoss(3, 2, 5, margin=4), r"margin must be in \[0, π\] radians, got 4"),
        (lambda: losses.KappaFaceLoss(3, 2, 5, temperature=-1), r"temperature must be at least 0, got -1"),
        (lambda: losses.KappaFaceLoss(3, 2, 5, balance=2), r"balance must be in \[0, 1\], got 2"),
        (lambda: losses.CosFaceLoss(3, 2, scale=0), r"scale must be positive, got 0"),
        (lambda: losses.NormalizedSoftmaxLoss(3, 2, temperature=-1), r"temperature must be positive, got -1"),
        (lambda: losses.CircleSoftmaxLoss(3, 2, margin=1), r"margin must be in \[0, 1\), got 1"),
        (lambda: losses.UniFaceLoss(3, 2, negative_weight=0), r"negative_weight must be positive, got 0"),
        (lambda: losses.UniFaceLoss(3, 2, thresholds="one"), r"thresholds must be a known name, got 'one'"),
        (lambda: losses.SphereFace2Loss(3, 2, margin=2), r"margin must be in \[0, 1\], got 2"),
        (lambda: losses.SphereFace2Loss(3, 2, positive_weight=1), r"positive_weight must be in \(0, 1\), got 1"),
        (lambda: losses.SphereFace2Loss(3, 2, exponent=0.5), r"exponent must be at least 1, got 0.5"),
        (lambda: losses.SphereFace2Loss(3, 2, factor=0), r"factor must be positive, got 0"),
        (lambda: losses.SFaceLoss(3, 2, slope=0), r"slope must be positive, got 0"),
        (lambda: losses.SFaceLoss(3, 2, push_until=4), r"push_until must be in \[0, π\] radians, got 4"),
        (lambda: losses.ArcNegFaceLoss(3, 2, margin=4), r"margin must be in \[0, π\] radians, got 4"),
        (lambda: losses.ArcNegFaceLoss(3, 2, width=0), r"width must be positive, got 0"),
        (lambda: losses.NPCFaceLoss(3, 2, margin=4), r"margin must be in \[0, π\] radians, got 4"),
        (lambda: losses.NPCFaceLoss(3, 2, least_margin=0.1), r"least_margin and added_margin .* got 0.1 and 0.2"),
        (lambda: losses.NPCFaceLoss(3, 2, slope=0.5), r"slope must be at least 1, got 0.5"),
        (lambda: losses.VPLLoss(3, 2, margin=4), r"margin must be in \[0, π\] radians, got 4"),
        (lambda: losses.VPLLoss(3, 2, share=1), r"share must be in \[0, 1\), got 1"),
        (lambda: losses.VPLLoss(3, 2, max_age=0), r"max_age must be an integer of at least 1, got 0"),
        (lambda: losses.BroadFaceLoss(3, 2, margin=4), r"margin must be in \[0, π\] radians, got 4"),
        (lambda: losses.BroadFaceLoss(3, 2, queue_size=0), r"queue_size must be an integer of at least 1, got 0"),
        (lambda: losses.BroadFaceLoss(3, 2, sub_centers=2), r"sub_centers must be 1 because BroadFaceLoss .* got 2"),
        (lambda: losses.P2SGradLoss(3, 2, label_smoothing=0.1), r"label_smoothing must be 0 because P2SGradLoss is no"),
        (lambda: losses.SoftmaxLoss(3, 2, label_smoothing=1), r"label_smoothing must be in \[0, 1\), got 1"),
        (lambda: losses.SoftmaxLoss(3, 2, chunk_size=0), r"chunk_size must be an integer of at least 1, got 0"),
    ],
)
def test_an_argument_outside_its_range_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("distance", [distances.LpDistance(), distances.SNRDistance()])
def test_another_distance_is_refused(distance):
    with pytest.raises(TypeError, match=r"distance must be CosineSimilarity because CosFaceLoss is defined on it"):
        losses.CosFaceLoss(3, 2, distance=distance)
    with pytest.raises(TypeError, match=r"distance must be DotProductSimilarity because SoftmaxLoss"):
        losses.SoftmaxLoss(3, 2, distance=distance)


def test_the_distances_of_pml_that_fit_are_taken():
    losses.CosFaceLoss(3, 2, distance=distances.CosineSimilarity())
    losses.NormalizedSoftmaxLoss(3, 2, distance=distances.DotProductSimilarity())
    losses.SoftmaxLoss(3, 2, distance=distances.DotProductSimilarity(normalize_embeddings=False))


@pytest.mark.parametrize("num_classes", [2, 3, 100, 100_000])
@pytest.mark.parametrize("variant", ["cosine", "angular"])
def test_the_two_terms_of_sphereface2_pull_equally_at_the_start(num_classes, variant):
    loss = losses.SphereFace2Loss(num_classes, 2, variant=variant, gradient="full")
    right = torch.zeros(1, dtype=torch.double)
    own = 40 * loss.target_cosine(Batch(right, right, right)) + loss.threshold
    other = 40 * loss.negative_margin(right)(right) + loss.threshold
    pull, push = 0.7 * torch.sigmoid(-own), 0.3 * (num_classes - 1) * torch.sigmoid(other)
    torch.testing.assert_close(pull, push, rtol=1e-4, atol=0)


def test_new_classes_of_uniface_start_from_the_mean_threshold():
    loss = losses.UniFaceLoss(3, 2, thresholds="separate")
    loss.resize_classes(5)
    torch.testing.assert_close(loss.class_weights.bias, torch.full((5,), -math.log(30)))
    losses.UniFaceLoss(3, 2).resize_classes(5)


def test_the_scales_that_the_number_of_classes_gives():
    for classes in (2, 10, 1000):  # at the scale, a sample that is as far as can be from the other classes has p = 0.9
        scale = losses.NormalizedSoftmaxLoss(classes, 2, scale="auto").scale
        others = (classes - 1) * math.exp(-scale / (classes - 1))  # classes of a simplex have a cosine of −1/(C − 1)
        assert math.exp(scale) / (math.exp(scale) + others) == pytest.approx(0.9)
    assert losses.COCOLoss(10, 2).scale == pytest.approx(math.log(9) / 2 + 3)
    assert losses.AdaCosLoss(10, 2).scale == pytest.approx(math.sqrt(2) * math.log(9))
    assert losses.AdaCosLoss(10, 2).running_scale == pytest.approx(math.sqrt(2) * math.log(9))
    assert losses.NormalizedSoftmaxLoss(10, 2, scale=8).temperature == 1 / 8


def test_adacos_moves_its_scale_in_training_only(generator):
    loss = losses.AdaCosLoss(10, 4)
    batch = torch.randn(6, 4, generator=generator), torch.arange(6)
    start = loss.running_scale
    loss.eval()(*batch)
    assert loss.running_scale is start
    loss.train()(*batch)
    assert loss.running_scale != start
    fixed = losses.AdaCosLoss(10, 4, dynamic=False)
    fixed(*batch)
    assert fixed.running_scale == start


def test_adacos_stays_finite_when_all_embeddings_and_classes_are_the_same():
    loss = losses.AdaCosLoss(10, 4)
    with torch.no_grad():
        loss.class_weights.weight.fill_(1)
    with torch.no_grad():
        for _ in range(200):
            value = loss(torch.ones(6, 4), torch.arange(6)).item()
    assert loss.running_scale == 256
    assert value == pytest.approx(math.log(10), abs=1e-4)


def test_a_filtered_negative_counts_as_a_cosine_of_0():
    loss = losses.CombinedMarginLoss(3, 2, 1, 0, 0, scale=2, filter_threshold=0.5)
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1]]))
    value = loss(torch.tensor([[1.0, 0]]), torch.tensor([0]))
    assert value.item() == pytest.approx(math.log1p(2 * math.exp(-2)))


REFUSES = (
    "AdaptiveFaceLoss",
    "CircleSoftmaxLoss",
    "LargeMarginSoftmaxLoss",
    "LiArcFaceLoss",
    "MagFaceLoss",
    "SFaceLoss",
)


@pytest.mark.parametrize("name", ["ArcFaceLoss", "CosFaceLoss", "CurricularFaceLoss", "MVSoftmaxLoss", "VPLLoss"])
def test_a_detached_margin_leaves_the_value_and_pulls_as_the_cosine_does(name, generator):
    full, detached = (getattr(losses, name)(5, 4, scale=1, gradient=kind).double() for kind in ("full", "detached"))
    detached.load_state_dict(full.state_dict())
    embeddings = torch.randn(8, 4, generator=generator, dtype=torch.double, requires_grad=True)
    labels = torch.randint(5, (8,), generator=generator)
    torch.testing.assert_close(detached.get_logits(embeddings, labels), full.get_logits(embeddings, labels))
    margined, cosine = detached.get_logits(embeddings, labels), full.get_logits(embeddings)
    pull, of_cosine = (
        torch.autograd.grad(logits.gather(1, labels.unsqueeze(1)).sum(), embeddings)[0] for logits in (margined, cosine)
    )
    torch.testing.assert_close(pull, of_cosine)


@pytest.mark.parametrize("name", REFUSES)
def test_a_margin_that_is_no_constant_is_not_detached(name):
    kind = getattr(losses, name)
    assert kind(3, 2).gradient == "full"
    with pytest.raises(ValueError, match=f"gradient must be \"full\" because the margin of {name} .* got 'detached'"):
        kind(3, 2, gradient="detached")


def test_a_paper_may_detach_by_default():
    assert losses.SphereFace2Loss(3, 2).gradient == "detached"
    assert losses.CosFaceLoss(3, 2).gradient == "full"
    with pytest.raises(ValueError, match="gradient must be a known name, got 'ful'"):
        losses.ArcFaceLoss(3, 2, gradient="ful")


@pytest.mark.parametrize("num_classes", [10, 1000])
def test_the_first_step_of_sgd_does_not_throw_the_rows_about(num_classes):
    """From N(0, 0.01) ten rows became 37 times as long in one step, and hardly turned any more."""
    torch.manual_seed(0)
    loss = losses.CosFaceLoss(num_classes, 64)
    before = loss.W.norm(dim=0).mean().item()
    loss(torch.randn(128, 64), torch.randint(num_classes, (128,))).backward()
    torch.optim.SGD(loss.parameters(), 0.1).step()
    assert loss.W.norm(dim=0).mean() < 2 * before
