"""demo: what center loss does, on real handwriting, in a minute."""

from pathlib import Path

from pml_center.cli.options import Json
from pml_center.cli.output import show_json, show_table
from pml_center.training.config import check_at_least


def demo(*, out: Path = Path("pml-center-demo"), epochs: int = 30, seed: int = 0, json_: Json = False) -> None:
    """See what center loss does: train on handwritten digits with and without it, and draw the features.

    A small convolutional network is trained to two-dimensional features with softmax alone and with center loss at
    three weights λ. Needs no data, no network and no GPU.

    Args:
        out: folder for the figure.
        epochs: passes over the training digits, for each λ.
        seed: of everything random.
        json_: print one JSON object instead of a table.
    """
    check_at_least(1, "30 take about a minute.", epochs=epochs)
    from pml_center.training.demonstration import draw, train_with_each_weight

    results = train_with_each_weight(epochs=epochs, seed=seed)
    path = draw(results, out / "features.png")
    if json_:
        show_json("demo", {"results": [{"weight": r.weight, **r.metrics} for r in results], "figure": str(path)})
        return
    names = list(results[0].metrics)
    show_table(["λ", *names], [[f"{r.weight:g}", *(f"{r.metrics[name]:.3f}" for name in names)] for r in results])
    print(f"Softmax alone (λ = 0) spreads each digit along a ray; center loss packs it. See {path}")
