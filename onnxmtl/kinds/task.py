"""One task: its kind, head, loss weight and the form of its output."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from onnxmtl.errors import TaskError
from onnxmtl.kinds.registry import Kind
from onnxmtl.kinds.registry import kind as kind_named
from onnxmtl.kinds.registry import metric as metric_named
from onnxmtl.kinds.user_code import close_match, is_named

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESOLUTIONS = ("input", "native")
DEFAULT_IGNORE = 255


@dataclasses.dataclass(frozen=True)
class Task:
    """One output of the multi-task model. What is left out takes the default of the kind.

    Attributes:
        name: Name of the ONNX output; letters, digits and underscores.
        kind: Name of a registered kind, or ``module:name`` of one in Python.
        channels: Channels of the raw prediction (classes where the kind has classes); 0 = from the data set.
        head: "aspp", "light", "deeplabv3plus", "raspp", "pooled", "module:callable" or a path that ends in ".onnx".
        width: Hidden channels of the head; 0 = from the channels of the feature.
        features: Names of the features it reads; empty = the last one (of heads with a decoder, two that fit).
        weight: Weight of its loss in the sum over tasks.
        output: Form of the emitted output, one of the kind's ``outputs``.
        resolution: "input" (as large as the image) or "native" (as large as the feature); dense kinds only.
        loss: Name of the loss, one of the kind's ``losses`` or "module:callable" (:mod:`onnxmtl.train.losses`).
        metrics: Names of the metrics to compute, some of the kind's ``metrics`` and ``further``, or
            "module:callable" (:func:`onnxmtl.kinds.mean_metric`).
        primary: The metric that models are compared by.
        ignore: Label that does not count. Labels below 0 of categorical kinds never do.
        class_names: One name per class, or nothing.
        class_weights: One weight per class in the cross-entropy, or nothing (all 1).
        unit: Unit of the raw prediction, of kinds that predict a quantity; empty = as the data set says, or else the
            kind (:attr:`prediction_unit`).
        mean: Of the images that the task's own network takes, per channel, in the range of the data set's images;
            with `std`: the network takes (v - mean) / std. Nothing: as the network says, or the data set's. Only where
            every task comes with a network of its own.
        std: See `mean`.

    Raises:
        TaskError: A field does not fit; one line that starts with the task's name.
    """

    name: str
    kind: str
    channels: int = 0
    head: str = ""
    width: int = 0
    features: tuple[str, ...] = ()
    weight: float = math.nan
    output: str = ""
    resolution: str = "input"
    loss: str = ""
    metrics: tuple[str, ...] = ()
    primary: str = ""
    ignore: int = DEFAULT_IGNORE
    class_names: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()
    unit: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        kind = kind_named(self.kind)
        defaults = {
            "channels": self.channels or kind.default_channels or len(self.class_names) or len(self.class_weights),
            "head": self.head or kind.head,
            "weight": kind.weight if math.isnan(self.weight) else float(self.weight),
            "output": self.output or kind.outputs[0],
            "loss": self.loss or kind.loss,
            "metrics": tuple(self.metrics) or kind.metrics,
            "features": tuple(self.features),
            "class_names": tuple(self.class_names),
            "class_weights": tuple(float(weight) for weight in self.class_weights),
            "mean": tuple(float(number) for number in self.mean),
            "std": tuple(float(number) for number in self.std),
        }
        for field, value in defaults.items():
            object.__setattr__(self, field, value)
        if not self.primary:
            primary = kind.primary if kind.primary in self.metrics else self.metrics[0]
            object.__setattr__(self, "primary", primary)
        problem = _problem(self, kind)
        if problem:
            msg = f"task {self.name!r}: {problem}"
            raise TaskError(msg)

    @property
    def spec(self) -> Kind:
        """The task's kind, as registered."""
        return kind_named(self.kind)

    @property
    def dense(self) -> bool:
        """Whether there is a prediction per pixel."""
        return self.spec.dense

    @property
    def prediction_unit(self) -> str:
        """Unit of the raw prediction: its own, or else its kind's; "" if it has none."""
        return self.unit or self.spec.unit

    def metric_unit(self, metric: str) -> str:
        """Unit of one of its metrics; "" for a ratio.

        Raises:
            TaskError: Unknown metric.
        """
        found = metric_named(metric)
        return self.prediction_unit if found.in_task_unit else found.unit

    @property
    def fill(self) -> float:
        """The label that stands for "not labelled"."""
        fill = self.spec.target.fill
        return float(self.ignore) if fill is None else fill

    def replace(self, **changes: Any) -> Task:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them; the own network's `mean` and `std` only if they are given."""
        fields = dataclasses.asdict(self)
        kept = {key: value for key, value in fields.items() if value or key not in ("mean", "std")}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}


# What a task file or JSON may say per key: the type, whether a list of it, and how to name it to the user.
_WORDS: Mapping[str, tuple[type, bool, str]] = {
    "kind": (str, False, "a string"),
    "channels": (int, False, "a whole number"),
    "classes": (int, False, "a whole number"),
    "head": (str, False, "a string"),
    "width": (int, False, "a whole number"),
    "features": (str, True, "a list of strings"),
    "weight": (float, False, "a number"),
    "output": (str, False, "a string"),
    "resolution": (str, False, "a string"),
    "loss": (str, False, "a string"),
    "metrics": (str, True, "a list of strings"),
    "primary": (str, False, "a string"),
    "ignore": (int, False, "a whole number"),
    "class_names": (str, True, "a list of strings"),
    "class_weights": (float, True, "a list of numbers, or a file.npy"),
    "unit": (str, False, "a string"),
    "mean": (float, True, "a list of numbers"),
    "std": (float, True, "a list of numbers"),
}


def task_from_table(name: str, table: Any, where: str) -> Task:
    """Build a task from what a TOML table or a JSON object says.

    Args:
        name: Name of the task.
        table: The keys of :class:`Task` but for ``name``; ``classes`` is another word for ``channels``.
        where: File and table, for messages.

    Raises:
        TaskError: An unknown key, a wrong type or a bad value; the message starts with `where`.
    """
    if not isinstance(table, Mapping):
        msg = f"{where}: a task is a table with a kind, not {table!r}"
        raise TaskError(msg)
    fields: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _WORDS:
            msg = f"{where}: unknown key {key!r}{close_match(key, _WORDS)}; known keys: {', '.join(_WORDS)}"
            raise TaskError(msg)
        type_, many, wanted = _WORDS[key]
        items = value if many else [value]
        if not isinstance(items, list) or not all(_is(item, type_) for item in items):
            msg = f"{where}: {key} must be {wanted}, not {value!r}"
            raise TaskError(msg)
        fields[key] = tuple(value) if many else value
    if "kind" not in fields:
        msg = f'{where}: the kind is missing, write e.g. kind = "segmentation"'
        raise TaskError(msg)
    if "classes" in fields:
        if "channels" in fields:
            msg = f"{where}: classes and channels mean the same, give one of them"
            raise TaskError(msg)
        fields["channels"] = fields.pop("classes")
    for key in ("channels", "width"):  # 0 is our own word for "not given"
        if fields.get(key, 0) < 0:
            msg = f"{where}: {key} must not be negative, it is {fields[key]}"
            raise TaskError(msg)
    if math.isnan(fields.get("weight", 0.0)):
        msg = f"{where}: weight must be a positive number, it is nan"
        raise TaskError(msg)
    try:
        return Task(name=name, **fields)
    except TaskError as error:
        msg = f"{where}: {error}"
        raise TaskError(msg) from error


def _is(item: Any, type_: type) -> bool:
    """Whether `item` has the type; a bool is no number, a whole number is a float too."""
    if isinstance(item, bool):
        return False
    return isinstance(item, (int, float) if type_ is float else type_)


def _problem(task: Task, kind: Kind) -> str:
    """What is wrong with a task whose defaults are filled in, or "". First problem first."""
    checks = (_name_problem, _channel_problem, _head_problem, _choice_problem, _number_problem)
    return next((found for check in checks if (found := check(task, kind))), "")


def _name_problem(task: Task, kind: Kind) -> str:
    if not _NAME.fullmatch(task.name):
        return "a task's name is letters, digits and underscores and does not start with a digit"
    return ""


def _channel_problem(task: Task, kind: Kind) -> str:
    word = "classes" if kind.categorical else "channels"
    if task.channels < 0:
        return f"{word} must not be negative, it is {task.channels}"
    if kind.fixed_channels and task.channels != kind.default_channels:
        return f"{kind.name} has {kind.default_channels} channel(s), not {task.channels}: leave the number out"
    if kind.categorical and task.channels == 1:
        return f"{kind.name} needs two classes or more"
    if task.class_names and not kind.categorical:
        return f"{kind.name} has no classes, leave class_names out"
    if task.class_names and len(task.class_names) != task.channels:
        return f"{len(task.class_names)} class names for {task.channels} classes"
    if kind.categorical and 0 <= task.ignore < task.channels:
        return f"ignore = {task.ignore} is also a class: set ignore = -1"
    return _class_weight_problem(task, kind)


def _class_weight_problem(task: Task, kind: Kind) -> str:
    weights = task.class_weights
    if weights and not kind.categorical:
        return f"{kind.name} has no classes, leave class_weights out"
    if weights and len(weights) != task.channels:
        return f"{len(weights)} class weights for {task.channels} classes"
    if weights and not (all(math.isfinite(w) and w >= 0 for w in weights) and any(weights)):
        return "class_weights must be numbers of 0 or more, not all 0"
    return ""


def _head_problem(task: Task, kind: Kind) -> str:
    own = is_named(task.head) or task.head.endswith(".onnx")
    if not own and task.head not in kind.heads:
        hint = close_match(task.head, kind.heads)
        return (
            f"head {task.head!r} does not fit {kind.name}{hint}; "
            f"use {', '.join(kind.heads)}, module:callable or a file.onnx"
        )
    if len(set(task.features)) != len(task.features):
        return "a feature is listed twice"
    return ""


def _choice_problem(task: Task, kind: Kind) -> str:
    if task.resolution not in RESOLUTIONS:
        return f"resolution {task.resolution!r} is unknown, use {' or '.join(RESOLUTIONS)}"
    if task.resolution != "input" and not kind.dense:
        return f"{kind.name} has one prediction per image, leave resolution out"
    if task.output not in kind.outputs:
        return f"output {task.output!r} does not fit {kind.name}; use {' or '.join(kind.outputs)}"
    if task.loss not in kind.losses and not is_named(task.loss):
        return f"loss {task.loss!r} does not fit {kind.name}; use {', '.join(kind.losses)} or module:callable"
    known = (*kind.metrics, *kind.further)
    for metric in task.metrics:
        if metric not in known and not is_named(metric):
            return f"metric {metric!r} does not fit {kind.name}; use some of {', '.join(known)} or module:callable"
        if task.metrics.count(metric) > 1:
            return f"metric {metric!r} is listed twice"
    if task.primary not in task.metrics:
        return f"the primary metric {task.primary!r} is not among its metrics {', '.join(task.metrics)}"
    return ""


def _number_problem(task: Task, kind: Kind) -> str:
    if not (math.isfinite(task.weight) and task.weight > 0):
        return f"weight must be a positive number, it is {task.weight}"
    if task.width < 0:
        return f"width must not be negative, it is {task.width}"
    if task.unit and not kind.measured:
        return f"{kind.name} has no unit, leave unit out"
    if task.unit and not (task.unit.isprintable() and task.unit == task.unit.strip()):
        return f"the unit {task.unit!r} must be one line of text, without blanks around it"
    if len(task.mean) != len(task.std):
        return f"{len(task.mean)} mean(s) and {len(task.std)} std(s): give both, a number per channel of the images"
    if not all(map(math.isfinite, (*task.mean, *task.std))) or any(std <= 0 for std in task.std):
        return "mean and std must be finite numbers, and std above 0"
    return ""
