"""How many tensor operations a step takes, beside PML's: on a GPU each is a launch, on a CPU each has a fixed cost.

    python docs/benchmarks/operations.py --out docs/benchmarks/operations.json

A step is one forward and backward in training, after so many steps with an optimizer that the watch for a forgotten one
has gone. What torch's dispatcher is asked for is counted, views and checks included; neither the time of an operation
nor what it starts by itself. "without values" is the same step on the ``meta`` device, which has no values to look at:
what a GPU would be asked for. There labels are checked by an assertion of its own, and embeddings are not.
"""

import argparse

import torch
from measure import circumstances, measured_with, table, write
from pytorch_metric_learning import losses as pml_losses
from torch.utils._python_dispatch import TorchDispatchMode

from pml_center import losses
from pml_center.losses.base_class_loss import BaseClassLoss
from pml_center.losses.base_element_loss import BaseElementLoss
from pml_center.losses.watch import BATCHES_AT_REST

BATCH, CLASSES, EMBEDDING_SIZE = 32, 10, 16
KNOWN = {name: {"class_counts": 20} for name in ("DynamicArcFaceLoss", "KappaFaceLoss", "LDAMLoss")}
ABSTRACT = ("BaseSoftmaxLoss", "BaseCenterLoss")


class Counted(TorchDispatchMode):
    """Counts what the dispatcher is asked for."""

    seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen += 1
        return function(*args, **(kwargs or {}))


def operations(loss, device):
    """Of one forward and backward."""
    loss = loss.to(device).train()
    parameters = list(loss.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01) if parameters else None
    if device == "meta" and isinstance(loss, BaseClassLoss):  # whose watch would read a value before it goes
        loss._forgotten_optimizer.is_over = True
    for _ in range(BATCHES_AT_REST + 2):
        embeddings = torch.randn(BATCH, EMBEDDING_SIZE, device=device, requires_grad=True)
        labels = torch.arange(BATCH, device=device) // 4
        references = (None, embeddings + 1, labels) if getattr(loss, "takes_references", False) else ()
        with Counted() as counted:
            loss(embeddings, labels, *references).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
    return counted.seen


def made(kind):
    """A loss at its defaults."""
    sizes = {"num_classes": CLASSES, "embedding_size": EMBEDDING_SIZE}
    if kind is pml_losses.P2SGradLoss:
        sizes = {"num_classes": CLASSES, "descriptors_dim": EMBEDDING_SIZE}
    is_of_batch = issubclass(kind, BaseElementLoss) and not issubclass(kind, BaseClassLoss)
    return kind(**({} if is_of_batch else sizes), **KNOWN.get(kind.__name__, {}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="JSON file for the results")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for name in sorted(set(losses.__all__) - set(ABSTRACT)):
        row = {"loss": name}
        row["operations"] = operations(made(getattr(losses, name)), "cpu")
        row["without values"] = operations(made(getattr(losses, name)), "meta")
        row["PML"] = operations(made(getattr(pml_losses, name)), "cpu") if hasattr(pml_losses, name) else ""
        row["of PML"] = round(row["operations"] / row["PML"], 2) if row["PML"] else ""
        rows.append(row)
        print("  ".join(f"{value!s:>26}" for value in row.values()))
    sizes = {"batch": BATCH, "classes": CLASSES, "embedding_size": EMBEDDING_SIZE}
    result = {**circumstances(__file__, "cpu", torch.get_num_threads()), **sizes, "rows": rows}
    if arguments.out:
        write(result, page(result), arguments.out)


def page(result):
    """The results as a page of the documentation."""
    lines = [
        "# Operations of a step",
        "",
        __doc__.split("\n\n", 2)[2].strip(),
        "",
        f"{measured_with(result)}, fp32, B = {result['batch']}, C = {result['classes']}, "
        f"D = {result['embedding_size']}. The numbers are in `operations.json`.",
        "",
    ]
    return "\n".join([*lines, *table(result["rows"])]) + "\n"


if __name__ == "__main__":
    main()
