"""``onnxmtl export-prototxt``: a network as Caffe and AutoMTL write it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import JsonOption, emit_json, show
from onnxmtl.cli.importing import Dialect, split_names


class Written(enum.StrEnum):
    """How a prototxt is to be written."""

    CAFFE = "caffe"
    AUTOMTL = "automtl"


def export_prototxt_command(
    path: Annotated[
        Path, typer.Argument(help="An ONNX file, a run directory, or another .prototxt.", metavar="FILE|DIR")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .prototxt to write.", metavar="FILE")],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Write the weights to this .caffemodel.", metavar="FILE")
    ] = None,
    dialect: Annotated[
        Written, typer.Option("--dialect", help="caffe: BatchNorm and Scale; automtl: both in BatchNorm.")
    ] = Written.CAFFE,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", help="End the network at this tensor or node; may be given several times."),
    ] = None,
    backbone: Annotated[
        bool, typer.Option("--backbone", help="End the network before its classifier, at the feature that is found.")
    ] = False,
    source_weights: Annotated[
        Path | None, typer.Option("--source-weights", help="The .caffemodel of a .prototxt that is read.")
    ] = None,
    source_dialect: Annotated[
        Dialect, typer.Option("--source-dialect", help="Of a .prototxt that is read; auto tells by its fields.")
    ] = Dialect.AUTO,
    json: JsonOption = False,
) -> None:
    """Write a network as .prototxt, and its weights as .caffemodel, where the format can say it exactly.

    Example: onnxmtl export-prototxt samples/backbones/resnet18-small.onnx -o net.prototxt --weights net.caffemodel
    """
    from onnxmtl.deploy.exporting import export_prototxt

    ends = split_names(features)
    if ends and backbone:
        raise typer.BadParameter("--features says where the network ends, --backbone has it found; give one of them")
    remarks = export_prototxt(
        path,
        output,
        weights,
        dialect=dialect.value,
        features=None if backbone else ends,
        source_weights=source_weights,
        source_dialect=source_dialect.value,
    )
    if json:
        emit_json({"prototxt": output, "weights": weights, "dialect": dialect.value, "remarks": remarks})
        return
    show(*(f"note: {remark}" for remark in remarks))
    show(f"written to {output}" + ("" if weights is None else f", weights to {weights}"))
