"""Metrics of classes, per pixel or per image, from a confusion matrix."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from onnxmtl.kinds import Task
from onnxmtl.train.accumulators.base import TaskMetrics, Values, ratio, register_metrics
from onnxmtl.train.labels import check_classes


class _Classes(TaskMetrics):
    """Confusion matrix over the set (row = label, column = prediction), and the cross-entropy."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.confusion = torch.zeros(task.channels, task.channels, dtype=torch.int64)
        self.surprise = self.weight = 0.0

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        check_classes(self.task, target, valid)
        n = self.task.channels
        labels, scores = target[valid].long(), prediction.is_floating_point()
        found = (prediction.argmax(1) if scores else prediction.long())[valid]
        self.confusion += torch.bincount(labels * n + found, minlength=n * n).reshape(n, n)
        if "cross_entropy" in self.task.metrics:
            self._add_surprise(prediction.movedim(1, -1)[valid] if scores else None, labels)

    def _add_surprise(self, logits: torch.Tensor | None, labels: torch.Tensor) -> None:
        weights = torch.tensor(self.task.class_weights or [1.0] * self.task.channels, dtype=torch.float64)
        self.weight += float(weights[labels].sum())
        # Class indices say nothing about probabilities.
        self.surprise += (
            math.nan if logits is None else float(functional.cross_entropy(logits, labels, weights, reduction="sum"))
        )

    def values(self) -> dict[str, float]:
        labelled = self.confusion.sum(1)
        right = self.confusion.diag()
        recall = right[labelled > 0].double() / labelled[labelled > 0].double()
        return {
            "mean_class_accuracy": float(recall.mean()) if len(recall) else math.nan,
            "cross_entropy": ratio(self.surprise, self.weight),
        }

    @property
    def share_right(self) -> float:
        """Right ones among the labelled."""
        return ratio(int(self.confusion.diag().sum()), int(self.confusion.sum()))


@register_metrics("segmentation")
class SegmentationMetrics(_Classes):
    """Intersection over union, by which classes are averaged, and shares of pixels."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.below_zero = 0

    def update(self, prediction: Values, target: Values, labelled: Values | None = None) -> None:
        """See :meth:`TaskMetrics.update`; counts labels below 0 too."""
        below = torch.as_tensor(target).detach().cpu() < 0
        if labelled is not None:
            below &= torch.as_tensor(labelled).detach().cpu().bool().reshape(-1, 1, 1)
        self.below_zero += int(below.sum())
        super().update(prediction, target, labelled)

    def values(self) -> dict[str, float]:
        hits, union = self.confusion.diag(), self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diag()
        seen = bool(union.any())
        iou = hits.double() / union.clamp(min=1).double()

        def mean(which: torch.Tensor) -> float:
            return float(iou[which].mean()) if bool(which.any()) else math.nan

        return {
            "miou": mean(union > 0),
            "pixel_accuracy": self.share_right,
            "miou_all": float(iou.mean()) if seen else math.nan,
            "miou_present_tp": mean(hits > 0),
            "pixel_accuracy_legacy_ignored": ratio(int(hits.sum()), int(self.confusion.sum()) + self.below_zero)
            if seen
            else math.nan,
            **super().values(),
        }


@register_metrics("classification")
class ClassificationMetrics(_Classes):
    """Shares of images."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.among_five = 0.0

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        super().add(prediction, target, valid)
        if "top5_accuracy" not in self.task.metrics:
            return
        if not prediction.is_floating_point():
            self.among_five = math.nan
            return
        logits, labels = prediction[valid], target[valid].long()
        best = logits.topk(min(5, self.task.channels), dim=1).indices
        self.among_five += int((best == labels[:, None]).any(1).sum())

    def values(self) -> dict[str, float]:
        return {
            "accuracy": self.share_right,
            "top5_accuracy": ratio(self.among_five, int(self.confusion.sum())),
            **super().values(),
        }
