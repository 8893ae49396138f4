"""
Train with PML's trainer
========================

PML's ``MetricLossOnly`` takes any of our losses. There are three things to know: which optimizer the loss needs,
which it does not, and where half precision goes.
"""

import contextlib
import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from pytorch_metric_learning import losses, miners, samplers, trainers
from torch import nn
from torch.utils.data import TensorDataset

from pml_center import create_embedder, plots
from pml_center.data import digits, split_images
from pml_center.evaluation import RetrievalEvaluator
from pml_center.losses import CenterLoss, SoftmaxLoss

data = digits()
train, test = split_images(data.labels, held_out=0.25)
pixels = torch.from_numpy(data.images).float().unsqueeze(1) / 16
labels = torch.from_numpy(data.labels)
EPOCHS = 6

# %%
# The loss is a sum of three. PML keeps the miner inside ``MultipleLosses``, beside the loss that it is for.


def make_loss():
    return losses.MultipleLosses(
        {"softmax": SoftmaxLoss(10, 32), "center": CenterLoss(10, 32), "triplet": losses.TripletMarginLoss()},
        miners={"triplet": miners.MultiSimilarityMiner()},
        weights={"softmax": 1, "center": 0.01, "triplet": 0.5},
    )


# %%
# PML's trainers know nothing of half precision. Put it into the network, so that losses get fp32.


class InHalf(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        with torch.autocast(images.device.type, torch.bfloat16):
            embeddings = self.model(images)
        return embeddings.float()


# %%
# The trainer gets an optimizer for the network and one that PML calls ``metric_loss_optimizer``. The second has the
# class weights of the softmax loss and nothing else. **Centers are in none**: they take the paper's step by
# themselves. The sampler is used as it is given; PML's own draw from numpy's global generator, so seed that, too.


def fit(forget=False):
    """The network, the loss, and the loss of each batch."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global generator is the one that PML draws from)
    model, loss = InHalf(create_embedder("convnet", embedding_size=32, image_size=8)), make_loss()
    optimizers = {"trunk_optimizer": torch.optim.AdamW(model.parameters(), lr=2e-3)}
    if not forget:
        optimizers["metric_loss_optimizer"] = torch.optim.AdamW(loss.parameters(), lr=2e-2, weight_decay=0)
    values = []
    trainer = trainers.MetricLossOnly(
        models={"trunk": model},
        optimizers=optimizers,
        batch_size=80,
        loss_funcs={"metric_loss": loss},
        dataset=TensorDataset(pixels[train], labels[train]),
        sampler=samplers.MPerClassSampler(labels[train], m=8, batch_size=80, length_before_new_iter=len(train)),
        end_of_iteration_hook=lambda trainer: values.append(trainer.losses["metric_loss"].item()),
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
    )
    with contextlib.redirect_stderr(io.StringIO()):  # a bar for each epoch
        trainer.train(num_epochs=EPOCHS)
    return model, loss, values


model, loss, values = fit()
center = loss.losses["center"]
assert not list(center.parameters())
assert center.centers.any(1).all()
print(f"{len(list(loss.parameters()))} tensors for the optimizer; {int(center.step)} steps of the centers without one")

# %%
# If you forget ``metric_loss_optimizer``, nothing fails: the network learns to please class weights that stand where
# they stood at the start. The loss sees it, and says so once.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    lame, _, lame_values = fit(forget=True)
(message,) = [str(warning.message) for warning in caught if "no optimizer" in str(warning.message)]
print(message)

figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(values, color=plots.BRIGHT[0], label="with metric_loss_optimizer")
ax.plot(lame_values, color=plots.BRIGHT[1], linestyle="--", label="without")
ax.set(xlabel="batch", ylabel="loss", ylim=(0, None))
ax.legend(frameon=False)
plt.show()

# %%
# What it is worth, on images that were held out:

with torch.no_grad():
    report = RetrievalEvaluator(ci="query")(model.eval()(pixels[test]), data.labels[test])
print(report)
assert report["mean_average_precision_at_r"] > 0.8
assert np.mean(values[-20:]) < np.mean(lame_values[-20:])
