"""A batch that is taken part by part gives what it gives at once."""

import copy
import weakref

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from pml_center.training.loss_formula import parse_loss
from pml_center.training.micro_batches import InParts

FORMULAS = ["TripletMarginLoss @ MultiSimilarityMiner", "SoftmaxLoss + 0.1 * CenterLoss(alpha=0.9)"]
BATCH, MOST = 22, 5  # parts of 5, 5, 4, 4, 4


def model(dropout, norm=nn.LayerNorm):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), norm(16), nn.GELU(), nn.Dropout(dropout), DropPath(dropout), nn.Linear(16, 4)]
    return nn.Sequential(*layers)


def images_and_labels(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 6, generator=generator, dtype=dtype), torch.arange(BATCH) % 4


def whole(network, images):
    return network(images)


def by_parts(network, images):
    return torch.cat([network(part) for part in images.tensor_split(5)])


def in_parts(network, images):
    return InParts(network, MOST)(images)


def step(embed, network, formula, dtype):
    """Gradients of model and loss, and the state of both, after one step that draws from seed 7."""
    network, (images, labels) = copy.deepcopy(network).to(dtype), images_and_labels(dtype)
    torch.manual_seed(7)
    loss = parse_loss(formula, num_classes=4, embedding_size=4).to(dtype)
    total, _ = loss(embed(network, images), labels)
    torch.rand(3)  # of whatever draws behind the network
    total.backward()
    gradients = [p.grad for module in (network, loss) for p in module.parameters()]
    return total.detach(), gradients, network.state_dict(), loss.state_dict()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize(("dropout", "at_once"), [(0.0, whole), (0.4, by_parts)])
def test_losses_see_the_whole_batch_and_parts_their_draws(dropout, at_once, formula, dtype, error):
    network = model(dropout)
    found, expected = (step(embed, network, formula, dtype) for embed in (in_parts, at_once))
    assert all(gradient.any() for gradient in expected[1])
    torch.testing.assert_close(found, expected, rtol=error, atol=error)


def test_statistics_move_once_for_each_part():
    network = model(0.4, nn.BatchNorm1d)
    found, expected = (step(embed, network, FORMULAS[1], torch.float64) for embed in (in_parts, by_parts))
    assert found[2]["1.num_batches_tracked"] == 5
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_of_what_lies_between_one_part_is_kept_at_a_time():
    network, (images, labels), kept, most = model(0.1), images_and_labels(), [], []

    def note(layer, inputs, output):
        kept.append(weakref.ref(output))
        most.append(sum(ref() is not None for ref in kept))

    network[2].register_forward_hook(note)
    embeddings = InParts(network, MOST)(images)
    assert len(kept) == 5
    assert not any(ref() is not None for ref in kept)
    parse_loss(FORMULAS[1], 4, 4)(embeddings, labels)[0].backward()
    assert len(kept) == 10
    assert max(most) == 1


def test_gradients_of_parts_are_added_in_full_precision():
    network, (images, _) = model(0.0), images_and_labels()
    images = images.repeat(20, 1)
    other = copy.deepcopy(network)
    with torch.autocast("cpu", torch.bfloat16):
        InParts(network, MOST)(images).float().sum().backward()
    for part in images.tensor_split(88):
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = other(part)
        embeddings.float().sum().backward()
    for found, expected in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-6)


def test_a_batch_of_one_part_is_taken_as_it_is():
    network, (images, _) = model(0.4), images_and_labels()
    torch.manual_seed(0)
    found = InParts(network, BATCH)(images)
    torch.manual_seed(0)
    assert torch.equal(found, network(images))


def test_a_frozen_network_gives_embeddings_and_no_gradient():
    network, (images, _) = model(0.0).requires_grad_(False), images_and_labels()
    embeddings = InParts(network, MOST)(images)
    assert not embeddings.requires_grad
    torch.testing.assert_close(embeddings, network(images))
