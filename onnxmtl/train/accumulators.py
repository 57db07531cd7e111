"""Metrics accumulated over a whole set: sums, counts and histograms, so that batches do not matter.

Predictions are raw; dense ones of another size than the labels are resized to the labels (bilinear) first.
Definitions are in :data:`onnxmtl.kinds.METRICS`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from onnxmtl.errors import TaskError
from onnxmtl.kinds import Task
from onnxmtl.train.labels import check_classes, valid_mask

Values = torch.Tensor | np.ndarray[Any, Any]

_ANGLE_BINS_PER_DEGREE = 100
_THRESHOLDS = torch.arange(1, 100, dtype=torch.float64) / 100
_HALF = 49  # index of 0.5


class TaskMetrics(abc.ABC):
    """Accumulates one task's metrics. Subclasses see only what is labelled, as float64 on the CPU."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def update(self, prediction: Values, target: Values, labelled: Values | None = None) -> None:
        """Add a batch.

        Args:
            prediction: Raw prediction [N, C, h, w] or [N, C]; for classes also their indices, as integers.
            target: Labels [N, …], as the kind describes them.
            labelled: Bool [N]; None = all.
        """
        pred = torch.as_tensor(prediction).detach().cpu()
        wanted = torch.as_tensor(target).detach().cpu()
        mask = None if labelled is None else torch.as_tensor(labelled).detach().cpu()
        valid = valid_mask(self.task, wanted, mask)
        if not bool(valid.any()):
            return
        if pred.is_floating_point():
            pred = pred.double()
            if self.task.dense and pred.shape[-2:] != wanted.shape[-2:]:
                pred = functional.interpolate(pred, size=wanted.shape[-2:], mode="bilinear", align_corners=False)
        self.add(pred, wanted, valid)

    @abc.abstractmethod
    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        """Add a batch in which at least one label counts, prediction at the labels' size."""

    @abc.abstractmethod
    def values(self) -> dict[str, float]:
        """All metrics of the kind; nan where nothing was labelled."""

    def compute(self) -> dict[str, float]:
        """The task's metrics over all batches so far, in the task's order; nan where nothing was labelled."""
        values = self.values()
        return {name: values[name] for name in self.task.metrics}


METRICS_OF: dict[str, Callable[[Task], TaskMetrics]] = {}


def register_metrics(kind: str) -> Callable[[type[TaskMetrics]], type[TaskMetrics]]:
    """Say which accumulator computes the metrics of a kind.

    Raises:
        TaskError: The kind has one.
    """

    def register(accumulator: type[TaskMetrics]) -> type[TaskMetrics]:
        if kind in METRICS_OF:
            msg = f"the kind {kind!r} has metrics already"
            raise TaskError(msg)
        METRICS_OF[kind] = accumulator
        return accumulator

    return register


def _classes(prediction: torch.Tensor) -> torch.Tensor:
    """Class indices of logits [N, C, …], or the indices themselves."""
    return prediction.argmax(1) if prediction.is_floating_point() else prediction.long()


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


@register_metrics("segmentation")
class SegmentationMetrics(TaskMetrics):
    """Confusion matrix over the set: row = label, column = prediction."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.confusion = torch.zeros(task.channels, task.channels, dtype=torch.int64)

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        check_classes(self.task, target, valid)
        n = self.task.channels
        pairs = target[valid].long() * n + _classes(prediction)[valid]
        self.confusion += torch.bincount(pairs, minlength=n * n).reshape(n, n)

    def values(self) -> dict[str, float]:
        hits, union = self.confusion.diag(), self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diag()
        present = union > 0
        iou = hits[present].double() / union[present].double()
        accuracy = _ratio(int(hits.sum()), int(self.confusion.sum()))
        return {"miou": float(iou.mean()) if len(iou) else math.nan, "pixel_accuracy": accuracy}


@register_metrics("classification")
class ClassificationMetrics(TaskMetrics):
    """Right ones among the labelled."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.right = self.count = 0

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        check_classes(self.task, target, valid)
        self.right += int((_classes(prediction)[valid] == target[valid]).sum())
        self.count += int(valid.sum())

    def values(self) -> dict[str, float]:
        return {"accuracy": _ratio(self.right, self.count)}


@register_metrics("keypoints")
@register_metrics("regression")
class ErrorMetrics(TaskMetrics):
    """Mean absolute and root mean squared error."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.absolute = self.squared = 0.0
        self.count = 0

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        error = (prediction[valid] - target[valid].double()).abs()
        self.absolute += float(error.sum())
        self.squared += float(error.square().sum())
        self.count += len(error)

    def values(self) -> dict[str, float]:
        mean_square = _ratio(self.squared, self.count)
        return {"mae": _ratio(self.absolute, self.count), "rmse": math.sqrt(mean_square)}


@register_metrics("depth")
class DepthMetrics(ErrorMetrics):
    """Errors and δ thresholds. A prediction that is not positive is never within a δ.

    (Two negative numbers have a positive ratio below 1.25; the released codes count such pixels as right.)
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.relative = 0.0
        self.within = [0, 0, 0]

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        super().add(prediction, target, valid)
        p, g = prediction[valid], target[valid].double()
        self.relative += float(((p - g).abs() / g).sum())
        ratio = torch.where(p > 0, torch.maximum(p / g, g / p), math.inf)
        for k in range(3):
            self.within[k] += int((ratio < 1.25 ** (k + 1)).sum())

    def values(self) -> dict[str, float]:
        found = super().values()
        deltas = {f"delta{k + 1}": _ratio(self.within[k], self.count) for k in range(3)}
        return {"abs": found["mae"], "rel": _ratio(self.relative, self.count), "rmse": found["rmse"], **deltas}


@register_metrics("normals")
class NormalsMetrics(TaskMetrics):
    """Angles between directions; the median from a histogram with bins of 0.01 degrees."""

    limits = (11.25, 22.5, 30.0)

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.total = 0.0
        self.count = 0
        self.within = dict.fromkeys(self.limits, 0)
        self.histogram = torch.zeros(180 * _ANGLE_BINS_PER_DEGREE + 1, dtype=torch.int64)

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        p = prediction.movedim(1, -1)[valid]
        g = target.movedim(1, -1)[valid].double()
        # atan2 of cross and dot is exact near 0 and 180 degrees, where acos loses half its digits.
        sine, cosine = torch.linalg.cross(p, g).norm(dim=1), (p * g).sum(1)
        angle = torch.rad2deg(torch.atan2(sine, cosine))
        angle = torch.where(p.norm(dim=1) > 0, angle, 90.0)  # no direction: as far from right as from wrong
        self.total += float(angle.sum())
        self.count += len(angle)
        for limit in self.limits:
            self.within[limit] += int((angle <= limit).sum())
        bins = (angle * _ANGLE_BINS_PER_DEGREE).round().long()
        self.histogram += torch.bincount(bins, minlength=len(self.histogram))

    def values(self) -> dict[str, float]:
        middle = int(torch.searchsorted(self.histogram.cumsum(0), (self.count + 1) // 2))
        shares = {f"within_{limit:g}": _ratio(hits, self.count) for limit, hits in self.within.items()}
        median = middle / _ANGLE_BINS_PER_DEGREE if self.count else math.nan
        return {"mean_angle": _ratio(self.total, self.count), "median_angle": median, **shares}


@register_metrics("edges")
class EdgeMetrics(TaskMetrics):
    """F-measure = 2 TP / (2 TP + FP + FN), pixel by pixel (no tolerance), at 99 thresholds over the whole set.

    A soft label of 0.5 or more is an edge.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        # By the number of thresholds reached: entry k counts pixels that are positive at thresholds 0 … k-1.
        self.edges = torch.zeros(len(_THRESHOLDS) + 1, dtype=torch.int64)
        self.others = torch.zeros(len(_THRESHOLDS) + 1, dtype=torch.int64)

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        reached = torch.bucketize(prediction[valid].sigmoid(), _THRESHOLDS, right=True)
        edge = target[valid] >= 0.5
        for counts, part in ((self.edges, reached[edge]), (self.others, reached[~edge])):
            counts += torch.bincount(part, minlength=len(counts))

    def values(self) -> dict[str, float]:
        edges = int(self.edges.sum())
        if not edges:
            return {"best_f": math.nan, "f_at_0.5": math.nan}
        true, false = (counts.flip(0).cumsum(0).flip(0)[1:].double() for counts in (self.edges, self.others))
        f = 2 * true / (true + false + edges)
        return {"best_f": float(f.max()), "f_at_0.5": float(f[_HALF])}
