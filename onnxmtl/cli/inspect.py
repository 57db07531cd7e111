"""``onnxmtl inspect``: what is in a model file."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxmtl.cli.console import JsonOption, emit_json, show
from onnxmtl.cli.importing import Dialect, parse_size, split_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from onnxmtl.deploy.inspect import Inspection


class Space(enum.StrEnum):
    """Search spaces whose candidates can be told from a network alone."""

    FUSION = "fusion"


def inspect_command(
    path: Annotated[Path, typer.Argument(help="An ONNX file, a .prototxt, or a result directory.", metavar="FILE|DIR")],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="The .caffemodel of a .prototxt.", metavar="FILE")
    ] = None,
    dialect: Annotated[Dialect, typer.Option("--dialect", help="Of a .prototxt.")] = Dialect.AUTO,
    features: Annotated[
        list[str] | None, typer.Option("--features", help="A feature tensor or node; may be given several times.")
    ] = None,
    input_size: Annotated[
        str | None, typer.Option("--input-size", help="HEIGHTxWIDTH of the images.", show_default="the model's")
    ] = None,
    frontier: Annotated[
        int, typer.Option("--frontier", min=1, help="Cut where at most this many tensors are alive.", metavar="K")
    ] = 1,
    groups: Annotated[
        int | None, typer.Option("--groups", min=1, help="Join the blocks to N groups of equal work.", metavar="N")
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option("--add", help="Cut behind this tensor or node too.", metavar="NAME")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Do not cut behind this one.", metavar="NAME")
    ] = None,
    scopes: Annotated[
        int | None, typer.Option("--scopes", min=1, help="Cut where torch's modules change.", metavar="DEPTH")
    ] = None,
    space: Annotated[
        Space | None, typer.Option("--space", help="Show what a search space could decide on instead.")
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option(
            "--tasks",
            min=2,
            help="With --space: how many tasks get a copy of a backbone.",
            show_default="2",
            metavar="N",
        ),
    ] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the blocks to this file.", metavar="FILE")] = None,
    json: JsonOption = False,
) -> None:
    """Show what is in a model: features, blocks and their costs, what is trainable, what tasks share.

    With --space fusion: the layers of the network, and between which of them edges can be searched.

    Example: onnxmtl inspect samples/backbones/resnet18-small.onnx --groups 4 --svg blocks.svg
    """
    from onnxmtl.deploy.drawing import save_drawing
    from onnxmtl.deploy.inspect import Cuts, inspect_model

    cuts = Cuts(frontier, groups, tuple(add or ()), tuple(drop or ()), scopes)
    if space is None and tasks is not None:
        raise typer.BadParameter("--tasks says how many networks there are: give --space fusion with it")
    if space is not None:
        if svg is not None or cuts != Cuts():
            raise typer.BadParameter("--space lists layers; --svg and where to cut are about blocks: leave one out")
        from onnxmtl.cli.inspect_space import show_candidates
        from onnxmtl.deploy.fusion import fusion_candidates

        candidates = fusion_candidates(
            path,
            tasks=tasks or 2,
            weights=weights,
            dialect=dialect.value,
            features=split_names(features),
            input_size=parse_size(input_size) if input_size else None,
        )
        if json:
            emit_json(dataclasses.asdict(candidates))
        else:
            show_candidates(candidates)
        return
    found = inspect_model(
        path,
        weights=weights,
        dialect=dialect.value,
        features=split_names(features),
        input_size=parse_size(input_size) if input_size else None,
        cuts=cuts,
    )
    drawing = None if svg is None else save_drawing(found, svg)
    if json:
        content = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        tree = {} if found.layout is None else found.layout.to_dict()  # as in layout.json
        emit_json(content | {"layout": tree.get("layout")})
        return
    _show(found, with_blocks=found.kind == "backbone" or cuts != Cuts())
    if drawing is not None:
        show("", f"drawn to {drawing}")


def _show(found: Inspection, *, with_blocks: bool) -> None:
    from onnxmtl.deploy.report import amount

    show(_table(None, _facts(found)))
    if with_blocks and found.blocks:
        show("", _table(*_block_table(found)))
    if found.layout is not None:
        show("", "the tree of the tasks:", *found.layout.text().splitlines())
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


def _facts(found: Inspection) -> list[tuple[str, str]]:
    from onnxmtl.deploy.report import amount

    norms = ", ".join(f"{op} {number}" for op, number in found.normalization_kinds.items())
    slots = ", ".join(f"{slot} {amount(size)}" for slot, size in found.slots.items())
    trainable = ", ".join(f"{role} {amount(size)}" for role, size in found.trainable.items())
    facts = [
        ("file", found.file),
        ("kind", f"{found.kind}, opset {found.opset}"),
        *(("input", f"{port.name}: {port.dtype} {_shape(port.shape)}") for port in found.inputs),
        *(("output", f"{port.name}: {port.dtype} {_shape(port.shape)}") for port in found.outputs),
        *(("feature", f"{row.name}: {row.channels} channels at stride {row.stride}") for row in found.features),
        *(("task", f"{row.name}: {row.kind}, {row.channels} channels, {row.output}") for row in found.tasks),
        ("nodes", f"{found.nodes} ({', '.join(f'{op} {number}' for op, number in found.operators.items())})"),
        *(("not trainable", refusal) for refusal in found.unsupported),
        ("normalization", norms or "none (folded, or never there)"),
        ("trainable", f"{trainable} ({slots})" if trainable else "nothing"),
    ]
    costs = found.costs
    if costs is not None:
        facts.append(("parameters", f"{amount(costs.parameters)} ({amount(costs.parameters_trunk)} without heads)"))
        unshared = f" ({amount(costs.multiply_adds_unshared)} without sharing)" if found.tasks else ""
        facts.append(("multiply-adds", f"{amount(costs.multiply_adds)}{unshared}"))
        if found.tasks:
            facts.append(("executed once", f"{costs.executed_once:.1%} of the multiply-adds serve two tasks or more"))
    if found.activation_bytes is not None:
        peak = amount(found.peak_activation_bytes, "B")
        facts.append(("activations", f"{amount(found.activation_bytes, 'B')} in all, {peak} at one moment, per image"))
    if found.file_bytes:
        facts.append(("file size", amount(found.file_bytes, "B")))
    return facts


def _block_table(found: Inspection) -> tuple[list[str], list[tuple[str, ...]]]:
    from onnxmtl.deploy.report import amount

    total = sum(row.multiply_adds or 0 for row in found.blocks)
    rows: list[tuple[str, ...]] = []
    for row in found.blocks:
        names = row.first if row.nodes == 1 else f"{row.first} … {row.last}"
        newest = row.outputs[-1] if row.outputs else None
        more = f" (+{len(row.outputs) - 1})" if len(row.outputs) > 1 and row.index + 1 < len(found.blocks) else ""
        shape = "–" if newest is None else f"{'?' if newest.shape is None else _shape(newest.shape)}{more}"
        share = f" {row.multiply_adds / total:.0%}" if total and row.multiply_adds is not None else ""
        rows.append(
            (
                str(row.index),
                names,
                "–" if newest is None else newest.name,
                shape,
                "–" if row.stride is None else str(row.stride),
                amount(row.parameters),
                f"{amount(row.multiply_adds)}{share}",
                amount(row.activation_bytes, "B"),
            )
        )
    return ["#", "block", "tensor behind", "shape", "stride", "parameters", "multiply-adds", "activations"], rows


def _shape(shape: Iterable[int | str] | None) -> str:
    return "of unknown shape" if shape is None else f"[{', '.join(str(size) for size in shape)}]"


def _table(header: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=header is not None)
    for title in header or ():
        table.add_column(Text(title), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
