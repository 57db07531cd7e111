"""Task kinds and metrics by name: what a segmentation, a depth map or a regression is.

A kind says what its targets look like, which head, loss and metrics it has by default and in which forms its
output can be emitted. It holds names only; losses and metric code live in :mod:`onnxmtl.train`, heads in
:mod:`onnxmtl.passes.heads`. Register your own with :func:`register_kind` before tasks that use it are made.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping

from onnxmtl.errors import TaskError

DENSE_HEADS = ("aspp", "light")
IMAGE_HEADS = ("pooled",)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number a task is judged by.

    Attributes:
        name: Unique name over all kinds; equal names mean equal definitions.
        higher_is_better: Direction of improvement.
        unit: "" for a ratio, else e.g. "degrees".
        doc: One line that defines it.
    """

    name: str
    higher_is_better: bool
    unit: str = ""
    doc: str = ""


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
        weight: Default weight of the loss.
        outputs: Forms in which the output can be emitted; the first is the default.
        target: What labels look like.
        unit: Physical unit of the raw prediction, "" if it has none.
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

    @property
    def loss(self) -> str:
        """The default loss."""
        return self.losses[0]

    @property
    def heads(self) -> tuple[str, ...]:
        """The built-in heads that fit."""
        return DENSE_HEADS if self.dense else IMAGE_HEADS

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Metric name -> direction of improvement."""
        return {name: METRICS[name].higher_is_better for name in self.metrics}


KINDS: dict[str, Kind] = {}
METRICS: dict[str, Metric] = {}


def close_match(word: str, known: Iterable[str]) -> str:
    """A hint: `` (did you mean 'x'?)`` where a known word is close, else ``""``."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


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
    unknown = [name for name in kind.metrics if name not in METRICS]
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

    Raises:
        TaskError: Unknown name; the message lists the known kinds.
    """
    found = KINDS.get(name)
    if found is None:
        msg = f"unknown task kind {name!r}{close_match(name, KINDS)}; known kinds: {', '.join(KINDS)}"
        raise TaskError(msg)
    return found
