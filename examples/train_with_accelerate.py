"""
Train with accelerate
=====================

The same program for one process, for several and for GPUs, with accelerate in charge of devices, half precision and the
optimizer. Start it as it is, or in two processes by ``torchrun --nproc-per-node 2``: in fp32 the losses agree to six
digits, in half precision but for its rounding.

There are four traps: what becomes of the sampler, what a loss sees of the batch, who moves what a loss learns, and
what a saved state holds.
"""

import sys
import tempfile

import torch
from pytorch_metric_learning import losses, miners
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from pml_center import param_groups
from pml_center.data import EpochBatches, digits, split_images
from pml_center.distributed import from_main, prepare
from pml_center.evaluation import RetrievalEvaluator
from pml_center.losses import CenterLoss, SoftmaxLoss

try:
    from accelerate import Accelerator
    from accelerate.data_loader import BatchSamplerShard
except ImportError:
    sys.exit("This example needs accelerate: pip install accelerate")

# %%
# **The sampler.** A loader that accelerate prepares gets another one, which deals out whole batches: two processes with
# batches of 4 train with 8, and images are repeated until all have as many. Two processes would get, of ten images:

parts = [list(BatchSamplerShard(BatchSampler(range(10), 4, False), 2, process)) for process in (0, 1)]
print(*parts, sep="\n")
assert sum(len(batch) for part in parts for batch in part) > 10

# %%
# ``EpochBatches`` takes each batch apart, and repeats nothing. So you do not give the loader to accelerate.

accelerator = Accelerator(cpu=True, mixed_precision="bf16")  # on GPUs without cpu=True
data = digits()
train, test = split_images(data.labels, held_out=0.25)
pixels = torch.from_numpy(data.images).float().flatten(1) / 16
labels = torch.from_numpy(data.labels)
process, processes = accelerator.process_index, accelerator.num_processes
batches = EpochBatches(labels[train], batch_size=80, per_class=8, rank=process, parts=processes)


class Images(Dataset):
    def __getitem__(self, place):
        index, _ = place  # the other is a seed, for transforms that draw at random
        return pixels[train[index]], labels[train[index]]


loader = DataLoader(Images(), batch_sampler=batches)

# %%
# **What a loss learns** goes to the optimizer by ``param_groups``: class weights. Centers step by themselves.
#
# **What a loss sees.** accelerate prepares the network, which then computes in half precision, gives fp32, and shares
# its gradients. Our ``prepare`` does the rest for the losses: each sees the images of all processes, miners too.

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
loss = losses.MultipleLosses(
    {
        "softmax": SoftmaxLoss(10, 32),
        "center": CenterLoss(10, 32),
        "triplet": losses.TripletMarginLoss(),
    },
    miners={"triplet": miners.MultiSimilarityMiner()},
    weights={"softmax": 1, "center": 0.01, "triplet": 0.5},
).to(accelerator.device)
optimizer = torch.optim.AdamW(param_groups(model, loss, lr=2e-3, loss_lr=2e-2))
trained, optimizer = accelerator.prepare(model, optimizer)
_, joined = prepare(trained, loss)

# %%
# **What a saved state holds** is what accelerate knows: it knows nothing of the losses until you tell it.

accelerator.register_for_checkpointing(loss)

values = []
for epoch in range(1, 9):
    batches.epoch = epoch
    for images, of_batch in loader:
        value = joined(trained(images.to(accelerator.device)), of_batch.to(accelerator.device))
        optimizer.zero_grad()
        accelerator.backward(value)
        accelerator.clip_grad_norm_([*model.parameters(), *loss.parameters()], 5.0)
        optimizer.step()
        values.append(value.item())
accelerator.print(f"{processes} processes, loss from {values[0]:.4f} to {values[-1]:.4f}")
assert values[-1] < values[0] / 4

folder = from_main(tempfile.mkdtemp)  # one for all processes
centers = loss.losses["center"].centers
kept = centers.clone()
accelerator.save_state(folder)
centers.zero_()
accelerator.load_state(folder)
assert torch.equal(centers, kept)

# %%
# Measure the network that you gave, in one of the processes.

if accelerator.is_main_process:
    with torch.no_grad():
        report = RetrievalEvaluator(recall_at=(1,), ci="query")(model.cpu()(pixels[test]), data.labels[test])
    print(report)
    assert report["mean_average_precision_at_r"] > 0.7
accelerator.end_training()
