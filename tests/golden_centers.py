"""Golden files of losses with centers, batch by batch."""

import pytest
import torch

from tests import golden_io


def with_centers(loss, centers):
    """The loss in fp64, its centers put at given values."""
    loss = loss.double()
    with torch.no_grad():
        loss.centers.copy_(torch.from_numpy(centers))
    return loss


def steps(golden, kind):
    """Each batch of a file: its number, its arrays, and the centers before it."""
    centers = golden.arrays[f"init/{kind}/centers"]
    for number in range(golden.meta["steps"]):
        step = golden.step(number)
        yield number, step, centers
        centers = step.get("state_after/centers" if kind == "state" else "param_after/centers", centers)


def forward(loss, step, weight=1.0):
    """The weighted loss of a batch, and the embeddings, which have their gradient."""
    embeddings = torch.from_numpy(step["embeddings"]).requires_grad_()
    value = weight * loss(embeddings, torch.from_numpy(step["labels"]))
    value.backward()
    return value, embeddings


def each(pattern, *left_out):
    """Over the files of an implementation."""
    return pytest.mark.parametrize("name", [n for n in golden_io.names(pattern) if not n.endswith(left_out or ("-",))])
