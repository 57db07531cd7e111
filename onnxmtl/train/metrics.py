"""Metrics of tasks, accumulated over a whole set, and the constant predictor they are compared with."""

from __future__ import annotations

from onnxmtl.errors import TaskError
from onnxmtl.kinds import METRICS, Task, close_match
from onnxmtl.train.accumulators import METRICS_OF, TaskMetrics, register_metrics
from onnxmtl.train.constant import constant_predictor, constant_predictors, register_constant

__all__ = [
    "TaskMetrics",
    "better",
    "constant_predictor",
    "constant_predictors",
    "higher_is_better",
    "metric_for",
    "register_constant",
    "register_metrics",
]


def metric_for(task: Task) -> TaskMetrics:
    """A fresh accumulator: ``update(raw prediction, target, labelled)``, then ``compute()``.

    Raises:
        TaskError: Nobody registered metrics for the task's kind.
    """
    accumulator = METRICS_OF.get(task.kind)
    if accumulator is None:
        msg = f"task {task.name!r}: the kind {task.kind!r} has no metrics, register_metrics them"
        raise TaskError(msg)
    return accumulator(task)


def higher_is_better(metric: str) -> bool:
    """The direction in which a metric improves.

    Raises:
        TaskError: Unknown metric.
    """
    found = METRICS.get(metric)
    if found is None:
        msg = f"unknown metric {metric!r}{close_match(metric, METRICS)}"
        raise TaskError(msg)
    return found.higher_is_better


def better(metric: str, one: float, other: float) -> bool:
    """Whether `one` is strictly better than `other`; nan is never better."""
    return one > other if higher_is_better(metric) else one < other
