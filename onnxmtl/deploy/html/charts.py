"""What was gained and what it costs: Δ per task, the four costs, and both against each other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from onnxmtl.cost.count import Costs
from onnxmtl.deploy.html.axes import Axis, axis, tick_text
from onnxmtl.deploy.html.elements import signed
from onnxmtl.deploy.html.figure import PANEL, Figure, Panel
from onnxmtl.deploy.html.tables import SOURCES
from onnxmtl.deploy.html.theme import task_class
from onnxmtl.deploy.report import amount
from onnxmtl.deploy.results import DrawResult, Report
from onnxmtl.deploy.svg import SANS_EM, box, cut, dot, group, label, line, polygon

MODEL_NAMES = {"separate": "single-task", "shared": "hard sharing", "found": "found", "random": "random"}
COST_FIELDS = (
    ("parameters", "parameters_trunk", "parameters, without heads"),
    ("parameters", "parameters", "parameters, with heads"),
    ("work", "multiply_adds", "multiply-adds, executed"),
    ("work", "multiply_adds_unshared", "multiply-adds, without sharing"),
)


def marker(model: str, x: float, y: float) -> str:
    """The mark of a model: a filled diamond for what was found, other shapes for what it is compared with."""
    if model == "found":
        return polygon([(x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y)], "found halo")
    if model == "shared":
        return polygon([(x, y - 5), (x + 5, y + 4), (x - 5, y + 4)], "ink halo")
    if model == "separate":
        return box(x - 4, y - 4, 8, 8, "ink halo")
    if model == "random":
        arms = [line(x - 4, y - 4, x + 4, y + 4, "rim"), line(x - 4, y + 4, x + 4, y - 4, "rim")]
        return group(arms)
    return dot(x, y, 4, "rim hollow")


def finite_delta(report: Report, model: str) -> float | None:
    """Δ over all tasks of a model; None if it is not known or has no value."""
    value = report.delta.get(model)
    return value if value is not None and math.isfinite(value) else None


def delta_figure(report: Report) -> Figure | None:
    """Δ of every task, and over all of them; None without single-task models."""
    rows = [(task.task, dict(task.delta), task_class(i)) for i, task in enumerate(report.tasks)]
    rows.append(("all tasks", dict(report.delta), ""))
    values = [v for _, delta, _ in rows for v in delta.values() if math.isfinite(v)]
    if not values:
        return None
    shown = [name for name in ("random", "shared", "found") if any(name in delta for _, delta, _ in rows)]
    left = 14 + min(110.0, 11 * SANS_EM * max(min(len(name), 16) for name, _, _ in rows))
    across = axis([*values, 0.0], left, PANEL - 10)
    top, height = 36, 26
    bottom = top + height * len(rows)
    parts = _key(shown)
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(line(x, top, x, bottom, "rim" if tick == 0 else "grid"))
        parts.append(label(x, bottom + 14, f"{tick_text(tick)}%", "faint", anchor="middle", size=10))
    for i, (name, delta, kind) in enumerate(rows):
        y = top + height * (i + 0.5)
        if i == len(rows) - 1:
            parts.append(line(0, y - height / 2, PANEL, y - height / 2, "axis"))
        parts.append(label(0, y + 4, cut(name, 16), f"{kind} bold".strip()))
        for model in shown:
            value = delta.get(model, math.nan)
            if math.isfinite(value):
                tip = f"{name}, {MODEL_NAMES[model]}: {signed(value)}"
                parts.append(group([marker(model, across.at(value), y)], tip))
    panel = Panel(PANEL, bottom + 22, "".join(parts), "chart: Δ per task against single-task models")
    text = "Mean relative change over a task's metrics in percent (AutoMTL Eq. 5); right of 0 is better."
    return Figure("delta", "Δ against single-task models", text, (panel,))


def _key(models: Sequence[str]) -> list[str]:
    parts, x = [], 8.0
    for model in models:
        parts += [marker(model, x, 12), label(x + 11, 16, MODEL_NAMES[model])]
        x += 11 + 11 * SANS_EM * len(MODEL_NAMES[model]) + 26
    return parts


def cost_figure(report: Report) -> Figure:
    """The four numbers of every model, as bars."""
    known = [name for name in ("separate", "shared", "found") if name in report.costs]
    parts: list[str] = []
    y = 4.0
    for unit, field, title in COST_FIELDS:
        most = max((_cost(report.costs[name], other) for name in known for u, other, _ in COST_FIELDS if u == unit))
        parts.append(label(0, y + 10, title, "bold"))
        y += 17
        for name in known:
            value = _cost(report.costs[name], field)
            width = 124 * value / most if most else 0
            parts.append(label(0, y + 10, MODEL_NAMES[name], "faint"))
            parts.append(box(82, y + 1, width, 11, "found" if name == "found" else "bar", radius=1))
            base = _cost(report.costs["separate"], field) if "separate" in known else 0
            ratio = f" · {value / base:.2f}×" if base and name != "separate" else ""
            parts.append(label(82 + width + 6, y + 10, f"{amount(value)}{ratio}"))
            y += 16
        y += 9
    text = "All tasks together, counted on the emitted graph; × is the share of separate single-task models."
    return Figure("costs", "Costs", text, (Panel(PANEL, y, "".join(parts), "bars: costs of the models"),))


def _cost(costs: Costs, field: str) -> int:
    value: int = getattr(costs, field)
    return value


@dataclasses.dataclass(frozen=True)
class Point:
    """A model in the plane of cost and Δ."""

    model: str
    words: str
    cost: float
    delta: float


def plane_points(report: Report, candidates: Sequence[DrawResult]) -> list[Point]:
    """All models whose cost and Δ are known; costs are multiply-adds as a share of the separate models'."""
    separate = report.costs.get("separate")
    base = separate.multiply_adds if separate is not None else 0
    found = finite_delta(report, "found")
    if not base or found is None:
        return []
    points = [
        Point("candidate", _drawn(draw), draw.multiply_adds / base, draw.total)
        for draw in candidates
        if draw.total is not None and math.isfinite(draw.total)
    ]
    points += [
        Point("random", _drawn(draw), draw.multiply_adds / base, draw.total)
        for draw in report.draws
        if draw.total is not None and math.isfinite(draw.total)
    ]
    points.append(Point("separate", "single-task models", 1.0, 0.0))
    shared = finite_delta(report, "shared")
    if shared is not None and "shared" in report.costs:
        points.append(Point("shared", "hard sharing", report.costs["shared"].multiply_adds / base, shared))
    points.append(Point("found", "found", report.costs["found"].multiply_adds / base, found))
    return points


def _drawn(draw: DrawResult) -> str:
    times = f", drawn {draw.count} times" if draw.count > 1 else ""
    return f"{SOURCES.get(draw.source, draw.source)}{times}, {draw.weights}"


def plane_figure(report: Report, candidates: Sequence[DrawResult]) -> Figure | None:
    """Cost against Δ; None without single-task models."""
    points = plane_points(report, candidates)
    if not points:
        return None
    height, left, bottom = 260, 44, 218
    across = axis([*(p.cost for p in points), 0.0], left, PANEL - 12, zero=True)
    up = axis([p.delta for p in points], bottom, 40)
    parts = _plane_axes(across, up, left, bottom)
    drawn = {p.model for p in points}
    if "candidate" in drawn:
        parts += [marker("candidate", left + 6, 12), label(left + 15, 16, "candidates")]
    if "random" in drawn:
        parts += [marker("random", left + 106, 12), label(left + 115, 16, "random")]
    for p in points:
        parts.append(group([marker(p.model, across.at(p.cost), up.at(p.delta))], _point_tip(p)))
    parts += _point_names([(across.at(p.cost), up.at(p.delta), p.model) for p in points])
    text = "Every model by its executed multiply-adds (left is cheaper) and its Δ (up is better)."
    if "candidate" in drawn:
        text += " Candidates were measured right after they were drawn, before the final training."
    panel = Panel(PANEL, height, "".join(parts), "chart: multiply-adds against Δ")
    return Figure("plane", "Cost against Δ", text, (panel,))


def _point_tip(point: Point) -> str:
    return f"{point.words}: {point.cost:.3f}× multiply-adds, Δ {signed(point.delta)}"


def _point_names(points: Sequence[tuple[float, float, str]]) -> list[str]:
    """Names beside the marks of single models, where they hit no other mark; the text is (x, y, model)."""
    parts, taken = [], [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in points]
    for x, y, model in points:
        if model not in ("separate", "shared", "found"):
            continue
        width = 11.5 * SANS_EM * len(MODEL_NAMES[model])
        lefts = (x - width / 2, x - width + 6, x - 6)
        places = [(x + 9, y + 4), (x - 9 - width, y + 4), *((left, y - 10) for left in lefts)]
        places += [(left, y + 19) for left in lefts]
        places = [(left, base) for left, base in places if left >= 46 and left + width <= PANEL and base > 30]
        boxes = [(left, base - 10, left + width, base + 2) for left, base in places]
        best = min(range(len(boxes)), key=lambda i: sum(_overlap(boxes[i], other) for other in taken))
        taken.append(boxes[best])
        parts.append(label(*places[best], MODEL_NAMES[model], "bold"))
    return parts


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _plane_axes(across: Axis, up: Axis, left: float, bottom: float) -> list[str]:
    parts = []
    for tick in up.ticks(5):
        y = up.at(tick)
        parts.append(line(left, y, PANEL - 12, y, "axis" if tick == 0 else "grid"))
        parts.append(label(left - 6, y + 3.5, f"{tick_text(tick)}%", "faint", anchor="end", size=10))
    for tick in across.ticks(5):
        x = across.at(tick)
        parts.append(line(x, bottom, x, bottom + 4, "axis"))
        parts.append(label(x, bottom + 16, f"{tick_text(tick)}×", "faint", anchor="middle", size=10))
    parts.append(line(left, bottom, PANEL - 12, bottom, "axis"))
    parts.append(label(PANEL - 12, bottom + 32, "multiply-adds, share of separate models'", "faint", anchor="end"))
    return parts
