"""Runs side by side: metrics and Δ per task, costs, and each against the first one.

Runs that share some of their tasks only are compared by those; what cannot be compared then (costs, Δ over all tasks)
says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmtl.cost.count import Costs
from onnxmtl.deploy.report import amount, number, percent
from onnxmtl.deploy.results import MetricResult, Report, TaskResult, finite
from onnxmtl.deploy.runfiles import RunFiles, read_run
from onnxmtl.errors import RunError

COSTS = (
    ("parameters, without heads", "parameters_trunk", ""),
    ("parameters, with heads", "parameters", ""),
    ("multiply-adds, executed", "multiply_adds", ""),
    ("multiply-adds, without sharing", "multiply_adds_unshared", ""),
    ("file size", "file_bytes", "B"),
)
_SEPARATE = ("fusion", "cross_stitch", "sluice")  # search spaces of networks side by side
_LEFT_OUT = {"with_recipe", "tasks", "architecture", "threads", "model", "weights"}  # long, or hashes


@dataclasses.dataclass(frozen=True)
class ComparedMetric:
    """One metric of one task.

    Attributes:
        metric: Its name.
        higher_is_better: Its direction.
        values: Per run; None where it was not measured, nan where it has no value.
        changes: Per run the change against the first run in percent, positive is better; nan if it has no value.
    """

    metric: str
    higher_is_better: bool
    values: tuple[float | None, ...]
    changes: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ComparedTask:
    """One task that all runs have.

    Attributes:
        task: Its name.
        kind: Its kind.
        metrics: All that some run measured.
        delta: Per run Δt_i in percent against that run's own single-task model; None without one.
        change: Per run the mean of its metrics' changes against the first run, in percent.
    """

    task: str
    kind: str
    metrics: tuple[ComparedMetric, ...]
    delta: tuple[float | None, ...]
    change: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        names: Short, one per run, all different.
        paths: Their directories.
        titles: Backbone and data.
        recipes: Recipe of each.
        tasks: The tasks that all of them have.
        delta: Per run Δt over its own tasks against its own single-task models; None without them.
        change: Per run the mean of the common tasks' changes against the first run.
        costs: Of the found models.
        ratios: Cost -> per run its ratio to the first run's; empty if the runs have different tasks.
        edges: Per run (kept, candidates) of the edges between separate networks; None where a run has no such edges.
        settings: Options that are not the same in all runs -> per run their value.
        remarks: What to keep in mind, one sentence each.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    titles: tuple[str, ...]
    recipes: tuple[str, ...]
    tasks: tuple[ComparedTask, ...]
    delta: tuple[float | None, ...]
    change: tuple[float, ...]
    costs: tuple[Costs, ...]
    ratios: Mapping[str, tuple[float, ...]]
    edges: tuple[tuple[int, int] | None, ...]
    settings: Mapping[str, tuple[str, ...]]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite are null."""
        content: dict[str, Any] = finite(dataclasses.asdict(self))
        return content


def compare(paths: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Read the runs and compare them.

    Args:
        paths: Two directories of finished runs or more; the first is what the others are compared with.

    Raises:
        RunError: One is no run or not finished, or they have no task in common.
    """
    return compare_runs([read_run(path) for path in paths])


def compare_runs(runs: Sequence[RunFiles]) -> Comparison:
    """As :func:`compare`, for runs that were read already."""
    if len(runs) < 2:
        msg = "two runs or more are compared; name another one"
        raise RunError(msg)
    reports = [_report_of(run) for run in runs]
    names = _names([run.path for run in runs])
    kinds = [{task.task: task.kind for task in report.tasks} for report in reports]
    common = [task for task in reports[0].tasks if all(k.get(task.task) == task.kind for k in kinds[1:])]
    if not common:
        lists = "; ".join(f"{name}: {', '.join(map(_named, k.items()))}" for name, k in zip(names, kinds, strict=True))
        msg = f"the runs have no task in common ({lists}); compare runs of the same tasks"
        raise RunError(msg)
    tasks = tuple(_task([_find(report, task.task) for report in reports]) for task in common)
    same = all(k == kinds[0] for k in kinds[1:])
    costs = tuple(report.costs["found"] for report in reports)
    return Comparison(
        names=names,
        paths=tuple(str(run.path) for run in runs),
        titles=tuple(report.title for report in reports),
        recipes=tuple(str(run.config.get("recipe", "")) for run in runs),
        tasks=tasks,
        delta=tuple(report.delta.get("found") for report in reports),
        change=tuple(_mean([task.change[i] for task in tasks]) for i in range(len(runs))),
        costs=costs,
        ratios={field: _ratios(costs, field) for _, field, _ in COSTS} if same else {},
        edges=tuple(None if one.fused is None else (len(one.fused.kept), len(one.fused.edges)) for one in reports),
        settings=_settings(runs),
        remarks=tuple(_remarks(runs, names, kinds, [task.task for task in common])),
    )


def _named(item: tuple[str, str]) -> str:
    task, kind = item
    return task if task == kind else f"{task} ({kind})"


def _report_of(run: RunFiles) -> Report:
    if run.report is None:
        why = "has no report that can be read" if (run.path / "report.json").exists() else "is not finished"
        msg = f"{run.path}: the run {why}; end it with compile --resume, or leave it out"
        raise RunError(msg)
    return run.report


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    """The directories' last names, with as many parents as it takes to tell them apart."""
    resolved = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"{path.name} {i}" for i, path in enumerate(resolved, start=1))  # the same run twice


def _find(report: Report, task: str) -> TaskResult:
    return next(row for row in report.tasks if row.task == task)


def metrics_of(task: TaskResult) -> tuple[MetricResult, ...]:
    """All metrics of a task; of an earlier version's report the primary one."""
    if task.metrics:
        return task.metrics
    values = {"separate": task.separate, "shared": task.shared, "found": task.found, "constant": task.constant}
    known = {name: value for name, value in values.items() if value is not None}
    return (MetricResult(task.metric, task.higher_is_better, known),)


def _task(rows: Sequence[TaskResult]) -> ComparedTask:
    directions: dict[str, bool] = {}
    for row in rows:
        for metric in metrics_of(row):
            directions.setdefault(metric.metric, metric.higher_is_better)
    found = [{metric.metric: metric.values.get("found") for metric in metrics_of(row)} for row in rows]
    metrics = []
    for name, higher in directions.items():
        values = tuple(values.get(name) for values in found)
        metrics.append(ComparedMetric(name, higher, values, tuple(_change(v, values[0], higher) for v in values)))
    shared = [metric for metric in metrics if None not in metric.values]
    change = tuple(_mean([metric.changes[i] for metric in shared]) for i in range(len(rows)))
    delta = tuple(row.delta.get("found") for row in rows)
    return ComparedTask(rows[0].task, rows[0].kind, tuple(metrics), delta, change)


def _change(value: float | None, base: float | None, higher: bool) -> float:
    """AutoMTL Eq. 5 for one metric, against another run: (−1)^s (M − M_0) / |M_0| · 100, as the Δ of one run."""
    if value is None or base is None or (not base and value != base):
        return math.nan
    change = 100 * (value - base) / abs(base) if base else 0.0
    return change if higher else 0.0 - change


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _ratios(costs: Sequence[Costs], field: str) -> tuple[float, ...]:
    base = getattr(costs[0], field)
    values = [getattr(cost, field) for cost in costs]
    return tuple(value / base if base and value is not None else math.nan for value in values)


def _settings(runs: Sequence[RunFiles]) -> dict[str, tuple[str, ...]]:
    keys = sorted({key for run in runs for key in run.config} - _LEFT_OUT)
    found = {key: tuple(_shown(run.config.get(key)) for run in runs) for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def _shown(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _remarks(
    runs: Sequence[RunFiles], names: Sequence[str], kinds: Sequence[Mapping[str, str]], common: Sequence[str]
) -> list[str]:
    remarks = []
    for name, tasks in zip(names, kinds, strict=True):
        others = [task for task in tasks if task not in common]
        if others:
            listed = f"task{'s' if len(others) > 1 else ''} {', '.join(others)}"
            remarks.append(
                f"{name} has the {listed} besides: only common tasks are compared, its costs and its Δ over all tasks "
                "count all of them."
            )
    if len({tuple(_shown(run.config.get(key)) for key in ("data", "val_size", "data_options")) for run in runs}) > 1:
        remarks.append("The runs were validated on different data; their metrics cannot be compared.")
    if len({run.source("name") for run in runs}) > 1:
        remarks.append("The runs have different backbones.")
    side_by_side = [name for name, run in zip(names, runs, strict=True) if _space(run) in _SEPARATE]
    if side_by_side:
        remarks.append(
            f"{', '.join(side_by_side)}: a network per task, which give each other features; no layer is shared, and "
            "what the outputs of several tasks need is executed once."
        )
    without = [name for name, run in zip(names, runs, strict=True) if run.report and "found" not in run.report.delta]
    if without:
        remarks.append(
            f"No Δ against single-task models in {', '.join(without)}: none were trained, or the run is older."
        )
    return remarks


def _space(run: RunFiles) -> str:
    recipe = run.config.get("with_recipe")
    return str(recipe.get("space", "")) if isinstance(recipe, Mapping) else ""


# Text


def metric_rows(comparison: Comparison) -> list[list[str]]:
    """A header, then per task a row with Δ and one per metric; the change against the first run in brackets."""
    rows = [["task", "metric", *comparison.names]]
    for task in comparison.tasks:
        if any(value is not None for value in task.delta):
            rows.append([task.task, "Δ to single-task", *(percent(value) for value in task.delta)])
        for metric in task.metrics:
            cells = [
                number(value) + (f" ({percent(change)})" if i and math.isfinite(change) else "")
                for i, (value, change) in enumerate(zip(metric.values, metric.changes, strict=True))
            ]
            rows.append([task.task, f"{metric.metric} {'↑' if metric.higher_is_better else '↓'}", *cells])
    if any(value is not None for value in comparison.delta):
        rows.append(["all tasks", "Δ to single-task", *(percent(value) for value in comparison.delta)])
    rows.append(["all tasks", f"change to {comparison.names[0]}", "–", *map(percent, comparison.change[1:])])
    return rows


def cost_rows(comparison: Comparison) -> list[list[str]]:
    """A header, then one row per cost; the ratio to the first run in brackets."""
    rows = [["", *comparison.names]]
    for title, field, unit in COSTS:
        ratios = comparison.ratios.get(field, ())
        cells = []
        for i, cost in enumerate(comparison.costs):
            ratio = f" ({ratios[i]:.3f}×)" if i and ratios and math.isfinite(ratios[i]) else ""
            cells.append(amount(getattr(cost, field), unit) + ratio)
        rows.append([title, *cells])
    rows.append(["executed once for several tasks", *(f"{cost.executed_once:.1%}" for cost in comparison.costs)])
    if any(comparison.edges):
        kept = ["–" if edges is None else f"{edges[0]} of {edges[1]}" for edges in comparison.edges]
        rows.append(["edges between networks", *kept])
    return rows


def setting_rows(comparison: Comparison) -> list[list[str]]:
    """A header, then one row per option that differs."""
    return [["option", *comparison.names], *([key, *values] for key, values in comparison.settings.items())]
