"""A sweep as a page: multiply-adds against Δ, the table, and the trees."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmtl.deploy.html.axes import axis, tick_text
from onnxmtl.deploy.html.charts import marker
from onnxmtl.deploy.html.elements import Section, code, page, paragraph, signed, table
from onnxmtl.deploy.html.figure import PANEL, Figure, Panel, inline, legend_item
from onnxmtl.deploy.svg import group, label, line, polyline
from onnxmtl.deploy.sweep import Sweep, spelled, sweep_rows

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = PANEL, 270, 48, 220


def sweep_page(sweep: Sweep) -> str:
    """The whole document."""
    figure = sweep_figure(sweep)
    rows = sweep_rows(sweep)
    trees = "".join(
        paragraph(f"{sweep.regularizer} = {spelled(point.weight)}, {point.run}") + code(point.tree)
        for point in sweep.points
        if point.tree
    )
    sections = [
        Section("curve", "Δ against multiply-adds", inline(figure) if figure is not None else ""),
        Section("runs", "What was found", table(rows[0], [("", row) for row in rows[1:]])),
        Section("trees", "The trees", trees),
    ]
    lead = f"{sweep.recipe}: one search for each weight of {sweep.regularizer}"
    return page(sweep.title, lead, [], sections, "onnxmtl")


def sweep_figure(sweep: Sweep) -> Figure | None:
    """Multiply-adds as a share of separate models' against Δ; None without single-task models."""
    points = [(p.share, p.delta, p) for p in sweep.points if p.share is not None and p.delta is not None]
    if not points or not sweep.separate:
        return None
    others = [("separate", 1.0, 0.0)]
    if sweep.shared is not None:
        others.append(("shared", sweep.shared[0] / sweep.separate, sweep.shared[1]))
    across = axis([*(x for x, _, _ in points), *(x for _, x, _ in others), 0.0], _LEFT, _WIDTH - 12, zero=True)
    up = axis([*(y for _, y, _ in points), *(y for _, _, y in others)], _BOTTOM, 20)
    parts = []
    for tick in up.ticks(5):
        parts.append(line(_LEFT, up.at(tick), _WIDTH - 12, up.at(tick), "rim" if tick == 0 else "grid"))
        parts.append(label(_LEFT - 6, up.at(tick) + 3.5, f"{tick_text(tick)}%", "faint", anchor="end", size=10))
    for tick in across.ticks(5):
        parts.append(line(across.at(tick), _BOTTOM, across.at(tick), _BOTTOM + 4, "axis"))
        parts.append(label(across.at(tick), _BOTTOM + 16, f"{tick_text(tick)}×", "faint", anchor="middle", size=10))
    parts.append(line(_LEFT, _BOTTOM, _WIDTH - 12, _BOTTOM, "axis"))
    words = "multiply-adds, share of separate models'"
    parts.append(label(_WIDTH - 12, _BOTTOM + 34, words, "faint", anchor="end"))
    front = sorted((x, y) for x, y, point in points if point.efficient)
    if len(front) > 1:
        parts.append(polyline([(across.at(x), up.at(y)) for x, y in front], "rim curve"))
    for name, x, y in others:
        parts.append(group([marker(name, across.at(x), up.at(y))], f"{name}: {x:.3f}×, Δ {signed(y)}"))
    for x, y, point in points:
        tip = f"{sweep.regularizer} {spelled(point.weight)}: {x:.3f}×, Δ {signed(y)}"
        parts.append(group([marker("found", across.at(x), up.at(y))], tip))
    parts += _weights([(across.at(x), up.at(y), spelled(point.weight)) for x, y, point in points])
    panel = Panel(_WIDTH, _HEIGHT, "".join(parts), "chart: multiply-adds against Δ for each weight")
    legend = tuple(
        legend_item([marker(model, 6, 0)], 12, text)
        for model, text in (
            ("found", f"{sweep.regularizer}, its weight beside it"),
            ("separate", "single-task models"),
            ("shared", "hard sharing"),
        )
        if model == "found" or model in {name for name, _, _ in others}
    )
    text = "Left is cheaper, up is better. The line joins what no other model beats in both."
    return Figure("sweep", "Cost against Δ", text, (panel,), legend, across=1)


def _weights(marks: Sequence[tuple[float, float, str]]) -> list[str]:
    """Each weight beside its mark: above, or below where another one stands close above."""
    parts = []
    for x, y, text in marks:
        close = any(abs(x - other) < 22 and 0 < y - above < 22 for other, above, _ in marks)
        parts.append(label(x, y + 19 if close else y - 10, text, "bold", anchor="middle", size=10))
    return parts
