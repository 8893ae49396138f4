"""Exact retrieval evaluation: embed, search, measure, report."""

from pml_center.evaluation.embed import Samples, embed, embed_samples, load_samples, save_samples
from pml_center.evaluation.faiss_searcher import FaissSearcher
from pml_center.evaluation.html_report import write_html
from pml_center.evaluation.ranking import (
    Ranking,
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
from pml_center.evaluation.report import Report
from pml_center.evaluation.retrieval import RetrievalEvaluator
from pml_center.evaluation.retrieval_report import Neighbours, RetrievalReport
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

__all__ = [
    "FaissSearcher",
    "Neighbours",
    "PairedTest",
    "Ranking",
    "Report",
    "RetrievalEvaluator",
    "RetrievalReport",
    "Samples",
    "bootstrap_interval",
    "embed",
    "embed_samples",
    "intra_inter_distance",
    "ir_recall_at_k",
    "load_samples",
    "map_at_k",
    "mean_average_precision",
    "mean_average_precision_at_r",
    "mean_inverse_negative_penalty",
    "mean_reciprocal_rank",
    "ndcg_at_k",
    "nearest_neighbours",
    "paired_test",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "resampled_counts",
    "save_samples",
    "two_sample_bootstrap",
    "wilson_interval",
    "write_html",
]
