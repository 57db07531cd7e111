"""Networks of the zoo, imported."""

from __future__ import annotations

import functools
from typing import Any

import onnx
import onnx_ir as ir

from helpers.zoo.exporting import Exporter, export
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.normalize import normalize


def backbone(name: str, exporter: Exporter = "legacy", *, batch: int | None = 1, **options: Any) -> ir.Model:
    """The network as :func:`onnxmtl.passes.normalize.normalize` makes it; a model of its own for every caller.

    Args:
        name: A key of NETWORKS.
        exporter: Who wrote it.
        batch: Of the export.
        options: For normalize. The features of the pyramids (FPN, YOLO) are named, others are found.
    """
    model = onnx.ModelProto()
    model.ParseFromString(_imported(name, exporter, batch, tuple(options.items())))
    return ir.from_proto(model)


@functools.cache
def _imported(name: str, exporter: Exporter, batch: int | None, options: tuple[tuple[str, Any], ...]) -> bytes:
    proto = export(name, exporter, batch=batch)
    named = {"features": features_of(name, proto), **dict(options)}
    model = normalize(ir.from_proto(proto), instruments=[CheckInvariants()], **named)
    return ir.to_proto(model).SerializeToString()


def features_of(name: str, proto: onnx.ModelProto) -> list[str] | None:
    """What a user would name: all maps of a pyramid; None where the feature is to be found."""
    if name == "fpn":
        return [value.name for value in proto.graph.output]
    if name != "yolo":
        return None
    makers = {output: node for node in proto.graph.node for output in node.output}
    found = []
    for value in proto.graph.output:
        node = makers[value.name]
        while node.op_type != "Conv":
            node = makers[node.input[0]]
        found.append(node.input[0])
    return found
