"""Identification: who of a gallery is on an image, and is it anybody of them at all?"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pml_center.arrays import ENTRIES, as_matrix, check_count, check_several, class_codes, joined
from pml_center.checks import check_choices
from pml_center.evaluation.class_intervals import class_interval
from pml_center.evaluation.embed import Samples
from pml_center.evaluation.evaluator import Evaluator, labelled_samples
from pml_center.evaluation.report import Report, ThresholdReport
from pml_center.evaluation.roc import Flags, RankedPairs, check_rates, measurable
from pml_center.evaluation.search import (
    ExactSearch,
    Ids,
    Matrix,
    Similarity,
    Values,
    check_two_sets,
    duplicates,
    queries_among,
)
from pml_center.evaluation.statistics import (
    Interval,
    bootstrap_intervals,
    check_intervals,
    few_units,
    mean_of,
    resampled_counts,
    settled,
)

Resampled = Literal["identity", "query"]
Ranks = Sequence[int] | Ids
CALLED = ("embeddings", "gallery")


@dataclass(frozen=True)
class IdentificationEvaluator(Evaluator[ThresholdReport]):
    """Search for each image's identity in a gallery: rank-k accuracy, TPIR at a FPIR, and a curve over distractors.

    A *mated* query has its identity in the gallery, a *non-mated* one has not.

    * ``rank_k``, closed set: the share of mated queries with a reference of their identity among the first k. The curve
      over k is the CMC.
    * ``tpir_at_fpir_…``, open set (also ``DIR@FAR``): the share of mated queries whose nearest reference is of their
      identity and scores at least a threshold. The threshold is the lowest at which the share of non-mated queries
      that are taken for somebody, because their nearest reference scores as much, does not exceed the target.

    Enrol one template for each identity, see :func:`templates`: with more, rank_k counts references and not identities,
    and large identities are found more easily.

    Args:
        ranks: the k of each ``rank_k``; the CMC goes up to the largest, or to the size of the gallery.
        fpir: targets of the false positive identification rate, in (0, 1). None means 0.1, 0.01, …, 1e-6, as far as ten
            non-mated queries or more may be taken for somebody. A target below that is measured with a warning.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        ci: what could have been others, and so what intervals and :meth:`Report.compare` are about: ``"identity"``, a
            person with all queries, or ``"query"``. Never the gallery. None means no intervals, and tests by person.
        ci_level: the level of the intervals, in (0, 1).
        resamples: of the bootstrap.
        seed: of its random numbers, and of the order of distractors.

    Raises:
        ValueError: an unknown choice, or a number out of range.

    Example:
        >>> gallery = [[1, 0], [0, 1], [-1, 0]]
        >>> queries = [[0.9, 0.1], [0.2, 0.9], [0.1, 1], [0.3, -1]]
        >>> evaluator = IdentificationEvaluator(ranks=(1, 2), fpir=(0.5,), ci=None)
        >>> print(evaluator(queries, ["Ann", "Bob", "Ann", "Zoe"], gallery, ["Ann", "Bob", "Cid"]))
        4 queries, 3 mated, 1 non-mated, 3 references: cosine similarity
        rank_1            0.6667
        rank_2            1.0000
        tpir_at_fpir_0.5  0.6667
        warning: TPIR at FPIR 0.5 is decided by fewer than 10 of 1 non-mated queries: mostly chance

    Source: Grother et al., Face Recognition Vendor Test part 2: identification, NISTIR 8271, 2019.
    """

    ranks: Sequence[int] = (1, 5, 10)
    fpir: Sequence[float] | None = None
    similarity: Similarity = "cosine"
    ci: Resampled | None = "identity"
    ci_level: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_several(ranks=self.ranks)
        check_choices(similarity=(self.similarity, Similarity))
        check_intervals(self.ci, Resampled, self.ci_level, self.resamples, self.seed)
        if not len(self.ranks):
            raise ValueError("ranks must name at least one rank, got none. Use (1,).")
        for rank in self.ranks:
            check_count("ranks", rank)
        check_rates("fpir", self.fpir)

    def __call__(
        self,
        embeddings: Any,
        labels: Iterable[Hashable] | None = None,
        gallery: Any = None,
        gallery_labels: Iterable[Hashable] | None = None,
    ) -> ThresholdReport:
        """Identify queries (probes) in a gallery.

        Args:
            embeddings: (Q, D) finite real numbers, the queries: a numpy array or memmap, or a tensor on any device; or
                the folder of :func:`save_samples`, which holds labels too.
            labels: (Q,) the identity of each, anything hashable.
            gallery: (N, D) the references, likewise; or a list of matrices or folders, which are one gallery.
            gallery_labels: (N,) the identity of each reference, of all parts in one list.

        Raises:
            TypeError: embeddings that are not real numbers, labels that are not hashable.
            ValueError: as for :func:`nearest_neighbours`; labels that do not match their rows; no mated query; targets
                of FPIR without a non-mated query.
        """
        return self.over_galleries(embeddings, labels, [(gallery, gallery_labels)])

    def over_galleries(
        self,
        embeddings: Any,
        labels: Iterable[Hashable] | None,
        galleries: Sequence[tuple[Any, Iterable[Hashable] | None]],
    ) -> ThresholdReport:
        """Identify the same queries in several galleries, and average the rates of these, as the two of IJB.

        A query that is mated in one gallery is non-mated in another. Joining the galleries would be another protocol.

        Args:
            embeddings: (Q, D) the queries.
            labels: (Q,) their identities.
            galleries: references and their labels, of each gallery.

        Returns:
            The report. It has thresholds and values per query only of a single gallery.

        Raises:
            ValueError: as for one gallery.
        """
        check_several(galleries=galleries)
        if not len(galleries):
            raise ValueError("galleries must be at least one, got none. Pass pairs of references and labels.")
        known: dict[Hashable, int] = {}
        queries = labelled_samples("embeddings", embeddings, labels)
        queries = queries._replace(embeddings=as_matrix(joined(queries.embeddings), "embeddings", names=queries.names))
        codes = class_codes(queries.labels, len(queries.embeddings), "labels", known)
        references = [labelled_samples("gallery", *gallery) for gallery in galleries]
        searched = [self._search(queries, codes, each, known) for each in references]
        non_mated = min(int((~each.mated).sum()) for each in searched)
        if self.fpir is not None and len(self.fpir) and not non_mated:
            raise ValueError(
                "fpir must be left out where every query is mated, got no query without a reference of its identity. "
                "Add images of people who are not in the gallery."
            )
        fpir, warnings = measurable(self.fpir, non_mated, "TPIR at FPIR", "non-mated queries")
        warnings += tuple(dict.fromkeys(sentence for each in searched for sentence in each.warnings))
        mated = np.any([each.mated for each in searched], axis=0)
        counts = {"queries": len(codes), "galleries": len(galleries)}
        per_query: dict[str, Values] = {}
        thresholds: dict[str, float] = {}
        if len(galleries) == 1:
            counts = {"queries": len(codes), "mated": len(codes) - non_mated, "non-mated": non_mated}
            per_query, thresholds = searched[0].per_query(self.ranks, fpir)
        over_people = self._over_people(per_query, codes)
        ranks = np.arange(1, min(max(self.ranks), max(each.references for each in searched)) + 1)
        return ThresholdReport(
            metrics=dict(zip(_names(self.ranks, fpir), _mean_rates(searched, self.ranks, fpir), strict=True)),
            protocol=f"{self.similarity} similarity" + (", mean over galleries" if len(galleries) > 1 else ""),
            counts=counts | {"references": sum(each.references for each in searched)},
            per_unit=per_query,
            **self._sampled(codes, mated, len(galleries), bool(fpir)),
            ci=self._intervals(searched, codes, () if over_people else self.ranks, fpir) | over_people,
            curves={"cmc": {"rank": ranks, "rate": np.array(_mean_rates(searched, ranks, ()))}},
            warnings=warnings + self._few(codes[mated]),
            thresholds=thresholds,
        )

    def _over_people(self, per_query: dict[str, Values], codes: Ids) -> dict[str, Interval]:
        """Of rates that are means over queries: a person is left out instead of drawn twice."""
        if self.ci != "identity" or not per_query:
            return {}
        measured = ~np.isnan(next(iter(per_query.values())))
        if len(np.unique(codes[measured])) < 2:
            return {}
        return {name: class_interval(per_query[name], codes, self.ci_level) for name in per_query if "tpir" not in name}

    def _sampled(self, codes: Ids, mated: Flags, galleries: int = 1, threshold: bool = False) -> dict[str, Any]:
        """What could have been others, for a report: people where nobody says otherwise."""
        common = {"ci_level": self.ci_level}
        if self.ci == "query":
            return common | {"over": "queries", "ci_method": f"bootstrap over {len(codes):,} queries"}
        drawn = f"bootstrap over {len(np.unique(codes)):,} people"
        how = f"over {len(np.unique(codes[mated])):,} people, left out one at a time"
        if galleries > 1:
            how = drawn
        elif threshold:
            how += f"; {drawn} where a threshold is found anew"
        return common | {"clusters": codes, "over": "people", "ci_method": how}

    def _few(self, codes: Ids) -> tuple[str, ...]:
        return few_units(len(np.unique(codes)), "people") if self.ci == "identity" else ()

    def _search(self, queries: Samples, codes: Ids, gallery: Samples, known: dict[Hashable, int]) -> "_Searched":
        names = (queries.names, gallery.names)
        search = ExactSearch(queries.embeddings, gallery.embeddings, self.similarity, names=names, called=CALLED)
        reference_codes = class_codes(gallery.labels, len(search.references), "gallery_labels", known)
        mated = np.isin(codes, reference_codes)
        if not mated.any():
            raise ValueError(
                f"labels must be shared by queries and references, got {len(codes)} queries without a reference of "
                "their label. Check that both sets name their identities alike."
            )
        rank = np.full(len(codes), np.iinfo(np.int64).max)
        score = np.empty(len(codes), dtype=np.float64)
        nearest = np.full(len(codes), -1)
        for rows, ids, scores in search.chunks(min(max(self.ranks), len(search.references))):
            nearest[rows] = ids[:, 0]
            hits = reference_codes[ids] == codes[rows, None]
            found = hits.any(axis=1)
            rank[rows[found]] = hits[found].argmax(axis=1) + 1
            score[rows] = scores[:, 0]
        alike = duplicates(search, nearest)
        return _Searched(mated, rank, score, len(search.references), queries_among(alike, len(codes)))

    def _intervals(
        self, searched: list["_Searched"], codes: Ids, ranks: Ranks, fpir: Sequence[float]
    ) -> dict[str, Interval]:
        """By the bootstrap, of what is no mean over queries of one gallery."""
        if self.ci is None or not len([*ranks, *fpir]):
            return {}
        units = codes if self.ci == "identity" else np.arange(len(codes))
        rates = [
            _mean_rates(searched, ranks, fpir, counts[units])
            for counts in resampled_counts(int(units.max()) + 1, self.resamples, self.seed)
        ]
        ends = np.nanquantile(rates, [(1 - self.ci_level) / 2, (1 + self.ci_level) / 2], axis=0)
        mated = len(np.unique(units[np.any([each.mated for each in searched], axis=0)]))
        found = zip(_names(ranks, fpir), zip(*ends.tolist(), strict=True), strict=True)
        return {name: settled(interval, mated, self.ci_level) for name, interval in found}

    def distractor_curve(
        self, embeddings: Any, labels: Iterable[Hashable], distractors: Any, sizes: Sequence[int] | None = None
    ) -> Report:
        """Rank-1 accuracy of one mate among more and more distractors, as MegaFace measures it.

        Each image is a query, and each other image of its identity is in turn the only mate in the gallery. The mate
        must score higher than all distractors; a tie counts as a failure.

        Args:
            embeddings: (Q, D) finite real numbers.
            labels: (Q,) their identities. Images whose identity no other image has are left out and counted.
            distractors: (N, D) images of other people. A mistake there lowers the curve for good: clean them.
            sizes: numbers of distractors, in [1, N]; None means 10, 100, … and N. They are drawn once, in random order,
                so that each set holds the smaller ones.

        Returns:
            The report, with ``rank_1_at_N`` for each size: the share of its mates that a query finds, averaged over the
            queries.

        Raises:
            TypeError: embeddings that are not real numbers, labels that are not hashable.
            ValueError: as for :func:`nearest_neighbours`; sizes out of range; no identity with two images.

        Source: Kemelmacher-Shlizerman et al., The MegaFace Benchmark, CVPR 2016, arXiv:1512.00596.
        """
        queries, others = as_matrix(embeddings, "embeddings"), as_matrix(distractors, "distractors")
        check_two_sets(queries, [others], "embeddings", "distractors")
        codes = class_codes(labels, len(queries))
        mates = np.bincount(codes)[codes] - 1
        if not mates.any():
            raise ValueError(
                f"labels must repeat, got {len(codes)} images of as many identities. A query needs a mate."
            )
        sizes = _sizes(sizes, len(others))
        order = np.random.default_rng(self.seed).permutation(len(others))
        search = ExactSearch(queries, similarity=self.similarity)
        best = np.full((len(codes), len(sizes)), -np.inf, dtype=np.float32)  # of the distractors so far
        for column, (start, stop) in enumerate(pairwise([0, *sizes])):
            among = ExactSearch(queries, others[np.sort(order[start:stop])], self.similarity)
            for rows, _, scores in among.chunks(1, rows=np.flatnonzero(mates)):
                best[rows, column] = scores[:, 0]
        found = _mates_above(search, codes, np.maximum.accumulate(best, axis=1))
        rates = np.where(mates[:, None] > 0, found / np.maximum(mates, 1)[:, None], np.nan)
        names = [f"rank_1_at_{size}" for size in sizes]
        per_query = dict(zip(names, rates.T, strict=True))
        ci = self._over_people(per_query, codes)
        if self.ci == "query":
            ci = bootstrap_intervals(per_query, self.ci_level, self.resamples, self.seed)
        means = np.array([mean_of(column) for column in rates.T])
        return Report(
            metrics=dict(zip(names, means.tolist(), strict=True)),
            protocol=f"{self.similarity} similarity, one mate among distractors",
            counts={
                "queries": int((mates > 0).sum()),
                "distractors": len(others),
                "skipped": int((mates == 0).sum()),
            },
            per_unit=per_query,
            **self._sampled(codes, mates > 0),
            ci=ci,
            warnings=self._few(codes[mates > 0]),
            curves={"distractors": {"size": np.array(sizes), "rate": means}},
        )


class _Searched:
    """What a search in one gallery found for each query."""

    def __init__(self, mated: Flags, rank: Ids, score: Values, references: int, warnings: tuple[str, ...] = ()):
        self.mated = mated  # (Q,)
        self.rank = rank  # (Q,) of the first reference with the query's identity; huge where it was not among the first
        self.score = score  # (Q,) of the nearest reference
        self.references = references
        self.warnings = warnings
        self.order = np.argsort(rank)
        self.sorted = rank[self.order]
        right = np.where(mated & (rank > 1), -np.inf, score)  # a wrong name is never accepted
        self.ranking = RankedPairs(right, mated)

    def rates(self, ranks: Ranks, fpir: Sequence[float], weights: NDArray | None = None) -> list[float]:
        """Each ``rank_k`` and each TPIR, with every query counted as often as its weight says."""
        times = self.mated.astype(np.int64) if weights is None else weights * self.mated
        if not times.any():
            return [np.nan] * len([*ranks, *fpir])
        found = np.concatenate([[0], times[self.order].cumsum()])  # behind each rank that occurs
        closed = (found[np.searchsorted(self.sorted, ranks, side="right")] / times.sum()).tolist()
        if not fpir:
            return closed
        curve = self.ranking.roc(weights)
        return closed + [curve.tar_at(target) if curve.impostor_pairs else np.nan for target in fpir]

    def per_query(self, ranks: Iterable[int], fpir: Sequence[float]) -> tuple[dict[str, Values], dict[str, float]]:
        """What counted as found for each mated query, and the thresholds of the open set."""
        right = [self.rank <= rank for rank in ranks]
        thresholds = {}
        for target in fpir:
            thresholds[f"tpir_at_fpir_{target:g}"] = threshold = self.ranking.roc().threshold_at(target)
            right.append((self.rank == 1) & (self.score >= threshold))
        values = [np.where(self.mated, each, np.nan) for each in right]
        return dict(zip(_names(ranks, fpir), values, strict=True)), thresholds


def _names(ranks: Iterable[int], fpir: Sequence[float]) -> list[str]:
    return [f"rank_{rank}" for rank in ranks] + [f"tpir_at_fpir_{target:g}" for target in fpir]


def _mean_rates(
    searched: list[_Searched], ranks: Ranks, fpir: Sequence[float], weights: NDArray | None = None
) -> list[float]:
    """The rates of several galleries, averaged."""
    return np.mean([each.rates(ranks, fpir, weights) for each in searched], axis=0).tolist()


def _sizes(sizes: Sequence[int] | None, distractors: int) -> list[int]:
    """How many distractors to measure with, ascending."""
    if sizes is None:
        return sorted({10**power for power in range(1, 10) if 10**power < distractors} | {distractors})
    check_several(sizes=sizes)
    if not len(sizes):
        raise ValueError("sizes must name at least one number of distractors, got none. Leave it out for 10, 100, ….")
    for size in sizes:
        if check_count("sizes", size) > distractors:
            raise ValueError(
                f"sizes must be at most {distractors}, the number of distractors, got {size}. Ask for fewer."
            )
    return sorted(set(sizes))


def _mates_above(search: ExactSearch, codes: Ids, best: Matrix) -> Ids:
    """How many of its mates score above the best distractor, for each query and number of distractors (Q, S)."""
    found = np.zeros(best.shape, dtype=np.int64)
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        for some in np.array_split(rows, -(-(len(rows) ** 2) // ENTRIES)):
            first, second = np.repeat(some, len(rows)), np.tile(rows, len(some))
            scores = search.pair_scores(first, second).reshape(len(some), len(rows))
            scores[some[:, None] == rows] = -np.inf  # an image is not its own mate
            found[some] = (scores[:, :, None] > best[some, None, :]).sum(axis=1)
    return found
