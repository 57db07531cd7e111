"""``onnxmtl compare``: runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxmtl.cli.console import JsonOption, emit_json, show

if TYPE_CHECKING:
    from rich.table import Table


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
            show(Text(title, style="bold"), _table(rows), "")
    show(*(f"note: {remark}" for remark in comparison.remarks))
    if html is not None:
        show(f"page: {html}")


def _table(rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in rows[0]:
        table.add_column(Text(name), overflow="fold")
    before = ""
    for row in rows[1:]:
        first = "" if row[0] == before else row[0]  # a task's name once
        table.add_row(Text(first), *map(Text, row[1:]))
        before = row[0]
    return table
