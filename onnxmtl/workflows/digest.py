"""Graphs as keys: what they compute as a hash, and numbers in them that a file can hold. No torch."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir


def graph_digest(model: ir.Model) -> str:
    """Of a model's nodes and weights, wherever the weights lie."""
    found = hashlib.sha256()
    for node in model.graph:
        names = [[value and value.name for value in values] for values in (node.inputs, node.outputs)]
        found.update(repr((node.domain, node.op_type, *names)).encode())
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            found.update(name.encode() + value.const_value.tobytes())
    return found.hexdigest()


def round_attributes(model: ir.Model) -> None:
    """Give float attributes the values that a file can hold, in place.

    A momentum of 0.9 that a pass wrote is another number than the float32 that is read back: what is trained in this
    process would differ in its last bits from what is trained after reading the graph.
    """
    for node in model.graph:
        for name, attribute in list(node.attributes.items()):
            if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.FLOAT:
                node.attributes[name] = ir.AttrFloat32(name, float(np.float32(attribute.as_float())))
            elif isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.FLOATS:
                node.attributes[name] = ir.AttrFloat32s(name, [float(np.float32(v)) for v in attribute.as_floats()])
