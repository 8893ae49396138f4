"""How far the gradient of sampled classes is from the gradient of all classes.

    python docs/benchmarks/sampled_gradient.py --out docs/benchmarks/sampled_gradient.json

A step over a sample of the classes (Partial FC) lacks most negatives, so that its softmax is over fewer classes, and
not even in the mean is its gradient that of the dense loss. With `sample_correction`, the default, a class that was
drawn with probability q counts 1/q times, and the sum over the classes is right in the mean; what is left is that its
logarithm is not. This measures both: the cosine between the dense gradient of the embeddings and the mean of many
sampled ones, the ratio of their lengths, and the cosine of a single draw.
"""

import argparse
from itertools import product

import torch
from measure import circumstances, write
from tqdm import tqdm

from pml_center import losses

BATCH, CLASSES, EMBEDDING_SIZE, DRAWS = 128, 10_000, 128, 200
RATES = (0.05, 0.1, 0.2, 0.5)


def gradient(loss, embeddings, labels):
    return torch.autograd.grad(loss(embeddings, labels), embeddings)[0].flatten()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", help="JSON file for the results")
    arguments = parser.parse_args()
    rows = []
    for seed in tqdm(range(arguments.seeds), unit="seed"):
        torch.manual_seed(seed)
        dense = losses.CosFaceLoss(CLASSES, EMBEDDING_SIZE, margin=0.2, scale=32)
        labels = torch.randint(CLASSES, (BATCH,))
        own = torch.nn.functional.normalize(dense.class_weights.weight[labels].detach(), dim=1)
        embeddings = (own + 0.1 * torch.randn(BATCH, EMBEDDING_SIZE)).requires_grad_()  # half trained: 49 degrees away
        expected = gradient(dense, embeddings, labels)
        for corrected, rate in product((True, False), RATES):
            options = {"sample_rate": rate, "sample_correction": corrected}
            sampled = losses.CosFaceLoss(CLASSES, EMBEDDING_SIZE, margin=0.2, scale=32, **options)
            sampled.load_state_dict(dense.state_dict(), strict=False)
            draws = torch.stack([gradient(sampled, embeddings, labels) for _ in range(DRAWS)])
            mean, single = draws.mean(0), torch.cosine_similarity(draws, expected.unsqueeze(0))
            rows.append(
                {
                    "seed": seed,
                    "sample_correction": corrected,
                    "rate": rate,
                    "cosine of the mean": round(torch.cosine_similarity(mean, expected, dim=0).item(), 4),
                    "length of the mean": round((mean.norm() / expected.norm()).item(), 4),
                    "cosine of a draw": round(single.mean().item(), 4),
                }
            )
    result = {
        **circumstances(__file__, "cpu", torch.get_num_threads()),
        "batch": BATCH,
        "classes": CLASSES,
        "embedding_size": EMBEDDING_SIZE,
        "draws": DRAWS,
        "rows": rows,
    }
    if arguments.out:
        write(result, page(result), arguments.out)


def page(result):
    """The results as a page of the documentation: least and largest over the seeds."""
    lines = ["# Sampled classes: the gradient", "", __doc__.split("\n\n", 2)[2].strip(), ""]
    lines += [
        f"CosFace, B = {BATCH}, C = {CLASSES:,}, D = {EMBEDDING_SIZE}, {DRAWS} draws; least to largest over the seeds."
    ]
    names = ("cosine of the mean", "length of the mean", "cosine of a draw")
    lines += ["", "| sample_correction | sample_rate | " + " | ".join(names) + " |", "|---|" + "---:|" * 4]
    for corrected, rate in product((True, False), RATES):
        own = [row for row in result["rows"] if (row["sample_correction"], row["rate"]) == (corrected, rate)]
        cells = [f"{min(row[name] for row in own):.3f} to {max(row[name] for row in own):.3f}" for name in names]
        lines.append(f"| {corrected} | {rate} | " + " | ".join(cells) + " |")
    lines += ["", f"Made by `{result['command']}`; the numbers are in `sampled_gradient.json`."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
