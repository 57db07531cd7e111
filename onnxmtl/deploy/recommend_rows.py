"""The tables of a recommendation, for the terminal and for its page: a header and rows of text each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxmtl.deploy.recommendation import LayoutResult, Recommendation
from onnxmtl.deploy.report import amount

if TYPE_CHECKING:
    from rich.console import Console

_COSTS = (
    ("multiply_adds", "multiply-adds"),
    ("multiply_adds_trunk", "multiply-adds, trunk"),
    ("expected_multiply_adds", "multiply-adds, expected"),
    ("expected_multiply_adds_trunk", "multiply-adds, trunk, expected"),
    ("parameters", "parameters"),
    ("parameters_trunk", "parameters, trunk"),
    ("latency", "latency"),
    ("models", "backbones"),
)


def layout_rows(found: Recommendation, layouts: Sequence[LayoutResult], *, measured: bool = False) -> list[list[str]]:
    """One row per layout: rank, id, score, each task, costs with their share of separate models, the last groups.

    A task's number is what is predicted of it, with `measured` what was measured: relative performance in percent.
    """
    limited = {limit.quantity for limit in found.limits} | {found.cost}
    known = set().union(*(row.costs for row in layouts)) if layouts else set()
    costs = [(q, name) for q, name in _COSTS if q in known and (not q.endswith("_trunk") or q in limited)]
    tasks = [task for task in found.tasks if any(task in row.estimates for row in layouts)]
    extra = ["measured", *found.tasks, "why"] if measured else []
    shown = [] if measured else tasks
    rows = [["#", "layout", "score", *shown, *extra, *(name for _, name in costs), "at the end"]]
    for rank, row in enumerate(layouts, start=1):
        cells = [str(rank), str(row.layout.number), _figure(row.score)]
        if measured:
            scores = row.measured_scores(found.weights)
            cells += [_mean(scores), *(_mean([one[task] for one in row.measured]) for task in found.tasks), row.why]
        else:
            cells += [_percent(row.estimates.get(task, math.nan)) for task in tasks]
        cells += [_cost(found, row, quantity) for quantity, _ in costs]
        cells.append(" | ".join("+".join(found.tasks[t] for t in group) for group in row.layout.groups[-1]))
        rows.append(cells)
    return rows


def correlation_rows(found: Recommendation) -> list[list[str]]:
    """Predicted against measured, per seed and over the seeds."""
    rows = [["seed", "layouts", "Pearson", "Spearman"]]
    for row in found.correlations:
        name = "mean over seeds" if row.seed is None else str(row.seed)
        rows.append([name, str(row.count), _figure(row.pearson), _figure(row.spearman)])
    return rows


def block_rows(found: Recommendation) -> list[list[str]]:
    """What one copy of each block costs."""
    costs = [(q, name) for q, name in _COSTS if q in found.block_costs and not q.endswith("_trunk") and q != "models"]
    if not costs:
        costs = [(q, name) for q, name in _COSTS if q in found.block_costs and q.endswith("_trunk")]
    rows = [["#", "block ends at", *(name for _, name in costs)]]
    for index, name in enumerate(found.blocks):
        cells = [found.block_costs[q][index] for q, _ in costs]
        shown = [f"{c:.3g} ms" if q == "latency" else amount(c) for c, (q, _) in zip(cells, costs, strict=True)]
        rows.append([str(index), name, *shown])
    return rows


def weight_words(found: Recommendation) -> str:
    """The tasks' weights in the score."""
    each = ", ".join(f"{task} {found.weights[task]:.3f}" for task in found.tasks if task in found.weights)
    return f"{each} ({found.weighting})" if found.weighting else each


def print_recommendation(found: Recommendation, console: Console, path: Path, *, brief: bool = False) -> None:
    """Print the answer on a rich console: the layouts, the best one drawn, the front, what was measured."""
    from rich.table import Table
    from rich.text import Text

    def show(title: str, rows: Sequence[Sequence[str]]) -> None:
        made = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        for name in rows[0]:
            made.add_column(Text(name), overflow="fold")
        for row in rows[1:]:
            made.add_row(*map(Text, row))
        console.print(made, Text(), sep="\n")

    console.print(Text(found.title, style="bold"), Text(), sep="\n")
    show(
        "Recommended layouts (per task: predicted change against a network of its own)",
        layout_rows(found, found.layouts),
    )
    if not brief:
        console.print(Text("The best one", style="bold"), Text(found.layouts[0].layout.text()), sep="\n")
    if found.front:
        show("The Pareto front", layout_rows(found, found.front))
    if found.trained:
        show("Predicted against measured", correlation_rows(found))
        if not brief:
            show("Trained layouts", layout_rows(found, found.trained, measured=True))
    lines = [f"task weights: {weight_words(found)}", *(f"note: {note}" for note in found.notes)]
    if found.layouts[0].file:
        lines += [f"report: {path / 'report.html'}", f"train and emit one: onnxmtl compile MODEL --tasks … --layout "
                  f"{path / found.layouts[0].file}"]  # fmt: skip
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _cost(found: Recommendation, row: LayoutResult, quantity: str) -> str:
    value = row.costs.get(quantity, math.nan)
    if not math.isfinite(value):
        return "–"
    if quantity == "models":
        return f"{value:.0f}"
    shown = f"{value:.3g} ms" if quantity == "latency" else amount(value)
    base = found.separate.get(quantity.removeprefix("expected_"))
    return f"{shown} ({value / base:.2f}×)" if base else shown


def _mean(values: Sequence[float]) -> str:
    return _figure(sum(values) / len(values)) if values else "–"


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _percent(value: float) -> str:
    return f"{value:+.2f}%" if math.isfinite(value) else "–"
