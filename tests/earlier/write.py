"""What a version writes: the state of every loss, a run that can go on, and a comparison. Later ones must read it.

Run by the version that is to be read, in a folder with both: ``PYTHONPATH=PATH/OF/THAT/VERSION python write.py``.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from pml_center import __version__, losses, regularizers
from pml_center.data import digits
from pml_center.losses.schedules import LinearWarmup
from pml_center.training import TrainConfig, compare, fit, resume
from pml_center.training.measurement import measure

HERE = Path(__file__).resolve().parent
ABSTRACT = {"BaseCenterLoss", "BaseSoftmaxLoss", "MarginSoftmaxLoss"}
CLASSES, SIZE = 3, 2
NEEDED = {"DynamicArcFaceLoss": {"class_counts": [5, 9, 3]}, "KappaFaceLoss": {"class_counts": [5, 9, 3]}}
SMALL = {"BroadFaceLoss": {"queue_size": 12}, "VPLLoss": {"start_step": 1}}

# Options that add to a state; every loss is there without any, too.
OPTIONS = [
    ("SoftmaxLoss", {"bias": False, "loss_weights": [1.0, 2.0, 0.5]}),
    ("SoftmaxLoss", {"sample_rate": 0.67}),
    ("NormalizedSoftmaxLoss", {"learn_scale": True}),
    ("NormalizedSoftmaxLoss", {"scale_schedule": 9, "sub_centers": 2}),
    ("ArcFaceLoss", {"margin_schedule": 9, "sample_rate": 0.67}),
    ("ArcFaceLoss", {"sub_centers": 2, "weight_regularizer": "CenterRepulsionRegularizer"}),
    ("CosFaceLoss", {"embedding_regularizer": "RingRegularizer"}),
    ("UniFaceLoss", {"thresholds": "separate"}),
    ("AdaCosLoss", {"dynamic": False}),
    ("SphereFaceLoss", {"margin_schedule": 9, "version": "r"}),
    ("CenterLoss", {"accumulation_steps": None}),
    ("CenterLoss", {"accumulation_steps": 2, "update": "mean"}),
    ("CenterLoss", {"update": "gradient", "radius": 0.5, "per_dim": True}),
    ("IslandLoss", {"accumulation_steps": None}),
    ("TripletCenterLoss", {"accumulation_steps": 2, "update": "mean"}),
    ("AngularCenterLoss", {"accumulation_steps": None}),
    ("AngularTripletCenterLoss", {"update": "paper"}),
    ("ContrastiveCenterLoss", {"update": "paper", "accumulation_steps": 2}),
    ("LGMLoss", {"accumulation_steps": None, "covariance": "identity", "update": "mean"}),
    ("CenterContrastiveLoss", {"update": "gradient"}),
    ("SoftmaxCenterLoss", {"accumulation_steps": 2}),
    ("SoftmaxCenterLoss", {"shared": True, "update": "gradient"}),
]


def make(name, arguments):
    """A loss by plain values, which JSON can keep."""
    kind = getattr(losses, name)
    made = {
        argument: LinearWarmup(value)
        if argument.endswith("_schedule")
        else getattr(regularizers, value)()
        if argument.endswith("_regularizer")
        else torch.tensor(value)
        if isinstance(value, list)
        else value
        for argument, value in arguments.items()
    }
    return kind(**made)


def batches():
    """Three to train on, two to compare with, two rows of references: (7, B, 2), and labels alike."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat(7, 1) % CLASSES
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-0.5, -2.0]])
    return means[labels] + 0.6 * torch.randn(7, 8, SIZE, generator=generator), labels


def values(loss, rows, labels, lr=0.0):
    """The loss of one training batch after the other. With a learning rate, parameters make a step after each.

    Without, centers whose step is the caller's make it: what had gathered in the state counts.
    """
    parameters, found = list(loss.parameters()), []
    for batch, of_classes in zip(rows, labels, strict=True):
        torch.manual_seed(len(found))
        references = (rows[0], labels[0]) if loss.takes_references else (None, None)
        value = loss(batch.clone().requires_grad_(), of_classes, None, *references)
        found.append(value.item())
        value.backward()
        with torch.no_grad():
            for parameter in parameters:
                parameter -= lr * parameter.grad.to_dense()
                parameter.grad = None
        if not lr and getattr(loss, "accumulation_steps", 1) is None:
            loss.step_centers()
    return found


def write_losses():
    rows, labels = batches()
    tensors, entries = {"batches": rows, "labels": labels}, {}
    plain = [(name, NEEDED.get(name, {}) | SMALL.get(name, {})) for name in losses.__all__ if name not in ABSTRACT]
    for number, (name, arguments) in enumerate([*plain, *OPTIONS]):
        torch.manual_seed(number)
        has_classes = not name.startswith(("Centroid", "Hetero", "Marginal", "Range"))
        arguments = arguments | ({"num_classes": CLASSES, "embedding_size": SIZE} if has_classes else {})
        loss = make(name, arguments)
        values(loss, rows[:3], labels[:3], lr=0.1)
        key = f"{number} {name}"
        tensors |= {f"{key}/{part}": tensor.clone().contiguous() for part, tensor in loss.state_dict().items()}
        entries[key] = {"loss": name, "arguments": arguments, "next": values(loss, rows[3:5], labels[3:5])}
    save_file(tensors, HERE / "losses.safetensors")
    write_json(HERE / "losses.json", {"version": __version__, "losses": entries})


RUN = TrainConfig(
    model="local-dir:model",  # a timm network of a few thousand weights
    image_size=8,
    channels=1,
    embedding_size=4,
    neck="bnneck",
    loss="ArcFaceLoss(sample_rate=0.5) + 0.01 * CenterLoss + AdaFaceLoss + TripletMarginLoss(triplets_per_anchor=3)",
    batch_size=60,
    accumulate=2,
    epochs=1,
    schedule="constant",
    crop_scale=0.9,
    ema=0.9,
    workers=0,
    device="cpu",
    out="run",
)
COMPARED = TrainConfig(
    model="local-dir:model",
    image_size=8,
    channels=1,
    embedding_size=4,
    epochs=1,
    batch_size=512,
    lr=1e-2,
    workers=0,
    device="cpu",
    out="comparison",
)
LOSSES, SEEDS = ("SoftmaxLoss", "CosFaceLoss + 0.01 * CenterLoss(alpha=0.9)"), (0, 1)


def write_run():
    """A run of one epoch, and what its second one and its embeddings are to be."""
    run, _ = fit(RUN)
    shutil.copytree("run", "longer")
    images = run.held_out(digits()).subset(range(8))
    embeddings = measure(run.load_model(), images, run.config).embeddings
    longer, _ = resume("longer", epochs=2)
    expected = {"embeddings": embeddings.tolist(), "epoch": longer.epochs[-1], "metrics": run.events("eval")[-1]}
    write_json(HERE / "run.json", {"version": __version__} | expected)
    keep(run.folder, "last-previous", "eval")


def write_comparison():
    """A comparison that is over: nothing has to be trained, so that no weights are kept."""
    compare(COMPARED, LOSSES, SEEDS, jobs=1)
    keep(Path("comparison"), "checkpoints", "logs", "*.png", "*.html")


def keep(folder, *dropped):
    """Copy it here, but for some of it, and without what says on which machine it was."""
    for path in folder.rglob("env.json"):
        machine = {"command": ["pml-center"], "platform": "Linux"}
        path.write_text(json.dumps(json.loads(path.read_text()) | machine, indent=2))
    shutil.rmtree(HERE / folder, ignore_errors=True)
    shutil.copytree(folder, HERE / folder, ignore=shutil.ignore_patterns(*dropped))


def write_json(path, content):
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.argv = ["pml-center"]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(HERE / "model", Path(folder, "model"))
        os.chdir(folder)
        write_losses()
        write_run()
        write_comparison()
