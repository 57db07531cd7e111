"""Metrics of probabilities of something or nothing: edges, saliency."""

from __future__ import annotations

import math

import torch

from onnxmtl.kinds import Task
from onnxmtl.train.accumulators.base import TaskMetrics, ratio, register_metrics

_THRESHOLDS = torch.arange(1, 100, dtype=torch.float64) / 100
_HALF = 49  # index of 0.5
_IOU_THRESHOLDS = torch.arange(4, 19, dtype=torch.float64) / 20  # .2, .25 … .9


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
        self.absolute = 0.0

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        probability, wanted = prediction[valid].sigmoid(), target[valid]
        reached = torch.bucketize(probability, _THRESHOLDS, right=True)
        edge = wanted >= 0.5
        for counts, part in ((self.edges, reached[edge]), (self.others, reached[~edge])):
            counts += torch.bincount(part, minlength=len(counts))
        self.absolute += float((probability - wanted).abs().sum())

    def values(self) -> dict[str, float]:
        edges = int(self.edges.sum())
        mae = ratio(self.absolute, edges + int(self.others.sum()))
        if not edges:
            return {"best_f": math.nan, "f_at_0.5": math.nan, "mae": mae}
        true, false = (counts.flip(0).cumsum(0).flip(0)[1:].double() for counts in (self.edges, self.others))
        f = 2 * true / (true + false + edges)
        return {"best_f": float(f.max()), "f_at_0.5": float(f[_HALF]), "mae": mae}


@register_metrics("saliency")
class SaliencyMetrics(EdgeMetrics):
    """Adds BMTAS's: at each threshold (p > t) the mean over images of intersection over union, then the best of them.

    An image in which nothing is salient counts 1 where nothing is found, else 0.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.sums = torch.zeros(len(_IOU_THRESHOLDS), dtype=torch.float64)
        self.images = 0

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        super().add(prediction, target, valid)
        seen = valid.flatten(1).any(1)
        counts, probability = valid[seen].flatten(1), prediction[seen].flatten(1).sigmoid()
        salient = (target[seen].flatten(1) >= 0.5) & counts
        for index, threshold in enumerate(_IOU_THRESHOLDS):
            found = (probability > threshold) & counts
            union = (found | salient).sum(1)
            iou = (found & salient).sum(1).double() / union.clamp(min=1)
            self.sums[index] += torch.where(union > 0, iou, 1.0).sum()
        self.images += int(seen.sum())

    def values(self) -> dict[str, float]:
        return {"max_iou": ratio(float(self.sums.max()), self.images), **super().values()}
