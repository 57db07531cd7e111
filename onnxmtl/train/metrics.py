"""Metrics of tasks, accumulated over a whole set, and the constant predictor they are compared with."""

from __future__ import annotations

from onnxmtl.kinds import metric as metric_named
from onnxmtl.train.accumulators import TaskMetrics, metric_for, register_metrics
from onnxmtl.train.constant import Majority, Median, constant_predictor, constant_predictors, register_constant

__all__ = [
    "Majority",
    "Median",
    "TaskMetrics",
    "better",
    "constant_predictor",
    "constant_predictors",
    "higher_is_better",
    "metric_for",
    "register_constant",
    "register_metrics",
]


def higher_is_better(metric: str) -> bool:
    """The direction in which a metric improves.

    Raises:
        TaskError: Unknown metric.
    """
    return metric_named(metric).higher_is_better


def better(metric: str, one: float, other: float) -> bool:
    """Whether `one` is strictly better than `other`; nan is never better."""
    return one > other if higher_is_better(metric) else one < other
