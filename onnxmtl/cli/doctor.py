"""``onnxmtl doctor``: what is installed, and what really runs."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxmtl.cli.console import JsonOption, emit_json, show


def doctor_command(
    provider: Annotated[
        list[str] | None,
        typer.Option(help="Execution provider to try, e.g. CUDAExecutionProvider; repeat for several. Default: all."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check the installation: versions, flavours of onnxruntime, providers that really start.

    Exits with 1 if onnxruntime is missing or broken, and prints the command that repairs it.

    Example: onnxmtl doctor --provider CUDAExecutionProvider
    """
    from onnxmtl.deploy.doctor import examine

    result = examine(provider)
    if json:
        emit_json(result)
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, version in result.versions.items():
            table.add_row(name, version)
        for found in result.providers:
            table.add_row(found.asked, Text("runs" if found.usable else f"does not run: {found.reason}"))
        show(table)
        for problem in result.problems:
            show(f"problem: {problem}")
        if result.repair:
            show(f"repair:  {result.repair}")
    if result.problems:
        raise typer.Exit(1)
