"""What stands on the page of a report on retrieval."""

from collections.abc import Iterator, Sequence
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import parts_of
from pml_center.evaluation.report import told_once
from pml_center.evaluation.retrieval_report import NEAR_DUPLICATE, RetrievalReport
from pml_center.evaluation.search import ExactSearch, Similarity
from pml_center.pages.pair_samples import nearest_mates
from pml_center.pages.parts import PAIRS, Card, Material, Part, Rows
from pml_center.pages.retrieval_plots import retrieval_plots, score_name
from pml_center.pages.thumbnails import Thumbnails

QUERIES = 8  # rows of the gallery
CLASSES = 1_000  # rows of a table


class RetrievalParts:
    """The parts of a report on retrieval."""

    def __init__(self, report: RetrievalReport, material: Material, thumbnails: Thumbnails):
        self.report, self.material = report, material
        reference_images = material.images if report.leave_one_out else material.reference_images
        reference_names = report.names if report.leave_one_out else report.reference_names
        self.queries = Rows(report.labels, report.names, material.images, thumbnails)
        self.references = Rows(report.reference_labels, reference_names, reference_images, thumbnails)
        self.values = next(iter(report.per_unit.values()))
        _check_rows("images", material.images, len(report.codes))
        _check_rows("reference_images", material.reference_images, len(report.reference_codes))
        _check_rows("embeddings", material.embeddings, len(report.codes))
        _check_rows("references", material.references, len(report.reference_codes))
        self.search = None
        if material.embeddings is not None and report.similarity in get_args(Similarity):
            references = None if report.leave_one_out else material.references
            if report.leave_one_out or references is not None:
                similarity = cast(Similarity, report.similarity)
                self.search = ExactSearch(material.embeddings, references, similarity, report.excluded, overlap=True)

    @property
    def below(self) -> str:
        """What stands below the second image of a pair."""
        return f"Below the second of each pair: {score_name(self.report)}."

    def __iter__(self) -> Iterator[Part]:
        for part in (
            self.gallery(),
            self.hardest_mistakes(),
            self.hardest_positives(),
            self.label_errors(),
            self.near_duplicates(),
            self.drawings(),
            self.confusions(),
            self.per_class(),
        ):
            if part.rows or part.plots:
                yield part

    def gallery(self) -> Part:
        """Some queries with what was found for them."""
        measured = np.flatnonzero(~np.isnan(self.values))
        chosen = np.random.default_rng(0).choice(measured, min(QUERIES, len(measured)), replace=False)
        which = f"{QUERIES} queries drawn at random" if len(measured) > QUERIES else f"All {len(measured)} queries"
        rows = [[self.queries.card(row, "query"), *self._found(row)] for row in chosen.tolist()]
        return Part(
            "Retrieved images",
            f"{which}, each with its nearest references. Green: of the query's class. Red and dashed: of another. "
            f"Below each reference: {score_name(self.report)}.",
            "gallery",
            rows=rows,
        )

    def hardest_mistakes(self) -> Part:
        """Queries that are sure of a wrong reference."""
        report = self.report
        wrong = ~report.hits[:, 0] & (report.neighbours.ids[:, 0] >= 0) & ~np.isnan(self.values)
        rows = np.flatnonzero(wrong)
        worst = rows[np.argsort(-report.neighbours.scores[rows, 0], kind="stable")]
        pairs = self._first(worst, report.neighbours.ids[worst, 0], report.neighbours.scores[worst, 0])
        return Part(
            "Hardest mistakes",
            f"Queries whose nearest reference is of another class, the most similar first: {len(rows):,} of "
            f"{np.count_nonzero(~np.isnan(self.values)):,} queries. {self.below}",
            "pairs",
            rows=self._pairs(pairs, "miss"),
        )

    def hardest_positives(self) -> Part:
        """Queries whose nearest reference of their own class is far away."""
        if self.search is None:
            return Part("")
        mates, scores = nearest_mates(self.search, self.report.codes, self.report.reference_codes)
        rows = np.flatnonzero(mates >= 0)
        worst = rows[np.argsort(scores[rows], kind="stable")]
        return Part(
            "Hardest positives",
            f"Queries whose nearest reference of their own class is the least similar of all. {self.below}",
            "pairs",
            rows=self._pairs(self._first(worst, mates[worst], scores[worst]), "hit"),
        )

    def label_errors(self) -> Part:
        """Pairs of different labels that are each other's nearest."""
        pairs = self.report.label_errors()
        which = (
            "Pairs with different labels of which each is the other's nearest neighbour"
            if self.report.leave_one_out
            else "Queries and their nearest references, where labels differ and no other query with this nearest "
            "reference is more similar to it"
        )
        return Part(
            "Likely label errors",
            f"{which}, the most similar first: {len(pairs):,} in all. One of the two labels may be wrong. {self.below}",
            "pairs",
            rows=self._pairs(pairs[:PAIRS].tolist(), "miss", show_file=True),
        )

    def near_duplicates(self) -> Part:
        """Pairs that may be one image."""
        if self.report.similarity not in NEAR_DUPLICATE:
            return Part("")
        pairs = self.report.near_duplicates()
        return Part(
            "Near-duplicates",
            f"Pairs with {score_name(self.report)} of at least {NEAR_DUPLICATE[self.report.similarity]:g}, which may "
            f"be one image: {len(pairs):,} among the first {self.report.neighbours.ids.shape[1]} neighbours of each "
            "query.",
            "pairs",
            rows=self._pairs(pairs[:PAIRS].tolist(), "", show_file=True),
        )

    def drawings(self) -> Part:
        """The plots."""
        return Part("Plots", kind="plots", plots=retrieval_plots(self.report, self.material, self.search))

    def confusions(self) -> Part:
        """Which classes are taken for which."""
        return Part(
            "Confused classes",
            "How many queries of a class have a nearest reference of another one: the most frequent, 20 at most.",
            rows=[(str(one), str(other), f"{number:,}") for one, other, number in self.report.confusions()],
            columns=("class", "taken for", "queries"),
            texts=2,
        )

    def per_class(self) -> Part:
        """Every class, the worst first."""
        table = self.report.per_class()
        metrics = told_once(self.report.per_unit)
        order = np.argsort(table[self.report.ranked_by], kind="stable")
        shown = table[order[:CLASSES]]
        cut = f"; the {CLASSES:,} worst are shown" if len(table) > CLASSES else ""
        return Part(
            "Classes",
            f"{len(table):,} classes, the worst first{cut}. A click on a heading sorts by it.",
            rows=[
                (str(row["label"]), f"{row['queries']:,}", *(f"{row[name]:.4f}" for name in metrics)) for row in shown
            ],
            columns=("class", "queries", *metrics),
            sortable=True,
        )

    def _found(self, row: int) -> list[Card]:
        ids, scores = self.report.neighbours.ids[row], self.report.neighbours.scores[row]
        hits = self.report.hits[row]
        return [
            self.references.card(reference, f"{'✓' if hit else '✗'} {score:#.3g}", "hit" if hit else "miss")
            for reference, score, hit in zip(ids.tolist(), scores.tolist(), hits.tolist(), strict=True)
            if reference >= 0
        ]

    def _pairs(self, pairs: Sequence[tuple], kind: str, show_file: bool = False) -> list[list[Card]]:
        return [
            [
                self.queries.card(int(query), "query", show_file=show_file),
                self.references.card(int(reference), f"{score:#.3g}", kind, show_file),
            ]
            for query, reference, score in pairs
        ]

    def _first(self, queries: NDArray, references: NDArray, scores: NDArray) -> list[tuple]:
        """The first pairs, each once where either image of it may be the query."""
        found: dict[tuple, tuple] = {}
        for pair in zip(queries.tolist(), references.tolist(), scores.tolist(), strict=True):
            key = tuple(sorted(pair[:2])) if self.report.leave_one_out else pair[:2]
            found.setdefault(key, pair)
            if len(found) == PAIRS:
                break
        return list(found.values())


def _check_rows(name: str, values: Any, rows: int) -> None:
    if values is None:
        return
    given = sum(map(len, parts_of(values))) if name in ("embeddings", "references") else len(values)
    if given != rows:
        raise ValueError(f"{name} must be {rows}, as many as the report is about, got {given}. Pass the same rows.")
