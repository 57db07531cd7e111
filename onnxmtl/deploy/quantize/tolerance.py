"""How much each task may lose, as the user writes it: ``seg=0.5,depth=1%``.

``seg=1%`` is a share of the float model's value. ``depth=0.05`` is in the unit of the metric (metres, degrees); of a
metric without a unit (mIoU, accuracy, a relative error) it is in points, hundredths: ``seg=0.5`` lets mIoU fall from
0.412 to 0.407. Without a metric, ``seg.pixel_accuracy=1%``, a task's primary one is meant; without a task, ``1%``, all
tasks that are not named. A metric that is better when it is lower may rise by that much.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from onnxmtl.errors import TaskError
from onnxmtl.kinds import Task, TaskSet, close_match, is_named
from onnxmtl.kinds import metric as metric_named

DEFAULT = "1%"

_PART = re.compile(
    r"(?:(?P<task>[A-Za-z_]\w*)(?:\.(?P<metric>[^=]+))?\s*=)?\s*"
    r"(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)(?P<percent>\s*%)?"
)
_EXAMPLE = "seg=0.5,depth=1%"

Metrics = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What one task may lose.

    Attributes:
        task: Its name.
        metric: The metric that is watched.
        higher_is_better: Its direction.
        amount: The largest loss: in the metric's own numbers, or as a share of the float value.
        relative: Whether it is a share.
        text: For people, as ``0.5 points`` or ``1 %``.
    """

    task: str
    metric: str
    higher_is_better: bool
    amount: float
    relative: bool
    text: str

    def allowed(self, reference: float) -> float:
        """The largest loss against the float model's value, 0 or more, in the metric's own numbers."""
        return self.amount * abs(reference) if self.relative else self.amount

    def loss(self, reference: float, value: float) -> float:
        """How much worse `value` is than `reference`; below 0 where it is better, infinite where it is no number."""
        worse = reference - value if self.higher_is_better else value - reference
        return math.inf if math.isnan(worse) else worse

    def holds(self, reference: float, value: float) -> bool:
        """Whether the loss is allowed; a rounding error of the metric's sums does not count."""
        return self.loss(reference, value) <= self.allowed(reference) + 1e-9 * abs(reference)


def parse_tolerances(text: str, tasks: TaskSet) -> tuple[Tolerance, ...]:
    """Read ``--max-drop``: one tolerance or more for each task.

    Args:
        text: As in the module's description; "" gives every task one percent.
        tasks: The tasks.

    Raises:
        TaskError: A part has another form, or names no task or no metric of its task; one line that names it.
    """
    named: dict[tuple[str, str], Tolerance] = {}
    others = _read(DEFAULT)
    given_others = False
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _read(part)
        if match["task"] is None:
            if given_others:
                msg = f"--max-drop {text!r} says twice what tasks that are not named may lose: {part!r}; write one"
                raise TaskError(msg)
            others, given_others = match, True
            continue
        task = _task(match["task"], part, tasks)
        metric = _metric(match["metric"], part, task)
        if (task.name, metric) in named:
            msg = f"--max-drop {text!r} names {task.name}.{metric} twice; write one of them"
            raise TaskError(msg)
        named[task.name, metric] = _tolerance(task, metric, match)
    found: list[Tolerance] = []
    for task in tasks:
        own = [tolerance for (name, _), tolerance in named.items() if name == task.name]
        found += own or [_tolerance(task, task.primary, others)]
    return tuple(found)


def check_metrics(tolerances: Sequence[Tolerance], metrics: Metrics) -> None:
    """Refuse tolerances of a metric that the float model has no value of.

    Raises:
        TaskError: Names the first one.
    """
    for tolerance in tolerances:
        if not math.isfinite(metrics[tolerance.task][tolerance.metric]):
            msg = (
                f"task {tolerance.task!r}: the float model has no {tolerance.metric} on the validation data "
                f"({metrics[tolerance.task][tolerance.metric]}), so nothing can be held to it; name another metric, as "
                f"{tolerance.task}.METRIC=1%, or give other data"
            )
            raise TaskError(msg)


def _read(part: str) -> re.Match[str]:
    match = _PART.fullmatch(part)
    try:
        if match is not None and math.isfinite(float(match["number"])):
            return match
    except ValueError:
        pass
    msg = f"cannot read {part!r} of --max-drop: write TASK=NUMBER or TASK=NUMBER%, of 0 or more, as in {_EXAMPLE}"
    raise TaskError(msg)


def _task(name: str, part: str, tasks: TaskSet) -> Task:
    if name not in tasks:
        known = ", ".join(tasks.names)
        msg = f"--max-drop {part!r}: there is no task {name!r}{close_match(name, tasks.names)}; the tasks are {known}"
        raise TaskError(msg)
    return tasks[name]


def _metric(name: str | None, part: str, task: Task) -> str:
    if name is None:
        return task.primary
    if name.strip() not in task.metrics:
        known = ", ".join(task.metrics)
        msg = f"--max-drop {part!r}: task {task.name!r} has no metric {name.strip()!r}; it has {known}"
        raise TaskError(msg)
    return name.strip()


def _tolerance(task: Task, metric: str, match: re.Match[str]) -> Tolerance:
    number = float(match["number"])
    unit, higher = task.metric_unit(metric), metric_named(metric).higher_is_better
    if match["percent"]:
        return Tolerance(task.name, metric, higher, number / 100, True, f"{number:g} %")
    if unit or is_named(metric):  # of a user's own metric nothing is known
        return Tolerance(task.name, metric, higher, number, False, f"{number:g} {unit}".strip())
    return Tolerance(task.name, metric, higher, number / 100, False, f"{number:g} point{'s' * (number != 1)}")
