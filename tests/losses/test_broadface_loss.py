"""BroadFace: who gets which gradient, and what the queue remembers."""

import pytest
import torch

from pml_center import losses
from tests.cases import arcface

C, D, B = 7, 5, 4


@pytest.fixture
def batches(generator):
    embeddings = torch.randn(3, B, D, generator=generator, dtype=torch.double)
    return list(zip(embeddings, torch.randint(C, (3, B), generator=generator), strict=True))


def broadface(**arguments):
    loss = losses.BroadFaceLoss(C, D, **{"queue_size": 6, **arguments}).double()
    torch.nn.init.normal_(loss.class_weights.weight, generator=torch.Generator().manual_seed(2))
    return loss


def arcfaces(loss, embeddings, labels):
    return arcface(loss, embeddings, labels, degrees=0.5 * 180 / torch.pi)


def test_the_embeddings_learn_from_the_batch_and_the_weights_from_the_queue_as_well(batches):
    loss, past = broadface(), []
    weight = loss.class_weights.weight
    for embeddings, labels in batches:
        embeddings = embeddings.clone().requires_grad_()
        rows = weight.detach()
        moved = [e + e.norm() / old.norm() * (rows[y] - old) for e, y, old in past]
        of_all = torch.stack([*moved, *embeddings.detach()]), torch.stack([*(y for _, y, _ in past), *labels])
        broad, alone = arcfaces(loss, *of_all).mean(), arcfaces(loss, embeddings, labels).mean()
        value = loss(embeddings, labels)
        torch.testing.assert_close(value, alone)
        found = torch.autograd.grad(value, [embeddings, weight])
        torch.testing.assert_close(found[0], torch.autograd.grad(alone, embeddings)[0])
        torch.testing.assert_close(found[1], torch.autograd.grad(broad, weight)[0])
        past = [*past, *zip(embeddings.detach(), labels, rows[labels].clone(), strict=True)][-6:]
        weight.data -= 0.1 * found[1]
    assert len(past) == 6
    torch.testing.assert_close(loss.queue, torch.stack([e for e, _, _ in past]))
    assert loss.queue_labels.tolist() == [int(y) for _, y, _ in past]


def test_evaluation_is_arcface_and_leaves_the_queue_alone(batches):
    loss = broadface()
    loss(*batches[0])
    loss.eval()
    queue = loss.queue.clone()
    value = loss(*batches[1])
    torch.testing.assert_close(
        torch.autograd.grad(value, loss.class_weights.weight)[0],
        torch.autograd.grad(arcfaces(loss, *batches[1]).mean(), loss.class_weights.weight)[0],
    )
    assert torch.equal(loss.queue, queue)


def test_a_queue_smaller_than_a_batch_keeps_its_end(batches):
    loss = broadface(queue_size=3)
    loss(*batches[0])
    assert torch.equal(loss.queue_labels, batches[0][1][1:])
    torch.testing.assert_close(loss.queue, batches[0][0][1:])


def test_on_the_cpu_places_that_nobody_has_taken_cost_nothing(batches, monkeypatch):
    loss, sizes = broadface(queue_size=1000), []
    compare = loss._compare
    monkeypatch.setattr(
        loss, "_compare", lambda embeddings, *args: sizes.append(len(embeddings)) or compare(embeddings, *args)
    )
    for batch in batches:
        loss(*batch)
    assert sizes == [B, B, B, B, 2 * B]  # the first finds an empty queue


def test_the_queue_forgets_the_classes_that_are_dropped():
    loss = broadface()
    loss(torch.randn(4, D, dtype=torch.double), torch.tensor([0, 6, 2, 5]))
    loss.resize_classes(5)
    assert loss.queue_labels.tolist() == [-1, -1, 0, -1, 2, -1]
    loss(torch.randn(4, D, dtype=torch.double), torch.tensor([0, 1, 2, 4])).backward()
