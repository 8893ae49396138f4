"""VPL: which classes are mixed, with what, and when."""

import copy

import pytest
import torch

from pml_center import losses
from tests.cases import arcface

C, D, B = 7, 5, 4
LATER = torch.tensor([5, 1, 2, 5])


@pytest.fixture
def embeddings(generator):
    return torch.randn(3, B, D, generator=generator, dtype=torch.double)


def vpl(**arguments):
    loss = losses.VPLLoss(C, D, **{"start_step": 0, "share": 0.3, **arguments}).double()
    torch.nn.init.normal_(loss.class_weights.weight, generator=torch.Generator().manual_seed(2))
    return loss


def mixed_arcface(loss, mixtures, embeddings, labels):
    """ArcFace, whose rows of some classes are mixed with given directions, and its gradient of the weights."""
    plain = losses.ArcFaceLoss(C, D).double()
    weight = loss.class_weights.weight.detach().clone().requires_grad_()
    rows = list(weight / weight.norm(dim=1, keepdim=True))
    for label, latest in mixtures.items():
        rows[label] = 0.7 * rows[label] + 0.3 * latest / latest.norm()
    plain.class_weights.weight.requires_grad_(False)
    del plain.class_weights.weight
    plain.class_weights.weight = torch.stack(rows)
    value = arcface(plain, embeddings, labels, degrees=0.5 * 180 / torch.pi).mean()
    return value, torch.autograd.grad(value, weight)[0]


def test_classes_seen_of_late_are_mixed_with_their_last_embedding(embeddings):
    loss = vpl()
    loss(embeddings[0], torch.tensor([1, 3, 1, 4]))
    value = loss(embeddings[1], LATER)
    mixtures = {1: embeddings[0, 2], 3: embeddings[0, 1], 4: embeddings[0, 3]}
    expected, gradient = mixed_arcface(loss, mixtures, embeddings[1], LATER)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, loss.class_weights.weight)[0], gradient)


def test_an_embedding_goes_out_of_date(embeddings):
    loss = vpl(max_age=1)
    loss(embeddings[0], torch.tensor([1, 3, 1, 4]))
    loss(embeddings[1], torch.tensor([0, 0, 0, 6]))
    expected, _ = mixed_arcface(loss, {0: embeddings[1, 2], 6: embeddings[1, 3]}, embeddings[2], LATER)
    torch.testing.assert_close(loss(embeddings[2], LATER), expected)


def test_it_is_arcface_before_the_start_and_in_evaluation(embeddings):
    loss = vpl(start_step=2)
    labels = torch.tensor([1, 3, 1, 4])
    for number in range(2):
        expected, _ = mixed_arcface(loss, {}, embeddings[number], labels)
        torch.testing.assert_close(loss(embeddings[number], labels), expected)
    expected, _ = mixed_arcface(loss, {}, embeddings[2], labels)
    assert loss(embeddings[2], labels) != expected
    state = copy.deepcopy(loss.state_dict())
    torch.testing.assert_close(loss.eval()(embeddings[2], labels), expected)
    assert all(torch.equal(loss.state_dict()[key], state[key]) for key in state)


def test_the_logits_of_training_are_those_of_the_mixture(embeddings):
    loss = vpl()
    loss(embeddings[0], torch.tensor([1, 3, 1, 4]))
    logits = loss.get_logits(embeddings[1], LATER)
    torch.testing.assert_close(loss(embeddings[1], LATER), torch.nn.functional.cross_entropy(logits, LATER))


def test_sampled_classes_are_mixed_with_their_own(embeddings):
    dense, sampled = vpl(), vpl(sample_rate=0.999)
    for loss in (dense, sampled):
        loss(embeddings[0], torch.tensor([1, 3, 1, 4]))
    torch.testing.assert_close(sampled(embeddings[1], LATER), dense(embeddings[1], LATER))


def test_new_classes_have_not_been_seen(embeddings):
    loss = vpl()
    loss(embeddings[0], torch.tensor([1, 3, 1, 6]))
    loss.resize_classes(4)
    loss.resize_classes(8)
    assert (loss._step + 1 - loss.seen <= loss.max_age).nonzero().flatten().tolist() == [1, 3]
    loss(embeddings[1], LATER)
