"""Margins, against angles."""

import math

import pytest
import torch

from pml_center.ops.margins import additive_angular, additive_cosine


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 1.5, math.pi])
def test_the_angular_margin_is_the_cosine_of_the_larger_angle(margin):
    angle = torch.linspace(0.01, math.pi - 0.01, 200, dtype=torch.double)
    expected = torch.where(angle + margin <= math.pi, (angle + margin).cos(), angle.cos() - margin * math.sin(margin))
    torch.testing.assert_close(additive_angular(angle.cos(), margin), expected, rtol=0, atol=1e-12)


def test_a_margin_may_differ_by_sample():
    cosine, margin = torch.tensor([0.5, 0.2]), torch.tensor([0.1, 0.4])
    expected = torch.stack([additive_angular(c, m) for c, m in zip(cosine, margin, strict=True)])
    assert torch.equal(additive_angular(cosine, margin), expected)
    assert torch.equal(additive_cosine(cosine, margin), cosine - margin)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_are_finite_at_and_beyond_the_ends(dtype):
    cosine = torch.tensor([1 + 1e-6, 1, 1 - 1e-7, 0, -1, -1 - 1e-6], dtype=dtype, requires_grad=True)
    additive_angular(cosine, 0.5).sum().backward()
    assert cosine.grad.isfinite().all()


def test_small_angles_keep_their_precision():
    angle = torch.tensor(1e-6, dtype=torch.double)
    cosine = angle.cos().requires_grad_()
    (slope,) = torch.autograd.grad(additive_angular(cosine, 0.5), cosine)
    assert slope.item() == pytest.approx(math.sin(1e-6 + 0.5) / math.sin(1e-6), rel=1e-3)  # cos itself is rounded
