"""The sums that never hold the logits, against the logits."""

import pytest
import torch
import torch.nn.functional as F

from pml_center.ops.cross_entropy import NegativeLogits, negative_logsumexp, negative_sum, scaled

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
def test_equal_the_naive_line_in_value_and_gradient(tensors, chunk_size, margin, normalize, parts):
    (embeddings, weight, bias, scale), own = tensors
    if parts == "plain":
        bias, scale = None, 3.0
    logits = embeddings @ (F.normalize(weight, dim=1) if normalize else weight).t()
    logits = scaled(logits if margin is None else margin(logits), scale)
    logits = logits if bias is None else logits + bias
    described = NegativeLogits(embeddings, weight, own, scale, margin, bias, normalize, chunk_size)
    inputs = [tensor for tensor in (embeddings, weight, bias, scale) if isinstance(tensor, torch.Tensor)]
    upstream = torch.arange(1.0, B + 1, dtype=torch.double)
    for function, fill in ((negative_logsumexp, -torch.inf), (negative_sum, 0.0)):
        naive = logits.scatter(1, own.unsqueeze(1), fill)
        expected = naive.logsumexp(1) if function is negative_logsumexp else naive.sum(1)
        value = function(described)
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
