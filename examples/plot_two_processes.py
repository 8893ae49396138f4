"""
Train in two processes
======================

Two processes, each with half of every batch, learn what one process learns: with a loss that keeps statistics of its
batch, with centers that step by themselves, and with triplets that a miner finds among the images of both.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from pml_center import param_groups
from pml_center.data import digits
from pml_center.distributed import initialize, is_main, prepare, shard_rows
from pml_center.training import parse_loss

# %%
# The program does not know how many processes there are. ``initialize`` asks ``torchrun``, ``prepare`` makes the losses
# look at the images of all, and ``shard_rows`` says which images of a batch are this process's own: of 75, 37 or 38.


def train(batch_size=75, epochs=2):
    """The weights that come of it, and the loss of each batch."""
    data = digits()
    pixels = torch.from_numpy(data.images).flatten(1).double() / 16
    labels = torch.from_numpy(data.labels)
    torch.manual_seed(0)  # the same start and the same order of images everywhere
    model = nn.Sequential(nn.Linear(pixels.shape[1], 64), nn.Tanh(), nn.Linear(64, 16)).double()
    loss = parse_loss("AdaFaceLoss + 0.1 * CenterLoss + TripletMarginLoss @ MultiSimilarityMiner", 10, 16).double()
    trained, joined = prepare(model, loss)
    optimizer = torch.optim.AdamW(param_groups(model, loss, lr=2e-3))
    values = []
    for batch in torch.randperm(len(labels)).repeat(epochs).split(batch_size):
        own = batch[list(shard_rows(len(batch)))]
        total, _ = joined(trained(pixels[own]), labels[own])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(total.item())
    return {**model.state_dict(), **loss.state_dict()}, torch.tensor(values)


if "WORLD_SIZE" in os.environ:  # started by torchrun, below
    with initialize("cpu"):
        result = train()
        if is_main():
            torch.save(result, sys.argv[1])
    sys.exit()

# %%
# Here is one process, and there are two.

weights, values = train()
with tempfile.TemporaryDirectory() as folder:
    result = Path(folder) / "result.pt"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, sys.argv[0], result], env=environment, check=True)
    weights_of_two, values_of_two = torch.load(result)

figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(values, linewidth=4, color="lightgray", label="one process")
ax.plot(values_of_two, linewidth=1, label="two processes")
ax.set(xlabel="batch", ylabel="loss")
ax.legend()
plt.show()

# %%
# Weights, class weights, centers and statistics agree to the last digits of double precision.

largest = max((weights[name] - weights_of_two[name]).abs().max().item() for name in weights)
print(f"loss from {values[0]:.1f} to {values[-1]:.1f}; largest difference of anything learned: {largest:.0e}")
assert largest < 1e-8
assert values[-1] < values[0] / 2
