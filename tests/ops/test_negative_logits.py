"""The sums that never hold the logits, against the logits."""

import pytest
import torch
import torch.nn.functional as F

from pml_center.ops.negative_logits import NegativeLogits, nearest_row, negative_logsumexp, negative_sum, scaled

B, C, D = 6, 11, 4


@pytest.fixture
def tensors(generator):
    random = {"generator": generator, "dtype": torch.double}
    embeddings, weight = torch.randn(B, D, **random), torch.randn(C, D, **random)
    own = torch.randint(C, (B,), generator=generator)
    bias, scale = torch.randn(C, **random), torch.rand(B, **random) + 1
    return [tensor.requires_grad_() for tensor in (embeddings, weight, bias, scale)], own


def halve(similarity):
    return similarity / 2 - similarity.square()


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 11, 50])
@pytest.mark.parametrize("margin", [None, halve])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("parts", ["plain", "biased and scaled"])
@pytest.mark.parametrize("sub_centers", [1, 3])
def test_equal_the_naive_line_in_value_and_gradient(tensors, chunk_size, margin, normalize, parts, sub_centers):
    (embeddings, weight, bias, scale), own = tensors
    if parts == "plain":
        bias, scale = None, 3.0
    weight = torch.cat([weight, weight.flip(0), 2 - weight]).detach().requires_grad_() if sub_centers == 3 else weight
    similarity = embeddings @ (F.normalize(weight, dim=1) if normalize else weight).t()
    logits = nearest_row(similarity, sub_centers)
    logits = scaled(logits if margin is None else margin(logits), scale)
    logits = logits if bias is None else logits + bias
    described = NegativeLogits(
        embeddings, weight, own, scale, margin, bias, normalize, sub_centers, chunk_size=chunk_size
    )
    inputs = [tensor for tensor in (embeddings, weight, bias, scale) if isinstance(tensor, torch.Tensor)]
    upstream = torch.arange(1.0, B + 1, dtype=torch.double)
    is_own = F.one_hot(own, C).bool()
    for value, expected in (
        (negative_logsumexp(described), logits.masked_fill(is_own, -torch.inf).logsumexp(1)),
        (negative_sum(described), logits.masked_fill(is_own, 0).sum(1)),
        (negative_sum(described, of=F.softplus), F.softplus(logits).masked_fill(is_own, 0).sum(1)),
    ):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            torch.autograd.grad(value @ upstream, inputs),
            torch.autograd.grad(expected @ upstream, inputs, retain_graph=True),
            rtol=1e-10,
            atol=1e-12,
        )


def test_a_single_class_has_no_negatives(tensors):
    (embeddings, weight, *_), _ = tensors
    value = negative_logsumexp(NegativeLogits(embeddings, weight[:1], torch.zeros(B, dtype=torch.long)))
    assert (value < -1e300).all()
    (gradient,) = torch.autograd.grad(value.sum(), embeddings)
    assert not gradient.any()


def test_a_second_backward_gives_the_same_gradients(tensors):
    (embeddings, weight, *_), own = tensors
    value = negative_logsumexp(NegativeLogits(embeddings, weight, own, margin=halve)).sum()
    first = torch.autograd.grad(value, [embeddings, weight], retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(value, [embeddings, weight]), first))


def test_weights_changed_between_forward_and_backward_are_noticed(tensors):
    (embeddings, weight, *_), own = tensors
    value = negative_logsumexp(NegativeLogits(embeddings, weight, own)).sum()
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("margin", [None, halve])
@pytest.mark.parametrize("sum_of", [negative_logsumexp, negative_sum])
def test_rows_without_gradient_may_move_between_forward_and_backward(tensors, chunk_size, margin, sum_of):
    (embeddings, weight, *_), own = tensors
    upstream = torch.arange(1.0, B + 1, dtype=torch.double)
    expected = sum_of(NegativeLogits(embeddings, weight, own, 3.0, margin, chunk_size=chunk_size))
    moving = weight.detach().clone()
    value = sum_of(NegativeLogits(embeddings, moving, own, 3.0, margin, chunk_size=chunk_size))
    moving.zero_()
    assert torch.equal(value, expected)
    found, wanted = (torch.autograd.grad(each @ upstream, embeddings)[0] for each in (value, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
