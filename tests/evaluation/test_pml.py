"""The evaluator inside PML: as accuracy calculator of its testers, and of the hooks that choose the best model."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from pytorch_metric_learning.testers import GlobalEmbeddingSpaceTester, WithSameParentLabelTester
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.logging_presets import HookContainer
from torch.utils.data import TensorDataset

from pml_center.evaluation import RetrievalEvaluator
from tests.evaluation.clusters import PML_METRICS, clusters

WHOLE = ("mean_average_precision", "mean_reciprocal_rank")


def data(seed=0):
    embeddings, labels = clusters(classes=8, per_class=10, seed=seed)
    return TensorDataset(torch.from_numpy(embeddings), torch.from_numpy(labels))


@pytest.mark.parametrize(
    "splits", [None, [("val", ["val"])], [("val", ["train"])], [("val", ["train", "val"])], [("val", ["val", "train"])]]
)
def test_the_tester_of_pml_reports_the_same_numbers(splits):
    found = []
    for calculator in (
        RetrievalEvaluator((*PML_METRICS, *WHOLE), recall_at=()),
        AccuracyCalculator(include=(*PML_METRICS, *WHOLE), device=torch.device("cpu")),
    ):
        tester = GlobalEmbeddingSpaceTester(
            accuracy_calculator=calculator, dataloader_num_workers=0, data_device=torch.device("cpu")
        )
        datasets = {"train": data(1), "val": data()}
        chosen = None if splits is None else [(query, list(references)) for query, references in splits]
        found.append(tester.test(datasets, 1, torch.nn.Identity(), splits_to_eval=chosen))
    ours, theirs = found
    assert set(ours) == set(theirs)
    for split, values in theirs.items():
        assert set(ours[split]) == set(values) == {"epoch", *(f"{name}_level0" for name in (*PML_METRICS, *WHOLE))}
        for name, value in values.items():
            assert ours[split][name] == pytest.approx(value, abs=1e-6), (split, name)


class Records:
    """The part of the record-keeper package that PML's hooks call."""

    def __init__(self):
        self.tables, self.hash_map = defaultdict(list), {}

    def update_records(self, values, epoch, parent_name):
        if self.tables[parent_name] and self.tables[parent_name][-1]["epoch"] == epoch:
            self.tables[parent_name][-1].update(values)
        else:
            self.tables[parent_name].append({**values, "epoch": epoch})

    def table_exists(self, name):
        return name in self.tables

    def query(self, query, values=(), return_dict=False):
        """The epoch with the largest value of the column after ``max(``."""
        table, column = query.split(" FROM ")[1].split()[0], query.split("max(")[1].split(")")[0]
        if any(column not in row for row in self.tables[table]):
            raise KeyError(column)
        return [max(self.tables[table], key=lambda row: row[column])]


def test_the_hooks_of_pml_keep_the_best_epoch(tmp_path):
    records = Records()
    hooks = HookContainer(records, primary_metric="mean_average_precision_at_r")
    evaluator = RetrievalEvaluator()
    tester = GlobalEmbeddingSpaceTester(
        accuracy_calculator=evaluator,
        end_of_testing_hook=hooks.end_of_testing_hook,
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
    )
    hooks.end_of_epoch_hook(tester, {"val": data()}, str(tmp_path / "models"))
    width = torch.linspace(0, 1, 16)
    for epoch, power in ((1, 4), (2, 0), (3, 8)):  # from the second on, the model throws away ever more
        model = torch.nn.Linear(16, 16, bias=False)
        model.weight.data = torch.diag(width**power)
        tester.test({"val": data()}, epoch, model)
    [table] = records.tables.values()
    assert [row["best_epoch"] for row in table] == [1, 2, 2]
    assert {f"{name}_level0" for name in evaluator.get_curr_metrics()} < set(table[0])
    with pytest.raises(ValueError, match="`primary_metric` must be one of"):
        HookContainer(records, primary_metric="AMI").end_of_epoch_hook(tester, {}, str(tmp_path))


def test_labels_of_several_levels_are_averaged_by_the_tester():
    embeddings, labels = clusters(classes=8, per_class=10)
    levels = torch.from_numpy(np.stack([labels, labels // 2], axis=1))
    tester = GlobalEmbeddingSpaceTester(
        accuracy_calculator=RetrievalEvaluator(),
        label_hierarchy_level="all",
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
    )
    found = tester.test({"val": TensorDataset(torch.from_numpy(embeddings), levels)}, 1, torch.nn.Identity())["val"]
    for name in RetrievalEvaluator().get_curr_metrics():
        mean = (found[f"{name}_level0"] + found[f"{name}_level1"]) / 2
        assert found[f"AVERAGE_{name}"] == pytest.approx(mean)
    coarse = RetrievalEvaluator()(embeddings, labels // 2)
    assert found["r_precision_level1"] == pytest.approx(coarse["r_precision"])


def test_metrics_are_included_and_excluded_by_name():
    embeddings, labels = clusters()
    evaluator = RetrievalEvaluator()
    report = evaluator(embeddings, labels)
    assert evaluator.get_accuracy(embeddings, labels) == {name: report[name] for name in evaluator.get_curr_metrics()}
    only = evaluator.get_accuracy(embeddings, labels, include=("r_precision", "recall_at_2"))
    assert list(only) == ["r_precision", "recall_at_2"]
    rest = evaluator.get_accuracy(embeddings, labels, exclude=["r_precision"])
    assert set(rest) == set(evaluator.get_curr_metrics()) - {"r_precision"}
    assert all(isinstance(value, float) for value in rest.values())
    with pytest.raises(ValueError, match="metric must be a known name, got 'AMI'"):
        evaluator.get_accuracy(embeddings, labels, include=("AMI",))


def test_references_come_with_their_labels():
    embeddings, labels = clusters()
    with pytest.raises(ValueError, match="reference_labels and reference must come together, got only reference"):
        RetrievalEvaluator().get_accuracy(embeddings, labels, embeddings[:20] + 1)


def test_references_that_do_not_begin_with_the_queries_are_refused():
    embeddings, labels = clusters()
    with pytest.raises(ValueError, match="must begin with the 20 queries because ref_includes_query=True"):
        RetrievalEvaluator().get_accuracy(embeddings[5:25], labels[5:25], embeddings, labels, ref_includes_query=True)


@pytest.mark.parametrize("more", [0, 30])
def test_queries_that_are_among_the_references_find_themselves_as_in_pml_and_a_warning_says_so(more, caplog):
    embeddings, labels = clusters()
    query, query_labels = embeddings[: len(labels) - more], labels[: len(labels) - more]
    given = query.copy(), query_labels, embeddings, labels
    ours = RetrievalEvaluator(PML_METRICS, recall_at=(), similarity="euclidean").get_accuracy(*given)
    assert "which find themselves" in caplog.text
    theirs = AccuracyCalculator(include=PML_METRICS, device=torch.device("cpu")).get_accuracy(*given)
    assert ours == pytest.approx(theirs)
    caplog.clear()
    RetrievalEvaluator().get_accuracy(*given, ref_includes_query=more == 0)
    assert ("which find themselves" in caplog.text) == (more > 0)


def test_a_group_in_which_nothing_can_be_found_is_nan_as_in_pml_and_a_warning_says_so(caplog):
    embeddings, _ = clusters(classes=3, per_class=1)
    given = embeddings, np.arange(len(embeddings))
    ours = RetrievalEvaluator(PML_METRICS, recall_at=()).get_accuracy(*given)
    theirs = AccuracyCalculator(include=PML_METRICS, device=torch.device("cpu")).get_accuracy(*given)
    assert ours == pytest.approx(theirs, nan_ok=True)
    assert np.isnan(list(ours.values())).all()
    assert "none of 3 queries has a reference of its label" in caplog.text


def test_every_tester_of_pml_takes_the_evaluator():
    embeddings, labels = clusters(classes=8, per_class=10)
    levels = torch.from_numpy(np.stack([labels, labels // 2], axis=1))
    found = []
    for calculator in (
        RetrievalEvaluator(PML_METRICS, recall_at=()),
        AccuracyCalculator(include=PML_METRICS, device=torch.device("cpu")),
    ):
        tester = WithSameParentLabelTester(
            accuracy_calculator=calculator, dataloader_num_workers=0, data_device=torch.device("cpu")
        )
        found.append(tester.test({"val": TensorDataset(torch.from_numpy(embeddings), levels)}, 1, torch.nn.Identity()))
    assert dict(found[0]["val"]) == pytest.approx(dict(found[1]["val"]))


def test_the_metrics_of_clusters_are_elsewhere():
    with pytest.raises(ValueError, match="AMI and NMI are measured by ClusteringEvaluator"):
        RetrievalEvaluator().get_accuracy(*clusters(), include=("AMI",))
