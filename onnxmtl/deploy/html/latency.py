"""The chart of a measurement: milliseconds of all candidates in every setting, with half of all rounds between the
whiskers."""

from __future__ import annotations

from onnxmtl.deploy.bench.results import Bench, Measurement
from onnxmtl.deploy.bench.rows import digits
from onnxmtl.deploy.html.axes import axis, tick_text
from onnxmtl.deploy.html.figure import PANEL, Figure, Panel, legend_item
from onnxmtl.deploy.svg import box, cut, group, label, line, polygon

_ROW = 24


def latency_figure(found: Bench) -> Figure:
    """A panel per setting, a bar per candidate; the baseline and the ideal are marked."""
    settings = list(dict.fromkeys((one.threads, one.batch) for one in found.measurements))
    panels = tuple(
        _panel(found, [one for one in found.measurements if (one.threads, one.batch) == each]) for each in settings
    )
    legend = [legend_item([box(0, -5, 12, 10, "found")], 12, "median")]
    legend.append(legend_item([line(0, 0, 12, 0, "rim"), line(6, -4, 6, 4, "rim")], 12, "quartiles"))
    if any(one.ideal for one in found.measurements):
        legend.append(legend_item([_wedge(6, 4)], 12, "baseline × multiply-adds"))
    text = "Milliseconds of one batch, all models of a candidate together; shorter is better."
    return Figure("latency", "Latency", text, panels, tuple(legend))


def _panel(found: Bench, rows: list[Measurement]) -> Panel:
    base = next((one.latency.median for one in rows if one.candidate == found.baseline), None)
    ideals = [base * one.ideal for one in rows if base is not None and one.ideal is not None]
    across = axis([*(one.latency.high for one in rows), *ideals, 0.0], 0, PANEL - 12, zero=True)
    top, height = 22.0, 2 * _ROW
    bottom = top + height * len(rows)
    parts = [label(0, 12, setting(rows[0]), "bold")]
    for tick in across.ticks():
        parts.append(line(across.at(tick), top, across.at(tick), bottom, "rim" if tick == 0 else "grid"))
        parts.append(label(across.at(tick), bottom + 14, tick_text(tick), "faint", anchor="middle", size=10))
    for i, one in enumerate(rows):
        y = top + height * i
        kind = "bar" if one.candidate == found.baseline else "found"
        ratio = "" if one.ratio is None else f" · {one.ratio.median:.2f}×"
        words = f"{cut(one.candidate, 28)}  {digits(one.latency.median)} ms{ratio}"
        middle = y + _ROW + 6
        marks = [
            label(2, y + 15, words),
            box(0, middle - 6, across.at(one.latency.median), 12, kind, radius=1),
            line(across.at(one.latency.low), middle, across.at(one.latency.high), middle, "rim"),
        ]
        marks += [
            line(across.at(value), middle - 4, across.at(value), middle + 4, "rim")
            for value in (one.latency.low, one.latency.high)
        ]
        if base is not None and one.ideal is not None:
            x = across.at(base * one.ideal)
            marks.append(_wedge(x, middle - 6))
        parts.append(group(marks, f"{one.candidate}: {digits(one.latency.median)} ms{ratio}"))
    return Panel(PANEL, bottom + 20, "".join(parts), f"bars: latency with {setting(rows[0])}")


def _wedge(x: float, y: float) -> str:
    """A small mark that points down to (x, y)."""
    return polygon([(x - 4, y - 7), (x + 4, y - 7), (x, y)], "ink halo")


def setting(one: Measurement) -> str:
    """In words: threads and batch."""
    return f"{one.threads} thread{'s' * (one.threads != 1)}, batch {one.batch}"
