"""L-GM loss: Gaussians, and a code with another likelihood."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from pml_center import losses
from tests import golden_io
from tests.golden_centers import each, steps, with_centers


def random_loss(generator, **arguments):
    loss = losses.LGMLoss(4, 3, **arguments).double()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.double))
    return loss


def test_logits_are_densities_of_normal_distributions(generator):
    loss = random_loss(generator)
    embeddings = torch.randn(6, 3, generator=generator, dtype=torch.double)
    gaussians = Independent(Normal(loss.centers, (loss.log_variances / 2).exp()), 1)
    densities = gaussians.log_prob(embeddings.unsqueeze(1)) + 3 / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(loss.get_logits(embeddings), densities)
    assert torch.equal(loss.predict(embeddings), densities.argmax(1))


@pytest.mark.parametrize("covariance", ["diagonal", "identity"])
def test_logits_with_labels_are_those_of_training(covariance, generator):
    loss = random_loss(generator, margin=0.8, likelihood_weight=0, covariance=covariance)
    embeddings, labels = torch.randn(6, 3, generator=generator, dtype=torch.double), torch.tensor([0, 1, 2, 3, 1, 1])
    logits = loss.get_logits(embeddings, labels)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, labels), loss(embeddings, labels))
    own = torch.nn.functional.one_hot(labels, 4).bool()
    assert torch.equal(logits[~own], loss.get_logits(embeddings)[~own])
    assert (logits[own] < loss.get_logits(embeddings)[own]).all()


def test_without_margin_and_with_equal_variances_it_is_a_linear_softmax(generator):
    """−½‖x − μ‖² is ``μ·x − ½‖μ‖²``, but for what all classes share."""
    loss = random_loss(generator, margin=0, likelihood_weight=0, covariance="identity")
    embeddings, labels = torch.randn(6, 3, generator=generator, dtype=torch.double), torch.tensor([0, 1, 2, 3, 1, 1])
    softmax = losses.SoftmaxLoss(4, 3).double()
    with torch.no_grad():
        softmax.class_weights.weight.copy_(loss.centers)
        softmax.class_weights.bias.copy_(-loss.centers.square().sum(1) / 2)
    torch.testing.assert_close(loss(embeddings, labels), softmax(embeddings, labels))


def test_the_likelihood_alone_is_largest_at_the_mean_and_the_variance_of_the_data(generator):
    spread, place = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0])
    data = spread * torch.randn(200, 3, generator=generator) + place
    loss = losses.LGMLoss(1, 3, likelihood_weight=1)  # of a single class nothing else is left
    with torch.no_grad():
        loss.centers.copy_(data.mean(0, keepdim=True))
        loss.log_variances.copy_(data.var(0, correction=0, keepdim=True).log())
    labels = torch.zeros(200, dtype=torch.long)
    best = loss(data, labels)
    for parameter, gradient in zip(loss.parameters(), torch.autograd.grad(best, loss.parameters()), strict=True):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
        with torch.no_grad():
            parameter += 0.1
            assert loss(data, labels) > best
            parameter -= 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -1}, r"margin must be finite and at least 0, got -1"),
        ({"likelihood_weight": -1}, r"likelihood_weight must be finite and at least 0, got -1"),
        ({"covariance": "diag"}, r"covariance must be a known name, got 'diag'. Did you mean 'diagonal'\?"),
        ({"update": "paper"}, r'update must be "gradient" with covariance="diagonal".* got \'paper\''),
        ({"chunk_size": 0}, r"chunk_size must be an integer of at least 1, got 0"),
    ],
)
def test_an_argument_outside_its_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.LGMLoss(3, 2, **arguments)


@each("lgm__yirongmao_full__*")
def test_the_code_whose_likelihood_ignores_the_variances(name):
    """Ours, plus the difference of the half squared Euclidean and Mahalanobis distances in the likelihood."""
    golden = golden_io.load(name)
    weight = golden.meta["hyperparameters"]["loss_weight"]
    variances = golden.arrays["init/param/log_covs"]
    for number, step, centers in steps(golden, "param"):
        loss = losses.LGMLoss(*centers.shape, golden.meta["hyperparameters"]["alpha"], weight)
        loss = with_centers(loss, centers)
        loss.log_variances.data.copy_(torch.from_numpy(variances))
        embeddings, labels = torch.from_numpy(step["embeddings"]).requires_grad_(), torch.from_numpy(step["labels"])
        difference = (embeddings - loss.centers[labels]).square()
        likelihood = (difference - difference / loss.log_variances[labels].exp()).sum(1).mean() / 2
        value = loss(embeddings, labels) + weight * likelihood
        value.backward()
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/logits", loss.get_logits(embeddings, labels))
        golden.assert_close(f"s{number}/out/logits_plain", loss.get_logits(embeddings))
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/centers", loss.centers.grad)
        golden.assert_close(f"s{number}/grad/log_covs", loss.log_variances.grad)
        if "param_after/centers" in step:
            golden.assert_close(f"s{number}/param_after/centers", loss.centers - 0.1 * loss.centers.grad)
        variances = step.get("param_after/log_covs", variances)
