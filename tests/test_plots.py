"""Plots: what is drawn, not how it looks."""

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from pml_center import plots


def test_each_class_has_its_own_colour_and_name(generator):
    labels = np.repeat(np.arange(12), 3)
    points = np.random.default_rng(0).normal(size=(36, 2))
    ax = plots.features(points, labels, names=[f"class {n}" for n in range(12)])
    assert [text.get_text() for text in ax.texts] == [f"class {n}" for n in range(12)]
    styles = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in ax.collections}
    assert len(styles) == 12


def test_points_must_be_two_dimensional():
    with pytest.raises(ValueError, match=r"points must have shape \(3, 2\), got shape \(3, 5\)"):
        plots.features(np.zeros((3, 5)), [0, 1, 2])
