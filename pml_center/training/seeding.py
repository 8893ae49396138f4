"""seed_everything: all random numbers of a step follow from a few numbers."""

import random

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seed Python's, numpy's (from which PML's miners draw) and torch's generators.

    Args:
        numbers: a seed, taken as it is; or several, such as seed, step and process, which are mixed into one.
    """
    seed = numbers[0] if len(numbers) == 1 else int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the global generator is the one that PML draws from)
    torch.manual_seed(seed)
