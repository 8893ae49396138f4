"""Margins, against angles."""

import math

import pytest
import torch

from pml_center.ops.margins import (
    additive_angular,
    additive_cosine,
    combined_angular,
    linear_angular,
    multiplied_angular,
)


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


@pytest.mark.parametrize("factor", [1, 1.7, 2, 3, 4])
def test_the_multiplied_angle_falls_all_the_way_and_smoothly(factor):
    angle = torch.linspace(0, math.pi, 4001, dtype=torch.double)
    margined = multiplied_angular(angle.cos(), factor)
    assert (margined.diff() <= 1e-12).all()
    assert (margined.diff().abs() < factor * math.pi / 4000 + 1e-12).all()
    first = angle < math.pi / factor
    torch.testing.assert_close(margined[first], (factor * angle).cos()[first])
    if factor == int(factor):
        assert margined[-1].item() == pytest.approx(1 - 2 * factor)


@pytest.mark.parametrize("beyond_pi", ["linear", "rotate", "easy"])
def test_the_combined_angle_without_a_factor_is_the_additive_one(beyond_pi):
    cosine = torch.linspace(-1, 1, 200, dtype=torch.double)
    expected = additive_angular(cosine, 0.5, beyond_pi)
    torch.testing.assert_close(combined_angular(cosine, 1, 0.5, beyond_pi), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("factor", "margin"), [(0.9, 0.4), (0.5, 0.1), (1.5, 0.3), (1, 2.3)])
def test_the_combined_angle_falls(factor, margin):
    angle = torch.linspace(0, math.pi, 2001, dtype=torch.double)
    margined = combined_angular(angle.cos(), factor, margin)
    assert (margined.diff() <= 1e-12).all()
    within = factor * angle + margin < math.pi
    torch.testing.assert_close(margined[within], (factor * angle + margin).cos()[within])


def test_the_linear_angle_is_linear():
    angle = torch.linspace(0, math.pi, 101, dtype=torch.double)
    torch.testing.assert_close(linear_angular(angle.cos(), 0.3), 1 - 2 * (angle + 0.3) / math.pi, rtol=0, atol=1e-9)


@pytest.mark.parametrize("margin", [multiplied_angular, linear_angular, lambda c, m: combined_angular(c, m, m / 10)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_of_every_margin_are_finite_at_and_beyond_the_ends(margin, dtype):
    cosine = torch.tensor([1 + 1e-6, 1, 1 - 1e-7, 0, -1, -1 - 1e-6], dtype=dtype, requires_grad=True)
    margin(cosine, 3).sum().backward()
    assert cosine.grad.isfinite().all()


def test_the_slope_of_the_linear_angle_keeps_its_precision_at_small_angles():
    cosine = torch.tensor(1 - 2.0**-40, dtype=torch.double, requires_grad=True)  # no rounding
    (slope,) = torch.autograd.grad(linear_angular(cosine, 0.3), cosine)
    assert slope.item() == pytest.approx(2 / math.pi / math.sqrt(2.0**-40 * (2 - 2.0**-40)), rel=1e-12)
