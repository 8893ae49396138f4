"""Ranges of numbers: what a rule lets in, and what it says of the rest."""

import math

import numpy as np
import pytest
import torch

from pml_center.checks import check_between


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("in [0, π] radians", (0, math.pi), (-1e-9, 3.1416)),
        ("in [0, π/2] radians", (1, math.pi / 2), (1.5708,)),
        ("in (0, 1]", (1e-9, 1), (0, 1.1)),
        ("in [0, 1)", (0, 0.99), (-0.1, 1)),
        ("in [0, 2], a difference of cosines", (2,), (2.1,)),
        ("in [0, upper_margin=0.8] radians", (0.8,), (0.81,)),
        ("at least 1", (1, 1e9), (0.99,)),
        ("positive", (1e-9,), (0, -1)),
        ("finite and at least 0", (0,), (-1,)),
        ("positive and below upper_norm=110", (109,), (0, 110)),
        ("an integer of at least 1", (1, np.int64(3), torch.tensor(2)), (0, 1.0, True, np.float32(2))),
        ("a positive integer", (1,), (0, 2.5)),
    ],
)
def test_a_rule_means_what_it_says(rule, inside, outside):
    for value in inside:
        check_between(rule, "Remedy.", value=value)
    for value in (*outside, math.nan, math.inf, -math.inf, "1", None, [1], torch.ones(2), np.ones(2), 1j):
        with pytest.raises(ValueError, match=r"^value must be .*, got .*\. Remedy\.$") as caught:
            check_between(rule, "Remedy.", value=value)
        assert str(caught.value) == f"value must be {rule}, got {value!r}. Remedy."


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
def test_numbers_of_numpy_and_torch_are_numbers(value):
    check_between("in [0, 1]", "Remedy.", value=value)


def test_a_rule_without_an_interval_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="no interval in the rule 'small'"):
        check_between("small", "Remedy.", value=1)
