"""What products with the class weights in half precision cost in accuracy, and what they gain in time.

    python docs/benchmarks/product_precision.py --sources data --weights tf_efficientnet_lite0_in1k_fp16.safetensors

*Gradients*: of ArcFace on embeddings half way to their classes, against fp64: the length of the difference by that of
the gradient. With fp16 the loss is scaled by 65536, as by a fresh ``GradScaler``. *Trainings*: ``fit`` with
``amp="bf16"`` on features of the pretrained network, as in [ways](ways.md), 60 % of the classes to train on and the
others to measure, from principal components, or faces from random numbers, too; all that differs is
``product_precision`` of ArcFaceLoss. *Time*: forward and backward, in turn.

The products of ours are made of rounded factors in fp32, and where "rounded" stands the results are rounded too: the
numbers of bf16 and fp16 units up to the order of sums, on any CPU and in time. On CUDA torch keeps the sums in fp32;
on a CPU, before torch 2.8 and in its compiler it rounds them. PML's own are those of torch on this CPU, and the times
are of what runs without all this.

``--sources`` is the folder of the data sets, as in the study of center loss. Each finished training is a line of
``product_precision.jsonl``, written at once; the same command goes on where it stopped.
"""

import argparse
import copy
import itertools
import json
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from unittest import mock

import torch
import torch.nn.functional as F
import ways
from measure import circumstances, measured_with, seconds, step_of, table, write
from pytorch_metric_learning import losses as pml_losses
from tqdm import tqdm

from pml_center import losses
from pml_center.ops import negative_logits, precision
from pml_center.training import TrainConfig, fit

COMMAND = f"python docs/benchmarks/{Path(__file__).name} {' '.join(ways.COMMAND.split()[2:])}"
HERE = Path(__file__).with_suffix(".jsonl")
BATCH = 128
PRODUCTS = {  # the precision, and whether results are rounded to it
    "fp32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "bf16, rounded": (torch.bfloat16, True),
    "fp16": (torch.float16, False),
    "fp16, rounded": (torch.float16, True),
}
TRAINED = ("fp32", "bf16", "bf16, rounded")
DATA = {"omniglot": (500, 10, 64, 32), "faces": ways.DATA["faces"]}  # as in ways
TASKS = {"omniglot": {}, "faces": {}, "faces, random start": {"neck_init": "random"}}
TIMED = (512, 10_000, 512)  # batch, classes, width


@contextmanager
def products(name):
    """Autocast has products of a precision on this CPU, whatever its units."""
    dtype, is_rounded = PRODUCTS[name]

    def product(first, second, dtype=None, unit=None, out=None):
        if dtype is None:
            return precision.product(first, second, out=out)
        result = first.to(dtype).float() @ second.to(dtype).float()
        result = result.to(dtype).float() if is_rounded else result
        result = result if unit is None else result * unit
        return result if out is None else out.copy_(result)

    with mock.patch.object(precision, "HALF_ON_CPU", {dtype}), mock.patch.object(negative_logits, "product", product):
        yield


def found(loss, weight, embeddings, labels, dtype):
    """The value, and the gradients of embeddings and class weights, under autocast if that is a half precision."""
    embeddings = embeddings.detach().requires_grad_()
    factor = 65536 if dtype == torch.float16 else 1
    with torch.autocast("cpu", dtype if dtype != torch.float32 else torch.bfloat16, enabled=dtype != torch.float32):
        value = loss(embeddings, labels)
    gradients = torch.autograd.grad(value * factor, [embeddings, weight])
    return value.detach(), *(each / factor for each in gradients)


def errors(got, exact):
    """How far each is from fp64, by its length."""
    return [f"{((one - other).norm() / other.norm()).item():.1e}" for one, other in zip(got, exact, strict=True)]


def gradients():
    """A row for each size, scale and precision."""
    rows = []
    for classes, width, scale in tqdm(list(itertools.product((1_000, 10_000), (64, 512), (16, 64))), unit="size"):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(classes, (BATCH,), generator=generator)
        loss = losses.ArcFaceLoss(classes, width, scale=scale)
        with torch.no_grad():
            rows_of_class = torch.randn(classes, width, generator=generator) / width**0.5
            loss.class_weights.weight.copy_(rows_of_class)
        noise = torch.randn(BATCH, width, generator=generator) / width**0.5
        embeddings = F.normalize(rows_of_class[labels]) + noise  # 45 degrees away
        double = copy.deepcopy(loss).double()
        exact = found(double, double.class_weights.weight, embeddings.double(), labels, torch.float32)
        got = {}
        for name, (dtype, _) in PRODUCTS.items():
            with products(name):
                got[name] = found(loss, loss.class_weights.weight, embeddings, labels, dtype)
        theirs = loss.to_pml()
        for name, dtype in {"PML, bf16": torch.bfloat16, "PML, fp16": torch.float16}.items():
            value, of_embeddings, of_weights = found(theirs, theirs.W, embeddings, labels, dtype)
            got[name] = value, of_embeddings, of_weights.t()
        for name, each in got.items():
            value, of_embeddings, of_weights = errors(each, exact)
            row = {"C": classes, "D": width, "scale": scale, "products": name, "value": value}
            rows.append(row | {"of embeddings": of_embeddings, "of class weights": of_weights})
    return rows


def trainings(sources, weights, work):
    """Train what has not been trained yet."""
    ways.DATA.update(DATA)
    done = {(run["data"], run["products"], run["seed"]) for run in runs()}
    left = [each for each in itertools.product(TASKS, TRAINED, range(5)) if each not in done]
    for data, name, seed in tqdm(left, unit="training"):
        _, features = ways.prepare(data.split(",")[0], sources, weights, work)
        asked = "float32" if name == "fp32" else "autocast"
        with TemporaryDirectory() as folder, products(name):
            config = TrainConfig(
                data=str(features),
                loss=f"ArcFaceLoss(product_precision={asked!r})",
                amp="bf16",
                held_out=0.4,
                seed=seed,
                split_seed=seed,
                workers=0,
                out=f"{folder}/run",
                **TASKS[data],
            )
            _, measured = fit(config, verbose=False)
        run = {"data": data, "products": name, "seed": seed, "MAP@R": measured.model[ways.METRIC]}
        with HERE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")


def runs():
    """Those that are finished."""
    lines = HERE.read_text(encoding="utf-8").splitlines() if HERE.exists() else []
    return [json.loads(line) for line in lines]


def compared():
    """A row for each data set and precision; differences from fp32 are those of the same seed."""
    value = {(run["data"], run["products"], run["seed"]): run["MAP@R"] for run in runs()}
    rows = []
    for data, name in itertools.product(TASKS, TRAINED):
        own = [value[data, name, seed] for seed in range(5)]
        differences = [value[data, name, seed] - value[data, "fp32", seed] for seed in range(5)]
        row = {"data": data, "products": name, "MAP@R": f"{fmean(own):.4f}", "sd of seeds": f"{stdev(own):.4f}"}
        row["from fp32"] = f"{fmean(differences):+.5f}"
        row["its standard error"] = f"{stdev(differences) / 5**0.5:.5f}"
        rows.append(row)
    return rows


def times():
    """A step under bf16 autocast beside PML's."""
    batch, classes, width = TIMED
    embeddings = torch.randn(batch, width, requires_grad=True)
    labels = torch.randint(classes, (batch,))
    built = {
        "autocast": losses.ArcFaceLoss(classes, width),
        "float32": losses.ArcFaceLoss(classes, width, product_precision="float32"),
        "PML": pml_losses.ArcFaceLoss(classes, width),
    }
    steps = {name: step_of(loss, embeddings, labels, autocast=True) for name, loss in built.items()}
    medians = seconds(steps, "cpu", budget=10)
    return [
        {
            "product_precision": name,
            "milliseconds": round(value * 1e3, 1),
            "of PML": f"{value / medians['PML']:.3f}",
        }
        for name, value in medians.items()
    ]


def page(result):
    """The results as a page of the documentation."""
    batch, classes, width = TIMED
    units = " and ".join(result["units"]) or "no half precision"
    lines = ["# Products in half precision", "", __doc__.split("\n\n", 2)[2].strip(), ""]
    lines += [f"{measured_with(result)}, whose CPU has units for {units}.", ""]
    lines += ["## Trainings", "", *table(result["trainings"]), ""]
    lines += [f"## Time of a step, B = {batch}, C = {classes:,}, D = {width}", "", *table(result["times"]), ""]
    lines += [f"## Gradients, B = {BATCH}", "", *table(result["gradients"]), ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--weights", required=True, help="of the pretrained network")
    parser.add_argument("--work", type=Path, default="work", help="folder for images and features")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    trainings(arguments.sources, arguments.weights, arguments.work)
    result = {
        **circumstances(__file__, "cpu", torch.get_num_threads()),
        "command": COMMAND,
        "units": sorted(str(dtype).removeprefix("torch.") for dtype in precision.HALF_ON_CPU),
        "trainings": compared(),
        "times": times(),
        "gradients": gradients(),
    }
    write(result, page(result), HERE.with_suffix(".json"))


if __name__ == "__main__":
    main()
