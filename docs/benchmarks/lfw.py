"""Labeled Faces in the Wild by three protocols in one command: `pml-center eval`, whose JSON this script keeps.

python docs/benchmarks/lfw.py FACES.zip pairs.txt WEIGHTS.safetensors --out docs/benchmarks/lfw.json
"""

import argparse
import contextlib
import io
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from pml_center.cli import main

COMMAND = (
    "pml-center eval tf_efficientnet_lite0 {faces} --weights {weights} --pairs {pairs} "
    "--protocol retrieval verification identification --far 0.1 0.01 0.001 --report {page} --json"
)


def run(command):
    """What a command prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(command.split()[1:])
    return json.loads(printed.getvalue())


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("faces", type=Path)
parser.add_argument("pairs", type=Path)
parser.add_argument("weights", type=Path)
parser.add_argument("--out", type=Path, required=True)
arguments = parser.parse_args()
files = {name: getattr(arguments, name) for name in ("faces", "pairs", "weights")}

with tempfile.TemporaryDirectory() as folder:
    os.environ["PML_CENTER_CACHE"] = folder
    page = Path(folder, "page.html")
    command = COMMAND.format(**files, page=page)
    found, again = run(command), run(command)  # the second from the cache
    assert again["reports"] == found["reports"]
    size = page.stat().st_size

result = {
    "command": COMMAND.format(**{name: path.name for name, path in files.items()}, page="lfw.html"),
    "reports": found["reports"],
    "page_bytes": size,
    "machine": {
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        **{name: version(name) for name in ("pml-center", "torch", "timm", "faiss-cpu", "numpy")},
    },
}
arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
