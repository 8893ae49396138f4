"""What an epoch takes beside its network, where images are decoded in each epoch and where they are decoded once.

    python docs/benchmarks/decoding.py --out docs/benchmarks/decoding.json \\
        --source "data/omniglot/images_background.zip/images_background/Japanese_(katakana)"

The ways of a table take turns in one process; times are medians, and ratios are those of the medians.
"""

import argparse
import json
import os
import statistics
import tempfile
import time

import torch
from measure import circumstances, measured_with, table, write

from pml_center.training import TrainConfig
from pml_center.training.loop import completed, step
from pml_center.training.train_state import TrainState

PACKAGES = ("torch", "pillow", "numpy")
EACH, FIRST, LATER, ALONE = (
    "decoded in every epoch",
    "decoded once, the first epoch",
    "decoded once, a later epoch",
    "the network alone",
)


def epoch(state, batches):
    """Seconds of all steps of an epoch: of a clock, and of the processors."""
    state.progress.step = 0
    started = time.perf_counter(), time.process_time()
    for _ in range(state.updates):
        step(state, batches)
    return time.perf_counter() - started[0], time.process_time() - started[1]


def measured(config, rounds):
    """Rows of an epoch by each way."""
    device = torch.device("cpu")
    decoding, keeping = (
        TrainState.build(completed(TrainConfig(**config, decoded_gib=gib)), device) for gib in (0.0, 2.0)
    )
    in_memory = list(keeping.batches())
    kept = keeping.loader.dataset.images._kept
    times = {name: [] for name in (EACH, FIRST, LATER, ALONE)}
    for state in (decoding, keeping):
        state.model.train()
        epoch(state, state.batches())  # warms up
    for _ in range(rounds):
        times[EACH].append(epoch(decoding, decoding.batches()))
        kept._sums[:] = 0  # as if no image had been asked for
        times[FIRST].append(epoch(keeping, keeping.batches()))
        times[LATER].append(epoch(keeping, keeping.batches()))
        times[ALONE].append(epoch(keeping, iter(in_memory)))
    medians = {name: [statistics.median(each) for each in zip(*found, strict=True)] for name, found in times.items()}
    return {
        "image_size": config["image_size"],
        "images": keeping.updates * keeping.batch_size,
        "rows": [
            {
                "an epoch": name,
                "seconds": round(seconds, 2),
                f"of {ALONE}": round(seconds / medians[ALONE][0], 2),
                "CPU seconds": round(cpu, 2),
                f"CPU, of {ALONE}": round(cpu / medians[ALONE][1], 2),
            }
            for name, (seconds, cpu) in medians.items()
        ],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="images, such as those of Omniglot")
    parser.add_argument("--sizes", type=int, nargs="+", default=(8, 28))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", help="JSON file for the results; the page is written beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {**circumstances(__file__, "cpu", arguments.threads, PACKAGES), "load": [round(os.getloadavg()[0], 1)]}
    shared = {"data": arguments.source, "held_out": 0.0, "device": "cpu", "workers": 0}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PML_CENTER_CACHE"] = cache
        result["epochs"] = [measured(shared | {"image_size": size}, arguments.rounds) for size in arguments.sizes]
    result["load"].append(round(os.getloadavg()[0], 1))
    print(json.dumps(result, indent=1))
    if arguments.out:
        write(result, page(result), arguments.out)


def page(result):
    """The results as a page of the documentation."""
    before, after = result["load"]
    lines = [
        "# Images that are decoded once",
        "",
        __doc__.split("\n\n")[2].strip(),
        "",
        f"{measured_with(result)}, while other work ran on the same cores (load average {before} at the start and "
        f"{after} at the end), so that CPU seconds, waiting threads of torch included, are given beside those of a "
        "clock. The numbers are in `decoding.json`.",
        "",
        "Characters of Omniglot, PNG files of 105 × 105 pixels in a zip file, are read in the main process, and "
        "trained on with `convnet` in batches of 128. The network alone has its batches in memory. A first epoch "
        "decodes and keeps the pixels; every later one, and every other run, finds them: see "
        "[training](../training.md#which-images).",
    ]
    for each in result["epochs"]:
        size = each["image_size"]
        lines += ["", f"## {size} × {size} pixels", "", f"{each['images']:,} images.", ""]
        lines += table(each["rows"])
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
