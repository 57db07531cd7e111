"""Attributes in a form that can be compared: defaults filled in, order and container types settled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import onnx
import onnx_ir as ir


def canonical_attributes(node: ir.Node, opsets: Mapping[str, int]) -> Hashable | None:
    """A hashable that is equal for nodes whose attributes mean the same; None if one of them is a graph."""
    found: dict[str, Hashable] = {}
    if onnx.defs.has(node.op_type, node.domain):
        version = node.version or opsets.get(node.domain, 1)
        found.update(_defaults(node.op_type, version, node.domain))
    for name, attr in node.attributes.items():
        if attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        found[name] = _hashable(attr)
    return tuple(sorted(found.items()))


_DEFAULTS: dict[tuple[str, int, str], dict[str, Hashable]] = {}


def _defaults(op_type: str, version: int, domain: str) -> Mapping[str, Hashable]:
    key = (op_type, version, domain)
    if key not in _DEFAULTS:
        try:
            schema = onnx.defs.get_schema(op_type, version, domain)
        except onnx.defs.SchemaError:
            return _DEFAULTS.setdefault(key, {})
        _DEFAULTS[key] = {
            name: _hashable(ir.serde.deserialize_attribute(attribute.default_value))
            for name, attribute in schema.attributes.items()
            if attribute.default_value.type != onnx.AttributeProto.UNDEFINED
        }
    return _DEFAULTS[key]


def _hashable(attr: ir.Attr) -> Hashable:
    value = attr.value
    if attr.type is ir.AttributeType.TENSOR:
        return ("tensor", value.dtype.name, tuple(value.shape.numpy()), value.numpy().tobytes())
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return value if isinstance(value, Hashable) else repr(value)
