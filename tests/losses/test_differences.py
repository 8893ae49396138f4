"""Where we depart from official code: what theirs gives, and what the paper does."""

import math

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from pml_center import losses
from tests import golden_io


def first_step(name, loss):
    """The golden file, its first batch, and our loss and gradients from its weights."""
    golden = golden_io.load(name)
    step = golden.step(0)
    loss = loss.double()
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.from_numpy(golden.arrays["init/param/weight"]))
    embeddings = torch.from_numpy(step["embeddings"]).requires_grad_()
    loss(embeddings, torch.from_numpy(step["labels"])).backward()
    return golden, step, embeddings, loss.class_weights.weight


def on_the_sphere(gradient, rows):
    """The part of a gradient at ``rows / ‖rows‖`` that is tangent to the sphere, as a gradient at ``rows``."""
    directions = torch.nn.functional.normalize(rows.detach(), dim=1)
    tangent = gradient - (gradient * directions).sum(1, keepdim=True) * directions
    return tangent / rows.detach().norm(dim=1, keepdim=True)


def test_opensphere_leaves_the_radial_part_in_the_gradient_of_sphereface_r():
    loss = losses.SphereFaceLoss(6, 5, 1.7, 30, gradient="detached", scale_by_norm=False)
    _, step, _, weight = first_step("sphereface_r__opensphere__base", loss)
    theirs = torch.from_numpy(step["grad/weight"])
    assert not torch.allclose(weight.grad, theirs)
    torch.testing.assert_close(weight.grad, on_the_sphere(theirs, weight))


def test_opensphere_clamps_the_cosine_of_sphereface_r():
    loss = losses.SphereFaceLoss(4, 5, 1.7, 30, gradient="detached", scale_by_norm=False).double()
    golden = golden_io.load("sphereface_r__opensphere__exact")
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.from_numpy(golden.arrays["init/param/weight"]))
    step = golden.step(0)
    batch = torch.from_numpy(step["embeddings"]), torch.from_numpy(step["labels"])
    target = loss.get_logits(*batch)[torch.arange(len(batch[1])), batch[1]] / 30
    same = loss.get_logits(batch[0])[torch.arange(len(batch[1])), batch[1]] > 0  # cosine 1, else −1
    torch.testing.assert_close(target[same], torch.ones_like(target[same]))
    opposite = target[~same]
    torch.testing.assert_close(opposite, torch.full_like(opposite, -math.cos(1.7 * math.pi) - 2))
    clamped = 1.7 * torch.tensor([1 - 1e-5, 1e-5 - 1], dtype=torch.double).acos()
    ends = torch.stack([clamped[0].cos(), -clamped[1].cos() - 2])  # what the official code has there
    theirs = torch.nn.functional.softplus(math.log(3) - 30 * ends[(~same).long()])
    golden.assert_close("s0/loss_per_sample", theirs)


def test_opensphere_leaves_the_radial_part_in_the_gradient_of_coco():
    _, step, _, weight = first_step("coco__opensphere__base", losses.COCOLoss(6, 5, 30))
    theirs = torch.from_numpy(step["grad/weight"])
    assert not torch.allclose(weight.grad, theirs)
    torch.testing.assert_close(weight.grad, on_the_sphere(theirs, weight))


def test_insightface_ignores_the_angular_margin_beside_the_cosine_margin():
    golden = golden_io.load("combined_margin__insightface_CombinedMarginLoss_m3__hyper")
    step = golden.step(0)
    assert golden.meta["hyperparameters"]["m2"] == 0.3
    loss = losses.CombinedMarginLoss(4, 7, 1, 0.3, 0.2, scale=32).double()
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.from_numpy(golden.arrays["init/param/weight"]))
    embeddings, labels = torch.from_numpy(step["embeddings"]), torch.from_numpy(step["labels"])
    rows = torch.arange(len(labels)), labels
    cosine = loss.get_logits(embeddings)[rows] / 32
    ours = loss.get_logits(embeddings, labels)[rows] / 32
    theirs = torch.from_numpy(step["logits"])[rows] / 32
    torch.testing.assert_close(theirs, cosine - 0.2)
    within = cosine.acos() + 0.3 < math.pi
    assert within.any()
    torch.testing.assert_close(ours[within], (cosine.acos() + 0.3).cos()[within] - 0.2)


def test_adacos_codes_clamp_the_cosine_of_the_median_angle():
    golden = golden_io.load("adacos__4uiiurz1__exact")  # own cosines of ±1, all others 0
    _, _, _, weight = first_step("adacos__4uiiurz1__exact", loss := losses.AdaCosLoss(4, 5))
    assert weight.grad.isfinite().all()
    assert loss.running_scale == pytest.approx(math.log(3), rel=1e-14)
    assert golden.arrays["s0/state_after/s"] == pytest.approx(math.log(3) / (1 - 1e-7), rel=1e-12)


def test_adacos_keeps_a_scale_where_the_official_one_stays_zero():
    loss = losses.AdaCosLoss(2, 3)
    for _ in range(3):
        loss(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
        assert loss.running_scale >= 1


def test_the_caffe_layer_of_sphereface_ignores_the_margin_in_the_gradient_of_the_weights():
    golden, step, embeddings, weight = first_step("sphereface__wy1iu_caffe__base", losses.SphereFaceLoss(6, 5))
    probabilities = torch.from_numpy(step["logits"]).softmax(1)
    labels = torch.from_numpy(step["labels"])
    error = (probabilities - torch.nn.functional.one_hot(labels, 6)) / len(labels)
    golden.assert_close("s0/grad/weight", error.t() @ embeddings)
    assert not torch.allclose(weight.grad, torch.from_numpy(step["grad/weight"]))


def test_opensphere_leaves_the_radial_part_in_the_gradient_of_sphereface2():
    loss = losses.SphereFace2Loss(6, 5)
    assert abs(loss.threshold.item() - golden_io.load("sphereface2__opensphere__base").arrays["init/param/b"]) < 1e-6
    _, step, embeddings, weight = first_step("sphereface2__opensphere__base", loss)
    torch.testing.assert_close(embeddings.grad, torch.from_numpy(step["grad/embeddings"]), rtol=1e-6, atol=1e-6)
    theirs = torch.from_numpy(step["grad/weight"])
    assert not torch.allclose(weight.grad, theirs)
    torch.testing.assert_close(weight.grad, on_the_sphere(theirs, weight), rtol=1e-6, atol=1e-6)


def test_wespeaker_moves_the_other_classes_of_the_angular_sphereface2_as_well():
    golden = golden_io.load("sphereface2__wespeaker_A__base")
    step, official = golden.step(0), golden.meta["hyperparameters"]
    sizes, fixed = (golden.meta["num_classes"], golden.meta["embedding_size"]), {"exponent": official["t"]}
    loss = losses.SphereFace2Loss(
        *sizes, official["margin"], official["scale"], factor=official["scale"], variant="angular", **fixed
    ).double()
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.from_numpy(golden.arrays["init/param/weight"]))
        loss.threshold.fill_(golden.arrays["init/param/b"].item())
    batch = torch.from_numpy(step["embeddings"]), torch.from_numpy(step["labels"])
    own = torch.nn.functional.one_hot(batch[1], sizes[0]).bool()
    cosine = loss.get_logits(batch[0]) / official["scale"]
    angle = cosine.acos()
    margined = torch.where(own, (angle + official["margin"]).cos(), (angle - official["margin"]).cos())
    theirs, ours = (
        official["scale"] * (2 * ((moved + 1) / 2) ** official["t"] - 1) + loss.threshold
        for moved in (margined, torch.where(own, margined, cosine))
    )
    share = official["lanbuda"]

    def value(logits):
        positive, negative = (1 + (-logits).exp()).log(), (1 + logits.exp()).log()
        return torch.where(own, share * positive, (1 - share) * negative).sum(1).mean()

    golden.assert_close("s0/loss", value(theirs))
    torch.testing.assert_close(loss(*batch), value(ours))


def test_uniface_clamps_the_exponents():
    name = "uniface_uce__official__exact"
    golden = golden_io.load(name)
    loss = losses.UniFaceLoss(golden.meta["num_classes"], golden.meta["embedding_size"]).double()
    bias = golden.arrays["init/param/bias"].item()
    assert abs(loss.threshold.item() - bias) < 1e-6
    with torch.no_grad():
        loss.threshold.fill_(bias)
        loss.class_weights.weight.copy_(torch.from_numpy(golden.arrays["init/param/weight"]))
    batch = torch.from_numpy(golden.step(0)["embeddings"]), torch.from_numpy(golden.step(0)["labels"])
    own = torch.nn.functional.one_hot(batch[1], loss.num_classes).bool()
    logits = loss.get_logits(batch[0]) - bias
    exponents = torch.where(own, 64 * 0.4 - logits, logits)
    golden.assert_close("s0/loss", (1 + exponents.clamp(-64, 64).exp()).log().sum(1).mean())
    torch.testing.assert_close(loss(*batch), (1 + exponents.exp()).log().sum(1).mean())


def test_the_gradient_of_pmls_p2sgrad_is_2_by_c_of_the_papers():
    theirs = pml_losses.P2SGradLoss(5, 7).double()
    ours = losses.P2SGradLoss(7, 5).double()
    ours.class_weights.weight.data = theirs.weight.data.t().clone()
    embeddings, labels = torch.randn(12, 5, dtype=torch.double, requires_grad=True), torch.arange(12) % 7
    expected = torch.autograd.grad(ours(embeddings, labels), embeddings)[0] * 2 / 7
    torch.testing.assert_close(torch.autograd.grad(theirs(embeddings, labels), embeddings)[0], expected)


def of_target(golden, step, target, others, scale):
    """The loss of each sample from the cosine of its own class, with its margin, and those of all classes."""
    labels = torch.from_numpy(step["labels"])
    own = torch.nn.functional.one_hot(labels, golden.meta["num_classes"]).bool()
    return torch.nn.functional.cross_entropy(
        scale * torch.where(own, target.unsqueeze(1), others), labels, reduction="none"
    )


def adaface_at_the_ends():
    """Our loss with the statistics of the official code, and the batch where cosines are 1, -1 and 0."""
    golden = golden_io.load("adaface__official__exact")
    loss = losses.AdaFaceLoss(golden.meta["num_classes"], golden.meta["embedding_size"]).double().eval()
    step = golden.step(0)
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.from_numpy(golden.arrays["init/param/weight"]))
    loss.batch_mean = torch.from_numpy(step["state_after/batch_mean"]).squeeze()
    loss.batch_std = torch.from_numpy(step["state_after/batch_std"]).squeeze()
    return golden, step, loss


def test_the_official_adaface_clamps_cosines_and_ours_does_not():
    golden, step, loss = adaface_at_the_ends()
    embeddings, labels = torch.from_numpy(step["embeddings"]).requires_grad_(), torch.from_numpy(step["labels"])
    norm = embeddings.detach().norm(dim=1)
    quality = (0.333 * (norm - loss.batch_mean) / (loss.batch_std + 1e-3)).clamp(-1, 1)
    cosine = loss.get_logits(embeddings).detach() / 64
    own = cosine[torch.arange(len(labels)), labels]
    clamped = cosine.clamp(-1 + 1e-3, 1 - 1e-3)
    angle = clamped[torch.arange(len(labels)), labels].acos() - 0.4 * quality
    theirs = angle.clamp(1e-3, math.pi - 1e-3).cos() - 0.4 - 0.4 * quality
    golden.assert_close("s0/loss", of_target(golden, step, theirs, clamped, 64).mean())
    angle = own.clamp(-1, 1).acos() - 0.4 * quality
    shift = -0.4 * quality
    paper = torch.where(angle > math.pi, own - shift * shift.sin(), angle.cos()) - 0.4 - 0.4 * quality
    value = loss(embeddings, labels)
    torch.testing.assert_close(value, of_target(golden, step, paper, cosine, 64).mean())
    assert not torch.isclose(value, torch.from_numpy(step["loss"]))


def test_a_sample_of_adaface_that_is_far_from_its_class_still_has_a_gradient():
    loss = losses.AdaFaceLoss(2, 2).double().eval()
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.eye(2))
    angle = torch.tensor(math.pi - 0.02, dtype=torch.double)  # a cosine of -0.9998, beyond the official clamp
    embeddings = 20 * torch.stack([angle.cos(), angle.sin()]).unsqueeze(0)
    embeddings.requires_grad_()
    loss(embeddings, torch.tensor([0])).backward()
    assert embeddings.grad.norm() > 0.05


def test_one_sample_leaves_the_standard_deviation_of_adaface_alone():
    golden = golden_io.load("adaface__official__b1")
    assert golden.meta["nonfinite"]["s0/state_after/batch_std"] == 1
    loss = losses.AdaFaceLoss(3, 2, momentum=1)
    assert loss(torch.tensor([[3.0, 4.0]]), torch.tensor([0])).isfinite()
    assert loss.batch_mean == 5
    assert loss.batch_std == 100


@pytest.mark.parametrize(("variant", "margin"), [("arcface", "angular"), ("cosface", "cosine")])
@pytest.mark.parametrize("case", ["base", "hyper"])
def test_the_official_elasticface_plus_gives_margins_to_other_samples(variant, margin, case):
    name = f"elastic_{variant}__official_plus__{case}"
    golden = golden_io.load(name)
    step, scale = golden.step(0), golden.meta["hyperparameters"]["s"]
    labels, drawn = torch.from_numpy(step["labels"]), torch.from_numpy(step["in/sampled_margins"]).flatten()

    def value(margins, plus):
        sizes = golden.meta["num_classes"], golden.meta["embedding_size"]
        loss = losses.ElasticFaceLoss(*sizes, margin, std=0, scale=scale, plus=plus, beyond_pi="rotate").double()
        with torch.no_grad():
            loss.class_weights.weight.copy_(torch.from_numpy(golden.arrays["init/param/weight"]))
        loss.margin = margins
        return loss, loss(torch.from_numpy(step["embeddings"]), labels)

    loss, ours = value(drawn, plus=True)
    cosine = loss.get_logits(torch.from_numpy(step["embeddings"]))[torch.arange(len(labels)), labels]
    nearest_first = cosine.argsort(descending=True)
    _, theirs = value(drawn.sort().values[nearest_first], plus=False)  # by index, where a rank is meant
    golden.assert_close("s0/loss", theirs)
    meant = torch.empty_like(drawn)
    meant[nearest_first] = drawn.sort().values  # the nearest sample has the smallest margin
    torch.testing.assert_close(ours, value(meant, plus=False)[1])
    assert not torch.isclose(ours, theirs)


def test_the_mv_softmax_of_facex_zoo_has_no_margin_below_the_margin_itself():
    golden = golden_io.load("mv_softmax_am__facex_zoo__base")
    step, official = golden.step(0), golden.meta["hyperparameters"]
    loss = losses.MVSoftmaxLoss(6, 5, margin=official["margin"], hardness=official["mv_weight"] - 1).double()
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.from_numpy(golden.arrays["init/param/weight"]))
    embeddings, labels = torch.from_numpy(step["embeddings"]), torch.from_numpy(step["labels"])
    samples = torch.arange(len(labels))
    own = loss.get_logits(embeddings)[samples, labels] / 32
    theirs = loss.get_logits(embeddings, labels) / 32
    theirs[samples, labels] = torch.where(own > 0.35, own - 0.35, own)
    golden.assert_close("s0/loss", torch.nn.functional.cross_entropy(32 * theirs, labels))
    assert loss(embeddings, labels) > float(step["loss"])


def test_the_magface_of_facex_zoo_has_no_margin_beyond_pi():
    golden = golden_io.load("magface__facex_zoo__edge")
    official = golden.meta["hyperparameters"]
    arguments = {"scale": official["scale"], "regularizer_weight": official["lamda"]}
    loss = losses.MagFaceLoss(golden.meta["num_classes"], golden.meta["embedding_size"], **arguments)
    _, step, embeddings, _ = first_step("magface__facex_zoo__edge", loss)
    labels = torch.from_numpy(step["labels"])
    samples = torch.arange(len(labels))
    own = loss.get_logits(embeddings)[samples, labels] / official["scale"]
    theirs = loss.get_logits(embeddings, labels)
    norm = embeddings.norm(dim=1).clamp(10, 110)
    margin = 0.45 + 0.0035 * (norm - 10)
    is_beyond = own <= -margin.cos()
    assert is_beyond.any()
    theirs[samples[is_beyond], labels[is_beyond]] = official["scale"] * own[is_beyond]  # no margin at all
    penalty = official["lamda"] * (norm / 110**2 + 1 / norm)
    golden.assert_close(
        "s0/loss", (torch.nn.functional.cross_entropy(theirs, labels, reduction="none") + penalty).mean()
    )


def test_an_epoch_of_kappaface_ends_where_that_of_the_official_momentum_encoder_does():
    golden = golden_io.load("kappaface__official_momentum_head__epoch")
    official = golden.meta["hyperparameters"]
    loss = losses.KappaFaceLoss(
        5, 6, official["class_counts"], temperature=official["T"], balance=official["gamma"]
    ).double()
    for number in range(3):
        assert (loss.margin_shares == 1).all()
        step = golden.step(number)
        golden.assert_close(f"s{number - 1}/state_after/class_sums", loss.class_sums) if number else None
        loss(torch.from_numpy(step["embeddings"]), torch.from_numpy(step["labels"]))
    golden.assert_close("s2/out/class_weights", loss.margin_shares)
    golden.assert_close("s2/state_after_epoch/class_sums", loss.class_sums)


def test_a_class_seen_once_says_nothing_about_its_concentration():
    loss = losses.KappaFaceLoss(3, 2, class_counts=[4, 4, 1], balance=1)
    angles = torch.tensor([0.0, 0.1, -0.1, 0.2, 2.0, 3.0, 2.5, 2.0, 4.0])
    loss(torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2]))
    narrow, wide, unknown = loss.margin_shares.tolist()
    assert narrow < unknown == 0.5 < wide


@pytest.mark.parametrize("outside", [-0.2, 1.2])
def test_a_learned_margin_beyond_an_end_comes_back_and_goes_no_farther(outside):
    loss = losses.AdaptiveFaceLoss(2, 2, margin_weight=1)
    with torch.no_grad():
        loss.margins.fill_(outside)
    loss(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 0, 1])).backward()
    inward = loss.margins.grad if outside > 0 else -loss.margins.grad
    assert (inward > 0).all()  # descent leads back


@pytest.mark.parametrize("kind", [losses.DynamicArcFaceLoss, losses.KappaFaceLoss, losses.LDAMLoss])
def test_classes_may_differ_in_size(kind):
    counts = torch.tensor([50, 4, 1])
    loss = kind(3, 2, counts)
    if kind is losses.KappaFaceLoss:
        batch = (
            torch.randn(55, 2, generator=torch.Generator().manual_seed(0)),
            torch.arange(3).repeat_interleave(counts),
        )
        loss(*batch)
        loss.temperature = 0
    cosine = torch.zeros(3)
    target = loss.target_cosine(losses.base_softmax_loss.Batch(cosine, torch.ones(3), torch.arange(3)))
    assert target[1] > target[2]  # the smaller class has the larger margin
    loss.resize_classes(5)
    assert loss.class_counts.tolist() == [50, 4, 1, 1, 1]
    loss.resize_classes(2)
    assert loss.class_counts.tolist() == [50, 4]


def test_the_margin_of_ldam_follows_the_counts():
    loss = losses.LDAMLoss(3, 2, class_counts=[16, 81, 1], margin=0.6, scale=2).double()
    embeddings, labels = torch.randn(6, 2, dtype=torch.double), torch.arange(6) % 3
    margins = torch.tensor([0.6 / 2, 0.6 / 3, 0.6], dtype=torch.double)[labels]
    own = torch.nn.functional.one_hot(labels, 3)
    expected = loss.get_logits(embeddings) - 2 * own * margins.unsqueeze(1)
    torch.testing.assert_close(loss.get_logits(embeddings, labels), expected)


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 0], [1.0, 2, 3], [[1, 2, 3]]])
def test_class_counts_are_checked(counts):
    with pytest.raises(ValueError, match=r"class_counts must be positive integers, one for each of the 3 classes, got"):
        losses.KappaFaceLoss(3, 2, counts)


def test_magface_reports_the_share_of_lengths_without_gradient():
    loss = losses.MagFaceLoss(2, 2, collect_stats=True)
    loss(torch.tensor([[1.0, 0], [20, 0], [200, 0], [0, 30]]), torch.tensor([0, 0, 1, 1]))
    assert loss.clipped_share == 0.5


def test_elasticface_goes_on_drawing_where_it_stopped():
    batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    whole, first, resumed = (losses.ElasticFaceLoss(4, 3, std=0.3, weight_init_func=torch.nn.init.ones_) for _ in "123")
    expected = [whole(*batch).item() for _ in range(4)]
    assert len(set(expected)) == 4
    begun = [first(*batch).item() for _ in range(2)]
    resumed.load_state_dict(first.state_dict())
    assert begun + [resumed(*batch).item() for _ in range(2)] == expected
    assert resumed.eval()(*batch) == resumed(*batch)  # evaluation draws nothing
