"""few_positives: what batches drawn regardless of class leave to losses that compare samples with each other."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pml_center.names import constructor_parameters
from pml_center.training.config import TrainConfig
from pml_center.training.loss_formula import parse_loss

LOG = logging.getLogger("pml_center")
FEW = 0.9  # a smaller share of anchors with a positive makes a comparison doubtful


def share_with_positive(counts: ArrayLike, batch_size: int) -> float:
    """The share of samples that find another one of their class in a batch drawn regardless of class.

    Args:
        counts: images of each class.
        batch_size: at most as many as there are images.

    Example:
        >>> round(share_with_positive([20] * 771, batch_size=128), 3)
        0.145
    """
    from scipy.stats import hypergeom

    sizes = np.asarray(counts)
    alone = hypergeom(sizes.sum() - 1, sizes - 1, batch_size - 1).pmf(0)
    return float(np.average(1 - alone, weights=sizes))


def few_positives(losses: Sequence[str], counts: ArrayLike, config: TrainConfig, is_searched: bool) -> list[str]:
    """Say how many anchors have a positive, where a loss compares samples and batches are drawn regardless of class.

    Args:
        losses: formulas.
        counts: images of each class for training.
        config: of the runs.
        is_searched: whether batches by class are tried as well.

    Returns:
        The sentence, if it makes the comparison doubtful.
    """
    names = [loss for loss in losses if _compares_samples(loss)]
    if config.per_class or not names:
        return []
    share = share_with_positive(counts, min(config.batch_size, int(np.sum(counts))))
    said = (
        f"per_class is 0: {100 * share:.0f} % of the anchors have a positive in a batch of {config.batch_size}, which "
        f"is all that {', '.join(names)} learns from; --per-class 4 draws batches by class"
    )
    LOG.info("%s", said)
    return [said] if share < FEW and not is_searched else []


def _compares_samples(formula: str) -> bool:
    parts = parse_loss(formula, num_classes=4, embedding_size=4, class_counts=1).losses
    return any("num_classes" not in constructor_parameters(type(part)) for part in parts)
