"""Measure embeddings: retrieval, verification, identification, open sets, clustering, few-shot.

Embed, search, measure, report. Each question has an evaluator in the module of its name. What they stand on:

- ``search``, a room of its own below: nearest neighbours, and ranks in the whole gallery
- ``embed``, ``embedding_cache``, ``pairs``, ``templates``: from what a user gives to arrays and labels
- ``retrieval_task``, ``retrieval_metrics``: retrieval as hits, and metrics of them
- ``roc``, ``all_pairs``, ``accuracy``, ``score_norm``, ``pair_intervals``: scores of pairs, and error rates of them
- ``statistics``, ``paired_tests``: how sure a number is; ``spread``: how tight classes are
- ``report``, ``retrieval_report``: the result, which ``pml_center.pages`` shows as HTML
- ``evaluator``: what all evaluators have in common
"""

from pml_center.names import forwarded, require

require(__name__, "PIL", "faiss", "scipy", "sklearn", "tqdm")

from pml_center.evaluation.accuracy import FoldAccuracy, best_threshold, cross_validated_accuracy
from pml_center.evaluation.class_intervals import class_interval
from pml_center.evaluation.clustering import (
    ClusteringEvaluator,
    adjusted_mutual_information,
    normalized_mutual_information,
    pairwise_f1,
)
from pml_center.evaluation.embed import Samples, embed, embed_samples, load_samples, save_samples
from pml_center.evaluation.evaluator import Evaluator
from pml_center.evaluation.few_shot import Episode, FewShotEvaluator, omniglot_runs, sample_episodes
from pml_center.evaluation.identification import IdentificationEvaluator
from pml_center.evaluation.open_set import OpenSetEvaluator, OpenSetReport
from pml_center.evaluation.paired_tests import PairedTest, holm, paired_runs_test, paired_test, runs_interval
from pml_center.evaluation.pairs import Pairs, lfw_pairs, pair_scores, speaker_trials
from pml_center.evaluation.report import Report, ThresholdReport
from pml_center.evaluation.retrieval import RetrievalEvaluator
from pml_center.evaluation.retrieval_metrics import (
    ir_recall_at_k,
    map_at_k,
    mean_average_precision,
    mean_average_precision_at_r,
    mean_inverse_negative_penalty,
    mean_reciprocal_rank,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
)
from pml_center.evaluation.retrieval_report import RetrievalReport
from pml_center.evaluation.roc import Roc, roc
from pml_center.evaluation.search import FaissSearcher, Neighbours, Ranking, nearest_neighbours
from pml_center.evaluation.spread import intra_inter_distance
from pml_center.evaluation.statistics import (
    bootstrap_interval,
    resampled_counts,
    two_sample_bootstrap,
    wilson_interval,
)
from pml_center.evaluation.templates import templates
from pml_center.evaluation.verification import VerificationEvaluator, VerificationReport, shared_identities

# Lives above this package, because a page shows reports.
_HOMES = {"write_html": "pml_center.pages.write"}

__all__ = [
    "ClusteringEvaluator",
    "Episode",
    "Evaluator",
    "FaissSearcher",
    "FewShotEvaluator",
    "FoldAccuracy",
    "IdentificationEvaluator",
    "Neighbours",
    "OpenSetEvaluator",
    "OpenSetReport",
    "PairedTest",
    "Pairs",
    "Ranking",
    "Report",
    "RetrievalEvaluator",
    "RetrievalReport",
    "Roc",
    "Samples",
    "ThresholdReport",
    "VerificationEvaluator",
    "VerificationReport",
    "adjusted_mutual_information",
    "best_threshold",
    "bootstrap_interval",
    "class_interval",
    "cross_validated_accuracy",
    "embed",
    "embed_samples",
    "holm",
    "intra_inter_distance",
    "ir_recall_at_k",
    "lfw_pairs",
    "load_samples",
    "map_at_k",
    "mean_average_precision",
    "mean_average_precision_at_r",
    "mean_inverse_negative_penalty",
    "mean_reciprocal_rank",
    "ndcg_at_k",
    "nearest_neighbours",
    "normalized_mutual_information",
    "omniglot_runs",
    "pair_scores",
    "paired_runs_test",
    "paired_test",
    "pairwise_f1",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "resampled_counts",
    "roc",
    "runs_interval",
    "sample_episodes",
    "save_samples",
    "shared_identities",
    "speaker_trials",
    "templates",
    "two_sample_bootstrap",
    "wilson_interval",
    "write_html",
]

__getattr__ = forwarded(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
