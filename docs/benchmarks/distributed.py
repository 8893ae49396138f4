"""Time of a loss in two processes: what the joined batch costs, and what sharing the products saves.

    python docs/benchmarks/distributed.py --out docs/benchmarks/distributed.json

Two gloo processes of one thread each, on one machine; each work is one forward and backward of a loss, with the
exchange of gradients. "DDP" is ``DistributedDataParallel`` around the loss, each process with its own B embeddings:
exact for a mean, and blind to all that looks at the batch. "prepare" is ``pml_center.distributed.prepare``, the loss of
the joined batch of 2 · B. "prepare, not shared" is the same where each process computes all products of embeddings and
classes, not its part. The candidates of a size take turns (A B C A B C …); times are medians of the first process, and
ratios are those of the medians. Where a loss takes a few milliseconds, most of it is the latency of the exchange, and
of the scheduler where the machine has other work.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from measure import circumstances, measured_with, table, write
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pml_center.distributed import prepare
from pml_center.losses import ArcFaceLoss, base_softmax_loss

SIZES = [(128, 1_000), (128, 10_000), (128, 100_000)]
EMBEDDING_SIZE = 128
PROCESSES = 2


@contextmanager
def not_shared():
    """Inside, each process computes the products of all rows."""
    before = base_softmax_loss.own_rows, base_softmax_loss.join_parts
    base_softmax_loss.own_rows, base_softmax_loss.join_parts = lambda rows: rows, lambda part, size: part
    try:
        yield
    finally:
        base_softmax_loss.own_rows, base_softmax_loss.join_parts = before


def prepared(loss):
    return prepare(nn.Identity(), loss)[1]


def candidates(classes):
    """What is compared at one size, by name: the loss, and whether products are shared."""
    sizes = {"num_classes": classes, "embedding_size": EMBEDDING_SIZE}
    return {
        "ArcFace, DDP": (DistributedDataParallel(ArcFaceLoss(**sizes)), True),
        "ArcFace, prepare": (prepared(ArcFaceLoss(**sizes)), True),
        "ArcFace, prepare, not shared": (prepared(ArcFaceLoss(**sizes)), False),
        "PML ArcFace, DDP": (DistributedDataParallel(pml_losses.ArcFaceLoss(**sizes)), True),
        "PML ArcFace, prepare": (prepared(pml_losses.ArcFaceLoss(**sizes)), True),
        "contrastive, DistributedLossWrapper": (DistributedLossWrapper(pml_losses.ContrastiveLoss()), True),
        "contrastive, prepare": (prepared(pml_losses.ContrastiveLoss()), True),
    }


def milliseconds(batch, classes, rounds):
    """The median of each candidate; all processes take as many rounds, in the same order."""
    losses = candidates(classes)
    embeddings = torch.randn(batch, EMBEDDING_SIZE, requires_grad=True)
    labels = torch.randint(classes, (batch,))
    times = {name: [] for name in losses}
    for number in range(rounds + 1):
        for name, (loss, is_shared) in losses.items():
            loss.zero_grad(set_to_none=True)
            embeddings.grad = None
            dist.barrier()
            before = time.perf_counter()
            if is_shared:
                loss(embeddings, labels).backward()
            else:
                with not_shared():
                    loss(embeddings, labels).backward()
            if number:  # the first round warms up
                times[name].append(1e3 * (time.perf_counter() - before))
    return {name: statistics.median(values) for name, values in times.items()}


def work(rank, folder, rounds):
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    rows = []
    for batch, classes in SIZES:
        medians = milliseconds(batch, classes, rounds)
        for name, value in medians.items():
            base = next(first for first in medians if first.split(",")[0] == name.split(",")[0])
            ratio = round(value / medians[base], 2)
            rows.append({"B": batch, "C": classes, "loss": name, "ms": round(value, 2), "of the first way": ratio})
    if rank == 0:
        torch.save(rows, f"{folder}/rows")
    dist.destroy_process_group()


def page(result):
    """The results as a page of the documentation."""
    lines = ["# Two processes: time", "", __doc__.split("\n\n", 2)[2].strip(), ""]
    lines += [f"{measured_with(result)}, in each process; D = {EMBEDDING_SIZE}. The numbers are in `distributed.json`."]
    for batch, classes in SIZES:
        own = [row for row in result["rows"] if (row["B"], row["C"]) == (batch, classes)]
        lines += ["", f"## B = {batch} in each process, C = {classes:,}", "", *table(own, left_out=("B", "C"))]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", help="JSON file for the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (folder, arguments.rounds), nprocs=PROCESSES)
        rows = torch.load(f"{folder}/rows")
    for row in rows:
        print("  ".join(f"{value!s:>10}" for value in row.values()))
    result = {**circumstances(__file__, "cpu", 1), "rows": rows}
    if arguments.out:
        write(result, page(result), arguments.out)


if __name__ == "__main__":
    main()
