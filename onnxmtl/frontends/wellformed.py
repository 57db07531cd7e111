"""Nodes against ONNX's own schemas: what no reader may rely on unless somebody has looked.

Cheaper than onnx's checker, which wants the whole model serialised, and it names the user's node. Operators that ONNX
does not know are left alone: whether they can be trained is another question.
"""

from __future__ import annotations

import functools
from typing import Any

import onnx
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir.external import all_nodes

_REEXPORT = "the file is damaged or its exporter at fault; export it again"
_MANY = 2**31 - 1  # how a schema says "any number"


def check_nodes(model: ir.Model, where: str) -> None:
    """Every node of a standard operator has as many inputs and outputs as it takes, and attributes of their types.

    Values whose element type is "undefined" are freed of it: inference may find it.

    Args:
        model: As it was read, subgraphs and functions included.
        where: What the user calls it.

    Raises:
        ModelError: Names the first node that is wrong, and what.
    """
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        _free(value)
        _require_text(where, value.name, *value.metadata_props.items())
    _require_text(where, model.graph.name, *model.metadata_props.items(), *model.graph.metadata_props.items())
    opsets = dict(model.graph.opset_imports)
    for function in model.functions.values():
        # The nodes of functions may be of other opsets than the graph's.
        for node in function.all_nodes():
            _check(node, function.opset_imports or opsets, where)
    for node in model.graph.all_nodes():
        _check(node, opsets, where)
    for node in all_nodes(model):
        _require_text(where, *node.metadata_props.items())
        for value in node.outputs:
            _free(value)
            _require_text(where, value.name, *value.metadata_props.items())


def _free(value: ir.Value) -> None:
    if value.dtype is ir.DataType.UNDEFINED:
        value.type = None


def _require_text(where: str, *entries: object) -> None:
    """Names are text; protobuf hands on as bytes what is not."""
    for entry in entries:
        for text in entry if isinstance(entry, tuple) else (entry,):
            if text is not None and not isinstance(text, str):
                msg = f"{where}: the name {text!r} is no text; {_REEXPORT}"
                raise ModelError(msg)


def _check(node: ir.Node, opsets: dict[str, int], where: str) -> None:
    _require_text(where, node.name, node.op_type, node.domain, node.overload, *node.attributes)
    for name, attribute in node.attributes.items():
        if attribute.type is ir.AttributeType.UNDEFINED:
            raise ModelError(_text(node, where, f"attribute {name!r} has no type"))
        if attribute.type is ir.AttributeType.TENSOR and not attribute.is_ref() and _untyped(attribute.value):
            raise ModelError(_text(node, where, f"the tensor in attribute {name!r} has no type"))
    found = _schema(node.op_type, node.domain, opsets.get(node.domain, 0))
    if found is None:
        return
    inputs, outputs, types, required = found
    for what, values, (fewest, most) in (("inputs", node.inputs, inputs), ("outputs", node.outputs, outputs)):
        if not fewest <= len(values) <= most:
            takes = str(fewest) if fewest == most else f"{fewest} or more" if most >= _MANY else f"{fewest} to {most}"
            raise ModelError(_text(node, where, f"has {len(values)} {what}, the operator takes {takes}"))
    for name, attribute in node.attributes.items():
        expected = types.get(name, attribute.type.value)
        if attribute.type.value != expected:
            wanted = ir.AttributeType(expected).name.lower()
            raise ModelError(
                _text(node, where, f"attribute {name!r} is of type {attribute.type.name.lower()}, not {wanted}")
            )
    for name in required:
        if name not in node.attributes:
            raise ModelError(_text(node, where, f"attribute {name!r} is missing"))


def _untyped(tensor: object) -> bool:
    return getattr(tensor, "dtype", None) is ir.DataType.UNDEFINED


def _text(node: ir.Node, where: str, what: str) -> str:
    name = node.name or next((str(value.name) for value in node.outputs if value.name), "")
    return f"{where}: node {name!r} ({node.op_type}): {what}; {_REEXPORT}"


_Arity = tuple[int, int]


@functools.cache
def _schema(op_type: str, domain: str, opset: int) -> tuple[_Arity, _Arity, dict[str, int], tuple[str, ...]] | None:
    """Numbers of inputs and outputs, types of the attributes, and names of those that must be there."""
    if opset < 1 or domain not in ("", "ai.onnx"):
        return None
    try:
        found = onnx.defs.get_schema(op_type, min(opset, onnx.defs.onnx_opset_version()), "")
    except onnx.defs.SchemaError:
        return None
    types = {name: _number(attribute.type) for name, attribute in found.attributes.items()}
    required = tuple(name for name, attribute in found.attributes.items() if attribute.required)
    return (found.min_input, found.max_input), (found.min_output, found.max_output), types, required


def _number(kind: Any) -> int:
    """An attribute type of onnx's schemas as AttributeProto numbers it."""
    return int(kind.value)
