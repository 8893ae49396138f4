"""Center loss and island loss against values that the codes which people copy computed."""

import math

import numpy as np
import pytest
import torch

from pml_center import losses
from tests import golden_io
from tests.golden_centers import each, forward, steps, with_centers


@each("center__ydwen_caffe__*")
def test_the_authors_caffe_layer(name):
    """Same loss, same gradient times its weight, same step: the solver's rate is our alpha."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "param"):
        loss = with_centers(losses.CenterLoss(*centers.shape, alpha=0.5), centers)
        value, embeddings = forward(loss, step)
        weight = golden.meta["hyperparameters"]["loss_weight"]
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", weight * embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", (torch.from_numpy(centers) - loss.centers) / 0.5)
        if "param_after/centers" in step:
            golden.assert_close(f"s{number}/param_after/centers", loss.centers)


@each("center__louis_she__*")
def test_another_implementation_of_equation_four(name):
    """Same step; its loss is a mean over B·D without the ½."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "state"):
        alpha = golden.meta["hyperparameters"]["alpha"]
        loss = with_centers(losses.CenterLoss(*centers.shape, alpha=alpha), centers)
        value, embeddings = forward(loss, step, 2 / centers.shape[1])
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/state_after/centers", loss.centers)


@each("center__kaiyangzhou__*", "norms")
def test_twice_the_loss_with_gradient_update_is_the_most_copied_code(name):
    """Where that code does not clamp or cancel: it adds 1e-12 for each other class."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "param"):
        loss = with_centers(losses.CenterLoss(*centers.shape, update="gradient"), centers)
        value, embeddings = forward(loss, step, 2)
        golden.assert_close(f"s{number}/loss", value + (len(centers) - 1) * 1e-12)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", loss.centers.grad)


@each("center__kaiyangzhou__norms")
def test_the_most_copied_code_loses_large_norms_and_we_do_not(name):
    golden = golden_io.load(name)
    (_, step, centers) = next(steps(golden, "param"))
    value, embeddings = forward(with_centers(losses.CenterLoss(*centers.shape, update="gradient"), centers), step, 2)
    difference = step["embeddings"].astype(np.longdouble) - centers[step["labels"]]
    exact = (difference**2).sum(1)
    assert value.item() == pytest.approx(float(exact.mean()), rel=1e-14)
    np.testing.assert_allclose(embeddings.grad.numpy(), (2 * difference / len(exact)).astype(float), rtol=1e-13)
    clamped = exact > 1e12  # there it has no gradient
    assert clamped.any()
    assert not golden.arrays["s0/grad/embeddings"][clamped].any()


@each("center__wujiyang__*")
def test_one_that_clamps_only_its_own_class(name):
    """Twice the loss, by gradient."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "param"):
        loss = with_centers(losses.CenterLoss(*centers.shape, update="gradient"), centers)
        value, embeddings = forward(loss, step, 2)
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", loss.centers.grad)


@pytest.mark.parametrize("weight", [0.01, 1.0])
@each("center__kaiyangzhou__steps3")
def test_how_to_move_from_the_most_copied_code(name, weight):
    """Its trainer divides the gradient of the centers by λ; here the learning rate does."""
    golden = golden_io.load(name)
    centers = golden.arrays["init/param/centers"]
    loss = with_centers(losses.CenterLoss(*centers.shape, update="gradient"), centers)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5 / weight)
    for number in range(golden.meta["steps"]):
        optimizer.zero_grad()
        forward(loss, golden.step(number), 2 * weight)
        optimizer.step()
        golden.assert_close(f"s{number}/param_after/centers", loss.centers)


@each("center__reid_strong_baseline__*")
def test_how_to_move_from_reid_strong_baseline(name):
    """The joint loss and its gradients, and the centers after the step of their own optimizer."""
    golden = golden_io.load(name)
    weight = golden.meta["hyperparameters"]["center_loss_weight"]
    centers = golden.arrays["init/param/centers"]
    loss = with_centers(losses.CenterLoss(*centers.shape, update="gradient"), centers)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5 / weight)
    for number in range(golden.meta["steps"]):
        step = golden.step(number)
        embeddings, labels = torch.from_numpy(step["embeddings"]).requires_grad_(), torch.from_numpy(step["labels"])
        center = loss(embeddings, labels)
        logits = embeddings @ torch.from_numpy(step["in/classifier"]).t()
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(logits, labels) + 2 * weight * center
        value.backward()
        golden.assert_close(f"s{number}/out/center", 2 * center + (len(centers) - 1) * 1e-12)
        golden.assert_close(f"s{number}/loss", value + weight * (len(centers) - 1) * 1e-12)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", loss.centers.grad)
        if "param_after/centers" in step:
            optimizer.step()
            golden.assert_close(f"s{number}/param_after/centers", loss.centers)


@each("center__jxgu1016*")
def test_one_that_divides_the_step_by_the_batch_size(name):
    """Same loss and gradient; its step, given to an optimizer as if it were a gradient, is ours over B."""
    golden = golden_io.load(name)
    official = golden.meta["hyperparameters"]
    for number, step, centers in steps(golden, "param"):
        batch = len(step["labels"])
        loss = with_centers(losses.CenterLoss(*centers.shape, alpha=1.0), centers)
        of_sum = 1 if official.get("size_average", True) else batch
        value, embeddings = forward(loss, step, official.get("lam", 1.0) * of_sum)
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        moved = (torch.from_numpy(centers) - loss.centers) / batch * of_sum
        golden.assert_close(f"s{number}/grad/centers", moved)  # which λ does not scale


@each("center__yirongmao__*")
def test_one_that_sums(name):
    """B times the loss and its gradient; the step is the paper's."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "param"):
        loss = with_centers(losses.CenterLoss(*centers.shape, alpha=0.5), centers)
        value, embeddings = forward(loss, step, len(step["labels"]))
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", (torch.from_numpy(centers) - loss.centers) / 0.5)
        if "param_after/centers" in step:
            golden.assert_close(f"s{number}/param_after/centers", loss.centers)


@pytest.mark.parametrize("name", golden_io.names("center__facenet_tf__*") + golden_io.names("center__weitaovan_tf__*"))
def test_two_that_step_by_the_sum_of_all_differences(name):
    """``(1 − alfa) · Σ(x − c)`` is n times a step by the mean: with many samples of a class it overshoots."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "state"):
        rate = 1 - golden.meta["hyperparameters"]["alfa"]
        loss = with_centers(losses.CenterLoss(*centers.shape, alpha=1.0, update="mean"), centers)
        mean_over_all = "facenet" in name
        value, embeddings = forward(loss, step, 2 / centers.shape[1] if mean_over_all else len(step["labels"]))
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        counts = np.bincount(step["labels"], minlength=len(centers))[:, None]
        golden.assert_close(
            f"s{number}/state_after/centers", centers + rate * counts * (loss.centers.numpy() - centers)
        )


@each("center__lyakaap__*")
def test_one_that_forgets_to_square(name):
    """Its loss is the length of all differences together, over 2B."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "param"):
        batch = len(step["labels"])
        value, _ = forward(with_centers(losses.CenterLoss(*centers.shape), centers), step)
        length = math.sqrt(2 * batch * value.item())
        golden.assert_close(f"s{number}/loss", golden.meta["hyperparameters"]["lambda_c"] * length / (2 * batch))


@each("island__fer_china__*")
def test_island_loss_of_the_port_from_matlab(name):
    """Same value and gradient. Its centers turn by ``c_k c_j c_j`` entry by entry, no derivative of a cosine."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "param"):
        repulsion = golden.meta["hyperparameters"]["lamda"]
        loss = with_centers(losses.IslandLoss(*centers.shape, repulsion=repulsion, alpha=1.0), centers)
        value, embeddings = forward(loss, step)
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        pull = with_centers(losses.CenterLoss(*centers.shape, alpha=1.0), centers)
        forward(pull, step)
        turned = repulsion / (len(centers) - 1) * turns(centers, entry_by_entry=True)
        theirs = (centers - pull.centers.numpy()) / len(step["labels"]) + turned
        golden.assert_close(f"s{number}/grad/centers", theirs)
        ours = repulsion / (len(centers) - 1) * turns(centers, entry_by_entry=False)
        np.testing.assert_allclose(loss.centers.numpy(), pull.centers.numpy() - ours, rtol=1e-10, atol=1e-12)


def turns(centers, entry_by_entry):
    """``Σ_{k≠j} c_k / (‖c_k‖‖c_j‖) − (c_k · c_j) c_j / (‖c_k‖‖c_j‖³)``, or with that product entry by entry."""
    result = np.zeros_like(centers)
    for j, own in enumerate(centers):
        for k, other in enumerate(centers):
            if j != k:
                lengths = np.linalg.norm(own) * np.linalg.norm(other)
                product = other * own if entry_by_entry else other @ own
                result[j] += other / lengths - product * own / (lengths * np.linalg.norm(own) ** 2)
    return result


@each("island__lelefox__*", "norms")  # it clamps and cancels as the most copied code does, whose pull it took
def test_island_loss_that_counts_each_center_against_itself(name):
    """No ½ in the pull, λ·C for the diagonal, 1e-12 for each other class; the gradients are those of both terms."""
    golden = golden_io.load(name)
    for number, step, centers in steps(golden, "param"):
        repulsion = golden.meta["hyperparameters"]["lambda_island"]
        loss = with_centers(losses.IslandLoss(*centers.shape, repulsion=repulsion / 2, update="gradient"), centers)
        value, embeddings = forward(loss, step, 2)
        offset = repulsion * len(centers) + (len(centers) - 1) * 1e-12
        golden.assert_close(f"s{number}/loss", value + offset)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", loss.centers.grad)
