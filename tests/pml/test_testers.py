"""PML's testers on networks that our losses trained."""

import pytest
import torch
from pytorch_metric_learning import testers
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from pml_center.evaluation import RetrievalEvaluator
from pml_center.losses import SoftmaxCenterLoss

METRICS = ("precision_at_1", "r_precision", "mean_average_precision_at_r")


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))
    loss = SoftmaxCenterLoss(10, 16, center_weight=0.1)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=1e-2)
    for _ in range(10):
        for pixels, labels in zip(*(each.split(90) for each in digits[0].tensors), strict=True):
            optimizer.zero_grad()
            loss(model(pixels), labels).backward()
            optimizer.step()
    return model.eval()


def accuracies(model, sets, splits=None):
    calculator = AccuracyCalculator(include=METRICS, k="max_bin_count", device=torch.device("cpu"))
    tester = testers.GlobalEmbeddingSpaceTester(
        accuracy_calculator=calculator, dataloader_num_workers=0, data_device=torch.device("cpu")
    )
    return tester.test(sets, 1, model, splits_to_eval=splits)


def test_the_tester_finds_what_our_evaluator_finds(digits, trained):
    found = accuracies(trained, {"val": digits[1]})["val"]
    pixels, labels = digits[1].tensors
    with torch.no_grad():
        report = RetrievalEvaluator()(trained(pixels), labels)
    for name in METRICS:
        assert found[f"{name}_level0"] == pytest.approx(report[name], abs=1e-6)
    assert found["precision_at_1_level0"] > 0.9


def test_queries_among_the_training_set(digits, trained):
    found = accuracies(trained, dict(zip(("train", "val"), digits, strict=True)), [("val", ["train"])])["val"]
    (train, train_labels), (val, val_labels) = (each.tensors for each in digits)
    with torch.no_grad():
        report = RetrievalEvaluator()(trained(val), val_labels, trained(train), train_labels)
    for name in METRICS:
        assert found[f"{name}_level0"] == pytest.approx(report[name], abs=1e-6)
