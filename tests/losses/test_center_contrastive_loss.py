"""Center contrastive loss: CosFace over a bank of centers that follow the embeddings."""

import math

import pytest
import torch

from pml_center import losses


@pytest.fixture
def batch(generator):
    return torch.randn(6, 3, generator=generator, requires_grad=True), torch.tensor([0, 0, 1, 2, 2, 2])


def full_bank(generator, **arguments):
    loss = losses.CenterContrastiveLoss(4, 3, **arguments)
    with torch.no_grad():
        loss.centers.copy_(torch.randn(4, 3, generator=generator))
    return loss


def test_without_the_pull_it_is_cosface_over_the_bank(batch, generator):
    loss = full_bank(generator, margin=0.3, scale=10, center_weight=0, update="gradient")
    cosface = losses.CosFaceLoss(4, 3, margin=0.3, scale=10)
    with torch.no_grad():
        cosface.class_weights.weight.copy_(loss.centers)
    value, expected = loss(*batch), cosface(*batch)
    torch.testing.assert_close(value, expected)
    found = torch.autograd.grad(value, [batch[0], loss.centers])
    torch.testing.assert_close(found, torch.autograd.grad(expected, [batch[0], cosface.class_weights.weight]))
    torch.testing.assert_close(loss.get_logits(batch[0]), cosface.get_logits(batch[0]))
    assert torch.equal(loss.predict(batch[0]), cosface.predict(batch[0]))


def test_the_formula_of_public_codes_lacks_a_constant(batch, generator):
    """They have −log( e^{s(cos − m) + 2λ·cos} / (e^{s(cos − m)} + Σ e^{s·cos_j}) )."""
    loss = full_bank(generator, scale=8, center_weight=0.7)
    cosines = loss.get_logits(batch[0]) / 8
    own = torch.nn.functional.one_hot(batch[1], 4).bool()
    logits = 8 * torch.where(own, cosines - 0.2, cosines)
    theirs = logits.logsumexp(1) - logits[own] - 2 * 0.7 * cosines[own]
    torch.testing.assert_close(loss(*batch), theirs.mean() + 2 * 0.7)


def test_the_bank_starts_without_directions_and_steps_towards_its_embeddings(batch):
    loss = losses.CenterContrastiveLoss(4, 3, margin=0, alpha=1)
    value = loss(*batch)
    torch.testing.assert_close(value, torch.tensor(math.log(4) + 2))
    unit = torch.nn.functional.normalize(batch[0].detach(), dim=1)
    expected = torch.stack([unit[:2].sum(0) / 3, unit[2] / 2, unit[3:].sum(0) / 4, torch.zeros(3)])
    torch.testing.assert_close(loss.centers, expected)
    value.backward()
    assert not batch[0].grad.any()  # no direction, no pull


def test_the_gradient_is_that_of_the_bank_before_its_step(batch, generator):
    moves, stays = full_bank(generator, alpha=1), full_bank(generator)
    stays.load_state_dict(moves.state_dict())
    stays.eval()
    first, second = moves(*batch), stays(*batch)
    assert not torch.equal(moves.centers, stays.centers)
    found, wanted = (torch.autograd.grad(value, batch[0])[0] for value in (first, second))
    torch.testing.assert_close(found, wanted)


def test_only_rows_of_the_batch_are_kept_for_backward(generator):
    """Of a bank of 5000 centers."""
    loss = losses.CenterContrastiveLoss(5000, 8, init="normal")
    embeddings = torch.randn(4, 8, generator=generator, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        loss(embeddings, torch.arange(4))
    assert 4 * 8 <= max(kept) < 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -0.1}, r"margin must be finite and at least 0, got -0.1"),
        ({"scale": 0}, r"scale must be finite and positive, got 0"),
        ({"center_weight": -1}, r"center_weight must be finite and at least 0, got -1"),
        ({"chunk_size": 1.5}, r"chunk_size must be an integer of at least 1, got 1.5"),
    ],
)
def test_an_argument_outside_its_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.CenterContrastiveLoss(3, 2, **arguments)
