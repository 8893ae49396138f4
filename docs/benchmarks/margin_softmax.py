"""Time and memory of the margin-softmax losses, beside PML's and beside the matrix products that nothing can avoid.

    python docs/benchmarks/margin_softmax.py --out docs/benchmarks/margin_softmax.json

Each work is one forward and backward. The candidates of a size take turns (A B C A B C …) in one process; times are
medians, and ratios are those of the medians. "gemm3" is the time of the three matrix products of a dense step: logits,
gradient of the embeddings, gradient of the weights. Memory is the peak of what torch allocates above the start of a
step, without the gradient of the weights itself. Small problems, where the fixed cost of a step is what counts, are
measured on one thread, in time of the processor, each loss in turn with PML's of the same name; ``--small`` measures
them alone.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from measure import circumstances, measured_with, peak_bytes, seconds, step_of, steps_of_both, table, write
from pytorch_metric_learning import losses as pml_losses
from tqdm import tqdm

from pml_center import losses

SIZES = [(128, 1_000), (512, 10_000), (128, 10_000), (128, 100_000), (16, 10)]
FAMILY_SIZE = (256, 10_000)
SMALL = [(16, 64, 10), (128, 128, 100)]  # batch, width, classes
IN_BOTH = ["ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss", "SubCenterArcFaceLoss"]
EMBEDDING_SIZE = 512


def gemm3_of(embeddings, classes):
    """The three matrix products of a dense step."""
    x = embeddings.detach()
    weight = torch.randn(classes, x.shape[1], device=x.device)
    grad = torch.randn(len(x), classes, device=x.device)

    def step():
        torch.mm(x, weight.t())
        torch.mm(grad, weight)
        torch.mm(grad.t(), x)

    step.clear = lambda: None
    return step


def family(batch, classes, device):
    """Every final loss of the softmax family at its defaults, by name."""
    embeddings = torch.randn(batch, EMBEDDING_SIZE, device=device, requires_grad=True)
    labels = torch.randint(classes, (batch,), device=device)
    steps = {}
    for name in losses.__all__:
        kind = getattr(losses, name)
        if issubclass(kind, losses.BaseSoftmaxLoss) and kind is not losses.BaseSoftmaxLoss:
            known = {"class_counts": 20} if name in ("DynamicArcFaceLoss", "KappaFaceLoss", "LDAMLoss") else {}
            loss = kind(num_classes=classes, embedding_size=EMBEDDING_SIZE, **known)
            steps[name] = step_of(loss.to(device), embeddings, labels)
    return steps


def candidates(batch, classes, device):
    """What is compared at one size, by name."""
    embeddings = torch.randn(batch, EMBEDDING_SIZE, device=device, requires_grad=True)
    labels = torch.randint(classes, (batch,), device=device)
    sizes = {"num_classes": classes, "embedding_size": EMBEDDING_SIZE}
    built = {
        "PML ArcFace": pml_losses.ArcFaceLoss(**sizes),
        "PML NormalizedSoftmax": pml_losses.NormalizedSoftmaxLoss(**sizes),
        "ArcFace": losses.ArcFaceLoss(**sizes),
        "ArcFace lean": losses.ArcFaceLoss(**sizes, chunk_size=2048),
        "Softmax": losses.SoftmaxLoss(**sizes),
        "ArcFace sampled 0.1": losses.ArcFaceLoss(**sizes, sample_rate=0.1, sparse_gradient=True),
    }
    if classes <= 10_000:
        built["PML SubCenter K=3"] = pml_losses.SubCenterArcFaceLoss(**sizes, sub_centers=3)
        built["ArcFace K=3"] = losses.ArcFaceLoss(**sizes, sub_centers=3)
    steps = {"gemm3": gemm3_of(embeddings, classes)}
    steps |= {name: step_of(loss.to(device), embeddings, labels) for name, loss in built.items()}
    steps["ArcFace bf16"] = step_of(built["ArcFace"], embeddings, labels, autocast=True)
    steps["PML ArcFace bf16"] = step_of(pml_losses.ArcFaceLoss(**sizes).to(device), embeddings, labels, autocast=True)
    return steps


def small(device, budget):
    """Losses that PML has too, on one thread."""
    torch.set_num_threads(1)
    rows = []
    for batch, width, classes in tqdm(SMALL, unit="size"):
        embeddings = torch.randn(batch, width, device=device, requires_grad=True)
        labels = torch.randint(classes, (batch,), device=device)
        for name in IN_BOTH:
            steps = steps_of_both(name, embeddings, labels, classes)
            medians = seconds(steps, device, budget / len(IN_BOTH), clock=time.process_time)
            row = {"B, D, C": f"{batch}, {width}, {classes}", "loss": name}
            row["microseconds"], row["PML"] = (round(medians[module] * 1e6) for module in (losses, pml_losses))
            row["of PML"] = round(medians[losses] / medians[pml_losses], 2)
            rows.append(row)
            tqdm.write("  ".join(f"{value!s:>22}" for value in row.values()))
    return {**circumstances(__file__, device, 1), "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each size")
    parser.add_argument("--small", action="store_true", help="small problems alone; other numbers of the file stay")
    parser.add_argument("--out", help="JSON file for the results")
    arguments = parser.parse_args()
    if arguments.small:
        result = json.loads(Path(arguments.out).read_text(encoding="utf-8"))
        result["small"] = small(arguments.device, arguments.budget)
        write(result, page(result), arguments.out)
        return
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = []
    for batch, classes in tqdm(SIZES, unit="size"):
        steps = candidates(batch, classes, arguments.device)
        medians = seconds(steps, arguments.device, arguments.budget)
        for name, step in steps.items():
            peak = peak_bytes(step, arguments.device)
            gradient = 0 if "sampled" in name or name == "gemm3" else 4 * classes * EMBEDDING_SIZE
            gradient *= 3 if "K=3" in name else 1
            row = {
                "batch": batch,
                "classes": classes,
                "name": name,
                "milliseconds": round(medians[name] * 1e3, 3),
                "of gemm3": round(medians[name] / medians["gemm3"], 3),
                "of PML ArcFace": round(medians[name] / medians["PML ArcFace"], 3),
                "MiB beyond the gradient": round((peak - gradient) / 2**20, 1),
            }
            rows.append(row)
            tqdm.write(
                f"{batch:5} {classes:8,}  {name:20} " + "  ".join(f"{value:>9}" for value in list(row.values())[3:])
            )
    medians = seconds(family(*FAMILY_SIZE, arguments.device), arguments.device, 4 * arguments.budget)
    compared = {
        name: {"milliseconds": round(time * 1e3, 3), "of SoftmaxLoss": round(time / medians["SoftmaxLoss"], 3)}
        for name, time in medians.items()
    }
    result = {
        **circumstances(__file__, arguments.device, arguments.threads),
        "embedding_size": EMBEDDING_SIZE,
        "rows": rows,
        "family": {"batch": FAMILY_SIZE[0], "classes": FAMILY_SIZE[1], "losses": compared},
        "small": small(arguments.device, arguments.budget),
    }
    if arguments.out:
        write(result, page(result), arguments.out)


def page(result):
    """The results as a page of the documentation."""
    lines = [
        "# Margin softmax: time and memory",
        "",
        __doc__.split("\n\n", 2)[2].strip(),
        "",
        f"{measured_with(result)}, in fp32 but where it says bf16, D = {result['embedding_size']}. The numbers are in "
        "`margin_softmax.json`.",
    ]
    for batch, classes in dict.fromkeys((row["batch"], row["classes"]) for row in result["rows"]):
        own = [row for row in result["rows"] if (row["batch"], row["classes"]) == (batch, classes)]
        lines += ["", f"## B = {batch}, C = {classes:,}", "", *table(own, left_out=("batch", "classes"))]
    lines += ["", "## Small problems", "", f"{measured_with(result['small'])}.", "", *table(result["small"]["rows"])]
    size = result["family"]
    lines += ["", f"## Every loss at its defaults, B = {size['batch']}, C = {size['classes']:,}", ""]
    lines += ["| loss | milliseconds | of SoftmaxLoss |", "|---|---:|---:|"]
    ordered = sorted(size["losses"].items(), key=lambda item: item[1]["of SoftmaxLoss"])
    lines += [f"| {name} | {row['milliseconds']} | {row['of SoftmaxLoss']} |" for name, row in ordered]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
