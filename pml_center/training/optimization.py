"""Optimizer and schedule, both of timm."""

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler

from pml_center.names import unknown_name
from pml_center.training.config import TrainConfig

FUSED = {"adam", "adamw"}  # have a kernel that moves all weights at once


def create_optimizer(groups: list[dict], config: TrainConfig) -> torch.optim.Optimizer:
    """Timm's optimizer by name, for groups that have their own rates.

    Raises:
        ValueError: an unknown name.
    """
    name = config.optimizer
    if name not in list_optimizers():
        raise ValueError(unknown_name("optimizer", name, list_optimizers(), "Use adamw, sgd or any other of timm."))
    special = {"fused": True} if name in FUSED else {}
    return create_optimizer_v2(groups, name, config.rate, momentum=config.momentum, filter_bias_and_bn=False, **special)


def create_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, updates: int) -> Scheduler:
    """Learning rates as a function of how many steps were taken: ``schedule.step_update(step)``.

    Args:
        optimizer: whose rates are the peaks.
        config: names the schedule.
        updates: steps in an epoch.
    """
    total = config.epochs * updates
    epochs = min(1.0, config.epochs / 4) if config.warmup_epochs is None else config.warmup_epochs
    warmup = min(round(epochs * updates), total)
    shared = {"warmup_t": warmup, "warmup_lr_init": 0.0, "t_in_epochs": False}
    if config.schedule == "constant":
        return MultiStepLRScheduler(optimizer, decay_t=[], **shared)
    rest = {"t_initial": max(total - warmup, 1), "warmup_prefix": True, **shared}
    if config.schedule == "linear":
        return PolyLRScheduler(optimizer, power=1.0, **rest)
    return CosineLRScheduler(optimizer, **rest)
