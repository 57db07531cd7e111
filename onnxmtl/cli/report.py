"""``onnxmtl report``: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.bench import parse_numbers
from onnxmtl.cli.console import JsonOption, console, emit_json, show


def report_command(
    run: Annotated[Path, typer.Argument(help="The directory of a run, finished or not.", metavar="RUN")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The page; an older one is replaced.",
            show_default="RUN/report.html",
            metavar="FILE.html",
        ),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write the figures to this directory too.", metavar="DIR")
    ] = None,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench",
            help="Measure latency first, beside a model per task; kept as RUN/bench.json, an older one is replaced.",
        ),
    ] = False,
    threads: Annotated[str, typer.Option(help="Of --bench: threads within an operator, a measurement each.")] = "1",
    seconds: Annotated[float, typer.Option(min=0, help="Of --bench: how long each model is timed.")] = 2.0,
    quantized: Annotated[
        list[Path] | None,
        typer.Option(
            "--quantized",
            help="A directory that quantize wrote (repeatable); those in the run or beside it are found.",
            metavar="DIR",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a run: what was asked and found, costs, the sharing diagram, the policy, training curves, whether the model
    is what was trained, latency, int8 models, entry points. One HTML file, no network.

    Latency is there after --bench (or: onnxmtl bench RUN --against single-task --json > RUN/bench.json), int8 after
    onnxmtl quantize, entry points after onnxmtl specialize --entry-points.

    Example: onnxmtl report runs/compile-1 --bench --threads 1,2 -o report.html --svg figures
    """  # fmt: skip
    counts = parse_numbers(threads, "--threads")

    from onnxmtl.deploy.bench.bench import BenchOptions
    from onnxmtl.deploy.html import as_json
    from onnxmtl.workflows import report

    told = console(quiet=json)
    options = BenchOptions(threads=counts, seconds=seconds) if bench else None
    written = report(run, output, svg=svg, quantized=quantized or (), measure=options, tell=told.print)
    if json:
        emit_json({"html": written.html, "svg": written.svg, **as_json(written.run)})
        return
    show(*(f"note: {remark}" for remark in written.run.remarks))
    if written.svg:
        show(f"{len(written.svg)} figures: {written.svg[0].parent}")
    show(f"report: {written.html}")
