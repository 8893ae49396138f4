"""
Kill a run and resume it
========================

A machine goes down, a queue takes your job from you, somebody pulls a plug. You start a training run, kill it in the
middle of an epoch, and resume it. What comes of it is what comes of a run that nobody touched, to the last bit.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file

from pml_center import plots
from pml_center.training import Run, TrainConfig, fit, resume

# %%
# One run from beginning to end. Images are cropped at random, a miner draws, a moving average is kept: there is much
# that a resumed run could get wrong. One thread, because the order in which several add numbers up is not fixed.

torch.set_num_threads(1)
folder = Path(tempfile.mkdtemp())
config = TrainConfig(
    "digits",
    model="convnet",
    image_size=8,
    embedding_size=16,
    loss="SoftmaxLoss + 0.01 * CenterLoss + TripletMarginLoss(triplets_per_anchor=5) @ MultiSimilarityMiner",
    batch_size=64,
    crop_scale=0.8,
    ema=0.9,
    epochs=6,
    checkpoint_every=4,
    workers=0,
    device="cpu",
)
untouched, measurement = fit(replace(config, out=str(folder / "untouched")))

# %%
# The same run again, on the command line, in a process of its own: ``--config`` takes what the first run recorded. As
# soon as there is a checkpoint from within the third epoch or a later one, the process gets the signal that nobody
# can catch.

command = ["train", "--config", untouched.folder / "config.yaml", "--out", folder / "killed", "--quiet"]
environment = {**os.environ, "OMP_NUM_THREADS": "1"}
state = folder / "killed" / "checkpoints" / "last" / "state.pt"


def progress():
    """How far the last checkpoint has come."""
    try:
        return torch.load(state, weights_only=True)["progress"]
    except FileNotFoundError:  # none yet, or at this instant the next one takes its place
        return {"epoch": 0, "step": 0}


with subprocess.Popen([sys.executable, "-m", "pml_center", *command], env=environment) as process:
    while progress()["epoch"] < 3 or progress()["step"] == 0:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()

killed = Run.open(folder / "killed")
kept, epochs_before = progress(), killed.epochs
print(f"exit code {process.returncode}; the last checkpoint is after step {kept['step']} of epoch {kept['epoch']}")
assert process.returncode == -9

# %%
# Resume it. On the command line that is ``pml-center resume RUN``.

resumed, measured_again = resume(killed.folder)

# %%
# Grey is the run that nobody touched. The other two are what the killed process logged, and what was logged after it.

figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for run_epochs, style in (
    (untouched.epochs, {"linewidth": 6, "color": "lightgray", "label": "untouched"}),
    (epochs_before, {"linewidth": 1.8, "color": plots.BRIGHT[0], "label": "killed"}),
    (resumed.epochs[len(epochs_before) :], {"linewidth": 1.8, "color": plots.BRIGHT[1], "label": "resumed"}),
):
    steps = [epoch["epoch"] * kept["updates"] for epoch in run_epochs]
    ax.plot(steps, [epoch["loss"] for epoch in run_epochs], marker="o", markersize=4, **style)
checkpoint = (kept["epoch"] - 1) * kept["updates"] + kept["step"]
ax.axvline(checkpoint, color="gray", linestyle=":", label="last checkpoint")
ax.set(xlabel="steps", ylabel="loss, mean of an epoch")
ax.legend(frameon=False)
plt.show()

# %%
# Every weight of the network, of its moving average and of the losses, the centers, every epoch's loss, and every
# metric:


def weights(run):
    files = (run.checkpoints / "last").glob("*.safetensors")
    return {(file.stem, name): tensor for file in files for name, tensor in load_file(file).items()}


before, after = weights(untouched), weights(resumed)
assert before.keys() == after.keys()
assert all(torch.equal(before[name], after[name]) for name in before)
assert [epoch["loss"] for epoch in untouched.epochs] == [epoch["loss"] for epoch in resumed.epochs]
assert measurement.model.metrics == measured_again.model.metrics
print(
    f"{sum(tensor.numel() for tensor in after.values()):,} numbers are equal, "
    f"and so is MAP@R, {measured_again.model['mean_average_precision_at_r']:.4f}"
)
