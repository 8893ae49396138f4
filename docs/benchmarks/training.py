"""Time of the training loop, of checkpoints and of the commands before they start.

    chrt -f 50 python docs/benchmarks/training.py --out docs/benchmarks/training.json

The candidates of a table take turns in one process; times are medians, and ratios are those of the medians.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from measure import circumstances, measured_with, resident_peak, seconds, table, write
from pytorch_metric_learning.losses import MultipleLosses
from pytorch_metric_learning.trainers import MetricLossOnly
from torch.utils.data import DataLoader
from tqdm import tqdm

from pml_center.backbones import create_embedder
from pml_center.losses import ArcFaceLoss
from pml_center.training import TrainConfig, loop
from pml_center.training.checkpoint import previous_of, write_checkpoint
from pml_center.training.interrupt import Interrupt
from pml_center.training.run_folder import Run
from pml_center.training.train_state import Progress, TrainState

PACKAGES = ("torch", "pytorch-metric-learning", "timm", "safetensors", "numpy")
SHARED = TrainConfig("digits", held_out=0.5, workers=0, device="cpu")
WORKS = {
    "A small network": SHARED,
    "ResNet-18 on images of 64 pixels": replace(SHARED, model="resnet18", image_size=64, batch_size=64),
}
BARE, OURS, PML = "bare loop", "training loop", "PML's MetricLossOnly"
OWN, PLAIN = "write_checkpoint", "the same bytes"
COMMANDS = {
    "python -c pass": "pass",
    "import pml_center": "import pml_center",
    "pml-center --help": "from pml_center.cli import main; main(['--help'])",
    "pml-center train --help": "from pml_center.cli import main; main(['train', '--help'])",
}


def bare_epoch(state, batches):
    """What no training can do without: forward, backward, a step of the optimizer."""
    state.model.train()
    state.loss.train()
    for images, labels, *_ in batches:
        total, _ = state.loss(state.model(images), labels)
        total.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()


def epochs(state, run, bar, interrupt):
    """An epoch of each candidate: the same images in the same batches, model, losses and optimizer."""
    images, sampler = state.loader.dataset.images, state.loader.batch_sampler
    order = sampler.rows(1).ravel().tolist()
    plain = DataLoader(images, sampler.batch_size, sampler=order)
    trainer = MetricLossOnly(
        models={"trunk": state.model},
        optimizers={"trunk_optimizer": state.optimizer},
        batch_size=sampler.batch_size,
        loss_funcs={"metric_loss": MultipleLosses(list(state.loss.losses), weights=state.loss.weights)},
        dataset=images,
        sampler=order,
        dataloader_num_workers=0,
    )

    def bare():
        state.progress = Progress(state.updates)
        bare_epoch(state, state.batches())

    def ours():
        state.progress = Progress(state.updates)
        loop._epoch(run, state, bar, interrupt)

    return {
        BARE: bare,
        f"{BARE}, plain loader": lambda: bare_epoch(state, plain),
        OURS: ours,
        PML: trainer.train,
    }


def measure_loop(title, config, budget):
    """Rows of a step of each candidate, whose bars are shown to nobody, and what the end of an epoch takes.

    A step is all that happens between two steps of the optimizer. Its median is not moved by the few steps in which the
    machine did something else.
    """
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, Interrupt() as interrupt:
        state = TrainState.build(loop.completed(config), torch.device("cpu"))
        run = Run.create(replace(config, out=folder), state.record)
        marks = []
        state.optimizer.register_step_post_hook(lambda *_: marks.append(time.perf_counter()))
        with redirect_stderr(io.StringIO()) as nobody:
            candidates = epochs(state, run, tqdm(file=nobody), interrupt)
            for allowed in (0.0, budget):  # one round to warm up
                times, ends, started = {name: [] for name in candidates}, [], time.perf_counter()
                while not ends or time.perf_counter() - started < allowed:
                    for name, epoch in candidates.items():
                        marks.clear()
                        epoch()
                        times[name] += [later - earlier for earlier, later in pairwise(marks)]
                        if name == OURS:
                            ends.append(seconds_of(lambda: loop._end_of_epoch(run, state)))
        size = sum(path.stat().st_size for path in (run.checkpoints / "last").iterdir())
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [
        {
            "name": name,
            "ms a step": round(1e3 * median, 2),
            "images/s": round(state.batch_size / median),
            f"time, of the {BARE}": round(median / medians[BARE], 3),
            "images/s, of PML's": round(medians[PML] / median, 3),
        }
        for name, median in medians.items()
    ]
    return {
        "title": title,
        "model": config.model,
        "B": state.batch_size,
        "image": [state.model.in_chans, state.model.image_size, state.model.image_size],
        "steps": len(times[OURS]),
        "ms at the end of an epoch": round(1e3 * statistics.median(ends), 1),
        "bytes of a checkpoint": size,
        "rows": rows,
    }


def seconds_of(step):
    before = time.perf_counter()
    step()
    return time.perf_counter() - before


def large_state():
    """Weights and optimizer of ResNet-50 and 100,000 class weights, after a step."""
    parts = {
        "model": create_embedder("resnet50", embedding_size=512),
        "loss": ArcFaceLoss(num_classes=100_000, embedding_size=512),
    }
    parameters = [parameter for part in parts.values() for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    return {name: part.state_dict() for name, part in parts.items()}, {"optimizer": optimizer.state_dict()}


def write_plainly(folder, weights, state):
    """The bytes of the tensors, a file for each part, synced."""
    moments = [value for of_parameter in state["optimizer"]["state"].values() for value in of_parameter.values()]
    folder.mkdir()
    for name, tensors in {"state": moments, **{name: part.values() for name, part in weights.items()}}.items():
        with (folder / name).open("wb") as file:
            for tensor in tensors:
                file.write(memoryview(tensor.detach().reshape(-1).numpy()).cast("B"))
            file.flush()
            os.fsync(file.fileno())


def measure_checkpoint(rounds):
    """Rows of a checkpoint written both ways. What was written before is deleted untimed: either way would have to."""
    weights, state = large_state()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as root:
        folder, plain = Path(root) / "last", Path(root) / "plain"
        steps = {
            OWN: (previous_of(folder), lambda: write_checkpoint(folder, weights, state, run="benchmark")),
            PLAIN: (plain, lambda: write_plainly(plain, weights, state)),
        }
        peaks = {name: resident_peak(step) / 2**20 for name, (_, step) in steps.items()}
        times = {name: [] for name in steps}
        for _ in range(rounds + 2):  # two to warm up: the first of each finds no page cache to reuse
            for name, (old, step) in steps.items():
                remove(old)
                times[name].append(seconds_of(step))
        size = sum(path.stat().st_size for path in folder.iterdir())
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    fastest = {name: min(values[2:]) for name, values in times.items()}
    rows = [
        {
            "name": name,
            "seconds": round(median, 3),
            f"of {PLAIN}": round(median / medians[PLAIN], 3),
            "fastest": round(fastest[name], 3),
            f"fastest, of {PLAIN}": round(fastest[name] / fastest[PLAIN], 3),
            "MiB": round(peaks[name], 1),
        }
        for name, median in medians.items()
    ]
    return {"bytes": size, "rounds": rounds, "rows": rows}


def remove(folder):
    """Delete a folder, and let the disk come to rest."""
    for path in folder.iterdir() if folder.exists() else ():
        path.unlink()
    if folder.exists():
        folder.rmdir()
    os.sync()


def measure_commands(budget):
    """Rows of what Python does before a command does its work."""
    steps = {
        name: lambda code=code: subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
        for name, code in COMMANDS.items()
    }
    medians = seconds(steps, "cpu", budget)
    python = medians["python -c pass"]
    return [
        {"name": name, "ms": round(1e3 * median, 1), "ms beyond Python": round(1e3 * (median - python), 1)}
        for name, median in medians.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=160, help="seconds for each network")
    parser.add_argument("--rounds", type=int, default=21, help="checkpoints of each kind")
    parser.add_argument("--out", help="JSON file for the results; the page is written beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    is_real_time = os.sched_getscheduler(0) == os.SCHED_FIFO
    result = {
        **circumstances(__file__, "cpu", arguments.threads, PACKAGES),
        "priority": "real time" if is_real_time else "normal",
        "load": [round(os.getloadavg()[0], 1)],
        "loops": [],
    }
    result["checkpoint"] = measure_checkpoint(arguments.rounds)
    for title, config in tqdm(WORKS.items(), unit="network"):
        result["loops"].append(measure_loop(title, config, arguments.budget))
    result["commands"] = measure_commands(arguments.budget / 10)
    result["load"].append(round(os.getloadavg()[0], 1))
    print(json.dumps(result, indent=1))
    if arguments.out:
        write(result, page(result), arguments.out)


def page(result):
    """The results as a page of the documentation."""
    before, after = result["load"]
    lines = [
        "# Training: time of the loop, of checkpoints and of the commands",
        "",
        __doc__.split("\n\n")[2].strip(),
        "",
        f"{measured_with(result)}, at {result['priority']} priority, while other work ran on the same cores (load "
        f"average {before} at the start and {after} at the end). The numbers are in `training.json`.",
        "",
        "## The loop",
        "",
        "Steps with the same images in the same batches, read and transformed in the main process, with the same "
        "model, losses (`SoftmaxLoss + 0.01 * CenterLoss`) and optimizer (fused AdamW). A step is all between two of "
        "the optimizer. The bare loop is forward, backward, step and zero_grad over our loader. The training loop "
        "does what `pml-center train` does between two ends of an epoch: seeds of each step, schedule, sums of the "
        "losses, progress bar, signals. Both bars are drawn, to nobody. PML's `MetricLossOnly` has a plain loader of "
        "the same data set, no schedule, and the losses in its `MultipleLosses`; another line is the bare loop over "
        "that loader.",
    ]
    for work in result["loops"]:
        lines += ["", f"### {work['title']}", ""]
        image = " × ".join(map(str, work["image"]))
        lines += [f"{work['model']}, B = {work['B']}, images of {image}, medians of {work['steps']} steps.", ""]
        lines += table(work["rows"])
        lines += [
            "",
            f"The end of an epoch, a line of the log and a checkpoint of {work['bytes of a checkpoint'] / 1e6:,.1f} MB "
            f"on the disk, takes {work['ms at the end of an epoch']} ms.",
        ]
    checkpoint = result["checkpoint"]
    lines += [
        "",
        "## A checkpoint",
        "",
        f"ResNet-50 and 100,000 × 512 class weights with AdamW's moments, {checkpoint['bytes'] / 1e6:,.0f} MB, medians "
        f"of {checkpoint['rounds']} rounds. `{OWN}` writes the files, their checksums and a manifest, syncs all and "
        "renames; beside it the tensors' bytes are written to as many files, each synced. Neither time has in it the "
        "deletion of an older checkpoint. The disk is shared: the fastest round of each is given, too. MiB is what "
        "the resident set grows by.",
        "",
        *table(checkpoint["rows"]),
        "",
        "## Before a command starts",
        "",
        *table(result["commands"]),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
