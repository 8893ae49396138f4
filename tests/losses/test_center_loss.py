"""Center loss: its step is the paper's."""

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances

from pml_center import losses
from tests import golden_io


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


@pytest.mark.parametrize("name", golden_io.names("center__ydwen_caffe__*"))
def test_equals_the_authors_caffe_layer(name):
    """Same loss, same gradient times its weight, same step: the solver's rate is our alpha."""
    golden = golden_io.load(name)
    centers = golden.arrays["init/param/centers"]
    for number in range(golden.meta["steps"]):
        step = golden.step(number)
        loss = losses.CenterLoss(*centers.shape, alpha=0.5).double()
        loss.centers.copy_(torch.from_numpy(centers))
        embeddings = torch.from_numpy(step["embeddings"]).requires_grad_()
        value = loss(embeddings, torch.from_numpy(step["labels"]))
        (value * golden.meta["hyperparameters"]["loss_weight"]).backward()
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", (torch.from_numpy(centers) - loss.centers) / 0.5)
        if "param_after/centers" in step:
            golden.assert_close(f"s{number}/param_after/centers", loss.centers)
        centers = step.get("param_after/centers", centers)


@pytest.mark.parametrize("name", golden_io.names("center__louis_she__*"))
def test_steps_as_another_implementation_of_equation_four(name):
    """Same step; its loss is a mean over B·D without the ½."""
    golden = golden_io.load(name)
    centers = golden.arrays["init/state/centers"]
    for number in range(golden.meta["steps"]):
        step = golden.step(number)
        loss = losses.CenterLoss(*centers.shape, alpha=golden.meta["hyperparameters"]["alpha"]).double()
        loss.centers.copy_(torch.from_numpy(centers))
        value = loss(torch.from_numpy(step["embeddings"]), torch.from_numpy(step["labels"]))
        golden.assert_close(f"s{number}/loss", value * 2 / centers.shape[1])
        golden.assert_close(f"s{number}/state_after/centers", loss.centers)
        centers = step["state_after/centers"]


KAIYANGZHOU = [name for name in golden_io.names("center__kaiyangzhou__*") if not name.endswith("norms")]


@pytest.mark.parametrize("name", KAIYANGZHOU)  # of large norms its expansion of the square cancels all digits
def test_twice_the_loss_with_gradient_update_equals_the_most_copied_code(name):
    """Where that code does not clamp or cancel: it adds 1e-12 for each other class, and loses large norms."""
    golden = golden_io.load(name)
    centers = golden.arrays["init/param/centers"]
    for number in range(golden.meta["steps"]):
        step = golden.step(number)
        loss = losses.CenterLoss(*centers.shape, update="gradient").double()
        with torch.no_grad():
            loss.centers.copy_(torch.from_numpy(centers))
        embeddings = torch.from_numpy(step["embeddings"]).requires_grad_()
        value = 2 * loss(embeddings, torch.from_numpy(step["labels"]))
        value.backward()
        golden.assert_close(f"s{number}/loss", value + (len(centers) - 1) * 1e-12)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", loss.centers.grad)
        centers = step.get("param_after/centers", centers)


@pytest.mark.parametrize(
    ("distance", "formula"),
    [
        (distances.LpDistance(normalize_embeddings=False, p=1), lambda x, c: (x - c).abs().sum(1) / 2),
        (distances.LpDistance(normalize_embeddings=False), lambda x, c: (x - c).square().sum(1).sqrt() / 2),
        (distances.LpDistance(power=2), lambda x, c: 1 - torch.cosine_similarity(x, c)),
        (distances.CosineSimilarity(), lambda x, c: 1 - torch.cosine_similarity(x, c)),
    ],
)
def test_other_distances_are_halved(distance, formula, generator):
    loss = losses.CenterLoss(3, 4, distance=distance, weight_init_func=torch.nn.init.normal_)
    embeddings, labels = torch.randn(5, 4, generator=generator), torch.tensor([0, 0, 1, 2, 2])
    expected = formula(embeddings, loss.centers[labels]).mean()
    torch.testing.assert_close(loss(embeddings, labels), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"alpha": 0}, ValueError, r"alpha must be in \(0, 1\], got 0"),
        ({"alpha": 1.5}, ValueError, r"alpha must be in \(0, 1\], got 1.5"),
        ({"update": "papr"}, ValueError, r"update must be a known name, got 'papr'. Did you mean 'paper'\?"),
        ({"init": "first"}, ValueError, r"init must be a known name, got 'first'. Did you mean 'first_batch'\?"),
        (
            {"init": "zeros", "weight_init_func": torch.nn.init.zeros_},
            ValueError,
            r"init must be None with weight_init",
        ),
        ({"radius": -1}, ValueError, r"radius must be at least 0, got -1"),
        ({"radius": 1, "distance": distances.CosineSimilarity()}, ValueError, r"radius must be 0 with CosineSim"),
        ({"sparse_gradient": True}, ValueError, r"sparse_gradient must be False with update='paper'"),
        ({"accumulation_steps": 0}, ValueError, r"accumulation_steps must be an integer of at least 1, or None, got 0"),
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
