"""Does `compare --dry-run` say how long it takes? The time that is said, before and after, against the time needed.

    python docs/benchmarks/dry_run.py --sources data --out docs/benchmarks/dry_run.json

``--sources`` holds zip files of images by class: CelebA, CIFAR-10 and Omniglot, as they are published. Other work on
the machine moves what is said and what is needed; both are measured in turns for that reason, and so is the load.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from measure import circumstances, table, write

COMMAND = "python docs/benchmarks/dry_run.py --sources data"
FACES, OBJECTS = "celeba_faces/celeba_112.zip", "cifar10_subset/cifar10_subset.zip"
CHARACTERS = "omniglot/images_background.zip"
TEXT = (
    "`compare --dry-run` says how long a comparison takes: asked before and after, beside the time that the command",
    "needed, on two cores that other work kept busy at the same time. The mean of what is said should be within 0.8",
    "and 1.25 of what is needed. What was not measured yet has no row.",
)
CASES = {
    "digits, two losses with two seeds, two jobs": (
        "digits --image-size 8 --epochs 15 --losses SoftmaxLoss CosFaceLoss --seeds 0 1 --jobs 2"
    ),
    "digits, search of two settings, two jobs": (
        "digits --image-size 8 --epochs 5 --held-out 0.3 --losses SoftmaxLoss MultiSimilarityLoss --search 2 --jobs 2"
    ),
    "faces, losses of pairs with a miner, two workers": (
        f"{FACES} --channels 1 --epochs 3 --per-class 4 --workers 2 --val 0.2 --jobs 1 "
        "--losses TripletMarginLoss@MultiSimilarityMiner ContrastiveLoss"
    ),
    "faces, efficientnet_lite0 at 64 pixels": (
        f"{FACES} --model tf_efficientnet_lite0 --image-size 64 --epochs 1 --losses ArcFaceLoss --jobs 1"
    ),
    "CIFAR-10, known classes, two jobs": (
        f"{OBJECTS} --channels 3 --epochs 3 --losses SoftmaxLoss+0.03*CenterLoss SoftTripleLoss --jobs 2"
    ),
    "Omniglot, 964 characters, one epoch": (
        f"{CHARACTERS} --image-size 28 --epochs 1 --losses NormalizedSoftmaxLoss --jobs 1"
    ),
    "Omniglot, embeddings of 512, two epochs, two jobs": (
        f"{CHARACTERS} --epochs 2 --embedding-size 512 --losses ProxyAnchorLoss CircleLoss --jobs 2"
    ),
}


def measured(sources, words):
    """Seconds said before, needed by the command, and said after."""
    given = {"model": "convnet", "image-size": "16", "batch-size": "64", "workers": "0", "seeds": "0"}
    given = {f"--{name}": value for name, value in given.items()}
    more = [word for pair in given.items() if pair[0] not in words for word in pair]
    data, *options = words.split()

    def seconds(*last):
        started = time.perf_counter()
        command = ["pml-center", "compare", str(sources / data) if "/" in data else data, *options, *more, *last]
        said = subprocess.run([*command, "--json", "--quiet"], check=True, capture_output=True, text=True).stdout
        return json.loads(said), time.perf_counter() - started

    before = seconds("--dry-run")[0]
    with tempfile.TemporaryDirectory() as folder:
        needed = seconds("--out", f"{folder}/compared")[1]
    after = seconds("--dry-run")[0]
    return 60 * before["minutes_in_all"], needed, 60 * after["minutes_in_all"]


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
        before, needed, after = measured(arguments.sources, case)
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
        result = circumstances(__file__, "cpu", 1) | {"command": COMMAND, "rows": rows}
        if arguments.out:
            text = ["# What a dry run says", "", *TEXT, "", *table(rows), "", f"Made by `{COMMAND}`.", ""]
            write(result, "\n".join(text), arguments.out)


if __name__ == "__main__":
    main()
