"""A measurement as a page of its own, and its chart as a file."""

from __future__ import annotations

from pathlib import Path

from onnxmtl.deploy.bench.results import Bench
from onnxmtl.deploy.bench.rows import latency_rows, profile_rows, subject_rows
from onnxmtl.deploy.html.elements import Section, bullets, facts, page, text_table, tile
from onnxmtl.deploy.html.figure import inline, standalone
from onnxmtl.deploy.html.latency import latency_figure, setting
from onnxmtl.deploy.html.writing import html_target
from onnxmtl.errors import RunError
from onnxmtl.runs import atomic_write


def check_targets(html: Path | None, svg: Path | None) -> None:
    """Refuse names to which :func:`write_bench` cannot write, before anything is measured.

    Raises:
        RunError: The page does not end in ``.html``, the chart not in ``.svg``, or it is a directory.
    """
    if html is not None:
        html_target(html)
    if svg is not None and (svg.suffix.lower() != ".svg" or svg.is_dir()):
        msg = f"{svg}: the chart is written to a file that ends in .svg; choose such a name"
        raise RunError(msg)


def write_bench(found: Bench, html: Path | None, svg: Path | None) -> None:
    """Write the page and the chart, where they are asked for; older ones are replaced.

    Raises:
        RunError: As :func:`check_targets`; or the disk refuses.
    """
    check_targets(html, svg)
    if html is not None:
        atomic_write(html, bench_page(found).encode())
    if svg is not None:
        atomic_write(svg, standalone(latency_figure(found)).encode())


def bench_page(found: Bench) -> str:
    """The whole document."""
    tiles = []
    for one in found.measurements:
        if one.ratio is not None:
            ideal = "" if one.ideal is None else f", by multiply-adds {one.ideal:.3f}×"
            words = f"the latency of {found.baseline}: {one.candidate}, {setting(one)}{ideal}"
            tiles.append(tile(f"{one.ratio.median:.3f}×", words))
    sections = [
        Section("latency", "Latency", inline(latency_figure(found)) + text_table(latency_rows(found))),
        Section("why", "Why", bullets(found.explanations()) if found.explanations() else ""),
        Section("profile", "Where the time goes", text_table(profile_rows(found))),
        Section("models", "What was measured", text_table(subject_rows(found)) + facts(found.machine.items())),
        Section("remarks", "To keep in mind", bullets(found.remarks) if found.remarks else ""),
    ]
    title = " and ".join(subject.name for subject in found.subjects)
    return page(title, "Measured side by side with ONNX Runtime", tiles, sections, "onnxmtl")
