"""
Train with Lightning
====================

A loss is a module: put it into your ``LightningModule`` beside the network. Lightning then moves it to the device,
saves it with the rest, and in several processes shares the gradients of its class weights as it does those of the
network.

Take ``pytorch-lightning``, or ``lightning`` from 2.6.6: its versions 2.6.2 and 2.6.3 were malicious
(`advisory <https://github.com/Lightning-AI/pytorch-lightning/security/advisories/GHSA-w37p-236h-pfx3>`_).
"""

import logging
import sys
import tempfile
import warnings

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pml_center import param_groups
from pml_center.data import EpochBatches, digits, split_images
from pml_center.distributed import rank, world_size
from pml_center.evaluation import RetrievalEvaluator
from pml_center.losses import CenterLoss, SoftmaxLoss

try:
    import pytorch_lightning as lightning
except ImportError:
    sys.exit("This example needs Lightning: pip install pytorch-lightning")

warnings.filterwarnings("ignore", ".*does not have many workers")  # the images are in memory
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

data = digits()
train, test = split_images(data.labels, held_out=0.25)
pixels = torch.from_numpy(data.images).float().flatten(1) / 16
labels = torch.from_numpy(data.labels)
seen = []  # the images of each epoch's first batch

# %%
# Of all that makes steps, one optimizer is enough. ``param_groups`` gives it the network and the class weights; centers
# step by themselves, with the images of all processes.
#
# Half precision is Lightning's for the whole step. Our losses compute in fp32 even so. For those of PML, and for what
# you do yourself, give them ``embeddings.float()`` outside of autocast, as below.


class Embedding(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        self.softmax, self.center = SoftmaxLoss(10, 32), CenterLoss(10, 32)

    def training_step(self, batch, number):
        images, of_batch, rows = batch
        if number == 0:
            seen.append(rows.tolist())
        embeddings = self.model(images)
        with torch.autocast(self.device.type, enabled=False):
            embeddings = embeddings.float()
            loss = self.softmax(embeddings, of_batch) + 0.01 * self.center(embeddings, of_batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(param_groups(self.model, self.softmax, self.center, lr=2e-3, loss_lr=2e-2))

    def train_dataloader(self):
        batches = EpochBatches(labels[train], 80, per_class=8, rank=rank(), parts=world_size())
        batches.epoch = self.current_epoch + 1
        return DataLoader(Images(), batch_sampler=batches)


class Images(Dataset):
    def __getitem__(self, place):
        row, _ = place  # the other is a seed, for transforms that draw at random
        return pixels[train[row]], labels[train[row]], row


# %%
# Two settings make the sampler yours. Without ``use_distributed_sampler=False``, several processes get another one,
# which knows nothing of classes. ``reload_dataloaders_every_n_epochs=1`` asks for each epoch's batches anew.

folder = tempfile.mkdtemp()
torch.manual_seed(0)
embedding = Embedding()
trainer = lightning.Trainer(
    accelerator="cpu",
    devices=1,
    max_epochs=8,
    precision="bf16-mixed",
    gradient_clip_val=5.0,
    use_distributed_sampler=False,
    reload_dataloaders_every_n_epochs=1,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(embedding)
batches = EpochBatches(labels[train], 80, per_class=8)
assert seen == [batches.rows(epoch)[0].tolist() for epoch in range(1, 9)]
print(f"loss {trainer.callback_metrics['loss']:.4f} after {trainer.global_step} steps")

# %%
# A checkpoint of Lightning has the class weights and the centers, because both are in the module.

trainer.save_checkpoint(f"{folder}/last.ckpt")
kept = torch.load(f"{folder}/last.ckpt", weights_only=True)["state_dict"]
print(*(name for name in kept if "center" in name or "softmax" in name), sep=", ")
assert torch.equal(kept["center.centers"], embedding.center.centers)

# %%
# What it is worth:

with torch.no_grad():
    report = RetrievalEvaluator(recall_at=(1,), ci="query")(embedding.model(pixels[test]), data.labels[test])
print(report)
assert report["mean_average_precision_at_r"] > 0.7
