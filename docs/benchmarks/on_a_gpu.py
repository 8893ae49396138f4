"""On a GPU: whether a step waits, and how long it takes. For whoever has one; it takes some minutes.

    python docs/benchmarks/on_a_gpu.py --out docs/benchmarks/on_a_gpu.json

Every loss at its defaults takes three steps of training in fp32 and three under bf16 autocast, forward, backward and
optimizer, where torch raises an error for whatever waits for the GPU (``torch.cuda.set_sync_debug_mode("error")``).
Some that PML has too are timed beside it.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch
from measure import circumstances, measured_with, seconds, steps_of_both, table, write
from operations import ABSTRACT, made
from pytorch_metric_learning import losses as pml_losses
from tqdm import tqdm

from pml_center import losses

BATCH, CLASSES, EMBEDDING_SIZE = 512, 100_000, 512
IN_BOTH = ["ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss"]
WITHOUT = """## What is proven without a GPU

A GPU works through a queue. Whoever asks for a value of one of its tensors waits until the queue is empty, and fills
it anew from there. No loss and no regularizer of this package asks in a step of training.
`tests/losses/test_waiting.py` holds that for every one of them, with one block of classes and with several, in fp32
and bf16, with sub-centers, sampled classes, label smoothing, class weights, schedules and accumulation: three steps
on torch's `meta` device, which has no values, and three forward passes on a pretended GPU (`FakeTensorMode`), where
reading a value is an error. `tests/training/test_loop.py` does the same with the steps of `fit`, with clipping and a
moving average. What is not proven so: the speed on a GPU; numbers that are sent to a GPU, which may wait too; the
generators of a GPU; kernels whose own code waits; and products in half precision whose results are fp32, of which
only shape and type are seen.

## What waits

- The watches read one number in 20 batches until an optimizer was seen to move the class rows, one in 50 (collapse,
  lengths) or 100 (share of the center term); `fit` reads the losses every 10 steps. fp16 reads one every step, in
  torch's `GradScaler`.
- `ignore_index`, which leaves out as many samples as it finds; not in losses of the softmax family without statistics,
  sampled classes, weights, regularizers and miners, with the reducers `MeanReducer` and `SumReducer`.
- `collect_stats`, whose statistics are numbers of Python.
- PML's reducers that count what is above a threshold, such as `AvgNonZeroReducer`; its miners, which return as many
  pairs as they find; `CenterInvariantRegularizer` with another reducer than `MeanReducer`.
"""


def waits(name, device):
    """What six steps of a loss waited for; nothing, as a rule."""
    loss = made(getattr(losses, name)).to(device).train()
    parameters = list(loss.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01) if parameters else None
    embeddings = torch.randn(32, 16, device=device, requires_grad=True)
    labels = torch.arange(32, device=device) // 4
    references = (None, embeddings.detach() + 1, labels) if loss.takes_references else ()
    try:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        for step in range(6):
            with torch.autocast(device, torch.bfloat16, enabled=step >= 3):
                value = loss(embeddings, labels, *references)
            value.backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
    except RuntimeError as error:
        return str(error).split("\n")[0]
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return ""


def times(device, classes, budget):
    """Milliseconds of a step, ours and PML's in turn."""
    embeddings = torch.randn(BATCH, EMBEDDING_SIZE, device=device, requires_grad=True)
    labels = torch.randint(classes, (BATCH,), device=device)
    rows = []
    for name, autocast in tqdm(list(product(IN_BOTH, (False, True))), unit="loss"):
        steps = steps_of_both(name, embeddings, labels, classes, autocast)
        medians = seconds(steps, device, budget)
        row = {"loss": name, "autocast": "bf16" if autocast else "", "milliseconds": round(medians[losses] * 1e3, 3)}
        row |= {"PML": round(medians[pml_losses] * 1e3, 3), "of PML": round(medians[losses] / medians[pml_losses], 2)}
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each loss")
    parser.add_argument("--page", action="store_true", help="write the page alone, from the results that are there")
    parser.add_argument("--out", required=True, help="JSON file for the results")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    if arguments.page:
        result = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else None
        out.with_suffix(".md").write_text(page(result), encoding="utf-8")
        return
    torch.manual_seed(0)
    names = sorted(set(losses.__all__) - set(ABSTRACT))
    result = {
        **circumstances(__file__, arguments.device, torch.get_num_threads()),
        "batch": BATCH,
        "classes": arguments.classes,
        "embedding_size": EMBEDDING_SIZE,
        "waits": {name: waits(name, arguments.device) for name in tqdm(names, unit="loss")},
        "rows": times(arguments.device, arguments.classes, arguments.budget),
    }
    write(result, page(result), out)


def page(result):
    """What is proven without a GPU, and the results of one if somebody has made them."""
    lines = ["# On a GPU", "", WITHOUT, "## With one", "", __doc__.split("\n\n", 1)[0], ""]
    if result is None:
        command = "python docs/benchmarks/on_a_gpu.py --out docs/benchmarks/on_a_gpu.json"
        return "\n".join([*lines, f"Nobody has run it yet: `{command}`.", ""])
    waiting = {name: error for name, error in result["waits"].items() if error}
    number, still = len(result["waits"]), len(result["waits"]) - len(waiting)
    lines += [f"{measured_with(result)}. {still} of {number} losses wait for nothing."]
    lines += ["", *(f"- {name}: {error}" for name, error in waiting.items()), ""]
    lines += [f"B = {result['batch']}, C = {result['classes']:,}, D = {result['embedding_size']}:", ""]
    return "\n".join([*lines, *table(result["rows"])]) + "\n"


if __name__ == "__main__":
    main()
