"""The final table of a run: what was found, what it costs, what is shared. Workflows fill it, the CLI prints it."""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxmtl.cost.count import Costs
from onnxmtl.cost.sharing import SharingRow

if TYPE_CHECKING:
    from rich.console import Console

MODELS = ("separate", "shared", "found")
_TITLES = {"separate": "separate models", "shared": "all shared", "found": "found", "constant": "constant"}


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One task's primary metric on the validation set; None where it was not measured.

    Attributes:
        task: Name of the task.
        kind: Its kind.
        metric: Name of the primary metric.
        higher_is_better: Direction of the metric.
        separate: Of a model of its own.
        shared: With the whole backbone shared by all tasks.
        found: Of the emitted model.
        constant: Of the best constant prediction.
    """

    task: str
    kind: str
    metric: str
    higher_is_better: bool
    found: float
    constant: float
    separate: float | None = None
    shared: float | None = None

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
    """

    layer: str
    op: str
    uses: Mapping[str, str]
    runs: tuple[tuple[str, ...], ...]
    parameters: int

    @classmethod
    def of(cls, row: SharingRow) -> LayerRow:
        """What :func:`onnxmtl.cost.sharing.sharing` found, as text."""
        uses = {task: str(use) for task, use in row.uses.items()}
        return cls(row.layer, row.op, uses, row.runs, row.parameters)

    @property
    def executed_once(self) -> bool:
        """Whether one execution serves two tasks or more."""
        return any(len(group) > 1 for group in self.runs)


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
    """

    title: str
    tasks: tuple[TaskResult, ...]
    costs: Mapping[str, Costs]
    sharing: tuple[LayerRow, ...]
    model: str
    command: str
    weights: str = "retrained"
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, with margins; numbers that are not finite are null."""
        content: dict[str, Any] = _finite(dataclasses.asdict(self))
        for row, task in zip(content["tasks"], self.tasks, strict=True):
            row["margin"] = _finite(task.margin)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """Read what :meth:`to_json` made (null metrics come back as nan)."""
        rest = dict(content)
        tasks = []
        for row in rest.pop("tasks"):
            fields = {key: value for key, value in row.items() if key != "margin"}
            for key in ("found", "constant"):
                fields[key] = math.nan if fields[key] is None else fields[key]
            tasks.append(TaskResult(**fields))
        sharing = [
            LayerRow(**{**row, "runs": tuple(tuple(group) for group in row["runs"])}) for row in rest.pop("sharing")
        ]
        costs = {name: Costs(**costs) for name, costs in rest.pop("costs").items()}
        notes = tuple(rest.pop("notes"))
        return cls(tasks=tuple(tasks), sharing=tuple(sharing), costs=costs, notes=notes, **rest)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def metric_rows(report: Report) -> list[list[str]]:
    """The table of metrics: a header and one row per task."""
    rows = [["task", "metric", *(_TITLES[name] for name in (*MODELS, "constant")), "better than constant by"]]
    for task in report.tasks:
        arrow = "↑" if task.higher_is_better else "↓"
        share = f" ({task.margin / abs(task.constant):+.0%})" if task.constant else ""
        values = [number(value) for value in (task.separate, task.shared, task.found, task.constant)]
        rows.append([task.task, f"{task.metric} {arrow}", *values, f"{number(task.margin)}{share}"])
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
        f"executed once for two tasks or more: {report.costs['found'].executed_once:.1%} of the executed "
        f"multiply-adds, {once} of {len(report.sharing)} layers with parameters",
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
