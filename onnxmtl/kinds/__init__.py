"""Tasks and their kinds, by name. Nothing here knows onnx or torch."""

from onnxmtl.kinds import builtin as _builtin  # noqa: F401  (registers the kinds)
from onnxmtl.kinds.registry import (
    KINDS,
    METRICS,
    Kind,
    Metric,
    Target,
    close_match,
    kind,
    register_kind,
    register_metric,
)
from onnxmtl.kinds.task import Task
from onnxmtl.kinds.taskset import TaskSet, load_tasks

__all__ = [
    "KINDS",
    "METRICS",
    "Kind",
    "Metric",
    "Target",
    "Task",
    "TaskSet",
    "close_match",
    "kind",
    "load_tasks",
    "register_kind",
    "register_metric",
]
