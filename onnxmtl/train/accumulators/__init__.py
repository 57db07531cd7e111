"""Metrics accumulated over a whole set: sums, counts and histograms, so that batches do not matter.

Predictions are raw; dense ones of another size than the labels are resized to the labels (bilinear) first.
Definitions are in :data:`onnxmtl.kinds.METRICS`.
"""

from onnxmtl.train.accumulators import classes, contours, errors, normals  # noqa: F401  (each registers its kinds)
from onnxmtl.train.accumulators.base import METRICS_OF, TaskMetrics, Values, metric_for, register_metrics

__all__ = ["METRICS_OF", "TaskMetrics", "Values", "metric_for", "register_metrics"]
