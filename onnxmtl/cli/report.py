"""``onnxmtl report``: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import JsonOption, emit_json, show


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
    json: JsonOption = False,
) -> None:
    """Show a run: metrics, costs, the sharing diagram, the policy, training curves. One HTML file, no network.

    Example: onnxmtl report runs/compile-1 -o report.html --svg figures
    """  # fmt: skip
    from onnxmtl.deploy.html import as_json, write_html

    written = write_html(run, output, svg=svg)
    if json:
        emit_json({"html": written.html, "svg": written.svg, **as_json(written.run)})
        return
    show(*(f"note: {remark}" for remark in written.run.remarks))
    if written.svg:
        show(f"{len(written.svg)} figures: {written.svg[0].parent}")
    show(f"report: {written.html}")
