"""Runs side by side as a page."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

from onnxmtl.deploy.compare import Comparison, compare_runs, cost_rows, setting_rows
from onnxmtl.deploy.html.axes import axis, tick_text
from onnxmtl.deploy.html.charts import marker
from onnxmtl.deploy.html.elements import (
    Cell,
    Row,
    Section,
    beside,
    bullets,
    page,
    paragraph,
    signed,
    stacked,
    table,
)
from onnxmtl.deploy.html.figure import PANEL, Figure, Panel, inline, legend_html, legend_item
from onnxmtl.deploy.html.fusion import fusion_figure
from onnxmtl.deploy.html.sharing import sharing_figure
from onnxmtl.deploy.html.tables import change_cell
from onnxmtl.deploy.html.theme import task_class
from onnxmtl.deploy.html.writing import html_target
from onnxmtl.deploy.report import number
from onnxmtl.deploy.runfiles import RunFiles, read_run
from onnxmtl.deploy.svg import SANS_EM, cut, dot, group, label, line
from onnxmtl.runs import atomic_write


def write_comparison(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Comparison:
    """Compare runs and write the page.

    Args:
        paths: As for :func:`onnxmtl.deploy.compare.compare`.
        out: A file that ends in ``.html``; an older one is replaced.

    Raises:
        RunError: As :func:`onnxmtl.deploy.compare.compare`; or the file cannot be written.
    """
    target = html_target(Path(out))
    runs = [read_run(path) for path in paths]
    comparison = compare_runs(runs)
    atomic_write(target, comparison_page(comparison, runs).encode())
    return comparison


def comparison_page(comparison: Comparison, runs: Sequence[RunFiles]) -> str:
    """The whole document."""
    first = comparison.names[0]
    figure = change_figure(comparison)
    words = paragraph(f"In brackets: the change against {first} in percent; positive is better.", "faint")
    left = stacked(_metric_table(comparison), words)
    metrics = beside(left, inline(figure)) if figure is not None else left
    settings = setting_rows(comparison)
    sections = [
        Section("metrics", "What they can do", metrics),
        Section("costs", "What they cost", _plain_table(cost_rows(comparison))),
        Section("settings", "How they differ", _plain_table(settings) if len(settings) > 1 else ""),
        Section("sharing", "What they share", _diagrams(comparison.names, runs)),
        Section("remarks", "To keep in mind", bullets(comparison.remarks) if comparison.remarks else ""),
    ]
    lead = "; ".join(f"{name}: {title}" for name, title in zip(comparison.names, comparison.titles, strict=True))
    return page(" and ".join([", ".join(comparison.names[:-1]), comparison.names[-1]]), lead, [], sections, "onnxmtl")


def _diagrams(names: Sequence[str], runs: Sequence[RunFiles]) -> str:
    """Per kind of diagram those of all runs side by side: edges between networks, then layers."""
    fused, sharing = [], []
    for i, (name, run) in enumerate(zip(names, runs, strict=True), start=1):
        report = run.report
        if report is None:
            continue
        if report.fused is not None:
            text = f"{len(report.fused.kept)} of {len(report.fused.edges)} candidate edges are kept."
            figure = fusion_figure(report.fused)
            fused.append(dataclasses.replace(figure, name=f"fusion-{i}", title=f"{name}, edges", text=text))
        if report.sharing and run.tasks:
            once = sum(row.executed_once for row in report.sharing)
            text = f"{once} of {len(report.sharing)} layers are executed once for two tasks or more."
            figure = sharing_figure(report.sharing, run.tasks)
            sharing.append(dataclasses.replace(figure, name=f"sharing-{i}", title=name, text=text))
    return _side_by_side(fused) + _side_by_side(sharing)


def _side_by_side(figures: Sequence[Figure]) -> str:
    """Figures of one kind below the legend of the one that has the most to explain."""
    if not figures:
        return ""
    legend = legend_html(max(figures, key=lambda figure: len(figure.legend)))
    parts = (
        stacked(inline(dataclasses.replace(figure, legend=())), narrow=len(figure.panels) == 1) for figure in figures
    )
    return legend + beside(*parts)


def _metric_table(comparison: Comparison) -> str:
    rows: list[tuple[str, Row]] = []
    for task in comparison.tasks:
        known = any(value is not None for value in task.delta)
        cells = [change_cell(value) for value in task.delta] if known else [Cell("") for _ in task.delta]
        rows.append(("total first", [f"{task.task}{', Δ' if known else ''}", *cells]))
        for metric in task.metrics:
            shown: list[Cell | str] = [Cell(f"{metric.metric} {'↑' if metric.higher_is_better else '↓'}", "metric")]
            for i, (value, change) in enumerate(zip(metric.values, metric.changes, strict=True)):
                shown.append(number(value) + (f" ({signed(change)})" if i and math.isfinite(change) else ""))
            rows.append(("", shown))
    if any(value is not None for value in comparison.delta):
        rows.append(("total first", ["all tasks, Δ", *map(change_cell, comparison.delta)]))
    changes: list[Cell | str] = ["–", *map(change_cell, comparison.change[1:])]
    rows.append(("total first", [f"change to {comparison.names[0]}", *changes]))
    return table(["task", *comparison.names], rows)


def _plain_table(rows: Sequence[Sequence[str]]) -> str:
    return table(list(rows[0]), [("", list(row)) for row in rows[1:]])


def change_figure(comparison: Comparison) -> Figure | None:
    """Per task and run: Δ against single-task models if all runs have it, else the change against the first run."""
    against_own = all(value is not None for task in comparison.tasks for value in task.delta)
    rows = [(task.task, task.delta if against_own else task.change) for task in comparison.tasks]
    values = [v for _, line_ in rows for v in line_ if v is not None and math.isfinite(v)]
    if not values:
        return None
    left = 14 + min(110.0, 11 * SANS_EM * max(min(len(name), 16) for name, _ in rows))
    across = axis([*values, 0.0], left, PANEL - 10)
    height = 26
    bottom = height * len(rows) + 4
    parts = []
    for tick in across.ticks():
        parts.append(line(across.at(tick), 4, across.at(tick), bottom, "rim" if tick == 0 else "grid"))
        parts.append(label(across.at(tick), bottom + 14, f"{tick_text(tick)}%", "faint", anchor="middle", size=10))
    for i, (name, changes) in enumerate(rows):
        y = 4 + height * (i + 0.5)
        parts.append(label(0, y + 4, cut(name, 16), "bold"))
        for j, value in enumerate(changes):
            if value is not None and math.isfinite(value):
                tip = f"{name}, {comparison.names[j]}: {signed(value)}"
                parts.append(group([_mark(j, across.at(value), y)], tip))
    legend = tuple(legend_item([_mark(j, 6, 0)], 12, name) for j, name in enumerate(comparison.names))
    what = "single-task models" if against_own else comparison.names[0]
    panel = Panel(PANEL, bottom + 22, "".join(parts), f"chart: change per task against {what}")
    return Figure("change", f"Δ against {what}", "In percent; right of 0 is better.", (panel,), legend)


def _mark(run: int, x: float, y: float) -> str:
    """A run's mark: another shape and another colour for each of the first ones."""
    shapes = ("found", "shared", "separate", "random")
    return marker(shapes[run], x, y) if run < len(shapes) else dot(x, y, 4, f"{task_class(run)} ring hollow")
