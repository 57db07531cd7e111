"""What the report says about the model on the device: parity, latency, int8, entry points."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxmtl.deploy.bench.results import Bench
from onnxmtl.deploy.bench.rows import latency_rows, profile_rows, subject_rows
from onnxmtl.deploy.certificate import SINGLE
from onnxmtl.deploy.html.elements import (
    Cell,
    Row,
    Section,
    beside,
    bullets,
    facts,
    folded,
    paragraph,
    stacked,
    table,
    text_table,
    tile,
)
from onnxmtl.deploy.html.figure import PANEL, Figure, Panel, inline, legend_item
from onnxmtl.deploy.html.latency import latency_figure, setting
from onnxmtl.deploy.html.theme import task_class
from onnxmtl.deploy.ondevice import EntryPointParts, Int8Model, OnDevice
from onnxmtl.deploy.quantize.results import block_rows, summary, task_rows
from onnxmtl.deploy.report import amount
from onnxmtl.deploy.svg import box, clean, cut, group, label
from onnxmtl.deploy.verify import TIES, TaskCheck, VerifyReport

_ROW, _BAR = 40.0, 14.0


def device_figures(found: OnDevice) -> list[Figure]:
    """Those that there is something for: latency, what each task runs."""
    figures = [] if found.bench is None or not found.bench.measurements else [latency_figure(found.bench)]
    if found.entry_points is not None and (drawn := entry_points_figure(found.entry_points)) is not None:
        figures.append(drawn)
    return figures


def device_tiles(found: OnDevice) -> list[str]:
    """Headline numbers: the first ratio of latencies, the smallest int8 model, whether the model verifies."""
    tiles = []
    ratios = [] if found.bench is None else [one for one in found.bench.measurements if one.ratio is not None]
    if found.bench is not None and ratios and ratios[0].ratio is not None:
        one = ratios[0]
        tiles.append(tile(f"{ratios[0].ratio.median:.2f}×", f"the latency of {found.bench.baseline}, {setting(one)}"))
    if found.int8:
        report = min((one.report for one in found.int8), key=lambda report: report.size_ratio)
        words = "the file size in int8, " + ("every task held" if report.held else "but a task is not held")
        tiles.append(tile(f"{report.size_ratio:.2f}×", words, "" if report.held else "bad"))
    if found.verified is not None:
        errors = [max(one.plain_error, one.optimized_error) for one in found.verified.tasks]
        good = found.verified.passed
        value = _digits(max(errors, default=0.0)) if good else "differs"
        words = "relative error, at most, against what was trained" if good else "it is not what was trained, see below"
        tiles.append(tile(value, words, "good" if good else "bad"))
    return tiles


def device_sections(found: OnDevice, figures: Mapping[str, Figure]) -> list[Section]:
    """One per part that is there."""
    return [
        Section("parity", "Is it what was trained", "" if found.verified is None else _parity(found.verified)),
        Section("latency", "How fast it is", "" if found.bench is None else _latency(found.bench, figures)),
        Section("int8", "In int8", "".join(_int8(one, len(found.int8) > 1) for one in found.int8)),
        Section(
            "entry-points",
            "Tasks on their own",
            "" if found.entry_points is None else _entry_points(found.entry_points, figures),
        ),
    ]


def missing(found: OnDevice) -> list[tuple[str, str]]:
    """What could be measured and was not, and the command for it."""
    return [
        ("parity", "" if found.verified is not None else "onnxmtl verify RUN"),
        ("latency", "" if found.bench is not None else "onnxmtl report RUN --bench"),
        ("int8", "" if found.int8 else "onnxmtl quantize RUN -o RUN-int8"),
        ("tasks on their own", "" if found.entry_points is not None else "onnxmtl specialize RUN --entry-points"),
    ]


# -- parity ----------------------------------------------------------------------------------------------------------


def _parity(report: VerifyReport) -> str:
    whole = report.precision == SINGLE
    if report.passed:
        verdict = paragraph(
            f"Yes: its {report.weights} weights and {report.operators} operators are those that were emitted, and "
            "ONNX Runtime computes what torch computed when it was trained, on the images of the certificate"
            + ("." if whole else f", as far as {report.precision} can.")
        )
    else:
        verdict = paragraph("No.", "bad") + bullets(report.problems)
    torch = any(one.torch_error is not None for one in report.tasks)
    classes = any(one.agreement is not None for one in report.tasks)
    header: list[Cell | str] = ["task", "optimizations off", "on", "alone or in a batch"]
    header += ["same class"] * classes + ["torch, again"] * torch
    rows: list[tuple[str, Row]] = [("", _check(one, report, classes, torch)) for one in report.tasks]
    measure = "Largest difference over the largest value" if whole else "Length of the difference over the output's"
    read = paragraph(
        f"{measure}, per task; allowed are {_digits(report.plain_tolerance)} with ONNX Runtime's optimizations off and "
        f"{_digits(report.optimized_tolerance)} else"
        + (
            f"; of class numbers the share that differs, at most {_digits(_ties(report))}."
            if _integers(report)
            else "."
        ),
        "faint",
    )
    file = "the file that was emitted, byte for byte" if report.same_file else "not the file that was emitted"
    known = [("file", f"{report.model}: {file}"), ("precision", "" if whole else report.precision)]
    return verdict + (table(header, rows) if rows else "") + read + facts(known)


def _check(one: TaskCheck, report: VerifyReport, classes: bool, torch: bool) -> list[Cell | str]:
    ties = _ties(report)
    plain, optimized = (ties, ties) if one.integer else (report.plain_tolerance, report.optimized_tolerance)
    cells: list[Cell | str] = [one.task, _error(one.plain_error, plain)]
    cells += [_error(error, optimized) for error in (one.optimized_error, one.batch_error)]
    if classes:
        cells.append("" if one.agreement is None else f"{one.agreement:.2%}")
    if torch:
        cells.append(Cell("") if one.torch_error is None else _error(one.torch_error, optimized))
    return cells


def _error(value: float, limit: float) -> Cell:
    return Cell(_digits(value), "" if value <= limit else "bad")


def _digits(value: float) -> str:
    """1.5e-6, and not 1.5e-06."""
    if not math.isfinite(value):
        return "not finite"
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")


def _integers(report: VerifyReport) -> bool:
    return any(one.integer for one in report.tasks)


def _ties(report: VerifyReport) -> float:
    return TIES if report.precision == SINGLE else report.optimized_tolerance


# -- latency ---------------------------------------------------------------------------------------------------------


def _latency(found: Bench, figures: Mapping[str, Figure]) -> str:
    if not found.measurements:
        return ""
    words = "±: half of all rounds lie within; memory: what its sessions take, at the end and at most."
    if found.baseline:
        words = f"×: share of {found.baseline}; processor: of the time that all threads worked; {words}"
    notes = [*found.explanations(), *found.remarks]
    more = text_table(profile_rows(found)) + text_table(subject_rows(found)) + facts(found.machine.items())
    return (
        inline(figures["latency"])
        + _latency_table(found)
        + paragraph(words, "faint")
        + (bullets(notes) if notes else "")
        + folded("profile, files, machine", more)
    )


def _latency_table(found: Bench) -> str:
    """Per setting a row of its own, then the candidates; what is looked for first stands on the left."""
    header, *cells = latency_rows(found)
    order = [header.index(name) for name in ("model", "ms")]
    order += [i for i in range(len(header)) if i not in order and header[i] not in ("threads", "batch")]
    if found.baseline:
        order = [*order[:2], *(header.index(name) for name in ("latency", "processor", "multiply-adds"))]
        order += [header.index(name) for name in ("images/s", "memory", "peak")]
    rows: list[tuple[str, Row]] = []
    before = ""
    for one, row in zip(found.measurements, cells, strict=True):
        if (where := setting(one)) != before:
            rows.append(("total first", [where, *("" for _ in order[1:])]))
            before = where
        name, *others = (row[i] for i in order)
        rows.append(("", [Cell(name, "metric"), *others]))
    titles = {"latency": "× latency", "processor": "× processor", "multiply-adds": "× multiply-adds"}
    return table([titles.get(header[i], header[i]) for i in order], rows)


# -- int8 ------------------------------------------------------------------------------------------------------------


def _int8(model: Int8Model, several: bool) -> str:
    report = model.report
    title = f"<h3>{clean(model.name)}</h3>" if several else ""
    rows = task_rows(report)
    tasks: list[tuple[str, Row]] = [
        ("", [row[0], Cell(row[1], "text"), *row[2:-1], Cell(row[-1], "good" if held.held else "bad")])
        for row, held in zip(rows[1:], report.tasks, strict=True)
    ]
    head: list[Cell | str] = [rows[0][0], Cell(rows[0][1], "text"), *rows[0][2:]]
    blocks = folded(
        f"all {len(report.blocks)} blocks", text_table(block_rows(report)) + paragraph(_SENSITIVITY, "faint")
    )
    where = "" if several else paragraph(f"In the directory {model.name}.", "faint")
    return (
        title
        + table(head, tasks)
        + bullets(
            [*summary(report), *(["weights in 7 bits, for processors without VNNI"] if report.reduce_range else [])]
        )
        + where
        + blocks
    )


_SENSITIVITY = (
    "changes: how far the task's output moves if this block alone is in int8, over the output's standard deviation; of "
    "class numbers the share that changes. *: the largest of the task."
)


# -- entry points ----------------------------------------------------------------------------------------------------


def entry_points_figure(found: EntryPointParts) -> Figure | None:
    """A bar per task: the segments that run for it alone, as wide as their multiply-adds; None if they are unknown."""
    total = found.total
    if not total:
        return None
    width = PANEL - 2.0
    parts = []
    for i, task in enumerate(found.outputs):
        top, share = _ROW * i, found.share(task) or 0.0
        parts.append(label(0, top + 12, f"{cut(task, 30)}  {share:.0%}"))
        parts.append(box(0, top + 18, width, _BAR, "band", radius=2))
        left = 0.0
        for segment in found.segments:
            room = width * (segment.multiply_adds or 0) / total
            if task in segment.tasks and room:
                kind = task_class(i) if len(segment.tasks) == 1 else "bar"
                words = f"{segment.name}: {amount(segment.multiply_adds)} multiply-adds, for {', '.join(segment.tasks)}"
                parts.append(group([box(left, top + 18, max(1.0, room - 1), _BAR, kind, radius=1)], words))
            left += room
    legend = (
        legend_item([box(0, -5, 12, 10, "bar")], 12, "for several tasks"),
        legend_item([box(0, -5, 6, 10, task_class(0)), box(6, -5, 6, 10, task_class(1))], 12, "for this one only"),
        legend_item([box(0, -5, 12, 10, "band")], 12, "does not run"),
    )
    text = "Share of all multiply-adds that run if one task is asked for, in the order in which they run."
    panel = Panel(PANEL, _ROW * len(found.outputs), "".join(parts), "bars: what each task runs")
    return Figure("entry-points", "What each task needs", text, (panel,), legend)


def _entry_points(found: EntryPointParts, figures: Mapping[str, Figure]) -> str:
    rows: list[tuple[str, Row]] = []
    for segment in found.segments:
        tasks = "all" if len(segment.tasks) == len(found.outputs) else ", ".join(segment.tasks)
        rows.append(("", [segment.name, Cell(tasks, "text"), str(segment.nodes), amount(segment.multiply_adds)]))
    use = paragraph(
        'onnxmtl.runtime.load("entry_points") in the run\'s directory gives model(image, tasks=[…]), which loads and '
        "runs only what these tasks need. With ONNX Runtime's optimizations off the outputs are the single file's, "
        f"bit for bit (convolutions of several tasks that were fused are taken apart first){_differences(found)}.",
        "faint",
    )
    listed = stacked(table(["segment", Cell("for", "text"), "operators", "multiply-adds"], rows), use)
    return beside(listed, inline(figures["entry-points"])) if "entry-points" in figures else listed


def _differences(found: EntryPointParts) -> str:
    """What follows "bit for bit": the largest difference of each task; "" where it is not known."""
    known = [(task, found.differences[task]) for task in found.outputs if task in found.differences]
    if not known:
        return ""
    if not any(one.relative for _, one in known):
        return ", and with them on too"
    told = [
        f"{task} {_digits(one.relative)}" + ("" if one.ulps is None else f" ({one.ulps:,} ulp)") for task, one in known
    ]
    return f"; with them on they differ by at most, relative to the largest value: {', '.join(told)}"
