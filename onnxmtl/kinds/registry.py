"""Task kinds and metrics by name: what a segmentation, a depth map or a regression is.

A kind says what its targets look like, which head, loss and metrics it has by default and in which forms its
output can be emitted. It holds names only; losses and metric code live in :mod:`onnxmtl.train`, heads in
:mod:`onnxmtl.passes.heads`. Register your own with :func:`register_kind` before tasks that use it are made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from onnxmtl.errors import TaskError
from onnxmtl.kinds.user_code import close_match, load_callable, load_named

F = TypeVar("F", bound=Callable[..., Any])

DECODER_HEADS = ("deeplabv3plus", "raspp")
"""Heads that read a fine feature besides the coarse one."""
DENSE_HEADS = ("aspp", "light", *DECODER_HEADS)
IMAGE_HEADS = ("pooled",)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number a task is judged by.

    Attributes:
        name: Unique name over all kinds; equal names mean equal definitions.
        higher_is_better: Direction of improvement.
        unit: "" for a ratio, else e.g. "degrees".
        doc: One line that defines it.
        in_task_unit: Whether it is in the unit of the task's prediction (:meth:`Task.metric_unit`); `unit` is "" then.

    Raises:
        TaskError: It has a unit of its own and that of the task.
    """

    name: str
    higher_is_better: bool
    unit: str = ""
    doc: str = ""
    in_task_unit: bool = False

    def __post_init__(self) -> None:
        if self.unit and self.in_task_unit:
            msg = f"metric {self.name!r} has the unit {self.unit!r} and that of the task: give one of them"
            raise TaskError(msg)


@dataclasses.dataclass(frozen=True)
class Target:
    """What one sample's label looks like.

    Attributes:
        dtype: numpy name: "int64" or "float32".
        shape: Dimensions: numbers, "C" (the task's channels), "H", "W" (the image's size); () for a scalar.
        fill: What a missing label is filled with, so that nothing of it counts.
            None means the task's own ``ignore`` value.
        rule: One line that says which values do not count.
    """

    dtype: str
    shape: tuple[int | str, ...]
    fill: float | None
    rule: str


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the tasks of one kind have in common.

    Attributes:
        name: The name users write.
        dense: Whether there is a prediction per pixel (else one per image).
        categorical: Whether the channels are classes.
        default_channels: Output channels of the head; 0 = given by the user or the data set.
        fixed_channels: Whether only `default_channels` makes sense.
        head: Default head.
        losses: Names of losses that fit; the first is the default.
        metrics: Names of metrics (:data:`METRICS`), in the order of tables.
        primary: The metric by which models are compared.
        further: Names of metrics that are computed only for tasks that name them: variants, and the papers' quirks.
        weight: Default weight of the loss.
        outputs: Forms in which the output can be emitted; the first is the default.
        target: What labels look like.
        unit: Physical unit of the raw prediction, "" if it has none. Tasks may have another (:attr:`Task.unit`).
    """

    name: str
    dense: bool
    categorical: bool
    default_channels: int
    fixed_channels: bool
    head: str
    losses: tuple[str, ...]
    metrics: tuple[str, ...]
    primary: str
    weight: float
    outputs: tuple[str, ...]
    target: Target
    unit: str = ""
    further: tuple[str, ...] = ()

    @property
    def loss(self) -> str:
        """The default loss."""
        return self.losses[0]

    @property
    def measured(self) -> bool:
        """Whether the prediction is a quantity, which may have a unit, and not scores of classes or probabilities."""
        return not {"logits", "probabilities", "argmax"}.issuperset(self.outputs)

    @property
    def heads(self) -> tuple[str, ...]:
        """The built-in heads that fit."""
        return DENSE_HEADS if self.dense else IMAGE_HEADS

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Metric name -> direction of improvement, of `metrics` and `further`."""
        return {name: METRICS[name].higher_is_better for name in (*self.metrics, *self.further)}


KINDS: dict[str, Kind] = {}
METRICS: dict[str, Metric] = {}
_IMPORTED: dict[str, str] = {}  # module:name -> name of the kind


def register_metric(metric: Metric) -> Metric:
    """Make a metric known by name.

    Raises:
        TaskError: Another metric has that name.
    """
    if METRICS.get(metric.name, metric) != metric:
        msg = f"metric {metric.name!r} is registered already: choose another name"
        raise TaskError(msg)
    METRICS[metric.name] = metric
    return metric


def register_kind(kind: Kind) -> Kind:
    """Make a kind known by name. Its loss and metrics are registered in :mod:`onnxmtl.train`.

    Raises:
        TaskError: The name is taken, or the kind contradicts itself.
    """
    if KINDS.get(kind.name, kind) != kind:
        msg = f"task kind {kind.name!r} is registered already: choose another name"
        raise TaskError(msg)
    unknown = [name for name in (*kind.metrics, *kind.further) if name not in METRICS]
    problem = (
        "has no loss"
        if not kind.losses
        else "has no output form"
        if not kind.outputs
        else f"names the metric {unknown[0]!r}: register_metric it first"
        if unknown
        else f"has the primary metric {kind.primary!r}, which is not among its metrics"
        if kind.primary not in kind.metrics
        else "fixes its channels but gives no number"
        if kind.fixed_channels and kind.default_channels < 1
        else ""
    )
    if problem:
        msg = f"task kind {kind.name!r} {problem}"
        raise TaskError(msg)
    KINDS[kind.name] = kind
    return kind


def kind(name: str) -> Kind:
    """The kind of that name.

    Args:
        name: A registered name, or ``module:name`` of a :class:`Kind` in a Python module, which is imported.

    Raises:
        TaskError: Unknown name; the message lists the known kinds.
    """
    if ":" in name:
        return _own_kind(name)
    found = KINDS.get(name)
    if found is None:
        msg = f"unknown task kind {name!r}{close_match(name, KINDS)}; known kinds: {', '.join(KINDS)}"
        raise TaskError(msg)
    return found


def metric(name: str) -> Metric:
    """The metric of that name.

    Args:
        name: A registered name, or ``module:name`` of a function with :func:`mean_metric` on it.

    Raises:
        TaskError: Unknown metric.
    """
    found = METRICS.get(name)
    if found is None and ":" in name:
        found = getattr(load_callable(name, "the metric"), "metric", None)
        if not isinstance(found, Metric):
            msg = f"the metric {name!r} does not say which way is better: put @mean_metric(higher_is_better=…) on it"
            raise TaskError(msg)
        found = dataclasses.replace(found, name=name)
        METRICS[name] = found
    if found is None:
        msg = f"unknown metric {name!r}{close_match(name, METRICS)}"
        raise TaskError(msg)
    return found


def mean_metric(
    *, higher_is_better: bool, unit: str = "", doc: str = "", in_task_unit: bool = False
) -> Callable[[F], F]:
    """Make a function a metric that tasks can name as ``module:function``.

    The function is called for each batch with (task, prediction, target, valid), all on the CPU and what is a float
    as float64, the prediction raw and as large as the labels, and returns (sum, count): the metric is Σ sum / Σ count
    over the whole set. What is no such mean is a :class:`onnxmtl.train.metrics.TaskMetrics` of a kind of its own.

    Args:
        higher_is_better, unit, doc, in_task_unit: As :class:`Metric` has them.
    """

    def mark(function: F) -> F:
        function.metric = Metric(  # type: ignore[attr-defined]
            function.__name__, higher_is_better, unit, doc, in_task_unit
        )
        return function

    return mark


def is_known(name: str) -> bool:
    """Whether :func:`kind` knows the name without importing a module."""
    return _IMPORTED.get(name, name) in KINDS


def _own_kind(spec: str) -> Kind:
    if is_known(spec):
        return KINDS[_IMPORTED[spec]]
    found = load_named(spec, "the task kind")
    if not isinstance(found, Kind):
        msg = f"the task kind {spec!r} is no onnxmtl.kinds.Kind, it is {type(found).__name__}"
        raise TaskError(msg)
    _IMPORTED[spec] = register_kind(found).name
    return found
