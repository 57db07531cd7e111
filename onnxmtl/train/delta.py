"""Relative performance against single-task models (AutoMTL Eq. 5; Maninis et al. 2019).

Δt_i = 1/|M| Σ_j (−1)^{s_j} (M_j − M_STL,j) / M_STL,j · 100 %       s_j = 1 where lower is better
Δt   = mean of Δt_i over the tasks
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet, metric

Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Delta:
    """Relative performance in percent; above 0 is better than the single-task models.

    Attributes:
        tasks: Task name -> Δt_i.
        total: Their mean.
    """

    tasks: Mapping[str, float]
    total: float


def relative_performance(found: Metrics, reference: Metrics, metrics: tuple[str, ...]) -> float:
    """Δt_i in percent over `metrics`.

    nan where one is nan, or its reference is 0 and the result is not (Eq. 5 has no value then). References below 0,
    which the paper has none of, count by their size: what is better is above 0.

    Raises:
        DataError: A metric is missing on one side.
    """
    terms = []
    for name in metrics:
        if name not in found or name not in reference:
            msg = f"metric {name!r} is missing in the {'reference' if name in found else 'result'}"
            raise DataError(msg)
        difference, size = found[name] - reference[name], abs(reference[name])
        change = difference / size if size else 0.0 if difference == 0 else math.nan
        terms.append(change if metric(name).higher_is_better else -change)
    return 100 * sum(terms) / len(terms)


def delta(tasks: TaskSet, found: Mapping[str, Metrics], reference: Mapping[str, Metrics]) -> Delta:
    """Δ of each task, over all of its metrics, and their mean.

    Args:
        tasks: The tasks.
        found: Task name -> metrics of the multi-task model.
        reference: Task name -> metrics of that task's single-task model.

    Raises:
        DataError: A task or a metric is missing on one side.
    """
    each = {}
    for task in tasks:
        if task.name not in found or task.name not in reference:
            side = "reference" if task.name in found else "result"
            msg = f"task {task.name!r} is missing in the {side}"
            raise DataError(msg)
        each[task.name] = relative_performance(found[task.name], reference[task.name], task.metrics)
    return Delta(each, sum(each.values()) / len(each))
