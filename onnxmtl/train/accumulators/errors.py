"""Errors of numbers: depth, key points, regressions."""

from __future__ import annotations

import math

import torch

from onnxmtl.kinds import Task
from onnxmtl.train.accumulators.base import TaskMetrics, ratio, register_metrics


@register_metrics("keypoints")
@register_metrics("regression")
class ErrorMetrics(TaskMetrics):
    """Mean absolute and root mean squared error."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.absolute = self.squared = 0.0
        self.count = 0

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        error = (prediction[valid] - target[valid]).abs()
        self.absolute += float(error.sum())
        self.squared += float(error.square().sum())
        self.count += len(error)

    def values(self) -> dict[str, float]:
        mean_square = ratio(self.squared, self.count)
        return {"mae": ratio(self.absolute, self.count), "rmse": math.sqrt(mean_square)}


@register_metrics("depth")
class DepthMetrics(ErrorMetrics):
    """Errors and δ thresholds. A prediction that is not positive is never within a δ.

    (Two negative numbers have a positive ratio below 1.25, one negative number has a ratio below 0; the released codes
    count such pixels as right. So do the ``legacy_negative`` metrics.)
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.relative = 0.0
        self.within = [0, 0, 0]
        self.legacy = [0, 0, 0]

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        super().add(prediction, target, valid)
        p, g = prediction[valid], target[valid]
        self.relative += float(((p - g).abs() / g).sum())
        any_sign = torch.maximum(p / g, g / p)
        ratios = torch.where(p > 0, any_sign, math.inf)
        for k in range(3):
            self.within[k] += int((ratios < 1.25 ** (k + 1)).sum())
            self.legacy[k] += int((any_sign <= 1.25 ** (k + 1)).sum())

    def values(self) -> dict[str, float]:
        found = super().values()
        deltas = {f"delta{k + 1}": ratio(self.within[k], self.count) for k in range(3)}
        legacy = {f"delta{k + 1}_legacy_negative": ratio(self.legacy[k], self.count) for k in range(3)}
        rel = ratio(self.relative, self.count)
        return {"abs": found["mae"], "rel": rel, "rmse": found["rmse"], **deltas, **legacy}
