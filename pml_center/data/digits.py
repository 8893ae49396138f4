"""The digits of scikit-learn: a data set that is there without a download."""

import numpy as np

from pml_center.data.labeled_images import LabeledImages


def digits() -> LabeledImages:
    """The 1,797 handwritten digits that come with scikit-learn: 8 × 8 pixels, 10 classes, no download.

    Returns:
        Grey images with pixels 0..255 and classes '0' to '9', in scikit-learn's order.

    Example:
        >>> data = digits()
        >>> len(data), data.num_classes, data[0][0].size
        (1797, 10, (8, 8))

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # the file counts ink, 0 to 16
    return LabeledImages(pixels, bunch.target, [str(name) for name in bunch.target_names], source="digits")
