"""One search for several weights of a regularizer: what each found, and which of them no other one beats."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from onnxmtl.cost.count import Costs
from onnxmtl.deploy.report import amount, percent
from onnxmtl.deploy.results import Report, finite

SWEEP_PAGE = "sweep.html"


@dataclasses.dataclass(frozen=True)
class SweepPoint:
    """What one weight led to.

    Attributes:
        weight: Of the regularizer.
        run: The run's directory, relative to the sweep's.
        multiply_adds, parameters: Of the emitted model, heads included.
        share: Multiply-adds as a share of the separate models'; None without these.
        delta: Δ over all tasks in percent against the single-task models; None without these, or without a value.
        tasks: Task -> its Δ.
        tree: The tree in words, where it is one.
        efficient: No other model, hard sharing among them, is both cheaper and better (or equal in one of these).
    """

    weight: float
    run: str
    multiply_adds: int
    parameters: int
    share: float | None = None
    delta: float | None = None
    tasks: dict[str, float | None] = dataclasses.field(default_factory=dict)
    tree: str = ""
    efficient: bool = False


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All of them.

    Attributes:
        title: The backbone and the data.
        recipe: Its name and variant.
        regularizer: Whose weight differs.
        points: By weight.
        separate: Multiply-adds of the single-task models; None without them.
        shared: (multiply-adds, Δ) of the model with hard sharing; None without it.
    """

    title: str
    recipe: str
    regularizer: str
    points: tuple[SweepPoint, ...]
    separate: int | None = None
    shared: tuple[int, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite are null."""
        content: dict[str, Any] = finite(dataclasses.asdict(self))
        return content


def summarized(recipe: str, regularizer: str, runs: Sequence[tuple[float, str, Report]]) -> Sweep:
    """A sweep from the reports of its runs.

    Args:
        recipe: Name and variant.
        regularizer: Whose weight differs.
        runs: (weight, directory, report) of every run.
    """
    first = runs[0][2]
    separate, shared = first.costs.get("separate"), _shared(first)
    points = [_point(weight, run, report, separate) for weight, run, report in sorted(runs, key=lambda run: run[0])]
    known = [(point.multiply_adds, point.delta) for point in points if point.delta is not None]
    known += [shared] if shared is not None else []
    judged = tuple(dataclasses.replace(point, efficient=_efficient(point, known)) for point in points)
    return Sweep(first.title, recipe, regularizer, judged, None if separate is None else separate.multiply_adds, shared)


def _shared(report: Report) -> tuple[int, float] | None:
    change = report.delta.get("shared", math.nan)
    if "shared" not in report.costs or not math.isfinite(change):
        return None
    return report.costs["shared"].multiply_adds, change


def _point(weight: float, run: str, report: Report, separate: Costs | None) -> SweepPoint:
    costs, change = report.costs["found"], report.delta.get("found", math.nan)
    changes = {task.task: task.delta.get("found", math.nan) for task in report.tasks}
    return SweepPoint(
        weight,
        run,
        costs.multiply_adds,
        costs.parameters,
        share=costs.multiply_adds / separate.multiply_adds if separate is not None else None,
        delta=change if math.isfinite(change) else None,
        tasks={task: value if math.isfinite(value) else None for task, value in changes.items()},
        tree="" if report.layout is None else report.layout.text(),
    )


def _efficient(point: SweepPoint, known: Sequence[tuple[int, float]]) -> bool:
    cost, delta = point.multiply_adds, point.delta
    if delta is None:
        return False
    return not any(c <= cost and d >= delta and (c < cost or d > delta) for c, d in known)


def sweep_rows(sweep: Sweep) -> list[list[str]]:
    """A header, a row per weight, and the models that they are compared with."""
    tasks = list(sweep.points[0].tasks) if any(point.delta is not None for point in sweep.points) else []
    rows = [[sweep.regularizer, "multiply-adds", "of separate", "parameters", "Δ", *(f"Δ {t}" for t in tasks), ""]]
    for point in sweep.points:
        rows.append(
            [
                spelled(point.weight),
                amount(point.multiply_adds),
                _share(point.share),
                amount(point.parameters),
                percent(point.delta),
                *(percent(point.tasks[task]) for task in tasks),
                "efficient" if point.efficient else "",
            ]
        )
    blank = [""] * (len(tasks) + 1)
    if sweep.shared is not None:
        cost, delta = sweep.shared
        share = cost / sweep.separate if sweep.separate else None
        rows.append(["all shared", amount(cost), _share(share), "", percent(delta), *blank])
    if sweep.separate is not None:
        rows.append(["separate models", amount(sweep.separate), _share(1.0), "", percent(0.0), *blank])
    return rows


def spelled(weight: float) -> str:
    """A weight as short as it can be told from any other: of directories, tables and marks."""
    short = f"{weight:g}"
    return short if float(short) == weight else repr(weight)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}×"
