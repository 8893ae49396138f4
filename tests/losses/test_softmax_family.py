"""What is particular to the softmax family: equality with PML, golden values, margins."""

import math

import pytest
import torch
from pytorch_metric_learning import distances
from pytorch_metric_learning import losses as pml_losses

from pml_center import losses
from pml_center.losses.margin_softmax_loss import Batch

SAME_NAME = ["ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss"]


@pytest.mark.parametrize("name", SAME_NAME)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_equals_the_loss_of_that_name_in_pml(name, dtype, chunk_size, generator):
    theirs = getattr(pml_losses, name)(9, 6).to(dtype)
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


@pytest.mark.parametrize("name", SAME_NAME)
def test_has_the_parameters_and_defaults_of_pml(name):
    ours, theirs = getattr(losses, name)(3, 2), getattr(pml_losses, name)(3, 2)
    shared = {"margin", "scale", "temperature"} & set(theirs._record_these)
    assert shared
    for parameter in shared:
        value = getattr(theirs, parameter)
        value = math.degrees(value) if name == "ArcFaceLoss" and parameter == "margin" else value
        assert getattr(ours, parameter) == pytest.approx(value)


@pytest.mark.parametrize(
    "loss", [losses.ArcFaceLoss(3, 2), losses.ArcFaceLoss(3, 2, margin=120), losses.CosFaceLoss(3, 2)]
)
def test_a_margin_only_makes_the_target_harder(loss):
    cosine = torch.linspace(1, -1, 2001, dtype=torch.double)  # θ from 0 to π
    target = loss.target_cosine(Batch(cosine, torch.ones_like(cosine), torch.zeros(2001, dtype=torch.long)))
    assert (target <= cosine + 1e-6).all()
    assert (target.diff() <= 0).all()


def test_tiny_losses_keep_their_relative_precision():
    loss = losses.SoftmaxLoss(2, 1, bias=False)
    with torch.no_grad():
        loss.class_weights.weight.copy_(torch.tensor([[50.0], [38.0]]))
    assert loss(torch.ones(1, 1), torch.tensor([0])).item() == pytest.approx(math.log1p(math.exp(-12)), rel=1e-6)


def test_the_default_initialisation_is_small():
    assert losses.CosFaceLoss(1000, 64).W.std().item() == pytest.approx(0.01, rel=0.02)


def test_a_margin_in_radians_is_questioned():
    with pytest.warns(UserWarning, match=r"0.5 degrees, almost no margin.* margin=28.6"):
        losses.ArcFaceLoss(3, 2, margin=0.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: losses.ArcFaceLoss(3, 2, margin=181), r"margin must be in \[0, 180\] degrees, got 181"),
        (lambda: losses.CosFaceLoss(3, 2, scale=0), r"scale must be positive, got 0"),
        (lambda: losses.NormalizedSoftmaxLoss(3, 2, temperature=-1), r"temperature must be positive, got -1"),
        (lambda: losses.SoftmaxLoss(3, 2, label_smoothing=1), r"label_smoothing must be in \[0, 1\), got 1"),
        (lambda: losses.SoftmaxLoss(3, 2, chunk_size=0), r"chunk_size must be at least 1, got 0"),
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
