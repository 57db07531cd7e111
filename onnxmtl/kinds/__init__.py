"""Tasks and their kinds, by name. Nothing here knows onnx or torch."""

from onnxmtl.kinds import builtin as _builtin  # noqa: F401  (registers the kinds)
from onnxmtl.kinds.registry import (
    DECODER_HEADS,
    KINDS,
    METRICS,
    Kind,
    Metric,
    Target,
    kind,
    mean_metric,
    metric,
    register_kind,
    register_metric,
)
from onnxmtl.kinds.task import Task
from onnxmtl.kinds.taskset import TaskSet, load_tasks
from onnxmtl.kinds.user_code import close_match, is_named, load_callable, load_named, one_line, same_code

__all__ = [
    "DECODER_HEADS",
    "KINDS",
    "METRICS",
    "Kind",
    "Metric",
    "Target",
    "Task",
    "TaskSet",
    "close_match",
    "is_named",
    "kind",
    "load_callable",
    "load_named",
    "load_tasks",
    "mean_metric",
    "metric",
    "one_line",
    "register_kind",
    "register_metric",
    "same_code",
]
