"""Exact retrieval evaluation: embed, search, measure, report."""

from pml_center.evaluation.embed import embed
from pml_center.evaluation.html_report import write_html
from pml_center.evaluation.report import Report
from pml_center.evaluation.retrieval import (
    RetrievalEvaluator,
    mean_average_precision_at_r,
    precision_at_1,
    r_precision,
    recall_at_k,
)
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
    "Neighbours",
    "PairedTest",
    "Report",
    "RetrievalEvaluator",
    "RetrievalReport",
    "bootstrap_interval",
    "embed",
    "intra_inter_distance",
    "mean_average_precision_at_r",
    "nearest_neighbours",
    "paired_test",
    "precision_at_1",
    "r_precision",
    "recall_at_k",
    "resampled_counts",
    "two_sample_bootstrap",
    "wilson_interval",
    "write_html",
]
