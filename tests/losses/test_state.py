"""The state of a loss: what must not move it, and what must find it as it was."""

import contextlib
import copy
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from pml_center import losses
from pml_center.checks import check_rows
from pml_center.losses import base_element_loss, schedules
from pml_center.regularizers import RingRegularizer
from pml_center.training import parse_loss
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES

each_loss = pytest.mark.parametrize("case", CASES, ids=str)
B = 12
COUNTS = ("step", "last_seen")


@pytest.fixture
def batch(generator):
    return torch.randn(B, EMBEDDING_SIZE, generator=generator), torch.arange(B) % (NUM_CLASSES - 1)


def spoiled(embeddings, value, rows=slice(None)):
    embeddings = embeddings.clone()
    embeddings[rows] = value
    return embeddings


SPOILED = {
    "nan": lambda x: spoiled(x, torch.nan, 3),
    "infinity": lambda x: spoiled(x, -torch.inf, 3),
    "squares that overflow": lambda x: 1e25 * x,
    "squares of one row that overflow": lambda x: spoiled(x, 1e25, 3),
    "squares that overflow, in half precision": lambda x: spoiled(x, 1e25).bfloat16(),
}


def assert_no_trace(loss, twin, batch, but=()):
    """Neither in its state nor in the loss of the next batch."""
    before, after = twin.state_dict(), loss.state_dict()
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert not [name for name in moved if not name.endswith(but)]
    assert torch.equal(loss(*batch), twin(*batch))


def begun(case, batch):
    loss = case.make()
    loss(*batch)  # queues, statistics and centers have something in them
    return loss, copy.deepcopy(loss)


@each_loss
@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_batch_that_is_not_finite_is_refused_without_a_trace(case, batch, spoil):
    loss, twin = begun(case, batch)
    with pytest.raises(
        ValueError, match=r"embeddings must (be finite|have lengths whose square float32 can hold), got"
    ):
        loss(spoil(batch[0]), batch[1])
    assert_no_trace(loss, twin, batch)


@each_loss
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e25])
def test_where_nobody_looks_at_values_it_leaves_no_trace_either(case, batch, value, monkeypatch):
    """As on CUDA, where a look would be a synchronisation."""
    loss, twin = begun(case, batch)
    with monkeypatch.context() as patch:
        patch.setattr(base_element_loss, "check_embeddings", lambda rows, *args, **kwargs: check_rows(rows))
        loss(spoiled(batch[0], value), batch[1])
    assert_no_trace(loss, twin, batch, COUNTS)


def test_lengths_that_float64_can_hold_are_fine(batch):
    embeddings, labels = 1e25 * batch[0].double(), batch[1]
    loss = losses.BroadFaceLoss(NUM_CLASSES, EMBEDDING_SIZE, queue_size=20).double()
    assert loss(embeddings, labels).isfinite()
    assert loss.queue.isfinite().all()


def test_a_radius_that_is_not_known_yet_waits_for_a_batch_that_is_finite(batch):
    loss = losses.CosFaceLoss(NUM_CLASSES, EMBEDDING_SIZE, embedding_regularizer=RingRegularizer())
    twin = copy.deepcopy(loss)
    with pytest.raises(ValueError, match="embeddings must have lengths"):
        loss(1e25 * batch[0], batch[1])
    assert_no_trace(loss, twin, batch)


MORE = {
    "sampled": partial(losses.CosFaceLoss, sample_rate=0.5),
    "scheduled": partial(losses.CosFaceLoss, margin_schedule=schedules.LinearWarmup(100)),
    "centers of the first batch": partial(losses.CenterLoss, update="gradient", init="first_batch"),
    "radius of the first batch": partial(losses.SoftmaxLoss, embedding_regularizer=RingRegularizer()),
}
MOVES = "must be called outside of torch.utils.checkpoint, because each training batch moves its state"


def check_checkpoint(loss, batch, use_reentrant):
    """The gradients are those without a checkpoint, and backward moves no state; else a sentence says why not."""
    alone, embeddings = copy.deepcopy(loss), [batch[0].clone().requires_grad_() for _ in range(2)]
    alone(embeddings[0], batch[1]).backward()
    alone(-batch[0], batch[1])
    with pytest.raises(RuntimeError, match=MOVES) if loss._moves else contextlib.nullcontext():
        value = checkpoint(loss, embeddings[1], batch[1], use_reentrant=use_reentrant)
        loss(-batch[0], batch[1])  # another batch in between
        state = copy.deepcopy(loss.state_dict())
        value.backward()
    if loss._moves:
        return
    torch.testing.assert_close(embeddings[1].grad, embeddings[0].grad)
    for ours, theirs in zip(loss.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(torch.equal(state[name], value) for name, value in loss.state_dict().items())
    assert all(torch.equal(state[name], value) for name, value in alone.state_dict().items())


@each_loss
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_the_second_forward_of_a_checkpoint_finds_what_the_first_did(case, batch, use_reentrant):
    check_checkpoint(case.build(), [batch[0].double(), batch[1]], use_reentrant)


@pytest.mark.parametrize("make", MORE.values(), ids=MORE)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_so_it_does_under_options_that_draw_count_or_start_from_a_batch(make, batch, use_reentrant):
    check_checkpoint(make(NUM_CLASSES, EMBEDDING_SIZE), batch, use_reentrant)


@pytest.mark.parametrize("kind", [losses.CenterLoss, losses.VPLLoss, losses.ElasticFaceLoss, losses.SoftmaxCenterLoss])
def test_a_checkpoint_around_a_loss_that_moves_is_refused_in_training_alone(kind, batch):
    loss, embeddings = kind(NUM_CLASSES, EMBEDDING_SIZE), batch[0].requires_grad_()
    with pytest.raises(RuntimeError, match=MOVES):
        checkpoint(loss, embeddings, batch[1], use_reentrant=False)
    checkpoint(loss.eval(), embeddings, batch[1], use_reentrant=False).backward()


def test_a_checkpoint_around_a_formula_is_refused_for_the_loss_that_moves(batch):
    formula = parse_loss("SoftmaxLoss + 0.01 * CenterLoss", NUM_CLASSES, EMBEDDING_SIZE)
    with pytest.raises(RuntimeError, match=rf"^CenterLoss {MOVES}"):
        checkpoint(formula, batch[0].requires_grad_(), batch[1], use_reentrant=False)
