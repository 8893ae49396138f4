"""What stands on the page of a report on verification."""

from collections.abc import Iterator

import numpy as np

from pml_center.evaluation.pairs import Pairs
from pml_center.evaluation.verification import VerificationReport
from pml_center.pages.parts import PAIRS, Material, Part, Rows, curves, histogram
from pml_center.pages.thumbnails import Thumbnails


def verification_parts(report: VerificationReport, material: Material, thumbnails: Thumbnails) -> Iterator[Part]:
    """The pairs judged wrongly, where there is a list of them, and the plots."""
    if report.pairs is not None:
        yield from _wrong_pairs(report, report.pairs, Rows(None, report.names, material.images, thumbnails))
    name = "accuracy" if "accuracy" in report.thresholds else "equal_error_rate"
    threshold, caption = report.thresholds[name], f"{report.counts['pairs']:,} pairs. The threshold is that of {name}."
    drawings = [histogram(report.curves["scores"], threshold, "similarity", caption)]
    yield Part("Plots of pairs", kind="plots", plots=drawings + curves(report))


def _wrong_pairs(report: VerificationReport, pairs: Pairs, rows: Rows) -> Iterator[Part]:
    worst = report.mistakes(len(pairs))
    genuine = np.asarray(pairs.same)[worst["pair"]]
    for same, title, text in (
        (True, "Rejected genuine pairs", "One identity, judged to be two: the least similar first."),
        (False, "Accepted impostor pairs", "Two identities, judged to be one: the most similar first."),
    ):
        chosen = worst[genuine == same]
        cards = [
            [
                rows.card(int(pairs.first[pair])),
                rows.card(int(pairs.second[pair]), f"{score:#.3g}", "hit" if same else "miss"),
            ]
            for pair, score in chosen[:PAIRS].tolist()
        ]
        if cards:
            yield Part(title, f"{text} {len(chosen):,} in all.", "pairs", rows=cards)
