"""Does `compare --dry-run` say how long it takes? The time that is said, before and after, against the time needed.

    python docs/benchmarks/dry_run.py --sources data --out docs/benchmarks/dry_run.json

``--sources`` holds zip files of images by class: CelebA, CIFAR-10 and Omniglot, as they are published. Other work on the
machine moves what is said and what is needed; both are measured in turns for that reason, and so is the load.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from measure import circumstances, table, write

from pml_center.comparison.compare import Plan, carry_out, expected
from pml_center.training import TrainConfig

SMALL = {"model": "convnet", "image_size": 16, "batch_size": 64, "workers": 0}
FACES, OBJECTS, CHARACTERS = "celeba_faces/celeba_112.zip", "cifar10_subset/cifar10_subset.zip", "omniglot/images_background.zip"
MINED = ("TripletMarginLoss @ MultiSimilarityMiner", "ContrastiveLoss")
CASES = {
    "digits, two losses with two seeds, two jobs": (
        {"image_size": 8, "epochs": 15}, ("SoftmaxLoss", "CosFaceLoss"), {"seeds": (0, 1)}, 2,
    ),
    "digits, search of two settings, two jobs": (
        {"image_size": 8, "epochs": 5, "held_out": 0.3}, ("SoftmaxLoss", "MultiSimilarityLoss"), {"search": 2}, 2,
    ),
    "faces, losses of pairs with a miner, two workers": (
        {"data": FACES, "channels": 1, "epochs": 3, "per_class": 4, "workers": 2, "val": 0.2}, MINED, {}, 1,
    ),
    "faces, efficientnet_lite0 at 64 pixels": (
        {"data": FACES, "model": "tf_efficientnet_lite0", "image_size": 64, "epochs": 1}, ("ArcFaceLoss",), {}, 1,
    ),
    "CIFAR-10, known classes, two jobs": (
        {"data": OBJECTS, "channels": 3, "epochs": 3}, ("SoftmaxLoss + 0.03 * CenterLoss", "SoftTripleLoss"), {}, 2,
    ),
    "Omniglot, 964 characters, one epoch": (
        {"data": CHARACTERS, "image_size": 28, "epochs": 1}, ("NormalizedSoftmaxLoss",), {}, 1,
    ),
    "Omniglot, embeddings of 512, four epochs, two jobs": (
        {"data": CHARACTERS, "epochs": 4, "embedding_size": 512}, ("ProxyAnchorLoss", "CircleLoss"), {}, 2,
    ),
}  # fmt: skip


def measured(sources, options, losses, others, jobs):
    """Seconds said before, needed, and said after."""
    options = SMALL | options
    if "data" in options:
        options["data"] = str(sources / options["data"])
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(**options, out=f"{folder}/compared")
        plan = Plan.new(config, losses, **{"seeds": (0,), "search": 0} | others)
        before = 60 * expected(plan, jobs)["minutes_in_all"]
        started = time.perf_counter()
        carry_out(plan, jobs)
        needed = time.perf_counter() - started
    plan = Plan.new(config, losses, **{"seeds": (0,), "search": 0} | others)
    return before, needed, 60 * expected(plan, jobs)["minutes_in_all"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    rows = []
    for name, case in CASES.items():
        if arguments.only not in name:
            continue
        before, needed, after = measured(arguments.sources, *case)
        rows.append(
            {
                "comparison": name,
                "said before, s": round(before, 1),
                "needed, s": round(needed, 1),
                "said after, s": round(after, 1),
                "said / needed": round((before + after) / 2 / needed, 2),
                "load": round(os.getloadavg()[0], 1),
            }
        )
        print(rows[-1], flush=True)
    result = circumstances(__file__, "cpu", 1) | {"rows": rows}
    result["command"] = "python docs/benchmarks/dry_run.py --sources data"
    if arguments.out:
        text = ["# What a dry run says", "", __doc__.split("\n\n")[0], "", *table(rows), "", f"Made by `{result['command']}`.", ""]
        write(result, "\n".join(text), arguments.out)


if __name__ == "__main__":
    main()
