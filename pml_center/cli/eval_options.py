"""EvalOptions: what to measure, and where to say it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

Protocol = Literal["retrieval", "verification", "identification", "clustering", "fewshot"]


@dataclass(frozen=True)
class EvalOptions:
    """What to measure.

    Attributes:
        protocol: one or several; by default retrieval, or verification where there are pairs. 'retrieval' searches
            each image among all others, or in the gallery; 'verification' decides whether two images are of one class,
            for --pairs or for all pairs; 'identification' looks up each image in a gallery of one image per class;
            'clustering' compares k-means with the classes; 'fewshot' classifies by a few images per class.
        gallery: where to search: another data set, or another folder of embeddings. Identification without it enrols
            the first image of each class.
        groups: a regular expression for image names, such as '_c([0-9]+)'. What it finds is an image's camera or
            sequence: a query does not see references of its own class and group. By default the groups of the data, if
            these have any.
        pairs: verify these pairs: LFW's pairs.txt, or a CSV file with columns first, second, same, and fold if there
            are folds.
        metrics: of retrieval, see RetrievalEvaluator.
        recall_at: the K of each recall_at_K.
        ranks: the k of each rank_k of identification.
        far: false accept rates at which verification reports the true accept rate; by default those that there are
            pairs enough for.
        ways: classes in an episode of few-shot.
        shots: known images of each class in an episode.
        queries: images of each class to classify in an episode.
        episodes: of few-shot; by default as many as share no image.
        similarity: how embeddings are compared.
        index: a faiss factory string for retrieval, such as 'IVF256,Flat' or 'HNSW32'; Flat is exact.
        singletons: what retrieval does with images that are alone in their class.
        ci: what the bootstrap of the intervals resamples in retrieval and identification. Other protocols have a unit
            of their own.
        ci_level: level of the confidence intervals.
        resamples: of the bootstrap.
        seed: of everything random.
        json: print one JSON object instead of tables.
        report: write a page (HTML) with images and plots there.
    """

    protocol: tuple[Protocol, ...] | None = None
    gallery: str | None = None
    groups: str | None = None
    pairs: str | None = None
    metrics: tuple[str, ...] = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    ranks: tuple[int, ...] = (1, 5, 10)
    far: tuple[float, ...] | None = None
    ways: int = 5
    shots: int = 1
    queries: int = 15
    episodes: int | None = None
    similarity: Literal["cosine", "dot", "euclidean"] = "cosine"
    index: str = "Flat"
    singletons: Literal["skip", "zero", "error"] = "skip"
    ci: Literal["query", "class", "none"] = "query"
    ci_level: float = 0.95
    resamples: int = 1000
    seed: int = 0
    json: Annotated[bool, Parameter(negative=())] = False
    report: str | None = None
