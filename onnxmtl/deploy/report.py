"""The final table of a run: what was found, what it costs, what is shared. Workflows fill it, the CLI prints it."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onnxmtl.deploy.results import BudgetResult, DrawResult, LayerRow, MetricResult, Report, TaskResult

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "BudgetResult",
    "DrawResult",
    "LayerRow",
    "MetricResult",
    "Report",
    "TaskResult",
    "amount",
    "budget_lines",
    "cost_rows",
    "delta_lines",
    "limited",
    "metric_rows",
    "number",
    "percent",
    "plain",
    "print_report",
    "run_command",
    "sharing_rows",
]

MODELS = ("separate", "shared", "found")
_TITLES = {
    "separate": "separate models",
    "shared": "all shared",
    "found": "found",
    "constant": "constant",
    "random": "random",
}


def run_command(model: str | Path, input_name: str, shape: tuple[int, ...], python: str | None = None) -> str:
    """The shell command that runs `model` on a black image with numpy and onnxruntime and prints the shapes.

    Args:
        model: Path of the model, as the user would type it.
        input_name: Name of its input.
        shape: Of the image batch, [N, C, H, W].
        python: The interpreter; by default the running one, relative to the working directory if it lies below.
    """
    code = (
        "import numpy, onnxruntime; "
        f"s = onnxruntime.InferenceSession({str(model)!r}); "
        f"y = s.run(None, {{{input_name!r}: numpy.zeros({tuple(shape)}, 'float32')}}); "
        "print({o.name: v.shape for o, v in zip(s.get_outputs(), y)})"
    )
    quoted = f'"{code}"' if not set(code) & set('"$`\\!') else shlex.quote(code)
    return f"{shlex.quote(python or _interpreter())} -c {quoted}"


def _interpreter() -> str:
    executable = Path(sys.executable)
    return str(executable.relative_to(Path.cwd())) if executable.is_relative_to(Path.cwd()) else str(executable)


# Text


def number(value: float | None, digits: int = 4) -> str:
    """A metric for people."""
    return "–" if value is None else "nan" if math.isnan(value) else f"{value:.{digits}g}"


def amount(value: float | None, unit: str = "") -> str:
    """A count for people: 11.2 M, 1.82 G."""
    if value is None:
        return "–"
    for limit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def percent(value: float | None) -> str:
    """A change in percent for people."""
    return "–" if value is None or not math.isfinite(value) else f"{value:+.1f}%"


def delta_lines(report: Report) -> list[str]:
    """Δ over all tasks and metrics of the found model and of those that it is compared with; none without them."""
    if "found" not in report.delta:
        return []
    others = [f"{_TITLES.get(name, name)} {percent(value)}" for name, value in report.delta.items() if name != "found"]
    more = f" ({', '.join(others)})" if others else ""
    return [f"Δ to separate models, all tasks and metrics: {percent(report.delta['found'])}{more}"]


def limited(row: BudgetResult, value: float) -> str:
    """A limit's bound or value for people: a count, or milliseconds."""
    return f"{value:.3g} ms" if row.quantity.endswith("latency") else amount(value)


def budget_lines(report: Report) -> list[str]:
    """One line per limit: what it asks, what the model has, the verdict."""
    return [
        f"budget {row.limit}: {row.quantity} {limited(row, row.value)} of at most {limited(row, row.bound)}, "
        f"{'met' if row.met else 'NOT MET'}"
        for row in report.budget
    ]


def metric_rows(report: Report) -> list[list[str]]:
    """The table of metrics: a header and one row per task; Δ where single-task models were trained."""
    delta = ["Δ to separate"] if any("found" in task.delta for task in report.tasks) else []
    rows = [["task", "metric", *(_TITLES[name] for name in (*MODELS, "constant")), *delta, "better than constant by"]]
    for task in report.tasks:
        arrow = "↑" if task.higher_is_better else "↓"
        ratio = task.margin / abs(task.constant) if task.constant else math.inf
        share = f" ({ratio:+.0%})" if not abs(ratio) > 1000 else ""
        values = [number(value) for value in (task.separate, task.shared, task.found, task.constant)]
        change = [percent(task.delta.get("found"))] if delta else []
        rows.append([task.task, f"{task.metric} {arrow}", *values, *change, f"{number(task.margin)}{share}"])
    return rows


def cost_rows(report: Report) -> list[list[str]]:
    """The table of costs: a header and one row per number; the found model also as a share of separate ones."""
    known = [name for name in MODELS if name in report.costs]
    compare = "separate" in known and "found" in known
    rows = [["", *(_TITLES[name] for name in known), *(["found / separate"] if compare else [])]]
    lines = [
        ("parameters, trunk", "parameters_trunk", ""),
        ("parameters, with heads", "parameters", ""),
        ("multiply-adds, executed", "multiply_adds", ""),
        ("multiply-adds, without sharing", "multiply_adds_unshared", ""),
        ("file size", "file_bytes", "B"),
    ]
    for title, field, unit in lines:
        values = [getattr(report.costs[name], field) for name in known]
        cells = [title, *(amount(value, unit) for value in values)]
        if compare:
            base, found = getattr(report.costs["separate"], field), getattr(report.costs["found"], field)
            cells.append(f"{found / base:.3f}×" if base and found is not None else "–")
        rows.append(cells)
    return rows


def sharing_rows(report: Report) -> list[list[str]]:
    """The table of sharing: a header and one row per layer."""
    names = [task.task for task in report.tasks]
    rows = [["layer", "op", *names, "runs", "parameters"]]
    for row in report.sharing:
        runs = " | ".join("+".join(group) for group in row.runs) or "–"
        uses = [row.uses.get(name, "–").partition(" ")[0] for name in names]
        rows.append([row.layer, row.op, *uses, runs, amount(row.parameters)])
    return rows


def _closing(report: Report) -> list[str]:
    once = sum(row.executed_once for row in report.sharing)
    lines = [
        *delta_lines(report),
        *budget_lines(report),
        f"executed once for two tasks or more: {report.costs['found'].executed_once:.1%} of the executed "
        f"multiply-adds, {once} of {len(report.sharing)} layers with parameters",
        *([f"decided: {report.decoding}"] if report.decoding else []),
        *(report.layout.text().splitlines() if report.layout is not None else []),
        f"weights: {report.weights}",
        *(f"note: {note}" for note in report.notes),
        f"model: {report.model}",
        "run it:",
    ]
    return lines


def plain(report: Report) -> str:
    """The whole report as text without colours, tables aligned by spaces."""
    parts = [report.title, ""]
    for rows in (metric_rows(report), cost_rows(report), sharing_rows(report)):
        if len(rows) > 1:
            widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
            parts += [
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
            ]
            parts.append("")
    return "\n".join([*parts, *_closing(report), f"  {report.command}"]) + "\n"


def print_report(report: Report, console: Console) -> None:
    """Print the whole report on a rich console; the command stays one line, to be copied."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(report.title, style="bold"), Text(), sep="\n")
    titles = ("What it can do", "What it costs", "What is shared")
    for title, rows in zip(titles, (metric_rows(report), cost_rows(report), sharing_rows(report)), strict=True):
        if len(rows) == 1:
            continue
        table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        for position, header in enumerate(rows[0]):
            style = "bold green" if header == _TITLES["found"] else None
            table.add_column(Text(header), style=style, overflow="fold", no_wrap=position == 0)
        for row in rows[1:]:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table, Text(), sep="\n")
    for line in _closing(report):
        console.print(Text(line))
    console.print(Text(f"  {report.command}", style="cyan"), soft_wrap=True)
