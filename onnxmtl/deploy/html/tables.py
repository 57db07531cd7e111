"""The tables of the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from onnxmtl.cost.count import Costs
from onnxmtl.deploy.compare import COSTS, metrics_of
from onnxmtl.deploy.html.elements import Cell, Row, signed, table
from onnxmtl.deploy.report import amount, limited, number
from onnxmtl.deploy.results import DrawResult, LayerRow, MetricResult, Report, TaskResult

# In the order of columns: on a phone the first ones are seen at once.
TITLES = {
    "found": "found",
    "separate": "single-task",
    "shared": "hard sharing",
    "random": "random",
    "constant": "constant",
}
SOURCES = {
    "policy": "policy",
    "given": "given",
    "random-total": "random, same total",
    "random-per-task": "random, same per task",
    "random-cost": "random, same cost",
    "permutation": "tasks permuted",
    "vanilla": "plain tree, same cost",
}


def models_of(report: Report) -> list[str]:
    """Models that some metric was measured of: the usual ones in their order, then others."""
    there = {name for task in report.tasks for metric in metrics_of(task) for name in metric.values}
    return [*(name for name in TITLES if name in there), *sorted(there - set(TITLES))]


def metric_table(report: Report) -> str:
    """All metrics of all tasks, the found model's column first; Δ in the task's row where it is known."""
    models = models_of(report)
    rows: list[tuple[str, Row]] = []
    for task in report.tasks:
        delta = ", Δ" if task.delta else ""
        rows.append(("total first", [f"{task.task}{delta}", *(change_cell(task.delta.get(model)) for model in models)]))
        for metric in metrics_of(task):
            unit = f" ({metric.unit})" if metric.unit else ""
            name = Cell(f"{metric.metric}{unit} {'↑' if metric.higher_is_better else '↓'}", "metric")
            rows.append(("", [name, *(_value(metric, model) for model in models)]))
    if report.delta:
        rows.append(("total first", ["all tasks, Δ", *(change_cell(report.delta.get(model)) for model in models)]))
    return table(["task", *(TITLES.get(model, model) for model in models)], rows)


def _value(metric: MetricResult, model: str) -> Cell:
    return Cell(number(metric.values.get(model)), "key" if model == "found" else "")


def change_cell(value: float | None) -> Cell:
    """A change in percent, coloured by its sign; nothing where it is not known."""
    if value is None:
        return Cell("")
    return Cell(signed(value), "" if not math.isfinite(value) or value == 0 else "good" if value > 0 else "bad")


def cost_table(costs: Mapping[str, Costs]) -> str:
    """The four numbers and the size of the file, with the found model's share of separate ones."""
    others = [name for name in ("separate", "shared") if name in costs]
    share = "separate" in costs
    rows: list[tuple[str, Row]] = []
    for title, field, unit in COSTS:
        found = getattr(costs["found"], field)
        cells: list[Cell | str] = [title, Cell(amount(found, unit), "key")]
        if share:
            base = getattr(costs["separate"], field)
            cells.append(f"{found / base:.3f}×" if base and found is not None else "–")
        rows.append(("", [*cells, *(amount(getattr(costs[name], field), unit) for name in others)]))
    return table(["", "found", *(["of single-task"] if share else []), *(TITLES[name] for name in others)], rows)


def budget_table(report: Report) -> str:
    """Limits and verdicts."""
    rows: list[tuple[str, Row]] = [
        (
            "",
            [
                Cell(row.limit, "mono"),
                Cell(row.quantity, "text"),
                limited(row, row.bound),
                limited(row, row.value),
                Cell("met" if row.met else "not met", "good" if row.met else "bad"),
            ],
        )
        for row in report.budget
    ]
    return table(["limit", Cell("counted", "text"), "at most", "found", "verdict"], rows)


def draw_table(draws: Sequence[DrawResult], tasks: Sequence[TaskResult]) -> str:
    """Architectures that were drawn, the best first where Δ is known."""
    ranked = sorted(
        enumerate(draws),
        key=lambda item: (not item[1].taken, -_rank(item[1].total), item[0]),
    )
    rows: list[tuple[str, Row]] = []
    for _, draw in ranked:
        metrics = [number(draw.metrics.get(task.task, {}).get(task.metric)) for task in tasks]
        rows.append(
            (
                "total" if draw.taken else "",
                [
                    SOURCES.get(draw.source, draw.source) + (" (taken)" if draw.taken else ""),
                    str(draw.count),
                    change_cell(draw.total),
                    amount(draw.parameters),
                    amount(draw.multiply_adds),
                    *metrics,
                ],
            )
        )
    names = [f"{task.task} {task.metric} {'↑' if task.higher_is_better else '↓'}" for task in tasks]
    return table(["drawn from", "times", "Δ", "parameters", "multiply-adds", *names], rows)


def _rank(total: float | None) -> float:
    return -math.inf if total is None or not math.isfinite(total) else total


def layer_table(rows: Sequence[LayerRow], tasks: Sequence[str]) -> str:
    """What every task does in every layer."""
    known = any(row.multiply_adds is not None for row in rows)
    lines: list[tuple[str, Row]] = []
    for row in rows:
        runs = " | ".join("+".join(run) for run in row.runs) or "–"
        uses = [Cell(row.uses.get(task, "–"), "text") for task in tasks]
        cells: list[Cell | str] = [
            Cell(row.layer, "mono"),
            Cell(row.op, "text"),
            *uses,
            Cell(runs, "text"),
            amount(row.parameters),
            *([amount(row.multiply_adds)] if known else []),
        ]
        lines.append(("", cells))
    texts = [Cell(name, "text") for name in ("operator", *tasks, "runs")]
    return table(["layer", *texts, "parameters", *(["multiply-adds"] if known else [])], lines)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Smallest, mean and largest of some numbers."""

    low: float
    mean: float
    high: float


def spread(draws: Sequence[DrawResult]) -> Spread | None:
    """Of Δ over the draws, each as often as it was drawn; None where it is not known."""
    known = [(draw.total, draw.count) for draw in draws if draw.total is not None and math.isfinite(draw.total)]
    if not known:
        return None
    times = sum(count for _, count in known)
    values = [total for total, _ in known]
    return Spread(min(values), math.fsum(total * count for total, count in known) / times, max(values))
