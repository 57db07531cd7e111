"""``onnxmtl compare``: runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import JsonOption, emit_json, show, text_table


def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Directories of finished runs, two or more.", metavar="RUN RUN…")],
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the comparison as a page too.", metavar="FILE.html")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare runs: metrics and Δ per task, costs, options that differ; the first run is what the others are held to.

    Runs that share some tasks only are compared by those.

    Example: onnxmtl compare runs/compile-1 runs/compile-2 --html compare.html
    """
    from rich.text import Text

    from onnxmtl.deploy.compare import compare, cost_rows, metric_rows, setting_rows
    from onnxmtl.deploy.html.compare_page import write_comparison

    comparison = compare(runs) if html is None else write_comparison(runs, html)
    if json:
        emit_json({"html": html, **comparison.to_json()})
        return
    titles = {"What they can do": metric_rows, "What they cost": cost_rows, "How they differ": setting_rows}
    for title, rows_of in titles.items():
        rows = rows_of(comparison)
        if len(rows) > 1:
            show(Text(title, style="bold"), text_table(_names_once(rows)), "")
    show(*(f"note: {remark}" for remark in comparison.remarks))
    if html is not None:
        show(f"page: {html}")


def _names_once(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The rows, a task's name only in the first of its own."""
    found, before = [rows[0]], ""
    for row in rows[1:]:
        found.append(("" if row[0] == before else row[0], *row[1:]))
        before = row[0]
    return found
