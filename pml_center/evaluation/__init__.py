"""Exact retrieval evaluation: embed, search, measure, report."""

from pml_center.evaluation.accuracy import FoldAccuracy, best_threshold, cross_validated_accuracy
from pml_center.evaluation.clustering import (
    ClusteringEvaluator,
    adjusted_mutual_information,
    normalized_mutual_information,
    pairwise_f1,
)
from pml_center.evaluation.embed import embed
from pml_center.evaluation.few_shot import Episode, FewShotEvaluator, omniglot_runs, sample_episodes
from pml_center.evaluation.identification import IdentificationEvaluator
from pml_center.evaluation.pairs import Pairs, lfw_pairs, pair_scores
from pml_center.evaluation.report import Report
from pml_center.evaluation.retrieval import (
    RetrievalEvaluator,
    mean_average_precision_at_r,
    precision_at_1,
    r_precision,
    recall_at_k,
)
from pml_center.evaluation.retrieval_report import Neighbours, RetrievalReport
from pml_center.evaluation.roc import Roc, roc
from pml_center.evaluation.search import nearest_neighbours
from pml_center.evaluation.spread import intra_inter_distance
from pml_center.evaluation.statistics import (
    PairedTest,
    bootstrap_interval,
    paired_test,
    resampled_counts,
    two_sample_bootstrap,
    wilson_interval,
)
from pml_center.evaluation.templates import templates
from pml_center.evaluation.threshold_report import ThresholdReport
from pml_center.evaluation.verification import VerificationEvaluator, VerificationReport, shared_identities

__all__ = [
    "ClusteringEvaluator",
    "Episode",
    "FewShotEvaluator",
    "FoldAccuracy",
    "IdentificationEvaluator",
    "Neighbours",
    "PairedTest",
    "Pairs",
    "Report",
    "RetrievalEvaluator",
    "RetrievalReport",
    "Roc",
    "ThresholdReport",
    "VerificationEvaluator",
    "VerificationReport",
    "adjusted_mutual_information",
    "best_threshold",
    "bootstrap_interval",
    "cross_validated_accuracy",
    "embed",
    "intra_inter_distance",
    "lfw_pairs",
    "mean_average_precision_at_r",
    "nearest_neighbours",
    "normalized_mutual_information",
    "omniglot_runs",
    "pair_scores",
    "paired_test",
    "pairwise_f1",
    "precision_at_1",
    "r_precision",
    "recall_at_k",
    "resampled_counts",
    "roc",
    "sample_episodes",
    "shared_identities",
    "templates",
    "two_sample_bootstrap",
    "wilson_interval",
]
