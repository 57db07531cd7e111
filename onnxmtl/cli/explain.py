"""``onnxmtl explain``: why a rewrite did not apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import JsonOption, emit_json, show
from onnxmtl.cli.importing import (
    BatchNorm,
    BatchNormOption,
    Dialect,
    DialectOption,
    FeaturesOption,
    InputSizeOption,
    OutputStrideOption,
    WeightsOption,
    parse_size,
    split_names,
)


def explain_command(
    path: Annotated[Path, typer.Argument(help="A backbone, an emitted model or a run directory.", metavar="FILE|RUN")],
    weights: WeightsOption = None,
    dialect: DialectOption = Dialect.AUTO,
    features: FeaturesOption = None,
    output_stride: OutputStrideOption = 0,
    input_size: InputSizeOption = None,
    batchnorm: BatchNormOption = BatchNorm.KEEP,
    code: Annotated[list[str] | None, typer.Option("--code", help="Only remarks of this code (repeatable).")] = None,
    node: Annotated[str | None, typer.Option("--node", help="Only remarks on this node.")] = None,
    json: JsonOption = False,
) -> None:
    """Say, node by node, what was not shared, skipped, folded or merged, and why.

    A backbone is imported with the options that `onnxmtl compile` would get.

    Example: onnxmtl explain samples/backbones/resnet18-small.onnx
    """
    from rich.table import Table
    from rich.text import Text

    from onnxmtl.deploy.explain import ImportOptions, as_json, explain

    options = ImportOptions(
        split_names(features), output_stride, batchnorm.value, parse_size(input_size) if input_size else None
    )
    found = [
        entry
        for entry in explain(path, weights=weights, dialect=dialect.value, options=options)
        if (not code or entry.code in code) and (node is None or entry.node == node)
    ]
    if json:
        emit_json(as_json(found))
        return
    if not found:
        chosen = " of that kind" if code or node else ""
        show(f"nothing{chosen} to explain" + ("" if chosen else ": every rewrite applied"))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("stage", "code", "node", "reason"):
        table.add_column(Text(title), overflow="fold")
    for entry in found:
        reason = f"{entry.reason} ({entry.hint})" if entry.hint else entry.reason
        table.add_row(*(Text(cell) for cell in (entry.stage, entry.code, entry.node, reason)))
    show(table)
