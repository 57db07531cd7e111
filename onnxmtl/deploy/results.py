"""What a run found, as data: metrics of every model that was trained, costs, budgets, draws and what is shared.

The workflows fill it and write it as ``report.json``; :mod:`onnxmtl.deploy.report` prints it, ``onnxmtl report`` and
``onnxmtl compare`` read it back.

Models go by these names: ``found`` (the emitted one), ``separate`` (a single-task model per task), ``shared`` (hard
sharing), ``random`` (the mean over the random policies), ``constant`` (the best constant prediction).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from onnxmtl.cost.count import Costs
from onnxmtl.cost.sharing import SharingRow
from onnxmtl.policy.fused import Fused
from onnxmtl.policy.layout import Layout

NO_VALUE = math.nan  # of a metric that was measured and has none; null in JSON


@dataclasses.dataclass(frozen=True)
class MetricResult:
    """One metric of one task, for every model that it was measured of.

    Attributes:
        metric: Its name.
        higher_is_better: Its direction.
        values: Model -> value; nan where the metric has none.
        unit: "" for a ratio, else e.g. "degrees".
    """

    metric: str
    higher_is_better: bool
    values: Mapping[str, float]
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One task on the validation set: its primary metric, None where it was not measured, and all the others.

    Attributes:
        task: Name of the task.
        kind: Its kind.
        metric: Name of the primary metric.
        higher_is_better: Direction of the metric.
        separate: Of a model of its own.
        shared: With the whole backbone shared by all tasks.
        found: Of the emitted model.
        constant: Of the best constant prediction.
        metrics: All metrics of the task, the primary one among them, in the order of its kind.
        delta: Model -> Δt_i in percent against the single-task model (AutoMTL Eq. 5), of ``found``, ``shared``,
            ``random``; empty without single-task models; nan where Eq. 5 has no value.
    """

    task: str
    kind: str
    metric: str
    higher_is_better: bool
    found: float
    constant: float
    separate: float | None = None
    shared: float | None = None
    metrics: tuple[MetricResult, ...] = ()
    delta: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def margin(self) -> float:
        """How much better than the constant prediction, in units of the metric; negative is worse."""
        return self.found - self.constant if self.higher_is_better else self.constant - self.found


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """How the tasks use one layer of the user's network.

    Attributes:
        layer: Name of the user's node.
        op: Its operator.
        uses: Task -> "once with …", "weights of …", "own" or "skipped".
        runs: The groups of tasks that one execution serves each; tasks that skip are in none.
        parameters: Trainable elements of the layer, one copy.
        multiply_adds: Of one execution; None if it is not known.
    """

    layer: str
    op: str
    uses: Mapping[str, str]
    runs: tuple[tuple[str, ...], ...]
    parameters: int
    multiply_adds: int | None = None

    @classmethod
    def of(cls, row: SharingRow) -> LayerRow:
        """What :func:`onnxmtl.cost.sharing.sharing` found, as text."""
        uses = {task: str(use) for task, use in row.uses.items()}
        return cls(row.layer, row.op, uses, row.runs, row.parameters, row.multiply_adds)

    @property
    def executed_once(self) -> bool:
        """Whether one execution serves two tasks or more."""
        return any(len(group) > 1 for group in self.runs)


@dataclasses.dataclass(frozen=True)
class DrawResult:
    """One architecture that was drawn, and what came of it.

    Attributes:
        source: What it was drawn from: ``policy`` (a candidate), ``random-total`` or ``random-per-task`` (a random
            policy with the same number of skips over all tasks, or per task), ``random-cost`` (the same
            multiply-adds); ``permutation`` (the found tree with tasks exchanged), ``vanilla`` (a plain tree of its
            cost).
        metrics: Task -> metric -> value; nan where it has none.
        parameters, multiply_adds: Of the model, heads included.
        delta: Task -> Δt_i in percent against the single-task models; empty without them.
        total: Their mean; None without them.
        count: How often it was drawn.
        taken: Whether it became the emitted model.
        weights: "recalibrated", or "retrained" as the found model was.
    """

    source: str
    metrics: Mapping[str, Mapping[str, float]]
    parameters: int
    multiply_adds: int
    delta: Mapping[str, float] = dataclasses.field(default_factory=dict)
    total: float | None = None
    count: int = 1
    taken: bool = False
    weights: str = "recalibrated"

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite are null."""
        content: dict[str, Any] = finite(dataclasses.asdict(self))
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DrawResult:
        """Read what :meth:`to_json` made; entries that are no fields (``architecture``) are left out."""
        names = {field.name for field in dataclasses.fields(cls)}
        fields = {key: value for key, value in content.items() if key in names}
        fields["metrics"] = {task: _numbers(values) for task, values in fields["metrics"].items()}
        fields["delta"] = _numbers(fields.get("delta", {}))
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class BudgetResult:
    """One limit of the budget, and what the emitted model has.

    Attributes:
        limit: As the user wrote it: ``params<=0.6x``.
        quantity: What is counted: "parameters", "multiply-adds", "latency", with "trunk " before it without heads.
        bound: The absolute limit.
        value: Counted on the emitted graph, or measured.
    """

    limit: str
    quantity: str
    bound: float
    value: float

    @property
    def met(self) -> bool:
        """Whether the emitted model keeps the limit."""
        return self.value <= self.bound


@dataclasses.dataclass(frozen=True)
class Report:
    """All that the final table shows.

    Attributes:
        title: E.g. the name of the backbone and of the data.
        tasks: One row per task.
        costs: "separate", "shared", "found" -> costs of all tasks together, as counted on the emitted graph; "found"
            is always there. Separate models' numbers are summed.
        sharing: One row per layer with weights, in the order of the network.
        model: Path of the emitted model.
        command: The command that runs it with plain onnxruntime.
        weights: "recalibrated" or "retrained".
        notes: Remarks of the passes and the search, one line each.
        delta: Model -> Δt in percent over all tasks against the single-task models (AutoMTL Eq. 5); empty without.
        draws: Random policies that were trained for comparison. (Candidates drawn from the learnt policy are in the
            decode phase's candidates.json, as :meth:`DrawResult.to_json` with ``architecture`` beside it.)
        budget: One row per limit.
        decoding: How the architecture was decided, in one sentence: decoder, exact or with which proven gap.
        layout: The tree that the model is, if it is one by its search space.
        fused: The networks and the edges between them, if its search space is one of edges.
    """

    title: str
    tasks: tuple[TaskResult, ...]
    costs: Mapping[str, Costs]
    sharing: tuple[LayerRow, ...]
    model: str
    command: str
    weights: str = "retrained"
    notes: tuple[str, ...] = ()
    delta: Mapping[str, float] = dataclasses.field(default_factory=dict)
    draws: tuple[DrawResult, ...] = ()
    budget: tuple[BudgetResult, ...] = ()
    decoding: str = ""
    layout: Layout | None = None
    fused: Fused | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, with margins; numbers that are not finite are null."""
        content: dict[str, Any] = finite(dataclasses.asdict(self))
        for row, task in zip(content["tasks"], self.tasks, strict=True):
            row["margin"] = finite(task.margin)
        for row, limit in zip(content["budget"], self.budget, strict=True):
            row["met"] = limit.met
        if self.layout is not None:
            content |= self.layout.to_dict()
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """Read what :meth:`to_json` made (null numbers come back as nan), now or by an earlier version.

        Raises:
            KeyError, TypeError, AttributeError: It is something else.
        """
        rest = dict(content)
        layout, fused = rest.pop("layout", None), rest.pop("fused", None)
        return cls(
            tasks=tuple(_task(row) for row in rest.pop("tasks")),
            sharing=tuple(
                LayerRow(**{**row, "runs": tuple(tuple(group) for group in row["runs"])}) for row in rest.pop("sharing")
            ),
            costs={name: Costs(**costs) for name, costs in rest.pop("costs").items()},
            notes=tuple(rest.pop("notes")),
            delta=_numbers(rest.pop("delta", {})),
            draws=tuple(DrawResult.from_json(row) for row in rest.pop("draws", ())),
            budget=tuple(
                BudgetResult(**{k: v for k, v in row.items() if k != "met"}) for row in rest.pop("budget", ())
            ),
            layout=None if layout is None else Layout.from_dict({"layout": layout}),
            fused=None if fused is None else Fused.from_dict(fused),
            **rest,
        )


def _task(row: Mapping[str, Any]) -> TaskResult:
    fields = {key: value for key, value in row.items() if key != "margin"}
    for key in ("found", "constant"):
        fields[key] = NO_VALUE if fields[key] is None else fields[key]
    metrics = tuple(MetricResult(**{**m, "values": _numbers(m["values"])}) for m in fields.pop("metrics", ()))
    return TaskResult(metrics=metrics, delta=_numbers(fields.pop("delta", {})), **fields)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: NO_VALUE if value is None else value for name, value in values.items()}


def finite(value: Any) -> Any:
    """`value` with None in the place of numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
