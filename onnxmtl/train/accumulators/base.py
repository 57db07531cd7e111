"""What an accumulator is, which kind has which, and metrics that are a user's function."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from onnxmtl.errors import OnnxMTLError, TaskError
from onnxmtl.kinds import Task, is_named, load_callable, metric, one_line, same_code
from onnxmtl.train.labels import valid_mask

AT_ONCE = 2**24
"""Numbers of a prediction, at the labels' size, that are looked at together; as float64 they take eight bytes each."""

Values = torch.Tensor | np.ndarray[Any, Any]


class TaskMetrics(abc.ABC):
    """Accumulates one task's metrics. Subclasses see only what is labelled, on the CPU, floats as float64."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._spoiled = False
        self._own = [_UserMetric(task, name) for name in task.metrics if is_named(name)]

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
        count = len(wanted)
        if self.task.dense and count:
            of_sample = self.task.channels * wanted.shape[-2] * wanted.shape[-1]
            count = max(1, AT_ONCE // max(1, of_sample))
        for first in range(0, len(wanted), max(1, count)):
            part = slice(first, first + count)
            self._update(pred[part], wanted[part], None if mask is None else mask[part])

    def _update(self, pred: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor | None) -> None:
        valid = valid_mask(self.task, wanted, mask)
        if not bool(valid.any()):
            return
        if pred.is_floating_point():
            pred = pred.double()
            if self.task.dense and pred.shape[-2:] != wanted.shape[-2:]:
                pred = functional.interpolate(pred, size=wanted.shape[-2:], mode="bilinear", align_corners=False)
            if _is_nan(pred, valid):
                self._spoiled = True
                return
        if wanted.is_floating_point():
            wanted = wanted.double()
        self.add(pred, wanted, valid)
        for own in self._own:
            own.add(pred, wanted, valid)

    @abc.abstractmethod
    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        """Add a batch in which at least one label counts, prediction at the labels' size."""

    @abc.abstractmethod
    def values(self) -> dict[str, float]:
        """All metrics of the kind; nan where nothing was labelled."""

    def compute(self) -> dict[str, float]:
        """The task's metrics over all batches so far, in the task's order.

        nan where nothing was labelled, and where a prediction was nan that has a label.
        """
        values = {**self.values(), **{own.name: own.value() for own in self._own}}
        return {name: math.nan if self._spoiled else values[name] for name in self.task.metrics}


def _is_nan(prediction: torch.Tensor, valid: torch.Tensor) -> bool:
    """Whether a prediction that has a label is nan; it would pass for a class, an edge or a right angle."""
    wrong = prediction.isnan()
    if not bool(wrong.any()):
        return False
    if wrong.ndim == valid.ndim + 1:
        wrong = wrong.any(1)
    return wrong.shape != valid.shape or bool((wrong & valid).any())


class _UserMetric:
    """Σ sum / Σ count of a function with :func:`onnxmtl.kinds.mean_metric` on it."""

    def __init__(self, task: Task, name: str) -> None:
        self.task, self.name = task, name
        self._where = f"task {task.name!r}: the metric {name!r}"
        self._function: Callable[..., Any] = load_callable(name, f"task {task.name!r}: the metric")
        metric(name)  # knows which way is better, or says that it does not
        self._sum = self._count = 0.0

    def add(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        try:
            found = self._function(self.task, prediction, target, valid)
            total, count = (float(part) for part in found)
        except OnnxMTLError:
            raise
        except Exception as error:  # whatever the user's code raises
            msg = f"{self._where} must return (sum, count): {one_line(error)}"
            raise TaskError(msg) from error
        self._sum += total
        self._count += count

    def value(self) -> float:
        return ratio(self._sum, self._count)


METRICS_OF: dict[str, Callable[[Task], TaskMetrics]] = {}


def register_metrics(kind: str) -> Callable[[type[TaskMetrics]], type[TaskMetrics]]:
    """Say which accumulator computes the metrics of a kind.

    Raises:
        TaskError: The kind has one.
    """

    def register(accumulator: type[TaskMetrics]) -> type[TaskMetrics]:
        if kind in METRICS_OF and not same_code(METRICS_OF[kind], accumulator):
            msg = f"the kind {kind!r} has metrics already"
            raise TaskError(msg)
        METRICS_OF[kind] = accumulator
        return accumulator

    return register


def metric_for(task: Task) -> TaskMetrics:
    """A fresh accumulator: ``update(raw prediction, target, labelled)``, then ``compute()``.

    Raises:
        TaskError: Nobody registered metrics for the task's kind, or a metric's module cannot be imported.
    """
    accumulator = METRICS_OF.get(task.spec.name)
    if accumulator is None:
        msg = f"task {task.name!r}: the kind {task.kind!r} has no metrics, register_metrics them"
        raise TaskError(msg)
    found = accumulator(task)
    try:
        known = found.values()
    except Exception as error:  # whatever the user's code raises
        msg = f"task {task.name!r}: the metrics of the kind {task.kind!r} failed with nothing added: {one_line(error)}"
        raise TaskError(msg) from error
    missing = [name for name in task.metrics if not is_named(name) and name not in known]
    if missing:
        msg = f"task {task.name!r}: the metrics of the kind {task.kind!r} do not compute {missing[0]!r}"
        raise TaskError(msg)
    return found


def ratio(part: float, whole: float) -> float:
    """part / whole; nan where there is nothing."""
    return part / whole if whole else math.nan
