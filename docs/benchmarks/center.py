"""Time and memory of center loss and its family, beside the ways in which it is usually written.

    python docs/benchmarks/center.py --out docs/benchmarks/center.json

Each work is one forward, one backward and the update of the centers. The candidates of a size take turns in one
process, in an order of each round's own; a turn is three steps that are not timed and one that is; times are medians,
and ratios are those of the medians. Memory is the peak of what torch allocates above the start of a step, beyond the
table of centers. "matrix" is the most copied form: a B × C matrix of squared distances by matrix product, masked, and
SGD over all centers. "gather" takes each sample's own center, and SGD over all centers or over those in the batch (a
sparse gradient). The limit is five passes over a B × D block at the speed of copying in main memory. For the family,
"dense" is the same loss written with a B × C (or C × C) matrix, by autograd; both with parameters where both can be.
"""

import argparse

import torch
import torch.nn.functional as F
from measure import circumstances, measured_with, peak_bytes, seconds, step_of, table, write
from torch import nn
from tqdm import tqdm

from pml_center import losses

BATCH, EMBEDDING_SIZE = 256, 512
UNTIMED = 3
SIZES = [10, 1_000, 10_000, 100_000, 1_000_000]
MATRIX_UP_TO = 100_000  # beyond, its matrices take gigabytes
FAMILY_CLASSES = 10_000


class Dense(nn.Module):
    """Centers as parameters, and a loss of (embeddings, labels, centers) written with whole matrices."""

    def __init__(self, classes, formula):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, EMBEDDING_SIZE))
        self.formula = formula

    def forward(self, embeddings, labels):
        return self.formula(embeddings, labels, self.centers)


def squared_distances(embeddings, centers):
    """(B, C) by matrix product."""
    lengths = embeddings.square().sum(1, keepdim=True) + centers.square().sum(1)
    return torch.addmm(lengths, embeddings, centers.t(), alpha=-2)


def matrix(embeddings, labels, centers):
    own = labels.unsqueeze(1) == torch.arange(len(centers), device=labels.device)
    return (squared_distances(embeddings, centers) * own).clamp(1e-12, 1e12).sum() / len(embeddings)


def gather(embeddings, labels, centers):
    return (embeddings - centers[labels]).square().sum(1).mean() / 2


def sparse_gather(embeddings, labels, centers):
    return (embeddings - F.embedding(labels, centers, sparse=True)).square().sum(1).mean() / 2


def others(embeddings, labels, centers):
    """(B, C), where a center is another class's."""
    return labels.unsqueeze(1) != torch.arange(len(centers), device=labels.device)


def island(embeddings, labels, centers):
    unit = F.normalize(centers, dim=1)
    cosines = unit @ unit.t()
    return gather(embeddings, labels, centers) + 10 * (cosines.sum() - cosines.diagonal().sum() + cosines.numel())


def contrastive_center(embeddings, labels, centers):
    distances = squared_distances(embeddings, centers)
    own = distances.gather(1, labels.unsqueeze(1)).squeeze(1)
    return (own / (distances.sum(1) - own + 1)).mean() / 2


def triplet_center(embeddings, labels, centers):
    distances = squared_distances(embeddings, centers) / 2
    own = distances.gather(1, labels.unsqueeze(1)).squeeze(1)
    nearest = distances.where(others(embeddings, labels, centers), torch.inf).amin(1)
    return F.relu(own + 5 - nearest).mean()


def angles(embeddings, centers):
    return (F.normalize(embeddings, dim=1) @ F.normalize(centers, dim=1).t()).clamp(-1 + 1e-6, 1 - 1e-6).acos()


def angular_center(embeddings, labels, centers):
    cosines = F.normalize(embeddings, dim=1) @ F.normalize(centers, dim=1).t()
    return (1 - cosines.gather(1, labels.unsqueeze(1))).mean()


def angular_triplet_center(embeddings, labels, centers):
    angle = angles(embeddings, centers)
    own = angle.gather(1, labels.unsqueeze(1)).squeeze(1)
    return F.relu(own + 1 - angle.where(others(embeddings, labels, centers), torch.inf).amin(1)).mean()


def git(embeddings, labels, centers):
    pushed = 1 / (1 + squared_distances(embeddings, centers).clamp_min(0)).index_select(1, labels)
    different = labels.unsqueeze(1) != labels
    return gather(embeddings, labels, centers) + (pushed * different).sum(1).mean()


def lgm(embeddings, labels, centers):
    logits = -squared_distances(embeddings, centers) / 2
    logits = torch.where(others(embeddings, labels, centers), logits, 1.3 * logits)
    return F.cross_entropy(logits, labels) + 0.1 * gather(embeddings, labels, centers)


def center_contrastive(embeddings, labels, centers):
    cosines = F.normalize(embeddings, dim=1) @ F.normalize(centers, dim=1).t()
    logits = 16 * torch.where(others(embeddings, labels, centers), cosines, cosines - 0.1)
    return F.cross_entropy(logits, labels) + angular_center(embeddings, labels, centers)


def by_gradient(classes, formula, embeddings, labels, rate=0.5):
    """A step of a dense form with SGD over its centers."""
    loss = Dense(classes, formula).to(embeddings.device)
    return step_of(loss, embeddings, labels, optimizer=torch.optim.SGD(loss.parameters(), lr=rate))


def of_ours(loss, embeddings, labels, rate=0.5):
    """A step of one of our losses, with SGD over its parameters if it has any."""
    loss = loss.to(embeddings.device)
    parameters = list(loss.parameters())
    return step_of(loss, embeddings, labels, optimizer=torch.optim.SGD(parameters, lr=rate) if parameters else None)


def copying(device):
    """Five passes over a B × D block, at the speed of copying a block that no cache holds."""
    source = torch.randn(2**26, device=device)
    target = torch.empty_like(source)
    share = 5 * BATCH * EMBEDDING_SIZE / len(source)
    return seconds({"copy": lambda: target.copy_(source)}, device, 1.0)["copy"] * share


def batch_of(classes, device):
    """Embeddings and labels."""
    embeddings = torch.randn(BATCH, EMBEDDING_SIZE, device=device, requires_grad=True)
    return embeddings, torch.randint(classes, (BATCH,), device=device)


def center_losses(classes, device):
    """What is compared at one number of classes, by name."""
    batch = batch_of(classes, device)
    steps = {
        "CenterLoss": of_ours(losses.CenterLoss(classes, EMBEDDING_SIZE), *batch),
        'CenterLoss, update="mean"': of_ours(losses.CenterLoss(classes, EMBEDDING_SIZE, update="mean"), *batch),
        "CenterLoss, sparse gradient": of_ours(
            losses.CenterLoss(classes, EMBEDDING_SIZE, update="gradient", sparse_gradient=True), *batch
        ),
        "gather, sparse gradient": by_gradient(classes, sparse_gather, *batch),
        "gather": by_gradient(classes, gather, *batch),
    }
    if classes <= MATRIX_UP_TO:
        steps["matrix"] = by_gradient(classes, matrix, *batch)
    return steps


# Each loss of the family with its dense form; both by gradient where both can be.
FAMILY = {
    "IslandLoss": (island, {"update": "gradient"}),
    "ContrastiveCenterLoss": (contrastive_center, {}),
    "TripletCenterLoss": (triplet_center, {}),
    "AngularCenterLoss": (angular_center, {"update": "gradient"}),
    "AngularTripletCenterLoss": (angular_triplet_center, {}),
    "GitLoss": (git, {"update": "gradient"}),
    "LGMLoss": (lgm, {"covariance": "identity"}),
    "CenterContrastiveLoss": (center_contrastive, {"update": "gradient"}),
}


def family(device, budget):
    """Every other center loss beside its dense form."""
    rows = []
    for name, (formula, arguments) in tqdm(FAMILY.items(), unit="loss"):
        batch = batch_of(FAMILY_CLASSES, device)
        ours = getattr(losses, name)(FAMILY_CLASSES, EMBEDDING_SIZE, **arguments)
        steps = {"ours": of_ours(ours, *batch), "dense": by_gradient(FAMILY_CLASSES, formula, *batch)}
        medians = seconds(steps, device, budget, untimed=UNTIMED)
        gradient = sum(4 * parameter.numel() for parameter in ours.parameters())
        row = {"loss": name, "milliseconds": round(medians["ours"] * 1e3, 2)}
        row["of dense"] = round(medians["ours"] / medians["dense"], 2)
        row["MiB beyond the gradient"] = round((peak_bytes(steps["ours"], device) - gradient) / 2**20, 1)
        row["MiB, dense"] = round(
            peak_bytes(steps["dense"], device) / 2**20 - FAMILY_CLASSES * EMBEDDING_SIZE / 2**18, 1
        )
        rows.append(row)
        tqdm.write("  ".join(f"{value!s:>26}" for value in row.values()))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each size")
    parser.add_argument("--out", help="JSON file for the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows, limit = [], copying(arguments.device)
    for classes in tqdm(SIZES, unit="size"):
        steps = center_losses(classes, arguments.device)
        medians = seconds(steps, arguments.device, arguments.budget, untimed=UNTIMED)
        for name, step in steps.items():
            ratio = f"{medians['matrix'] / medians[name]:.1f}" if "matrix" in medians else "matrix does not fit"
            row = {"classes": classes, "name": name, "milliseconds": round(medians[name] * 1e3, 3)}
            row["times faster than matrix"] = ratio
            row["of the limit"] = round(medians[name] / limit, 1)
            row["MiB"] = round(peak_bytes(step, arguments.device) / 2**20, 2)
            rows.append(row)
            tqdm.write(f"{classes:9,}  {name:28} " + "  ".join(f"{value!s:>9}" for value in list(row.values())[2:]))
    result = {
        **circumstances(__file__, arguments.device, arguments.threads),
        "batch": BATCH,
        "embedding_size": EMBEDDING_SIZE,
        "limit in milliseconds": round(limit * 1e3, 4),
        "rows": rows,
        "family": {"classes": FAMILY_CLASSES, "rows": family(arguments.device, arguments.budget)},
    }
    if arguments.out:
        write(result, page(result), arguments.out)


def page(result):
    """The results as a page of the documentation."""
    lines = ["# Center loss: time and memory", "", __doc__.split("\n\n", 2)[2].strip(), ""]
    lines += [
        f"{measured_with(result)}, fp32, B = {result['batch']}, D = {result['embedding_size']}; the limit is "
        f"{result['limit in milliseconds']} ms. The numbers are in `center.json`."
    ]
    for classes in dict.fromkeys(row["classes"] for row in result["rows"]):
        own = [row for row in result["rows"] if row["classes"] == classes]
        lines += ["", f"## C = {classes:,}", "", *table(own, left_out=("classes",))]
    lines += ["", f"## The family, C = {result['family']['classes']:,}", "", *table(result["family"]["rows"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
