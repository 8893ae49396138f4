"""The digits that need no download."""

import numpy as np

from pml_center.data import digits


def test_there_are_1797_digits_of_ten_classes():
    data = digits()
    assert len(data) == 1797
    assert data.classes == list("0123456789")
    assert data.counts.min() >= 174
    assert data.name(5) == "digits[5]"


def test_pixels_span_the_whole_range_of_a_grey_image():
    image, label = digits()[0]
    assert image.mode == "L"
    assert image.size == (8, 8)
    assert label == 0
    pixels = np.asarray(digits().images)
    assert (pixels.min(), pixels.max()) == (0, 255)
