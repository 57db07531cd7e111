"""``onnxmtl merge``: trained models that share weights, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import JsonOption, QuietOption, emit_json, show, text_table


def merge_command(
    models: Annotated[
        list[Path],
        typer.Argument(help="ONNX files, or directories with a model.onnx; two or more.", metavar="MODEL MODEL…"),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The ONNX file to write; a new one.", metavar="FILE.onnx")
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            "-t",
            help="Names for the models' outputs, one per model, as seg,depth.",
            show_default="their own; the files' names where these clash",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare all outputs with the single models' in ONNX Runtime.")
    ] = True,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put trained models into one file; what they compute alike, to the last bit, is computed once.

    For models that were fine-tuned from one network with a frozen trunk. Tells what every two of them share, the first
    node in which they differ, and why. Opsets and names of inputs may differ.

    Example: onnxmtl merge seg.onnx depth.onnx -o both.onnx
    Example: onnxmtl merge runs/a runs/b edges.onnx -o all.onnx --tasks seg,depth,edges
    """
    if len(models) < 2:
        raise typer.BadParameter("merging takes two models or more", param_hint="MODEL")
    names = [name.strip() for name in tasks.split(",")] if tasks is not None else []

    from onnxmtl.deploy.merge import cost_rows, pair_lines, parity_lines
    from onnxmtl.workflows.merging import merge

    report = merge(models, output, tasks=names, check=check)
    if json:
        emit_json(report.to_json())
    elif quiet:
        print(report.model)
    else:
        show(text_table(cost_rows(report), right=True), "")
        show(*pair_lines(report), "")
        show(*parity_lines(report), *(f"note: {remark}" for remark in report.remarks), f"written to {report.model}")
