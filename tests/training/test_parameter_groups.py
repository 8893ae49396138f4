"""Every parameter in exactly one group."""

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from torch import nn

from pml_center import losses, param_groups


def test_each_parameter_is_in_exactly_one_group():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    joint = pml_losses.MultipleLosses(
        {"softmax": losses.SoftmaxLoss(5, 3), "center": losses.CenterLoss(5, 3, update="gradient")}
    )
    groups = param_groups(model, joint, lr=1.0, loss_lr=2.0, center_lr=3.0, weight_decay=0.1)
    assert {group["name"]: (group["lr"], group["weight_decay"], len(group["params"])) for group in groups} == {
        "model": (1.0, 0.1, 2),
        "model (no decay)": (1.0, 0.0, 4),
        "centers": (3.0, 0.0, 1),
        "losses": (2.0, 0.0, 2),
    }
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for module in (model, joint) for parameter in module.parameters())
    torch.optim.AdamW(groups, fused=True)


def test_frozen_and_absent_parameters_make_no_group():
    model = nn.Linear(4, 3)
    model.bias.requires_grad_(False)
    assert [group["name"] for group in param_groups(model, losses.CenterLoss(5, 3), lr=1.0)] == ["model"]
    with pytest.raises(ValueError, match="model must have parameters that require a gradient, got none"):
        param_groups(nn.Identity(), lr=1.0)


def test_a_list_of_losses_is_refused():
    with pytest.raises(TypeError, match=r"losses must be modules, got list\. Pass them one by one"):
        param_groups(nn.Linear(4, 3), [losses.SoftmaxLoss(5, 3)], lr=1.0)
