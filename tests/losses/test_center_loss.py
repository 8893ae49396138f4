"""Center loss: its step is the paper's."""

import copy
import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances

from pml_center import losses


def paper_step(centers, embeddings, labels, alpha):
    """Equation 4 and the update of algorithm 1, in loops."""
    centers = centers.numpy().copy()
    moved = centers.copy()
    for j in range(len(centers)):
        difference, count = np.zeros(centers.shape[1]), 0
        for x, y in zip(embeddings.numpy(), labels.tolist(), strict=True):
            if y == j:
                difference, count = difference + centers[j] - x, count + 1
        moved[j] = centers[j] - alpha * difference / (1 + count)
    return moved


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_the_step_is_the_paper_s_equation(alpha, generator):
    loss = losses.CenterLoss(8, 5, alpha=alpha, weight_init_func=torch.nn.init.normal_).double()
    embeddings = torch.randn(30, 5, generator=generator, dtype=torch.double)
    labels = torch.randint(7, (30,), generator=generator)
    expected = paper_step(loss.centers, embeddings, labels, alpha)
    loss(embeddings, labels)
    np.testing.assert_allclose(loss.centers.numpy(), expected, rtol=0, atol=1e-12)


def test_one_sample_at_rate_one_moves_its_center_half_way():
    loss = losses.CenterLoss(3, 2, alpha=1)
    loss(torch.tensor([[4.0, -2.0]]), torch.tensor([1]))
    assert torch.equal(loss.centers, torch.tensor([[0, 0], [2, -1], [0, 0]]))


def test_the_loss_is_that_of_the_centers_before_the_step():
    loss = losses.CenterLoss(2, 2)
    assert loss(torch.tensor([[3.0, 4.0]]), torch.tensor([0])) == 12.5


@pytest.mark.parametrize("factor", [1e-3, 1.0, 100.0])
def test_the_step_does_not_depend_on_the_weight_of_the_loss(factor, generator):
    embeddings = torch.randn(6, 2, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    loss, other = losses.CenterLoss(3, 2), losses.CenterLoss(3, 2)
    loss(embeddings, labels)
    (factor * other(embeddings, labels)).backward()
    assert torch.equal(loss.centers, other.centers)


def test_centers_rest_in_evaluation_and_take_no_gradient(generator):
    loss = losses.CenterLoss(3, 2)
    assert not list(loss.parameters())
    assert "centers" in loss.state_dict()
    loss.eval()(torch.randn(4, 2, generator=generator), torch.tensor([0, 1, 1, 2]))
    assert not loss.centers.any()


def test_centers_that_are_parameters_do_not_step_themselves(generator):
    loss = losses.CenterLoss(3, 2, update="gradient", weight_init_func=torch.nn.init.normal_)
    before = loss.centers.detach().clone()
    embeddings, labels = torch.randn(4, 2, generator=generator), torch.tensor([0, 1, 1, 1])
    loss(embeddings, labels).backward()
    assert torch.equal(loss.centers, before)
    difference = before[labels] - embeddings
    torch.testing.assert_close(loss.centers.grad[0], difference[0] / 4)
    torch.testing.assert_close(loss.centers.grad[1], difference[1:].sum(0) / 4)
    assert not loss.centers.grad[2].any()


@pytest.mark.parametrize(
    ("distance", "formula"),
    [
        (distances.LpDistance(normalize_embeddings=False, p=1), lambda x, c: (x - c).abs().sum(1) / 2),
        (distances.LpDistance(normalize_embeddings=False), lambda x, c: (x - c).square().sum(1).sqrt() / 2),
        (distances.LpDistance(power=2), lambda x, c: 1 - torch.cosine_similarity(x, c)),
        (distances.CosineSimilarity(), lambda x, c: 1 - torch.cosine_similarity(x, c)),
        (distances.DotProductSimilarity(normalize_embeddings=False), lambda x, c: 1 - (x * c).sum(1)),
        (distances.SNRDistance(normalize_embeddings=False), lambda x, c: (x - c).var(1) / x.var(1) / 2),
    ],
)
def test_other_distances_are_halved_and_similarities_taken_from_one(distance, formula, generator):
    loss = losses.CenterLoss(3, 4, distance=distance, weight_init_func=torch.nn.init.normal_)
    embeddings, labels = torch.randn(5, 4, generator=generator), torch.tensor([0, 0, 1, 2, 2])
    expected = formula(embeddings, loss.centers[labels]).mean()
    torch.testing.assert_close(loss(embeddings, labels), expected)


def test_a_radius_leaves_embeddings_within_it_alone():
    loss = losses.CenterLoss(1, 2, radius=5.0)
    embeddings = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]], requires_grad=True)
    value = loss(embeddings, torch.zeros(3, dtype=torch.long))
    value.backward()
    assert value == 12.5 / 3
    assert not embeddings.grad[:2].any()
    torch.testing.assert_close(embeddings.grad[2], torch.tensor([3.0, 4.0]) / 3)


def test_per_dim_divides_by_the_width(generator):
    embeddings, labels = torch.randn(4, 8, generator=generator), torch.tensor([0, 1, 1, 2])
    value = losses.CenterLoss(3, 8)(embeddings, labels)
    torch.testing.assert_close(losses.CenterLoss(3, 8, per_dim=True)(embeddings, labels), value / 8)


def test_the_mean_rule_is_a_moving_average_of_means(generator):
    loss = losses.CenterLoss(3, 2, alpha=0.2, update="mean", init="normal")
    before = loss.centers.clone()
    embeddings, labels = torch.randn(5, 2, generator=generator), torch.tensor([0, 0, 0, 2, 2])
    loss(embeddings, labels)
    torch.testing.assert_close(loss.centers[0], 0.8 * before[0] + 0.2 * embeddings[:3].mean(0))
    torch.testing.assert_close(loss.centers[2], 0.8 * before[2] + 0.2 * embeddings[3:].mean(0))
    assert torch.equal(loss.centers[1], before[1])


@pytest.mark.parametrize("update", ["paper", "mean", "gradient"])
def test_centers_start_from_the_first_embeddings_of_their_class(update, generator):
    loss = losses.CenterLoss(3, 2, init="first_batch", update=update)
    embeddings, labels = torch.randn(5, 2, generator=generator), torch.tensor([0, 0, 0, 2, 2])
    value = loss(embeddings, labels)
    means = torch.stack([embeddings[:3].mean(0), embeddings[3:].mean(0)])
    torch.testing.assert_close(loss.centers[[0, 2]].detach(), means)  # there, the step of the batch is 0
    torch.testing.assert_close(value, ((embeddings - means[labels // 2]).square().sum(1) / 2).mean())
    assert not loss.centers[1].any()
    later = torch.randn(2, 2, generator=generator)
    loss(later, torch.tensor([0, 1]))
    torch.testing.assert_close(loss.centers[1].detach(), later[1])  # now, and the other no more
    assert not torch.equal(loss.centers[0].detach(), later[0])


def test_a_center_starts_once_though_its_step_is_batches_away(generator):
    loss = losses.CenterLoss(2, 3, init="first_batch", accumulation_steps=3)
    embeddings, labels = torch.randn(2, 3, generator=generator), torch.tensor([0, 1])
    loss(embeddings, labels)
    loss(embeddings + 1, labels)
    assert torch.equal(loss.centers, embeddings)


def test_last_seen_counts_training_batches(generator):
    loss = losses.CenterLoss(4, 2)
    embeddings = torch.randn(2, 2, generator=generator)
    loss(embeddings, torch.tensor([0, 1]))
    loss(embeddings, torch.tensor([1, 2]))
    loss.eval()(embeddings, torch.tensor([3, 3]))
    assert loss.last_seen.tolist() == [1, 2, 2, 0]
    assert loss.step == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("init", ["zeros", "first_batch"])
def test_centers_of_half_precision_are_those_of_fp32_rounded(init, dtype, generator):
    embeddings, labels = 3000 * torch.rand(600, 4, generator=generator), torch.arange(600) % 2  # sums of 450,000
    half, full = losses.CenterLoss(3, 4, init=init).to(dtype), losses.CenterLoss(3, 4, init=init)
    torch.testing.assert_close(half(embeddings, labels), full(embeddings, labels), rtol=0.01, atol=0)
    assert half.centers.dtype == dtype
    torch.testing.assert_close(half.centers, full.centers.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.double], ids=str)
def test_a_loss_may_change_its_type_between_two_steps(dtype, generator):
    batch = torch.randn(4, 3, generator=generator), torch.tensor([0, 0, 1, 1])
    loss, whole = losses.CenterLoss(2, 3, accumulation_steps=8), losses.CenterLoss(2, 3)
    whole(*batch)
    loss(*batch)
    loaded = losses.CenterLoss(2, 3, accumulation_steps=8).to(dtype)
    loaded.load_state_dict(loss.state_dict())
    for each in (loss.to(dtype), loaded):
        each.step_centers()
        torch.testing.assert_close(each.centers, whole.centers.to(dtype))


STEPPING = pytest.mark.parametrize("update", ["paper", "mean"])


@STEPPING
@pytest.mark.parametrize("make", [losses.CenterLoss, losses.IslandLoss], ids=lambda make: make.__name__)
def test_micro_batches_step_as_one_batch(update, make, generator):
    embeddings = torch.randn(12, 3, generator=generator, dtype=torch.double)
    labels = torch.randint(4, (12,), generator=generator)
    whole = make(5, 3, update=update, init="normal").double()
    parts = make(5, 3, update=update, accumulation_steps=3).double()
    by_hand = make(5, 3, update=update, accumulation_steps=None).double()
    for other in (parts, by_hand):
        other.centers.copy_(whole.centers)
    for _ in range(2):
        whole(embeddings, labels)
        before = parts.centers.clone()
        for start in (0, 2, 9):
            assert torch.equal(parts.centers, before)
            part = slice(start, {0: 2, 2: 9, 9: 12}[start])
            parts(embeddings[part], labels[part])
            by_hand(embeddings[part], labels[part])
        by_hand.step_centers()
        torch.testing.assert_close(parts.centers, whole.centers, rtol=0, atol=1e-12)
        assert torch.equal(by_hand.centers, parts.centers)


@pytest.mark.parametrize("make", [losses.CenterLoss, losses.IslandLoss], ids=lambda make: make.__name__)
def test_a_batch_of_ignored_labels_is_one_of_those_that_make_a_step(make, generator):
    embeddings = torch.randn(4, 3, generator=generator)
    loss, other = (make(4, 3, init="normal", accumulation_steps=2, ignore_index=-1) for _ in range(2))
    other.load_state_dict(loss.state_dict())
    ignored, first, second = torch.full((4,), -1), torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 2, 2])
    loss(embeddings, ignored)
    resumed = make(4, 3, accumulation_steps=2, ignore_index=-1)
    resumed.load_state_dict(loss.state_dict())
    loss(embeddings, first)
    resumed(embeddings, first)
    other(embeddings, first)
    other.step_centers()
    assert torch.equal(loss.centers, other.centers)
    assert torch.equal(resumed.centers, other.centers)
    for labels in (ignored, ignored):  # a step of no samples is none, for the repulsion too
        loss(embeddings, labels)
    assert torch.equal(loss.centers, other.centers)
    for each in (loss, other):
        each(embeddings, first)
        each(embeddings, second)
    assert torch.equal(loss.centers, other.centers)


def test_what_waits_for_a_step_is_no_view_of_the_batch(generator):
    loss, other = (losses.CenterLoss(4, 3, accumulation_steps=2) for _ in range(2))
    batch = torch.empty(4, 3), torch.empty(4, dtype=torch.long)
    for labels in (torch.tensor([0, 0, 1, 2]), torch.tensor([3, 2, 2, 1])):
        embeddings = torch.randn(4, 3, generator=generator)
        other(embeddings, labels)
        batch[0].copy_(embeddings)
        batch[1].copy_(labels)
        loss(*batch)
        batch[0].zero_()
    assert torch.equal(loss.centers, other.centers)


@pytest.mark.parametrize("labels", [[], [-1, -1]], ids=["empty", "ignored"])
def test_a_batch_without_a_sample_keeps_no_graph(labels, generator):
    loss = losses.CenterLoss(4, 3, accumulation_steps=2, ignore_index=-1)
    embeddings = torch.randn(len(labels), 3, generator=generator, requires_grad=True)
    loss(2 * embeddings, torch.tensor(labels, dtype=torch.long))
    assert not loss._pending.sums.requires_grad
    copy.deepcopy(loss)


@pytest.mark.parametrize("device", ["cpu", "meta"])  # which has no values to look at, as if on a GPU
def test_what_waits_for_a_step_has_at_most_a_row_for_each_class(device):
    loss = losses.CenterLoss(10, 3, accumulation_steps=None).to(device)
    for size in (4, 4, 4, 30):
        loss(torch.ones(size, 3, device=device), torch.zeros(size, dtype=torch.long, device=device))
        assert len(loss._pending.sums) <= (1 if device == "cpu" else 10)


@STEPPING
def test_what_waits_on_a_gpu_can_be_loaded_on_the_cpu(update, generator, elsewhere, monkeypatch):
    embeddings = torch.randn(5, 3, generator=generator)
    embeddings[4] = torch.inf  # the only one of its class, which nobody there has looked at
    labels = torch.tensor([0, 0, 1, 2, 3])
    loss, expected = (losses.CenterLoss(9, 3, update=update, accumulation_steps=2) for _ in range(2))
    expected(embeddings[:4], labels[:4])
    expected.step_centers()
    other = losses.CenterLoss(9, 3, update=update, accumulation_steps=2)
    elsewhere()
    other(embeddings, labels)
    state = other.state_dict()
    monkeypatch.undo()
    loss.load_state_dict(state)
    loss.step_centers()
    torch.testing.assert_close(loss.state_dict(), expected.state_dict())


def test_centers_whose_step_is_forgotten_say_so_once(generator):
    embeddings, labels = torch.randn(4, 3, generator=generator), torch.tensor([0, 0, 1, 1])
    loss = losses.CenterLoss(2, 3, accumulation_steps=None)
    for _ in range(99):
        loss(embeddings, labels)
    with pytest.warns(UserWarning, match=r"CenterLoss has gathered 100 .* Call step_centers\(\)"):
        loss(embeddings, labels)
    for _ in range(50):
        loss(embeddings, labels)  # once is enough: another warning would be an error


def test_a_short_end_of_an_epoch_steps_by_hand(generator):
    embeddings, labels = torch.randn(4, 3, generator=generator), torch.tensor([0, 0, 1, 1])
    loss, whole = losses.CenterLoss(2, 3, accumulation_steps=8), losses.CenterLoss(2, 3)
    loss(embeddings, labels)
    assert not loss.centers.any()
    loss.step_centers()
    loss.step_centers()  # nothing is pending any more
    whole(embeddings, labels)
    assert torch.equal(loss.centers, whole.centers)
    with pytest.raises(ValueError, match='step_centers must not be called with update="gradient"'):
        losses.CenterLoss(2, 3, update="gradient").step_centers()


@pytest.mark.parametrize("accumulation_steps", [1, 3])
@STEPPING
def test_a_run_resumed_in_the_middle_is_bit_equal(update, accumulation_steps, generator, tmp_path):
    batches = [(torch.randn(6, 3, generator=generator), torch.randint(4, (6,), generator=generator)) for _ in range(9)]
    arguments = {"update": update, "accumulation_steps": accumulation_steps, "init": "first_batch"}
    straight = losses.CenterLoss(4, 3, **arguments)
    expected = [straight(*batch).item() for batch in batches]
    first = losses.CenterLoss(4, 3, **arguments)
    found = [first(*batch).item() for batch in batches[:5]]  # between two steps of three
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed = losses.CenterLoss(4, 3, **arguments)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert found + [resumed(*batch).item() for batch in batches[5:]] == expected
    assert all(torch.equal(resumed.state_dict()[key], value) for key, value in straight.state_dict().items())


def test_a_state_may_come_from_a_loss_that_does_not_accumulate(generator):
    batch = torch.randn(4, 3, generator=generator), torch.tensor([0, 0, 1, 1])
    plain, accumulating = losses.CenterLoss(2, 3), losses.CenterLoss(2, 3, accumulation_steps=2)
    plain(*batch)
    accumulating.load_state_dict(plain.state_dict())
    assert torch.equal(accumulating.centers, plain.centers)
    accumulating(*batch)
    plain.load_state_dict(accumulating.state_dict())
    assert torch.equal(accumulating.centers, plain.centers)


@pytest.mark.parametrize("update", ["paper", "gradient"])
def test_centers_of_other_code_are_taken_and_do_not_start_anew(update, generator):
    centers = torch.randn(3, 2, generator=generator)
    loss = losses.CenterLoss(3, 2, update=update, init="first_batch")
    loss.load_state_dict({"centers": centers})
    value = loss(torch.zeros(1, 2), torch.tensor([1]))
    torch.testing.assert_close(value, centers[1].square().sum() / 2)
    assert loss.last_seen.tolist() == [1, 2, 1]
    with pytest.raises(RuntimeError, match="centers"):
        losses.CenterLoss(3, 2).load_state_dict({})


def test_a_sparse_gradient_holds_the_same_numbers(generator):
    embeddings, labels = torch.randn(5, 3, generator=generator), torch.tensor([0, 2, 2, 7, 7])
    dense = losses.CenterLoss(9, 3, update="gradient", init="normal")
    sparse = losses.CenterLoss(9, 3, update="gradient", sparse_gradient=True)
    sparse.load_state_dict(dense.state_dict())
    dense(embeddings, labels).backward()
    sparse(embeddings, labels).backward()
    assert sparse.centers.grad.is_sparse
    torch.testing.assert_close(sparse.centers.grad.to_dense(), dense.centers.grad)
    torch.optim.SparseAdam([sparse.centers], lr=0.1).step()


def test_shared_centers_are_the_class_weights_at_one_length(generator):
    softmax = losses.SoftmaxLoss(4, 3)
    loss = losses.CenterLoss(4, 3, update="gradient", shared_with=softmax)
    assert [name for name, _ in loss.named_parameters()] == ["length"]  # the weights belong to the softmax
    assert set(loss.state_dict()) == {"length", "last_seen", "step"}
    embeddings, labels = torch.randn(5, 3, generator=generator), torch.tensor([0, 1, 1, 3, 3])
    with torch.no_grad():
        loss.length.fill_(2.5)
    value = loss(embeddings, labels)
    centers = 2.5 * torch.nn.functional.normalize(softmax.W.t())
    torch.testing.assert_close(value, ((embeddings - centers[labels]).square().sum(1) / 2).mean())
    value.backward()
    assert loss.length.grad
    assert softmax.class_weights.weight.grad[[0, 1, 3]].any(1).all()
    assert not softmax.class_weights.weight.grad[2].any()


def test_statistics_are_recorded_on_request(generator):
    embeddings, labels = torch.randn(6, 3, generator=generator), torch.tensor([0, 0, 1, 1, 2, 2])
    loss = losses.CenterLoss(4, 3, init="first_batch", collect_stats=True)
    loss(embeddings, labels)
    means = embeddings.view(3, 2, 3).mean(1)
    assert loss.avg_norm == pytest.approx(embeddings.norm(dim=1).mean().item())
    assert loss.avg_center_norm == pytest.approx(means.norm(dim=1).mean().item())
    assert loss.avg_intra == pytest.approx((embeddings - means[labels]).norm(dim=1).mean().item())
    loss(embeddings, labels)  # now all three were seen before, and the fourth was not
    assert loss.avg_inter == pytest.approx(torch.pdist(means).square().mean().sqrt().item())


def test_the_distance_between_shared_centers_is_that_at_their_length(generator):
    softmax = losses.SoftmaxLoss(3, 4)
    loss = losses.CenterLoss(3, 4, update="gradient", shared_with=softmax, collect_stats=True)
    with torch.no_grad():
        loss.length.fill_(2.5)
    for _ in range(2):
        loss(torch.randn(3, 4, generator=generator), torch.arange(3))
    centers = 2.5 * torch.nn.functional.normalize(softmax.W.t())
    assert loss.avg_inter == pytest.approx(torch.pdist(centers).square().mean().sqrt().item())


def test_a_wrapped_distance_of_directions_averages_directions(generator):
    loss = losses.CenterLoss(1, 3, alpha=1.0, update="mean", distance=distances.CosineSimilarity())
    embeddings = torch.randn(4, 3, generator=generator)
    loss(embeddings, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(loss.centers[0], torch.nn.functional.normalize(embeddings).mean(0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"alpha": 0}, ValueError, r"alpha must be finite and positive, got 0"),
        ({"alpha": "0.5"}, ValueError, r"alpha must be finite and positive, got '0.5'"),
        ({"alpha": 1.5}, ValueError, r"alpha must be in \(0, 1\], got 1.5"),
        ({"update": "papr"}, ValueError, r"update must be a known name, got 'papr'. Did you mean 'paper'\?"),
        ({"init": "first"}, ValueError, r"init must be a known name, got 'first'. Did you mean 'first_batch'\?"),
        (
            {"init": "zeros", "weight_init_func": torch.nn.init.zeros_},
            ValueError,
            r"init must be None with weight_init",
        ),
        (
            {"init": "zeros", "update": "gradient", "distance": distances.CosineSimilarity()},
            ValueError,
            r'init must not be "zeros" with update="gradient" where centers are compared by angle',
        ),
        ({"radius": -1}, ValueError, r"radius must be finite and at least 0, got -1"),
        ({"radius": math.nan}, ValueError, r"radius must be finite and at least 0, got nan"),
        ({"radius": 1, "distance": distances.CosineSimilarity()}, ValueError, r"radius must be 0 with CosineSim"),
        ({"sparse_gradient": True}, ValueError, r"sparse_gradient must be False with update='paper'"),
        ({"accumulation_steps": 0}, ValueError, r"accumulation_steps must be an integer of at least 1, or None, got 0"),
        ({"accumulation_steps": math.nan}, ValueError, r"accumulation_steps must be an integer .* got nan"),
        ({"accumulation_steps": math.inf}, ValueError, r"accumulation_steps must be an integer .* got inf"),
        ({"loss_weights": []}, ValueError, r"loss_weights must be 3 positive numbers, .*, got shape \(0,\)\."),
        ({"loss_weights": [1, 2, math.inf]}, ValueError, r"loss_weights must be 3 .* and values from 1 to inf"),
        ({"ignore_index": 1.5}, TypeError, r"ignore_index must be an integer or None, got 1.5"),
        ({"distance": "cosine"}, TypeError, r"distance must be an object like PML's, got 'cosine'"),
        ({"embedding_regularizer": 3}, TypeError, r"embedding_regularizer must be an object like PML's, got 3"),
        (
            {"shared_with": losses.SoftmaxLoss(3, 2), "update": "gradient", "init": "first_batch"},
            ValueError,
            r"init must be left out with shared_with, whose weights are the centers, got 'first_batch'",
        ),
        ({"shared_with": losses.SoftmaxLoss(3, 2)}, ValueError, r'update must be "gradient" with shared_with'),
        ({"shared_with": 3, "update": "gradient"}, TypeError, r"shared_with must be a softmax loss .* got int"),
        (
            {"shared_with": losses.SoftmaxLoss(4, 2), "update": "gradient"},
            ValueError,
            r"shared_with must have 3 classes, width 2 and one center a class, got 4, 2 and 1",
        ),
    ],
)
def test_an_argument_outside_its_range_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        losses.CenterLoss(3, 2, **arguments)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (losses.IslandLoss, {"repulsion": -1}, ValueError, "repulsion must be finite and at least 0, got -1"),
        (losses.IslandLoss, {"repulsion": math.nan}, ValueError, "repulsion must be finite and at least 0, got nan"),
        (losses.SoftmaxCenterLoss, {"center_weight": -1}, ValueError, "center_weight must be finite and at least 0"),
        (losses.SoftmaxCenterLoss, {"center_weight": math.inf}, ValueError, "center_weight must be .* got inf"),
        (losses.SoftmaxCenterLoss, {"shared": True}, ValueError, 'update must be "gradient" with shared_with'),
        (
            losses.SoftmaxCenterLoss,
            {"distance": distances.CosineSimilarity()},
            TypeError,
            "distance must be the default because SoftmaxCenterLoss is defined on it, got CosineSimilarity",
        ),
    ],
)
def test_its_relatives_refuse_theirs(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(3, 2, **arguments)
