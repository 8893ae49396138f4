"""Samples of two classes, as mixup makes them."""

import copy

import pytest
import torch
from pytorch_metric_learning import reducers
from torch._dynamo.testing import CompileCounter

from pml_center import losses
from pml_center.regularizers import CenterRepulsionRegularizer
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES

B = 12
MIXED = [case for case in CASES if case.has_classes and case.loss not in (losses.BroadFaceLoss, losses.GitLoss)]
each_mixed = pytest.mark.parametrize("case", MIXED, ids=str)


@pytest.fixture
def batch(generator):
    embeddings = torch.randn(B, EMBEDDING_SIZE, generator=generator, dtype=torch.double, requires_grad=True)
    labels, other = (torch.randint(NUM_CLASSES, (B,), generator=generator) for _ in range(2))
    other[:2] = labels[:2]  # an image may be mixed with one of its own class
    return embeddings, labels, other, torch.rand(B, generator=generator, dtype=torch.double)


def without_statistics(loss):
    """The same loss, whose running statistics stay."""
    for part in loss.modules():
        if isinstance(part, losses.BaseSoftmaxLoss):
            part._observes = False
    return loss


@each_mixed
@pytest.mark.parametrize("more", [{}, {"ignore_index": -1}], ids=str)
def test_a_mixed_sample_has_its_share_of_both_losses(case, more, batch):
    embeddings, labels, other, share = batch
    loss = without_statistics(case.build(**more))
    one, two = (copy.deepcopy(loss).element_losses(embeddings, each) for each in (labels, other))
    expected = (share * one + (1 - share) * two).mean()
    value = loss(embeddings, labels, other_labels=other, share=share)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(value, embeddings), torch.autograd.grad(expected, embeddings), rtol=1e-7, atol=1e-8
    )


@each_mixed
def test_a_share_of_one_is_the_plain_loss(case, batch):
    embeddings, labels, other, _ = batch
    plain, mixed = case.build(), case.build()
    torch.testing.assert_close(
        mixed(embeddings, labels, other_labels=other, share=1), plain(embeddings, labels), rtol=1e-10, atol=1e-10
    )
    skipped = "last_seen"  # the other class was in the batch, too
    for name, value in plain.state_dict().items():
        if not name.endswith(skipped):
            torch.testing.assert_close(mixed.state_dict()[name], value, msg=name)


def test_classes_are_passed_over_once_where_no_margin_is_in_the_way(batch):
    embeddings, labels, other, share = batch
    for kind, passes in ((losses.CosFaceLoss, 1), (losses.MVSoftmaxLoss, 2)):
        seen = []

        class Products(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, operation, types, args=(), kwargs=None, seen=seen):
                if operation in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                    seen.append(operation)
                return operation(*args, **(kwargs or {}))

        loss = kind(NUM_CLASSES, EMBEDDING_SIZE).double()
        with Products():
            loss(embeddings.detach(), labels, other_labels=other, share=share)
        assert len(seen) == passes


def test_a_center_moves_by_the_share_of_each_sample():
    loss = losses.CenterLoss(3, 2, alpha=1, update="mean").double()
    embeddings = torch.tensor([[4.0, 0.0], [0.0, 2.0]], dtype=torch.double)
    loss(embeddings, torch.tensor([0, 1]), other_labels=torch.tensor([1, 2]), share=torch.tensor([0.75, 0.5]))
    expected = torch.tensor([[4.0, 0.0], [0.25 * 4 / 0.75, 0.5 * 2 / 0.75], [0.0, 2.0]], dtype=torch.double)
    torch.testing.assert_close(loss.centers, expected)


def test_statistics_see_a_sample_once_by_the_class_of_which_it_has_more():
    embeddings = torch.randn(6, 4)
    labels, other = torch.arange(6) % 3, (torch.arange(6) + 1) % 3
    share = torch.tensor([0.9, 0.2, 0.6, 0.1, 0.5, 0.4])
    mixed = losses.CurricularFaceLoss(3, 4)
    plain = copy.deepcopy(mixed)
    mixed(embeddings, labels, other_labels=other, share=share)
    plain(embeddings, torch.where(share >= 0.5, labels, other))
    for name, value in plain.state_dict().items():
        assert torch.equal(mixed.state_dict()[name], value), name


@pytest.mark.parametrize(
    "arguments",
    [
        {"loss_weights": [1.0, 2, 3, 4, 5, 6, 7]},
        {"reducer": reducers.SumReducer()},
        {"weight_regularizer": CenterRepulsionRegularizer()},
        {"sample_rate": 0.999},
        {"label_smoothing": 0.1},
        {"bias": True},
        {"chunk_size": 2},
        {"hard_negatives": 2, "hard_negative_margin": 0.1},
        {"class_counts": list(range(1, 8)), "prior_weight": 1},
        {"sub_centers": 2},
    ],
    ids=str,
)
def test_options_go_with_mixed_samples(arguments, batch):
    embeddings, labels, other, share = batch
    loss = losses.CosFaceLoss(NUM_CLASSES, EMBEDDING_SIZE, 0.2, 8, **arguments).double()
    value = loss(embeddings, labels, other_labels=other, share=share)
    torch.testing.assert_close(
        loss(embeddings, other, other_labels=labels, share=1 - share), value, rtol=1e-6, atol=1e-6
    )
    same = loss(embeddings, labels, other_labels=labels, share=share)
    torch.testing.assert_close(same, loss(embeddings, labels), rtol=1e-6, atol=1e-6)
    assert not torch.isclose(value, same)


def test_two_classes_are_all_there_are():
    embeddings = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 1])
    loss = losses.CosFaceLoss(2, 3, 0.2, 8).double()
    value = loss(embeddings, labels, other_labels=1 - labels, share=0.3)
    expected = 0.3 * loss(embeddings, labels) + 0.7 * loss(embeddings, 1 - labels)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    ours, theirs = (torch.autograd.grad(each, [embeddings, loss.class_weights.weight]) for each in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.5}, "other_labels must be given, as other_labels and share go together"),
        ({"other_labels": torch.tensor([0, 1])}, "share must be given"),
        ({"other_labels": torch.tensor([0, 1]), "share": 1.5}, r"share must be in \[0, 1\], got 1.5"),
        ({"other_labels": torch.tensor([0, 1]), "share": float("nan")}, r"share must be in \[0, 1\], got nan"),
        (
            {"other_labels": torch.tensor([0, 1]), "share": torch.ones(3)},
            r"share must be a number or have shape \(2,\)",
        ),
        ({"other_labels": torch.tensor([0, 1]), "share": "half"}, "share must be a number"),
        ({"other_labels": torch.tensor([0, 7]), "share": 0.5}, r"other_labels must be in \[0, 3\)"),
        ({"other_labels": torch.tensor([0]), "share": 0.5}, r"other_labels must have shape \(2,\)"),
    ],
)
def test_a_mixture_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.CosFaceLoss(3, 2)(torch.eye(2), torch.tensor([0, 1]), **arguments)


@pytest.mark.parametrize(
    "build", [losses.RangeLoss, lambda: losses.BroadFaceLoss(3, 2, queue_size=4), lambda: losses.GitLoss(3, 2)]
)
def test_a_loss_of_samples_of_one_class_refuses_two(build):
    with pytest.raises(ValueError, match=r"other_labels must be None for .* whose samples have one class each"):
        build()(torch.eye(2), torch.tensor([0, 1]), other_labels=torch.tensor([1, 0]), share=0.5)


def test_centers_that_start_from_a_mean_refuse_two():
    with pytest.raises(ValueError, match='init must not be "first_batch" with samples of two classes'):
        losses.CenterLoss(3, 2, init="first_batch")(
            torch.eye(2), torch.tensor([0, 1]), other_labels=torch.tensor([1, 0]), share=0.5
        )


@pytest.mark.parametrize("share", [0.3, torch.ones(B, device="meta")], ids=["number", "tensor"])
def test_nobody_waits_for_a_share(share):
    loss = losses.ArcFaceLoss(NUM_CLASSES, EMBEDDING_SIZE).to("meta")
    embeddings = torch.randn(B, EMBEDDING_SIZE, device="meta", requires_grad=True)
    labels = torch.zeros(B, dtype=torch.long, device="meta")
    loss(embeddings, labels, other_labels=labels, share=share).backward()


def test_a_share_is_compiled_once():
    loss = losses.CosFaceLoss(NUM_CLASSES, EMBEDDING_SIZE)
    counter = CompileCounter()
    compiled = torch.compile(loss, backend=counter)
    embeddings, labels = torch.randn(B, EMBEDDING_SIZE), torch.arange(B) % NUM_CLASSES
    frames = []
    for share in (0.3, 0.4, 0.5, 0.6, 0.7):
        compiled(embeddings, labels, other_labels=labels.flip(0), share=share)
        frames.append(counter.frame_count)
    torch._dynamo.reset()
    assert frames[2] == frames[4]
