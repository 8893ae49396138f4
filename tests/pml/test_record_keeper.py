"""PML's hooks with a record keeper: what our losses record, save and load."""

import sqlite3
from collections import defaultdict

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners, testers, trainers
from pytorch_metric_learning.utils import logging_presets
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.common_functions import list_of_recordable_attributes_list_names

from pml_center.losses import CenterLoss, SoftmaxCenterLoss, SoftmaxLoss
from tests.cases import CASES, EMBEDDING_SIZE, NUM_CLASSES

SIZE = 16
CPU = torch.device("cpu")


class RecordKeeper:
    """What the package record-keeper does with the objects that PML's hooks hand it, in memory.

    As that package it stumbles over what it has no number for: over None, and over a tensor without entries.
    """

    def __init__(self):
        self.records = defaultdict(lambda: defaultdict(dict))  # group, name, iteration
        self.hash_map = {}
        self.database = sqlite3.connect(":memory:")
        self.database.row_factory = sqlite3.Row

    def update_records(self, things, iteration, custom_attr_func=None, parent_name="", recursive_types=None):
        for name, thing in things.items():
            self._update(name, thing, iteration, parent_name, custom_attr_func, tuple(recursive_types or ()))

    def _update(self, name, thing, iteration, parent, attributes_of, inside):
        if isinstance(thing, int | float | str | list | torch.Tensor):
            several = isinstance(thing, torch.Tensor) and thing.numel() > 1
            value = thing.item() if isinstance(thing, torch.Tensor) and not several else thing
            self.records[parent][name][iteration] = thing.tolist() if several else value
            return
        if isinstance(thing, dict):
            held = "_".join(filter(None, [parent, name]))
            self.update_records(thing, iteration, attributes_of, held, inside)
            return
        group = "_".join(filter(None, [parent, f"{name}_{type(thing).__name__}"]))
        kinds = list_of_recordable_attributes_list_names()
        recorded = {each: getattr(thing, each) for kind in kinds for each in getattr(thing, kind, [])}
        if attributes_of is not None:
            recorded |= attributes_of(thing)
        self.update_records(recorded, iteration, None, group, inside)
        for attribute, held in vars(thing).items() if inside else ():
            if isinstance(held, inside):
                self.update_records({f"{group}_{attribute}": held}, iteration, attributes_of, "", inside)

    def save_records(self):
        for group, series in self.records.items():
            numbers = {name: values for name, values in series.items() if not isinstance(values[max(values)], list)}
            if not numbers:
                continue
            columns = ", ".join(f'"{name}"' for name in numbers)
            self.database.execute(f'CREATE TABLE IF NOT EXISTS "{group}" ({columns})')
            for iteration in sorted(set.union(*(set(values) for values in numbers.values()))):
                row = [values.get(iteration) for values in numbers.values()]
                self.database.execute(f'INSERT INTO "{group}" ({columns}) VALUES ({", ".join("?" * len(row))})', row)
        self.records.clear()

    def table_exists(self, name):
        return bool(self.database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchall())

    def query(self, query, values=(), return_dict=False):
        rows = self.database.execute(query, values).fetchall()
        return {key: [row[key] for row in rows] for key in rows[0].keys()} if return_dict else rows  # noqa: SIM118


@pytest.fixture
def keeper():
    return RecordKeeper()


def keep(keeper, loss, iteration=0):
    """As the hook at the end of an iteration."""
    keeper.update_records({"metric_loss": loss}, iteration, recursive_types=[torch.nn.Module, dict])


@pytest.mark.parametrize("collect_stats", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_loss_records_is_kept(case, collect_stats, keeper, generator):
    loss = case.build(collect_stats=collect_stats)
    loss(torch.randn(8, EMBEDDING_SIZE, generator=generator, dtype=torch.double), torch.arange(8) % NUM_CLASSES)
    keep(keeper, loss)
    kept = keeper.records[f"metric_loss_{case.loss.__name__}"]
    names = [name for kind in ("_record_these", "_record_these_stats") for name in getattr(loss, kind, [])]
    assert {name: values[0] for name, values in kept.items()} == {name: getattr(loss, name) for name in names}
    if case.has_classes:
        assert kept["num_classes"] == {0: NUM_CLASSES}
        assert bool(set(getattr(loss, "_record_these_stats", [])) & set(kept)) == collect_stats


def test_each_part_of_a_sum_is_kept(keeper, generator):
    parts = {"softmax": SoftmaxLoss(4, 3, collect_stats=True), "center": CenterLoss(4, 3, collect_stats=True)}
    parts["slow"] = CenterLoss(4, 3, accumulation_steps=3)
    loss = pml_losses.MultipleLosses(parts)
    for iteration in range(3):
        loss(torch.randn(8, 3, generator=generator), torch.arange(8) % 4)
        keep(keeper, loss, iteration)
    kept = keeper.records["metric_loss_MultipleLosses__modules_losses_ModuleDict__modules_center_CenterLoss"]
    assert kept["alpha"] == dict.fromkeys(range(3), 0.5)
    assert kept["avg_intra"][2] == parts["center"].avg_intra
    assert len(set(kept["avg_intra"].values())) == 3


def training(network, digits, hooks, tester, folder):
    """Two epochs with PML's hooks."""
    torch.manual_seed(1)
    model, loss = network(), SoftmaxCenterLoss(10, SIZE, center_weight=0.1, collect_stats=True)
    modules = {"trunk": model, "metric_loss": loss}
    optimizers = {
        f"{name}_optimizer": torch.optim.Adam(module.parameters(), lr=1e-2) for name, module in modules.items()
    }
    return trainers.MetricLossOnly(
        {"trunk": model},
        optimizers,
        90,
        {"metric_loss": loss},
        digits[0],
        {"tuple_miner": miners.MultiSimilarityMiner()},
        dataloader_num_workers=0,
        data_device=CPU,
        end_of_iteration_hook=hooks.end_of_iteration_hook,
        end_of_epoch_hook=hooks.end_of_epoch_hook(tester, {"val": digits[1]}, str(folder), patience=5),
    )


def test_the_hooks_of_pml_record_save_and_load(digits, network, keeper, tmp_path):
    hooks = logging_presets.get_hook_container(keeper, log_freq=1, primary_metric="precision_at_1")
    calculator = AccuracyCalculator(include=("precision_at_1",), k=1, device=CPU)
    tester = testers.GlobalEmbeddingSpaceTester(
        end_of_testing_hook=hooks.end_of_testing_hook,
        accuracy_calculator=calculator,
        dataloader_num_workers=0,
        data_device=CPU,
    )
    trainer = training(network, digits, hooks, tester, tmp_path)
    trainer.train(num_epochs=2)
    loss = trainer.loss_funcs["metric_loss"]
    rows = keeper.query("SELECT * FROM metric_loss_SoftmaxCenterLoss", return_dict=True)
    assert len(rows["softmax_part"]) == 2 * (len(digits[0]) // 90)
    assert rows["softmax_part"][-1] == loss.softmax_part < rows["softmax_part"][0]
    assert set(rows["center_weight"]) == {0.1}
    history = hooks.get_loss_history(["metric_loss"])["metric_loss"]
    assert history[-1] < history[0]
    accuracy = hooks.get_accuracy_history(tester, "val")["precision_at_1_level0"]
    assert len(accuracy) == 2
    assert min(accuracy) > 0.7

    fresh = training(network, digits, hooks, tester, tmp_path)
    assert hooks.load_latest_saved_models(fresh, str(tmp_path), CPU) == 3
    state = fresh.loss_funcs["metric_loss"].state_dict()
    assert all(torch.equal(state[name], value) for name, value in loss.state_dict().items())
    assert state["center.centers"].any(1).all()
