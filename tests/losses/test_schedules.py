"""Schedules, by themselves and in a loss."""

import pytest
import torch

from pml_center import losses
from pml_center.losses.schedules import Annealing, LinearWarmup


def test_annealing_follows_the_formula_down_to_its_minimum():
    assert Annealing(1000, 0.5, 2, 5)(4) == pytest.approx(1 / (1 + 1000 / 9))
    assert Annealing(1000, 0.5, 2, 5)(100_000) == pytest.approx(1 / 6)
    assert Annealing(base=0, minimum=0)(1) == 1


def test_warmup_is_linear_and_stays():
    assert [LinearWarmup(2)(step) for step in (1, 2, 3)] == [0.5, 1, 1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Annealing(gamma=-1), r"gamma must be at least 0, got -1"),
        (lambda: Annealing(minimum=-0.5), r"minimum must be at least 0, got -0.5"),
        (lambda: LinearWarmup(0), r"steps must be at least 1, got 0"),
    ],
)
def test_an_argument_outside_its_range_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_annealing_mixes_the_margin_with_the_cosine(generator):
    annealing = Annealing(base=4, gamma=1, minimum=0)
    loss = losses.SphereFaceLoss(5, 3, margin_schedule=annealing).double()
    embeddings = torch.randn(6, 3, generator=generator, dtype=torch.double)
    labels = torch.randint(5, (6,), generator=generator)
    plain = losses.SphereFaceLoss(5, 3, margin=1).double()
    full = losses.SphereFaceLoss(5, 3).double()
    for other in (plain, full):
        other.load_state_dict(loss.state_dict(), strict=False)
    for step in (1, 2, 3):
        loss(embeddings, labels)
        decay = 4 / (1 + step)  # the paper's λ
        mixed = (decay * plain.get_logits(embeddings, labels) + full.get_logits(embeddings, labels)) / (1 + decay)
        torch.testing.assert_close(loss.get_logits(embeddings, labels), mixed)
