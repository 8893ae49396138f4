"""Ring loss: the radius is found once, learned, saved and shared, and twice this loss is the published code."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pml_center import losses, param_groups
from pml_center.regularizers import RingRegularizer
from tests import golden_io

EMBEDDINGS = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # lengths 5 and 1


def test_the_first_batch_of_training_gives_the_radius():
    ring = RingRegularizer()
    ring(EMBEDDINGS)
    assert ring.radius == 3
    ring(10 * EMBEDDINGS)
    assert ring.radius == 3


def test_evaluation_before_training_keeps_no_radius():
    ring = RingRegularizer().eval()
    assert ring(EMBEDDINGS) == 2  # of its own mean, 3
    assert ring.radius == 0
    assert ring(10 * EMBEDDINGS) == 200
    ring.train()(EMBEDDINGS)
    assert ring.radius == 3


def test_an_overflow_does_not_become_the_radius():
    ring = RingRegularizer()
    ring(torch.tensor([[torch.inf, 0.0], [0.0, 2.0]]))
    assert ring.radius == 2


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_batch_without_a_length_leaves_the_radius_to_the_next(is_elsewhere, elsewhere):
    if is_elsewhere:
        elsewhere()
    ring = RingRegularizer()
    ring(torch.full((2, 2), torch.nan))
    assert ring.radius == 0
    ring(EMBEDDINGS)
    ring(10 * EMBEDDINGS).backward()
    assert ring.radius == 3
    assert ring.radius.grad == 3 - 30


def test_a_loaded_radius_is_not_found_again():
    ring, other = RingRegularizer(), RingRegularizer()
    ring(EMBEDDINGS)
    other.load_state_dict(ring.state_dict())
    other(10 * EMBEDDINGS)
    assert other.radius == 3
    fresh = RingRegularizer(radius=7)
    fresh.load_state_dict(RingRegularizer().state_dict())  # one that has not begun
    fresh(EMBEDDINGS)
    assert fresh.radius == 3


def test_an_optimizer_learns_the_radius_with_the_loss():
    loss = losses.SoftmaxLoss(2, 2, embedding_regularizer=RingRegularizer(radius=1), embedding_reg_weight=2)
    groups = param_groups(nn.Linear(2, 2), loss, lr=0.1)
    radius = loss.embedding_regularizer.radius
    assert [radius is p for group in groups if group["name"] == "losses" for p in group["params"]].count(True) == 1
    loss(EMBEDDINGS, torch.tensor([0, 1])).backward()
    torch.testing.assert_close(radius.grad, torch.tensor(2 * (1 - 3.0)))  # 2 · mean of R − ‖x‖
    torch.optim.SGD(groups, lr=0.1).step()
    assert radius.item() == pytest.approx(1.4)


def test_the_radius_is_no_center():
    loss = losses.CenterLoss(2, 2, update="gradient", embedding_regularizer=RingRegularizer())
    groups = param_groups(nn.Linear(2, 2), loss, lr=0.1, center_lr=0.5)
    by_name = {group["name"]: group["params"] for group in groups}
    assert [id(p) for p in by_name["centers"]] == [id(loss.centers)]
    assert [id(p) for p in by_name["losses"]] == [id(loss.embedding_regularizer.radius)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": 0}, "radius must be positive and finite, got 0"),
        ({"radius": float("inf")}, "radius must be positive and finite, got inf"),
        ({"radius": -1}, "radius must be positive and finite, got -1. Leave it out to have it found."),
        ({"kind": "l3"}, "kind must be a known name, got 'l3'"),
    ],
)
def test_an_argument_outside_its_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RingRegularizer(**arguments)


@pytest.mark.parametrize("name", golden_io.names("ring__amena6490_*"))
def test_twice_each_kind_is_the_published_code(name):
    """Value, gradients, the radius of the first batch and its steps."""
    golden = golden_io.load(name)
    official = golden.meta["hyperparameters"]
    ring = RingRegularizer(official.get("radius"), official["type"]).double()
    for number in range(golden.meta["steps"]):
        step = golden.step(number)
        embeddings = torch.from_numpy(step["embeddings"]).requires_grad_()
        ring.zero_grad()
        value = 2 * official["loss_weight"] * ring(embeddings)
        value.backward()
        golden.assert_close(f"s{number}/loss", value)
        golden.assert_close(f"s{number}/grad/embeddings", embeddings.grad)
        golden.assert_close(f"s{number}/grad/radius", ring.radius.grad)
        golden.assert_close(f"s{number}/state_after/radius", ring.radius)
        if "param_after/radius" in step:
            torch.optim.SGD(ring.parameters(), lr=0.2).step()
            golden.assert_close(f"s{number}/param_after/radius", ring.radius)


def start_together(rank, folder):
    """What one of two processes does: the radius after its part of the first batch."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ring = RingRegularizer()
    ring(EMBEDDINGS[:1] if rank == 0 else torch.cat([EMBEDDINGS[1:], torch.tensor([[0.0, 9.0]])]))
    torch.save(ring.radius.detach(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_start_from_the_radius_of_the_joined_batch(tmp_path):
    torch.multiprocessing.spawn(start_together, (str(tmp_path),), nprocs=2)
    assert [torch.load(tmp_path / f"{rank}.pt").item() for rank in range(2)] == [5, 5]  # mean of 5, 1 and 9
