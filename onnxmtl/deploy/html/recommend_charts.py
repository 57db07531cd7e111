"""Figures of a recommendation: the front, predicted against measured, and what two tasks do to each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from onnxmtl.deploy.html.axes import Axis, axis, tick_text
from onnxmtl.deploy.html.charts import marker
from onnxmtl.deploy.html.figure import PANEL, Figure, Panel, legend_item
from onnxmtl.deploy.html.theme import task_class
from onnxmtl.deploy.recommendation import QUANTITIES, LayoutResult, Recommendation
from onnxmtl.deploy.svg import cut, dot, group, label, line, polyline

_HEIGHT, _LEFT, _BOTTOM, _TOP = 260.0, 48.0, 214.0, 16.0


def front_figure(found: Recommendation) -> Figure | None:
    """Cost against score: the front as steps, the recommended layouts on it; None without a front."""
    if not found.front:
        return None
    base = found.separate.get(found.cost.removeprefix("expected_"), 0.0)
    unit = "×" if base else ""

    def cost(row: LayoutResult) -> float:
        return row.costs[found.cost] / (base or 1.0)

    shown = [row for row in (*found.front, *found.layouts) if math.isfinite(row.score)]
    bounds = [limit.bound / (base or 1.0) for limit in found.limits if limit.quantity == found.cost]
    across = axis([*map(cost, shown), *bounds], _LEFT, PANEL - 12)
    up = axis([row.score for row in shown], _BOTTOM, _TOP)
    name = QUANTITIES.get(found.cost, found.cost)
    parts = _frame(across, up, f"{name}{', share of separate models' if base else ''}", unit)
    steps: list[tuple[float, float]] = []
    for row in found.front:  # the best score that a budget buys stays until more is bought
        x, y = across.at(cost(row)), up.at(row.score)
        steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
    if len(steps) > 1:
        parts.append(polyline(steps, "rim curve"))
    for row in found.front:
        tip = f"layout {row.layout.number}: {cost(row):.3g}{unit} {name}, score {row.score:.4g}"
        parts.append(group([dot(across.at(cost(row)), up.at(row.score), 3, "ink")], tip))
    for limit in found.limits:
        if limit.quantity == found.cost:
            x = across.at(limit.bound / (base or 1.0))
            parts.append(group([line(x, _TOP, x, _BOTTOM, "rim dash")], limit.limit))
    for rank, row in enumerate(found.layouts, start=1):
        x, y = across.at(cost(row)), up.at(row.score)
        parts.append(group([marker("found", x, y)], f"{rank}. layout {row.layout.number}, score {row.score:.4g}"))
    panel = Panel(PANEL, _HEIGHT, "".join(parts), f"chart: {name} against score, {len(found.front)} layouts")
    legend = (
        legend_item([dot(6, 0, 3, "ink")], 12, "the best layout of some budget"),
        legend_item([marker("found", 6, 0)], 12, "recommended"),
    )
    text = "Every layout that is the best of some budget; no other layout is both cheaper and better."
    return Figure("front", "The Pareto front", text, (panel,), legend)


def measured_figure(found: Recommendation) -> Figure | None:
    """Predicted score against the measured one, a dot per layout and seed; None if nothing was trained."""
    points = [
        (row, i, score)
        for row in found.trained
        for i, score in enumerate(row.measured_scores(found.weights))
        if math.isfinite(score) and math.isfinite(row.score)
    ]
    if not points:
        return None
    across = axis([row.score for row, _, _ in points], _LEFT, PANEL - 12)
    up = axis([score for _, _, score in points], _BOTTOM, _TOP)
    parts = _frame(across, up, "predicted score", "", "%")
    for row, i, score in points:
        seed = f", seed {found.seeds[i]}" if len(found.seeds) > 1 else ""
        tip = f"layout {row.layout.number} ({row.why}){seed}: predicted {row.score:.4g}, measured {score:+.2f}%"
        kind = f"{task_class(i)} ring" + (" hollow" if row.why == "random" else "")
        parts.append(group([dot(across.at(row.score), up.at(score), 3.5, kind)], tip))
    many = len(found.seeds) > 1
    legend = tuple(
        legend_item([dot(6, 0, 4, f"{task_class(i)} ring")], 12, f"seed {seed}" if many else "trained layout")
        for i, seed in enumerate(found.seeds or (0,))
    )
    if any(row.why == "random" for row, _, _ in points):
        legend += (legend_item([dot(6, 0, 4, "rim ring hollow")], 12, "drawn at random"),)
    panel = Panel(PANEL, _HEIGHT, "".join(parts), "chart: predicted against measured score")
    text = "A dot per trained layout; up is the relative performance that was measured, weighted over the tasks."
    return Figure("measured", "Predicted against measured", text, (panel,), legend)


def pairs_figure(found: Recommendation) -> Figure | None:
    """Per pair of tasks the relative performance of both over the branching point; None without a table."""
    if not found.table:
        return None
    values = [v for a in found.table for b in a for v in b if v is not None and math.isfinite(v)]
    if not values:
        return None
    panels = []
    for a, b in itertools.combinations(range(len(found.tasks)), 2):
        panels.append(_pair(found, a, b, values))
    legend = tuple(legend_item([dot(6, 0, 4, task_class(i))], 12, name) for i, name in enumerate(found.tasks))
    text = (
        "Relative performance in percent of both tasks of a pair against a network of their own (0), by the block at "
        "which they part; the last point shares all. What was not trained is left out."
    )
    return Figure("pairs", "Two tasks at a time", text, tuple(panels), legend)


def _pair(found: Recommendation, a: int, b: int, values: Sequence[float]) -> Panel:
    width, height, left, bottom = 210.0, 128.0, 34.0, 100.0
    across = Axis(0, len(found.blocks), left + 4, width - 12)
    up = axis([*values, 0.0], bottom, 26)
    parts = [label(0, 12, cut(f"{found.tasks[a]} with {found.tasks[b]}", 30), "bold")]
    for tick in up.ticks(3):
        parts.append(line(left, up.at(tick), width - 8, up.at(tick), "axis" if tick == 0 else "grid"))
        parts.append(label(left - 5, up.at(tick) + 3.5, f"{tick_text(tick)}%", "faint", anchor="end", size=10))
    for point in sorted({0, len(found.blocks) // 2, len(found.blocks)}):
        parts.append(label(across.at(point), bottom + 16, str(point), "faint", anchor="middle", size=10))
    for task, other in ((a, b), (b, a)):
        row = [(i, v) for i, v in enumerate(found.table[task][other]) if v is not None and math.isfinite(v)]
        kind = task_class(task)
        if len(row) > 1:
            parts.append(polyline([(across.at(i), up.at(v)) for i, v in row], f"{kind} way curve"))
        for i, v in row:
            tip = f"{found.tasks[task]}, parting at {i}: {v:+.2f}%"
            parts.append(group([dot(across.at(i), up.at(v), 2.6, kind)], tip))
    return Panel(width, height, "".join(parts), f"chart: {found.tasks[a]} with {found.tasks[b]}")


def _frame(across: Axis, up: Axis, words: str, unit: str, up_unit: str = "") -> list[str]:
    parts = []
    for tick in up.ticks(5):
        y = up.at(tick)
        parts.append(line(_LEFT, y, PANEL - 12, y, "axis" if tick == 0 else "grid"))
        parts.append(label(_LEFT - 6, y + 3.5, f"{tick_text(tick)}{up_unit}", "faint", anchor="end", size=10))
    for tick in across.ticks(4):
        x = across.at(tick)
        parts.append(line(x, _BOTTOM, x, _BOTTOM + 4, "axis"))
        parts.append(label(x, _BOTTOM + 16, f"{tick_text(tick)}{unit}", "faint", anchor="middle", size=10))
    parts.append(line(_LEFT, _BOTTOM, PANEL - 12, _BOTTOM, "axis"))
    parts.append(label(PANEL - 12, _BOTTOM + 34, words, "faint", anchor="end"))
    return parts
