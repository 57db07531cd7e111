"""Optimizers as data, and learning rates as functions of the step (so that nothing has to be resumed)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import nn

from onnxmtl.ir.roles import Role

BIAS = ".bias"
"""Behind the name of a role: its biases alone."""
_ROLES = tuple(role.value for role in Role if role not in (Role.LOGITS, Role.STATISTIC))  # what weight steps train
_POLY = 0.9  # power of the schedule "poly"


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """How a group of parameters is trained.

    Attributes:
        name: ``adam`` or ``sgd``.
        lr: Learning rate at the start.
        betas: Adam's.
        momentum: SGD's.
        weight_decay: Added to the gradient (L2).
        schedule: ``constant``; ``cosine``: from `lr` down to a hundredth of it at the end of the stage; ``step``:
            times `decay` after every `every` steps; or ``poly``: `lr` · (1 − step/steps)^0.9 (DeepLab's).
        decay: Factor of ``step``.
        every: Steps between the drops of ``step``; needed for it.
        drops: How many drops of ``step`` there are at most; 0: no end.
        head_lr: Learning rate of the heads at the start, where it is another one; 0: `lr`.
        factors: What the learning rates of some weights are multiplied by: the role of an initializer (``fusion``:
            100), or that of biases alone (``head.bias``: 20).
    """

    name: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["constant", "cosine", "step", "poly"] = "constant"
    decay: float = 0.5
    every: int = 0
    drops: int = 0
    head_lr: float = 0.0
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, factor in self.factors.items():
            if name.removesuffix(BIAS) not in _ROLES:
                msg = f"learning rates have factors by role ({', '.join(_ROLES)}) or role{BIAS}, not {name!r}"
                raise ValueError(msg)
            if not (math.isfinite(factor) and factor >= 0):
                msg = f"the factor of the learning rate of {name!r} must be a number of 0 or more, not {factor}"
                raise ValueError(msg)
        if self.schedule == "step" and self.every < 1:
            msg = f"the schedule 'step' needs the steps between its drops, every={self.every}"
            raise ValueError(msg)

    def factor_of(self, role: Role, *, bias: bool = False) -> float:
        """What the learning rate of a weight of that role is multiplied by; `bias`: it is added by its operator."""
        of_role = self.factors.get(role.value, 1.0)
        return self.factors.get(f"{role.value}{BIAS}", of_role) if bias else of_role

    def lr_at(self, step: float, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        if self.schedule == "step":
            drops = math.floor(step / self.every)
            return self.lr * self.decay ** (min(drops, self.drops) if self.drops else drops)
        if self.schedule == "poly":
            return self.lr * math.pow(1.0 - min(step / steps, 1.0), _POLY)
        if self.schedule != "cosine" or steps <= 1:
            return self.lr
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(step / (steps - 1), 1.0))))


def build_optimizer(
    spec: OptimizerSpec,
    parameters: Mapping[str, nn.Parameter],
    *,
    heads: Collection[str] = (),
    undecayed: Collection[str] = (),
    factors: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer over named parameters. Parameters without a gradient in a step are left alone in it.

    Args:
        spec: How they are trained.
        parameters: By name.
        heads: Names of those that `spec.head_lr` is for.
        undecayed: Names of those that take no weight decay (the weights of losses, factors of features).
        factors: What the learning rates of some are multiplied by; 1 where nothing is said.
    """
    known = factors or {}
    faster = set(heads) if spec.head_lr else set()
    groups: list[dict[str, Any]] = []
    for head in (False, True):
        for share in sorted({known.get(name, 1.0) for name in parameters} or {1.0}, reverse=True):
            for decayed in (True, False):
                values = [
                    parameter
                    for name, parameter in parameters.items()
                    if (name in faster, known.get(name, 1.0), name not in undecayed) == (head, share, decayed)
                ]
                if values:
                    factor = share * (spec.head_lr / spec.lr if head else 1.0)
                    decay = spec.weight_decay if decayed else 0.0
                    groups.append({"params": values, "factor": factor, "lr": spec.lr * factor, "weight_decay": decay})
    groups = groups or [{"params": [], "factor": 1.0, "lr": spec.lr, "weight_decay": spec.weight_decay}]
    if spec.name == "adam":
        return torch.optim.Adam(groups, lr=spec.lr, betas=spec.betas)
    return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups; each keeps its proportion to the others'."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)
