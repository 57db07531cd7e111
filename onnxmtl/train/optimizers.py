"""Optimizers as data, and learning rates as functions of the step (so that nothing has to be resumed)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """How a group of parameters is trained.

    Attributes:
        name: ``adam`` or ``sgd``.
        lr: Learning rate at the start.
        betas: Adam's.
        momentum: SGD's.
        weight_decay: Added to the gradient (L2).
        schedule: ``constant``, or ``cosine``: from `lr` down to a hundredth of it at the end of the stage.
    """

    name: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        if self.schedule == "constant" or steps <= 1:
            return self.lr
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / (steps - 1))))


def build_optimizer(spec: OptimizerSpec, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer over named parameters. Parameters without a gradient in a step are left alone in it."""
    values = list(parameters.values())
    if spec.name == "adam":
        return torch.optim.Adam(values, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay)
    return torch.optim.SGD(values, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
