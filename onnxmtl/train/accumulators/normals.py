"""Angles between directions."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from onnxmtl.kinds import Task
from onnxmtl.train.accumulators.base import TaskMetrics, ratio, register_metrics

_BINS_PER_DEGREE = 100
_LIMITS = (11.25, 22.5, 30.0)


class _Angles:
    """Mean, median (from a histogram with bins of 0.01 degrees) and shares within limits."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0
        self.within = dict.fromkeys(_LIMITS, 0)
        self.histogram = torch.zeros(180 * _BINS_PER_DEGREE + 1, dtype=torch.int64)

    def add(self, angle: torch.Tensor) -> None:
        """Add angles [n] in degrees."""
        self.total += float(angle.sum())
        self.count += len(angle)
        for limit in _LIMITS:
            self.within[limit] += int((angle <= limit).sum())
        bins = (angle * _BINS_PER_DEGREE).round().long()
        self.histogram += torch.bincount(bins, minlength=len(self.histogram))

    def values(self, suffix: str = "") -> dict[str, float]:
        """The metrics, by name."""
        middle = int(torch.searchsorted(self.histogram.cumsum(0), (self.count + 1) // 2))
        found = {
            "mean_angle": ratio(self.total, self.count),
            "median_angle": middle / _BINS_PER_DEGREE if self.count else math.nan,
            **{f"within_{limit:g}": ratio(hits, self.count) for limit, hits in self.within.items()},
        }
        return {name + suffix: value for name, value in found.items()}


@register_metrics("normals")
class NormalsMetrics(TaskMetrics):
    """Angles between predicted and labelled normals.

    AdaShare, AutoMTL and TreeMTL compare NYUv2's normals as the files' bytes have them, (n + 1) / 2, without moving
    them back to [-1, 1]: all directions then lie in one octant, and angles are smaller than they are. The metrics
    ``…_legacy_uncentred`` are theirs, of the same predictions and labels.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.angles, self.uncentred = _Angles(), _Angles()
        self.cosine = 0.0
        self._legacy = any(name.endswith("_legacy_uncentred") for name in task.metrics)

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        p, g = prediction.movedim(1, -1)[valid], target.movedim(1, -1)[valid]
        angles = _angle(p, g)
        if bool(angles.isnan().any()):  # of an infinite prediction
            self._spoiled = True
            return
        self.angles.add(angles)
        self.cosine += float(functional.cosine_similarity(p, g, dim=1, eps=1e-30).sum())
        if self._legacy:
            self.uncentred.add(_angle(_uncentred(p), _uncentred(g)))

    def values(self) -> dict[str, float]:
        similarity = ratio(self.cosine, self.angles.count)
        return {
            **self.angles.values(),
            "cosine_similarity": similarity,
            **self.uncentred.values("_legacy_uncentred"),
        }


def _angle(p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Angles [n] in degrees between vectors [n, 3]."""
    # atan2 of cross and dot is exact near 0 and 180 degrees, where acos loses half its digits.
    angle = torch.rad2deg(torch.atan2(torch.linalg.cross(p, g).norm(dim=1), (p * g).sum(1)))
    return torch.where(p.norm(dim=1) > 0, angle, 90.0)  # no direction: as far from right as from wrong


def _uncentred(v: torch.Tensor) -> torch.Tensor:
    return (functional.normalize(v, dim=1, eps=1e-30) + 1) / 2
