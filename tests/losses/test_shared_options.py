"""Options that every loss of the softmax family shares."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import reducers
from pytorch_metric_learning.distances import DotProductSimilarity

from pml_center import losses
from pml_center.regularizers import RingRegularizer
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES

each_softmax = pytest.mark.parametrize("case", [case for case in CASES if case.is_softmax], ids=str)
B = 12


@pytest.fixture
def batch(generator):
    embeddings = torch.randn(B, EMBEDDING_SIZE, generator=generator, dtype=torch.double)
    return embeddings.requires_grad_(), torch.randint(NUM_CLASSES - 1, (B,), generator=generator)


def gradients(value, loss, embeddings):
    return torch.autograd.grad(value, [embeddings, loss.class_weights.weight])


def of_classes(gradient, classes):
    """Which classes have a gradient."""
    return gradient.unflatten(0, (classes, -1)).flatten(1).any(1)


@each_softmax
def test_sampling_enough_for_all_classes_equals_the_dense_loss(case, batch):
    dense, sampled = case.build(), case.build(sample_rate=0.999)  # rounds to all
    value, other = dense(*batch), sampled(*batch)
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(other, sampled, batch[0]), gradients(value, dense, batch[0]))


@each_softmax
def test_a_sampled_step_is_the_dense_one_over_the_classes_that_took_part(case, generator):
    classes = 40
    loss = case.build(classes, sample_rate=0.5)
    embeddings = torch.randn(B, EMBEDDING_SIZE, generator=generator, dtype=torch.double, requires_grad=True)
    labels = torch.randint(10, (B,), generator=generator)
    (gradient,) = torch.autograd.grad(loss(embeddings, labels), loss.class_weights.weight)
    touched = of_classes(gradient, classes).nonzero().squeeze(1)
    assert set(labels.tolist()) <= set(touched.tolist())
    assert len(touched) == 20
    again = loss.train()(embeddings, labels)  # another draw
    (other,) = torch.autograd.grad(again, loss.class_weights.weight)
    assert not torch.equal(of_classes(other, classes), of_classes(gradient, classes))


def drawn_in_every_way(loss, labels, size):
    """The loss once for each choice of so many of the classes that are not in the batch, all equally likely."""
    present = set(labels.tolist())
    others = sorted(set(range(loss.num_classes)) - present)
    for choice in itertools.combinations(others, size):
        copied = copy.deepcopy(loss)
        classes = torch.tensor(sorted(present | set(choice)))
        copied.class_weights._sample = lambda labels, classes=classes: classes
        yield copied


@pytest.mark.parametrize("more", [{}, {"sub_centers": 2}, {"chunk_size": 2}], ids=str)
@each_softmax
def test_the_sums_of_corrected_samples_are_in_the_mean_those_over_all_classes(case, more, generator):
    if "label_smoothing" in case.arguments:
        more = {**more, "label_smoothing": 0}  # see below
    if case.loss is losses.NPCFaceLoss:
        more = {**more, "added_margin": 0}  # times a mean of what was drawn
    if case.loss is losses.BroadFaceLoss and "sub_centers" in more:
        more = {}
    dense = case.build(**more)
    dense.penalty = lambda batch: None
    dense._observes = False  # statistics see what was drawn
    sampled = case.build(**more, sample_rate=0.5)
    sampled.load_state_dict(dense.state_dict(), strict=False)
    sampled.penalty, sampled._observes = dense.penalty, False
    embeddings = torch.randn(B, EMBEDDING_SIZE, generator=generator, dtype=torch.double, requires_grad=True)
    labels = torch.randint(3, (B,), generator=generator)

    def sums(loss):
        """Over the classes: the loss itself where it is no cross entropy."""
        of_each = loss.element_losses(embeddings, labels)
        return of_each.expm1() if case.loss.combine is losses.BaseSoftmaxLoss.combine else of_each

    drawn = [sums(loss) for loss in drawn_in_every_way(sampled, labels, 2)]
    expected, mean = sums(dense), sum(drawn) / len(drawn)
    assert len(drawn) == 6
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9)
    of_all, of_drawn = (torch.autograd.grad(each.sum(), embeddings)[0] for each in (expected, mean))
    torch.testing.assert_close(of_drawn, of_all, rtol=1e-9, atol=1e-9)


def test_smoothing_of_corrected_samples_is_in_the_mean_that_over_all_classes(batch):
    embeddings, labels = batch[0], batch[1] % 3

    def smoothing(plain, smooth):
        return smooth.element_losses(embeddings, labels) - plain.element_losses(embeddings, labels)

    dense = [losses.SoftmaxLoss(7, EMBEDDING_SIZE, label_smoothing=share).double() for share in (0, 0.2)]
    sampled = [
        losses.SoftmaxLoss(7, EMBEDDING_SIZE, label_smoothing=share, sample_rate=0.5).double() for share in (0, 0.2)
    ]
    for loss in (dense[1], *sampled):
        loss.load_state_dict(dense[0].state_dict(), strict=False)
    pairs = zip(*(drawn_in_every_way(loss, labels, 2) for loss in sampled), strict=True)
    means = torch.stack([smoothing(*pair) for pair in pairs]).mean(0)
    torch.testing.assert_close(means, smoothing(*dense))


def test_without_correction_a_sample_is_a_softmax_over_what_was_drawn(batch):
    embeddings, labels = batch[0], batch[1] % 3
    arguments = {"margin": 0.2, "scale": 8, "sample_rate": 0.5}
    loss = losses.CosFaceLoss(7, EMBEDDING_SIZE, **arguments, sample_correction=False).double()
    loss.class_weights._sample = lambda labels: torch.tensor([0, 1, 2, 5])
    rows = torch.nn.functional.normalize(loss.class_weights.weight, dim=1)[[0, 1, 2, 5]]
    cosines = torch.nn.functional.normalize(embeddings, dim=1) @ rows.t()
    logits = 8 * (cosines - 0.2 * torch.nn.functional.one_hot(labels, 4))
    torch.testing.assert_close(loss(embeddings, labels), torch.nn.functional.cross_entropy(logits, labels))


def test_the_probability_of_a_class_is_how_often_it_is_drawn():
    loss = losses.CosFaceLoss(20, EMBEDDING_SIZE, sample_rate=0.4)
    labels = torch.tensor([3, 3, 5, 5])
    times = torch.zeros(20)
    for _ in range(400):
        chosen = loss.class_weights.choose(labels, torch.float32)
        times[chosen.classes] += 1
        assert chosen.drawn.reciprocal().sum().item() == pytest.approx(20)
    assert (times[[3, 5]] == 400).all()
    others = chosen.drawn[chosen.drawn < 1]
    torch.testing.assert_close(others, torch.full_like(others, 6 / 18))
    assert (times[chosen.classes][chosen.drawn < 1] / 400 - 6 / 18).abs().max() < 0.1  # four standard errors


def dense_logits(loss, embeddings, labels):
    """Of training, by the definition, with the k nearest other classes moved: for CosFace and ArcFace."""
    cosines = (
        torch.nn.functional.normalize(embeddings, dim=1)
        @ torch.nn.functional.normalize(loss.class_weights.weight, dim=1).t()
    )
    own = torch.nn.functional.one_hot(labels, loss.num_classes).bool()
    ranks = cosines.masked_fill(own, -2).argsort(1, descending=True).argsort(1)
    is_hard, by = ranks < loss.hard_negatives, loss.hard_negative_margin
    if isinstance(loss, losses.CosFaceLoss):
        margined = torch.where(own, cosines - loss.margin, cosines + by * is_hard)
    else:
        margin = torch.where(own, math.radians(loss.margin), -math.radians(by) * is_hard)
        margined = (cosines.acos() + margin).cos()
    return loss.scale * margined


NEARER = [
    (losses.CosFaceLoss, {"margin": 0.2, "hard_negative_margin": 0.1}),
    (losses.ArcFaceLoss, {"margin": 10, "hard_negative_margin": 3}),
]


@pytest.mark.parametrize("more", [{}, {"chunk_size": 2}], ids=str)
@pytest.mark.parametrize(("kind", "arguments"), NEARER, ids=["cosine", "angle"])
def test_the_nearest_other_classes_come_nearer(kind, arguments, more, batch):
    loss = kind(NUM_CLASSES, EMBEDDING_SIZE, scale=8, hard_negatives=3, **arguments, **more).double()
    logits = dense_logits(loss, *batch)
    torch.testing.assert_close(loss.get_logits(*batch), logits)
    expected, value = torch.nn.functional.cross_entropy(logits, batch[1]), loss(*batch)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(value, loss, batch[0]), gradients(expected, loss, batch[0]))


@pytest.mark.parametrize("k", [1, NUM_CLASSES - 1])
@each_softmax
def test_every_loss_of_angles_grows_where_the_nearest_come_nearer(case, k, batch):
    plain = case.build()
    if not plain.normalizes:
        with pytest.raises(ValueError, match=r"hard_negatives must be 0 because .* compares lengths as well"):
            case.build(hard_negatives=k, hard_negative_margin=0.1)
        return
    nearer, blocks = (
        case.build(hard_negatives=k, hard_negative_margin=0.02, **more) for more in ({}, {"chunk_size": 2})
    )
    value = nearer.element_losses(*batch)
    # Nearer is worse, but in a regression of cosines, and with a scale that :meth:`Case.build` has drawn below 0.
    if not plain._has_negative_margin and case.loss not in (losses.P2SGradLoss, losses.AdaCosLoss):
        assert (value > plain.element_losses(*batch) - 1e-12).all()
    assert not torch.allclose(value, case.build().element_losses(*batch))
    torch.testing.assert_close(blocks.element_losses(*batch), value)


@pytest.mark.parametrize(
    "arguments", [{}, {"bias": True}, {"sub_centers": 2}, {"sample_rate": 0.999}, {"chunk_size": 2}], ids=str
)
def test_a_prior_is_added_to_the_logits_in_training(arguments, batch):
    counts = torch.arange(1, NUM_CLASSES + 1)
    loss = losses.CosFaceLoss(
        NUM_CLASSES, EMBEDDING_SIZE, 0.2, 8, class_counts=counts, prior_weight=0.7, **arguments
    ).double()
    plain = losses.CosFaceLoss(NUM_CLASSES, EMBEDDING_SIZE, 0.2, 8, **arguments).double()
    plain.load_state_dict({key: x for key, x in loss.state_dict().items() if key != "class_counts"})
    logits = plain.get_logits(*batch) + 0.7 * counts.double().log()
    torch.testing.assert_close(loss(*batch), torch.nn.functional.cross_entropy(logits, batch[1]))
    torch.testing.assert_close(loss.get_logits(*batch), logits)
    assert torch.equal(loss.get_logits(batch[0]), plain.get_logits(batch[0]))
    assert torch.equal(loss.eval()(*batch), plain.eval()(*batch))


def test_fixed_rows_and_near_classes_hold_what_they_say():
    loss = losses.ArcFaceLoss(7, 8, update="fixed", sub_centers=2)
    loss.requires_grad_(False).requires_grad_(True)
    assert not loss.class_weights.weight.requires_grad
    loss.drop_nondominant(torch.randn(9, 8), torch.arange(9) % 7)
    assert not loss.class_weights.weight.requires_grad
    angular = losses.SphereFace2Loss(7, 8, variant="angular_both", hard_negatives=1, hard_negative_margin=0.5)
    assert angular.margin_unit == "radians"
    for arguments in ({"normalize_weights": False}, {"distance": DotProductSimilarity(normalize_embeddings=False)}):
        with pytest.raises(ValueError, match="hard_negatives must be 0 because NormalizedSoftmaxLoss compares lengths"):
            losses.NormalizedSoftmaxLoss(7, 8, hard_negatives=1, hard_negative_margin=0.1, **arguments)
    few = losses.ArcFaceLoss(7, 8, hard_negatives=6, hard_negative_margin=8)
    few.resize_classes(3)
    assert few.get_logits(torch.randn(2, 8), torch.tensor([0, 1])).isfinite().all()


def test_a_class_nearer_than_the_margin_is_still_pushed():
    loss = losses.LiArcFaceLoss(2, 2, scale=10, hard_negatives=1, hard_negative_margin=0.4)
    torch.nn.init.eye_(loss.class_weights.weight)
    embeddings = torch.tensor([[0.1, 1.0]], requires_grad=True)
    loss(embeddings, torch.tensor([0])).backward()
    assert embeddings.grad.abs().min() > 1e-2


def test_a_state_that_knows_no_counts_is_taken():
    loss = losses.CosFaceLoss(3, 2, class_counts=[5, 6, 7], prior_weight=1)
    loss.load_state_dict(pml_losses.CosFaceLoss(3, 2).state_dict())
    assert loss.class_counts.tolist() == [5, 6, 7]


def test_classes_that_are_added_count_one_sample():
    loss = losses.CosFaceLoss(3, 2, class_counts=[5, 6, 7], prior_weight=1)
    loss.resize_classes(4)
    assert loss.class_counts.tolist() == [5, 6, 7, 1]
    loss(torch.eye(2), torch.tensor([0, 3]))


def test_a_sampled_loss_sees_all_classes_in_evaluation(batch):
    dense, sampled = losses.CosFaceLoss(50, EMBEDDING_SIZE), losses.CosFaceLoss(50, EMBEDDING_SIZE, sample_rate=0.2)
    sampled.load_state_dict(dense.state_dict(), strict=False)
    assert torch.equal(sampled.eval()(*batch), dense.eval()(*batch))
    assert sampled.get_logits(batch[0]).shape == (B, 50)


def test_the_draws_are_part_of_the_state(batch):
    def run(loss, steps):
        return [loss(*batch).item() for _ in range(steps)]

    straight = losses.CosFaceLoss(60, EMBEDDING_SIZE, sample_rate=0.3)
    first = copy.deepcopy(straight)
    expected = run(straight, 6)
    assert len(set(expected)) > 1
    begun = run(first, 3)
    resumed = losses.CosFaceLoss(60, EMBEDDING_SIZE, sample_rate=0.3)
    resumed.load_state_dict(first.state_dict())
    assert begun + run(resumed, 3) == expected


@pytest.mark.parametrize("sub_centers", [1, 3])
def test_a_sparse_gradient_holds_the_same_numbers(sub_centers, generator):
    arguments = {"sample_rate": 0.25, "sub_centers": sub_centers}
    dense = losses.CosFaceLoss(40, EMBEDDING_SIZE, **arguments)
    sparse = losses.CosFaceLoss(40, EMBEDDING_SIZE, sparse_gradient=True, **arguments)
    sparse.load_state_dict(dense.state_dict())
    embeddings, labels = torch.randn(B, EMBEDDING_SIZE, generator=generator), torch.arange(B) % 5
    dense(embeddings, labels).backward()
    sparse(embeddings, labels).backward()
    gradient = sparse.class_weights.weight.grad
    assert gradient.is_sparse
    torch.testing.assert_close(gradient.to_dense(), dense.class_weights.weight.grad)
    torch.optim.SGD(sparse.parameters(), lr=0.1).step()
    torch.optim.SparseAdam(sparse.parameters(), lr=0.1).step()


@each_softmax
def test_an_ignored_label_takes_no_part(case, batch):
    embeddings, labels = batch
    keep = torch.arange(B) % 3 != 1
    marked = labels.masked_fill(~keep, -100)
    loss, alone = case.build(ignore_index=-100), case.build()
    value, expected = loss(embeddings, marked), alone(embeddings[keep], labels[keep])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(value, loss, embeddings), gradients(expected, alone, embeddings))
    assert loss(embeddings, torch.full_like(labels, -100)) == 0
    with pytest.raises(ValueError, match=r"labels must be in \[0, 7\) because num_classes=7, got -1"):
        loss(embeddings, labels.masked_fill(~keep, -1))


@each_softmax
def test_what_an_ignored_sample_holds_is_in_no_gradient(case, batch, monkeypatch):
    monkeypatch.setattr("pml_center.losses.base_element_loss.check_embeddings", lambda *_, **__: None)  # as on a GPU
    embeddings, labels = batch[0].detach().clone(), batch[1].clone()
    labels[::3], embeddings[::3] = -1, torch.nan
    loss = case.build(ignore_index=-1)
    embeddings.requires_grad_()
    loss(embeddings, labels).backward()
    assert all(tensor.grad.isfinite().all() for tensor in (embeddings, *loss.parameters()))


def test_a_count_is_no_buffer_and_part_of_the_state():
    loss = losses.ElasticFaceLoss(6, 4, sample_rate=0.5, margin_schedule=lambda step: 1.0)
    loss(torch.randn(6, 4), torch.arange(6))
    assert not list(loss.buffers())  # which DistributedDataParallel wants where the parameters are
    assert {name: int(value) for name, value in loss.state_dict().items() if not value.ndim} == {
        "draws": 1,
        "step": 1,
        "class_weights.draws": 1,
    }
    other = losses.ElasticFaceLoss(6, 4, sample_rate=0.5, margin_schedule=lambda step: 1.0)
    other.load_state_dict(loss.state_dict())
    assert [int(count) for count in (*other.counts.values(), *other.class_weights.counts.values())] == [1, 1, 1]
    assert {count.device.type for count in other.to("meta").counts.values()} == {"cpu"}


@pytest.mark.parametrize("make", [losses.SoftmaxLoss, losses.CenterLoss, losses.SoftmaxCenterLoss, losses.RangeLoss])
def test_a_regularizer_does_not_see_an_ignored_sample(make, batch):
    embeddings, labels = batch[0].detach().clone(), batch[1].clone()
    labels[::3], embeddings[::3] = -1, 1e6
    keep = labels >= 0
    sizes = () if make is losses.RangeLoss else (NUM_CLASSES, EMBEDDING_SIZE)
    loss = make(*sizes, ignore_index=-1, embedding_regularizer=RingRegularizer())
    alone = copy.deepcopy(loss)
    embeddings.requires_grad_()
    value, expected = loss(embeddings, labels), alone(embeddings[keep], labels[keep])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, embeddings)[0] for each in (value, expected)))
    assert torch.equal(loss.embedding_regularizer.radius, alone.embedding_regularizer.radius)


@each_softmax
def test_a_first_sample_that_is_ignored_is_no_trouble(case, batch):
    labels = batch[1].clone()
    labels[0] = -100
    assert case.build(ignore_index=-100)(batch[0], labels).isfinite()


def test_tuples_that_touch_an_ignored_sample_do_not_count(batch):
    embeddings, labels = batch
    labels = torch.tensor([0, 0, 1, 1, -1, -1, 2, 2, 3, 3, 4, 4])
    triplets = torch.tensor([[0, 1, 2], [4, 5, 0], [4, 5, 1], [6, 7, 0]]).t()
    clean = torch.tensor([[0, 1, 2], [6, 7, 0]]).t()
    value = losses.CosFaceLoss(7, EMBEDDING_SIZE, ignore_index=-1).double()
    other = copy.deepcopy(value)
    torch.testing.assert_close(value(embeddings, labels, tuple(triplets)), other(embeddings, labels, tuple(clean)))
    pairs = tuple(torch.tensor([0, 4])), tuple(torch.tensor([1, 5]))
    mined = (torch.stack(pairs[0]), torch.stack(pairs[1]), torch.tensor([0, 4]), torch.tensor([2, 0]))
    assert value(embeddings, labels, mined).isfinite()


def test_classes_can_be_dropped_after_a_step(batch):
    loss = losses.CosFaceLoss(7, EMBEDDING_SIZE).double()
    loss(batch[0], torch.full_like(batch[1], 6)).backward()
    loss.resize_classes(3)
    assert loss(batch[0], batch[1] % 3).isfinite()


@pytest.mark.parametrize("name", ["COCOLoss", "NormalizedSoftmaxLoss"])
def test_an_automatic_scale_follows_the_number_of_classes(name):
    automatic = {"scale": "auto"} if name == "NormalizedSoftmaxLoss" else {}
    loss, larger = (getattr(losses, name)(classes, EMBEDDING_SIZE, **automatic) for classes in (10, 1000))
    loss.resize_classes(1000)
    assert loss.scale == larger.scale


@pytest.mark.parametrize(("first", "second"), [({"sample_rate": 0.5}, {}), ({}, {"sample_rate": 0.5})])
def test_a_state_goes_from_sampling_to_all_classes_and_back(first, second, batch):
    begun, goes_on = losses.CosFaceLoss(7, EMBEDDING_SIZE, **first), losses.CosFaceLoss(7, EMBEDDING_SIZE, **second)
    begun(*batch)
    goes_on.load_state_dict(begun.state_dict())
    assert torch.equal(goes_on.W, begun.W)


@each_softmax
def test_loss_weights_make_a_weighted_mean(case, batch):
    if case.loss is losses.BroadFaceLoss:
        with pytest.raises(ValueError, match="loss_weights must be None because past samples have no weights"):
            case.loss(NUM_CLASSES, EMBEDDING_SIZE, **case.arguments, loss_weights=[1.0] * NUM_CLASSES)
        return
    weights = torch.arange(1.0, NUM_CLASSES + 1, dtype=torch.double)
    plain = case.build()
    plain.set_reducer(reducers.DoNothingReducer())
    before = plain.state_dict()
    losses_of_samples = plain(*batch)["loss"]["losses"]
    of_sample = weights[batch[1]]
    expected = (losses_of_samples * of_sample).sum() / of_sample.sum()
    weighted = case.loss(NUM_CLASSES, EMBEDDING_SIZE, **case.arguments, loss_weights=weights).double()
    weighted.load_state_dict(before, strict=False)
    torch.testing.assert_close(weighted(*batch), expected)


@pytest.mark.parametrize("weights", [[1.0] * 6, [1.0] * 6 + [-1.0], [0.0] * 7])
def test_loss_weights_must_be_one_positive_number_a_class(weights):
    with pytest.raises(ValueError, match=r"loss_weights must be 7 positive numbers, one per class, got shape"):
        losses.CosFaceLoss(NUM_CLASSES, EMBEDDING_SIZE, loss_weights=weights)


def half_of_the_margin(step):
    return 0.5


def test_a_margin_schedule_applies_a_share_of_the_margin(batch):
    half, scheduled = (
        losses.CosFaceLoss(7, EMBEDDING_SIZE, margin=0.2),
        losses.CosFaceLoss(7, EMBEDDING_SIZE, margin_schedule=half_of_the_margin, margin=0.4),
    )
    scheduled.load_state_dict(half.state_dict(), strict=False)
    torch.testing.assert_close(scheduled(*batch), half(*batch))


def test_a_schedule_goes_on_where_it_stopped(batch):
    def ramp(step):
        return step / 10

    straight = losses.CosFaceLoss(7, EMBEDDING_SIZE, margin_schedule=ramp, scale_schedule=ramp)
    first = copy.deepcopy(straight)
    expected = [straight(*batch).item() for _ in range(6)]
    begun = [first(*batch).item() for _ in range(3)]
    resumed = losses.CosFaceLoss(7, EMBEDDING_SIZE, margin_schedule=ramp, scale_schedule=ramp)
    resumed.load_state_dict(first.state_dict())
    assert begun + [resumed(*batch).item() for _ in range(3)] == expected
    rest = resumed.eval()(*batch)
    assert resumed(*batch) == rest  # evaluation does not count


@pytest.mark.parametrize("value", [None, "x", math.nan, -0.1, torch.ones(2)], ids=repr)
def test_a_schedule_that_returns_nonsense_is_named(value, batch):
    margin = losses.CosFaceLoss(7, EMBEDDING_SIZE, margin_schedule=lambda step: value)
    with pytest.raises(ValueError, match=r"^margin_schedule\(1\) must be in \[0, 1\], got "):
        margin(*batch)
    scale = losses.CosFaceLoss(7, EMBEDDING_SIZE, scale_schedule=lambda step: value)
    with pytest.raises(ValueError, match=r"^scale_schedule\(1\) must be positive, got "):
        scale(*batch)


@each_softmax
def test_classes_can_be_added_and_dropped(case, batch):
    loss = case.build().eval()  # statistics stay where they are

    def logits():
        """But for a scale that follows the number of classes."""
        return loss.get_logits(batch[0]) / (loss.scale if getattr(loss, "is_automatic", False) else 1)

    before = logits()
    loss.resize_classes(NUM_CLASSES + 3)
    assert loss.get_logits(batch[0]).shape == (B, NUM_CLASSES + 3)
    torch.testing.assert_close(logits()[:, :NUM_CLASSES], before)
    loss(batch[0], batch[1] + 3).backward()
    assert loss.class_weights.weight.grad is not None
    loss.resize_classes(NUM_CLASSES)
    torch.testing.assert_close(logits(), before)


@pytest.mark.parametrize(("name", "margin"), [("ArcFaceLoss", 17), ("CosFaceLoss", 0.3)])
def test_from_pml_takes_arguments_and_weights(name, margin, batch):
    theirs = getattr(pml_losses, name)(num_classes=7, embedding_size=EMBEDDING_SIZE, scale=20, margin=margin)
    ours = getattr(losses, name).from_pml(theirs)
    assert ours.scale == 20
    assert ours.margin == pytest.approx(margin)
    value = ours(batch[0].float(), batch[1])
    torch.testing.assert_close(value, theirs(batch[0].float(), batch[1]), rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match=r"loss must be PML's \w+, got TripletMarginLoss"):
        getattr(losses, name).from_pml(pml_losses.TripletMarginLoss())


def test_the_state_of_pml_can_be_loaded():
    theirs, ours = pml_losses.CosFaceLoss(7, EMBEDDING_SIZE), losses.CosFaceLoss(7, EMBEDDING_SIZE)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.W, theirs.W)


def test_outliers_are_far_from_the_dominant_sub_center():
    loss = losses.CosFaceLoss(2, 2, sub_centers=2)
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    angles = torch.tensor([2.0, 5, 80, 10, 181, 271, 272]).deg2rad()
    embeddings, labels = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    outliers, dominant = loss.get_outliers(embeddings, labels)
    assert outliers.tolist() == [2, 4]
    assert torch.equal(dominant, torch.tensor([[1.0, 0], [0, -1]]))  # a column a class
    assert torch.equal(loss.get_outliers(embeddings, labels, return_dominant_centers=False), outliers)
    loss.drop_nondominant(embeddings, labels)
    assert torch.equal(loss.class_weights.weight, torch.tensor([[1.0, 0], [0, -1]]))
    assert loss.get_logits(embeddings).shape == (7, 2)
    loss(embeddings, labels).backward()


def test_what_is_recorded_is_true(batch):
    loss = losses.CosFaceLoss(7, EMBEDDING_SIZE, collect_stats=True).double()
    loss(*batch)
    rows = loss.class_weights.weight[batch[1]]
    angles = torch.cosine_similarity(batch[0], rows).acos() * 180 / math.pi
    assert loss.avg_angle == pytest.approx(angles.mean().item())
    assert loss.avg_norm == pytest.approx(batch[0].norm(dim=1).mean().item())
    assert loss.avg_scale == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sub_centers": 0}, r"sub_centers must be an integer of at least 1, got 0"),
        ({"sub_centers": 2.5}, r"sub_centers must be an integer of at least 1, got 2.5"),
        ({"scale": None}, r"scale must be positive, got None"),
        ({"scale": math.inf}, r"scale must be positive, got inf"),
        ({"scale": True}, r"scale must be positive, got True"),
        ({"scale": 10**30}, r"scale must be positive, and below 2\^63, got 1000"),
        ({"margin": "x"}, r"margin must be in \[0, 2\], a difference of cosines, got 'x'"),
        ({"num_classes": 2**40}, r"num_classes must be an integer of at least 1 and below 2147483648, got 1099"),
        ({"prior_weight": 1}, r"class_counts must be given with a prior_weight"),
        ({"prior_weight": -1, "class_counts": 2}, r"prior_weight must be at least 0, got -1"),
        ({"hard_negatives": 2}, r"hard_negatives and hard_negative_margin must be given together"),
        ({"hard_negative_margin": 0.1}, r"hard_negatives and hard_negative_margin must be given together"),
        ({"hard_negatives": 99, "hard_negative_margin": 0.1}, r"hard_negatives must be an integer in \[0, \d+\]"),
        ({"sample_rate": 0}, r"sample_rate must be in \(0, 1\], got 0"),
        ({"sample_rate": 1.1}, r"sample_rate must be in \(0, 1\], got 1.1"),
    ],
)
def test_an_option_outside_its_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.CosFaceLoss(**{"num_classes": 3, "embedding_size": 2, **arguments})


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("weight_init_func", "normal", "a function"),
        ("margin_schedule", 3, "a function"),
        ("scale_schedule", [1], "a function"),
        ("weight_regularizer", 3, "an object like PML's"),
        ("distance", "cosine", "an object like PML's"),
        ("reducer", torch.nn.Linear(2, 2), "an object like PML's"),
        ("bias", "no", "True or False"),
        ("collect_stats", 1, "True or False"),
        ("ignore_index", True, "an integer or None"),
    ],
)
def test_an_option_of_another_type_is_refused(name, value, rule):
    with pytest.raises(TypeError, match=rf"^{name} must be {rule}, got .*\. "):
        losses.CosFaceLoss(3, 2, **{name: value})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: losses.VPLLoss(3, 2, max_age=90.0), r"max_age must be an integer of at least 1, got 90.0"),
        (lambda: losses.ElasticFaceLoss(3, 2, seed=1.5), r"seed must be an integer of at least 0, got 1.5"),
        (lambda: losses.ElasticFaceLoss(3, 2, margin=4), r"margin must be in \[0, π\] radians, got 4"),
        (lambda: losses.MVSoftmaxLoss(3, 2, margin=math.inf), r"margin must be in \[0, 2\], a difference .*got inf"),
        (lambda: losses.UniFaceLoss(3, 2, margin=3), r"margin must be in \[0, 2\], a difference of cosines, got 3"),
        (lambda: losses.NPCFaceLoss(3, 2, shift=math.nan), r"shift must be finite, got nan"),
        (lambda: losses.CombinedMarginLoss(3, 2, filter_threshold=2), r"filter_threshold must be in \[-1, 1\], a co"),
        (lambda: losses.KappaFaceLoss(3, 2, "many"), r"class_counts must be positive integers.*got 'many'"),
        (lambda: losses.CosFaceLoss(3, 2, loss_weights="x"), r"loss_weights must be 3 positive numbers.*got 'x'"),
    ],
)
def test_a_number_of_another_kind_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_integers_of_numpy_are_integers(batch):
    for loss in (
        losses.ElasticFaceLoss(np.int64(7), np.int64(EMBEDDING_SIZE), seed=np.int64(2), sub_centers=np.int32(2)),
        losses.VPLLoss(7, EMBEDDING_SIZE, max_age=np.int64(90), start_step=np.int16(0), chunk_size=np.int64(3)),
        losses.BroadFaceLoss(7, EMBEDDING_SIZE, queue_size=np.int64(9), ignore_index=np.int64(-1)),
    ):
        assert loss(*batch).isfinite()


def test_a_large_scale_does_not_overflow_the_threshold():
    assert losses.SphereFace2Loss(3, 2, scale=4000).threshold.isfinite()


@pytest.mark.parametrize("kind", [losses.SphereFace2Loss, losses.UniFaceLoss])
def test_a_bias_beside_a_threshold_is_refused(kind):
    with pytest.raises(ValueError, match=r"bias must be False .*, got True"):
        kind(3, 2, bias=True)
