"""``onnxmtl inspect``: what is in a model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxmtl.cli.console import JsonOption, emit_json, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from onnxmtl.deploy.inspect import Inspection


def inspect_command(
    path: Annotated[Path, typer.Argument(help="An ONNX file, or a result directory.", metavar="FILE|DIR")],
    json: JsonOption = False,
) -> None:
    """Show what is in a model: a backbone's features and costs, or what a multi-task model shares.

    Example: onnxmtl inspect samples/backbones/resnet18-small.onnx
    """
    from onnxmtl.deploy.inspect import inspect_model

    found = inspect_model(path)
    if json:
        emit_json(found)
    else:
        _show(found)


def _show(found: Inspection) -> None:
    from onnxmtl.deploy.report import amount

    facts = [
        ("file", found.file),
        ("kind", f"{found.kind}, opset {found.opset}"),
        *(("input", f"{port.name}: {port.dtype} {_shape(port.shape)}") for port in found.inputs),
        *(("output", f"{port.name}: {port.dtype} {_shape(port.shape)}") for port in found.outputs),
        *(("feature", f"{row.name}: {row.channels} channels at stride {row.stride}") for row in found.features),
        *(("task", f"{row.name}: {row.kind}, {row.channels} channels, {row.output}") for row in found.tasks),
        ("nodes", f"{found.nodes} ({', '.join(f'{op} {number}' for op, number in found.operators.items())})"),
        (
            "normalization",
            f"{found.normalizations} nodes" if found.normalizations else "none (folded, or never there)",
        ),
        ("trainable", ", ".join(f"{role} {amount(size)}" for role, size in found.trainable.items()) or "nothing"),
    ]
    costs = found.costs
    if costs is not None:
        facts.append(("parameters", f"{amount(costs.parameters)} ({amount(costs.parameters_trunk)} without heads)"))
        unshared = f" ({amount(costs.multiply_adds_unshared)} without sharing)" if found.tasks else ""
        facts.append(("multiply-adds", f"{amount(costs.multiply_adds)}{unshared}"))
        if found.tasks:
            facts.append(("executed once", f"{costs.executed_once:.1%} of the multiply-adds serve two tasks or more"))
        facts.append(("file size", amount(costs.file_bytes, "B")))
    show(_table(None, facts))
    if found.sharing:
        tasks = [row.name for row in found.tasks]
        rows = [
            (row.layer, row.op, *(row.uses.get(task, "–") for task in tasks), amount(row.parameters))
            for row in found.sharing
        ]
        show("", _table(["layer", "op", *tasks, "parameters"], rows))
    if found.sites:
        sites = [(row.id, row.kind, " · ".join(row.options), str(row.choices)) for row in found.sites]
        show("", _table(["site", "kind", "options", "choices"], sites))
    show(*(f"note: {remark}" for remark in found.remarks))


def _shape(shape: Iterable[int | str]) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"


def _table(header: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=header is not None)
    for title in header or ():
        table.add_column(Text(title), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
