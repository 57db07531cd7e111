"""The sharing diagram: a line per task from the image to its head, a stop per layer, like the map of an underground.

A stop that several lines have in common is executed once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxmtl.deploy.html.figure import PANEL, Figure, Panel, legend_item
from onnxmtl.deploy.html.rows import NAMES, bands, broken, head_height, heads, name_cell, row_height, short_names
from onnxmtl.deploy.html.theme import task_class
from onnxmtl.deploy.report import amount
from onnxmtl.deploy.results import LayerRow
from onnxmtl.deploy.svg import box, dot, group, label, line

_BAR_LEFT, _BAR_WIDTH = 274, 46
_WIDEST = 34  # between two lines


def sharing_figure(rows: Sequence[LayerRow], tasks: Sequence[str]) -> Figure:
    """Which tasks run which layers together.

    Args:
        rows: The layers, in the order of the network; at least one.
        tasks: Names of the tasks; their position gives their colour. The lines are ordered so that those that run
            together are neighbours.
    """
    order = line_order(rows, tasks)
    names = dict(zip((row.layer for row in rows), short_names([row.layer for row in rows]), strict=True))
    most = max((_work(row) for row in rows), default=0)
    once = sum(row.executed_once for row in rows)
    parts = broken(rows)
    panels = [
        _panel(part, order, tasks, names, most, len(rows), f"{i + 1} of {len(parts)}") for i, part in enumerate(parts)
    ]
    return Figure(
        "sharing",
        "Sharing diagram",
        f"From the image (top) to the heads: one line per task, one stop per layer. {once} of {len(rows)} layers are "
        "executed once for two tasks or more.",
        tuple(panels),
        _legend(order, tasks, any(row.multiply_adds is not None for row in rows)),
    )


def line_order(rows: Sequence[LayerRow], tasks: Sequence[str]) -> list[str]:
    """The tasks, ordered so that groups that run together lie as close as can be (an exact program over subsets).

    The cost of an order is the number of places between two neighbouring lines that a group crosses, summed over all
    layers. More than ten tasks keep their order.
    """
    count = len(tasks)
    if count > 10:
        return list(tasks)
    groups: dict[int, int] = {}
    for row in rows:
        for run in row.runs:
            mask = sum(1 << tasks.index(task) for task in run if task in tasks)
            if mask.bit_count() > 1:
                groups[mask] = groups.get(mask, 0) + 1
    cuts = [sum(n for g, n in groups.items() if g & left and g & ~left) for left in range(1 << count)]
    # best[placed] = (cost, order); of equal cost, the one nearest to the user's order.
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for placed in range(1, 1 << count):
        options = []
        for last in range(count):
            if placed >> last & 1:
                cost, before = best[placed & ~(1 << last)]
                options.append((cost + cuts[placed], (*before, last)))
        best.append(min(options))
    return [tasks[i] for i in best[-1][1]]


def _work(row: LayerRow) -> int:
    """Multiply-adds of all executions; parameters where they are not known."""
    return row.parameters if row.multiply_adds is None else row.multiply_adds * len(row.runs)


def _panel(
    rows: Sequence[LayerRow],
    order: Sequence[str],
    tasks: Sequence[str],
    names: Mapping[str, str],
    most: int,
    total: int,
    number: str,
) -> Panel:
    colours = [tasks.index(task) for task in order]
    step = min(_WIDEST, (_BAR_LEFT - NAMES - 26) / max(1, len(order) - 1))
    xs = dict(zip(order, (NAMES + 8 + step * i for i in range(len(order))), strict=True))
    top, height = head_height(order), row_height(total)
    bottom = top + height * len(rows)
    parts = [
        *heads(list(zip(order, colours, strict=True)), list(xs.values()), top),
        label(_BAR_LEFT, top - 6, "work", "faint"),
        *bands(len(rows), top, height, PANEL),
    ]
    for task, colour in zip(order, colours, strict=True):
        parts += _way(rows, task, colour, xs[task], top, height)
    for i, row in enumerate(rows):
        y = top + height * (i + 0.5)
        width = _BAR_WIDTH * _work(row) / most if most else 0
        shapes = [name_cell(names[row.layer], y), box(_BAR_LEFT, y - 3.5, width, 7, "bar", radius=1)]
        parts.append(group([*shapes, *_stops(row, order, tasks, xs, y)], _tip(row)))
    shown = f"sharing diagram, part {number}: {len(rows)} layers, {len(order)} tasks"
    return Panel(PANEL, bottom + 4, "".join(parts), shown)


def _way(rows: Sequence[LayerRow], task: str, colour: int, x: float, top: float, height: float) -> list[str]:
    """A task's line: thin and dashed where it skips, one piece for equal neighbours."""
    parts, start = [], 0
    used = [_used(row, task) for row in rows]
    for i in range(1, len(rows) + 1):
        if i == len(rows) or used[i] != used[start]:
            kind = f"{task_class(colour)} way" + ("" if used[start] else " thin")
            parts.append(line(x, top + start * height, x, top + i * height, kind))
            start = i
    return parts


def _used(row: LayerRow, task: str) -> bool:
    return any(task in run for run in row.runs)


def _stops(row: LayerRow, order: Sequence[str], tasks: Sequence[str], xs: Mapping[str, float], y: float) -> list[str]:
    parts: list[str] = []
    tied = [task for task in order if row.uses.get(task, "").startswith("weights")]
    if tied:
        partners = {p for task in tied for p in row.uses[task].partition(" of ")[2].split(", ")} & set(order)
        ends = [xs[task] for task in {*tied, *partners}]
        parts.append(line(min(ends), y, max(ends), y, "rim tie"))
    together = [[i for i, task in enumerate(order) if task in run] for run in row.runs if len(run) > 1]
    split = [places for places in together if len(_pieces(places)) > 1]
    for places in together:
        bent = y + 4 * (split.index(places) - (len(split) - 1) / 2) if places in split else y
        parts.append(line(xs[order[places[0]]], bent, xs[order[places[-1]]], bent, "rim bridge"))
        for kind in ("rim shell", "core"):
            parts += [line(xs[order[a]], y, xs[order[b]] + 0.01, y, kind) for a, b in _pieces(places)]
        parts += [dot(xs[order[i]], y, 2.3, task_class(tasks.index(order[i]))) for i in places]
    for run in row.runs:
        if len(run) == 1 and run[0] in xs:
            task = run[0]
            colour = task_class(tasks.index(task))
            parts.append(
                dot(xs[task], y, 3.7, f"{colour} ring hollow")
                if task in tied
                else dot(xs[task], y, 4.4, f"{colour} halo")
            )
    return parts


def _pieces(places: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring places: [0, 1, 3] -> [(0, 1), (3, 3)]."""
    found = [(places[0], places[0])]
    for place in places[1:]:
        first, last = found[-1]
        if place == last + 1:
            found[-1] = (first, place)
        else:
            found.append((place, place))
    return found


def _tip(row: LayerRow) -> str:
    uses = "; ".join(f"{task}: {use}" for task, use in row.uses.items())
    work = "" if row.multiply_adds is None else f", {amount(row.multiply_adds)} multiply-adds per execution"
    return f"{row.layer} ({row.op}), {amount(row.parameters)} parameters{work}. {uses}"


def _legend(order: Sequence[str], tasks: Sequence[str], work: bool) -> tuple[Panel, ...]:
    first = tasks.index(order[0]) if order else 0
    second = tasks.index(order[1]) if len(order) > 1 else first
    a, b = task_class(first), task_class(second)
    both = (line(8, 0, 26, 0, "rim shell"), line(8, 0, 26, 0, "core"), dot(8, 0, 2.3, a), dot(26, 0, 2.3, b))
    tied = (line(5, 0, 23, 0, "rim tie"), dot(5, 0, 3.7, f"{a} ring hollow"), dot(23, 0, 3.7, f"{b} ring hollow"))
    return (
        legend_item([*both], 33, "executed once for these tasks"),
        legend_item([*tied], 29, "same weights, executed for each"),
        legend_item([line(5, -10, 5, 10, f"{a} way"), dot(5, 0, 4.4, f"{a} halo")], 10, "weights of its own"),
        legend_item([line(5, -10, 5, 10, f"{a} way thin")], 10, "skipped"),
        legend_item(
            [box(0, -3.5, 26, 7, "bar", radius=1)],
            26,
            "work: multiply-adds of all executions" if work else "parameters",
        ),
    )
