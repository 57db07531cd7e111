"""Networks of another precision become float32."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Diagnostic, counted, report
from onnxmtl.ir.passes import InPlacePass, PassResult

_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_OTHERS = frozenset({*_HALF, ir.DataType.DOUBLE})
_NAMES = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16", ir.DataType.DOUBLE: "float64"}
# Attributes that hold the number of an element type.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "softmax_precision", "output_dtype", "stash_type"})


class ToFloat32(InPlacePass):
    """Makes float16, bfloat16 and float64 inputs, weights, constants and casts float32; training is in float32.

    A Cast that has nothing left to do is removed. The numbers change by what the other precision rounded.

    Ensures: no value of the main graph is of another float type, but for results of operators that make one by
    themselves (none of ours does).

    Args:
        double: Convert float64 too. Before constants are folded it may carry shape arithmetic, which must stay exact.
    """

    def __init__(self, *, double: bool = True) -> None:
        self.types = _OTHERS if double else _HALF

    def call(self, model: ir.Model) -> PassResult:
        """Convert types, tensors and attributes; then drop the casts."""
        graph = model.graph
        weights = [value for value in graph.initializers.values() if value.dtype in self.types]
        images = [value for value in graph.inputs if value.dtype in self.types]
        found = {_NAMES[value.dtype] for value in (*weights, *images) if value.dtype in _NAMES}
        for value in weights:
            value.const_value = None if value.const_value is None else _float32(value.const_value, str(value.name))
        changed = False
        for value in (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)):
            if value.dtype in self.types:
                value.type = _retyped(value.type)
                changed = True
        for node in graph:
            changed |= _convert_attributes(node, self.types)
        for node in graph:
            if node.op_type == "Cast" and node.domain == "" and _drop_cast(graph, node):
                changed = True
        if found:
            kinds = " and ".join(sorted(found))
            message = (
                f"{counted(len(weights), 'weight')} and {counted(len(images), 'input')} were {kinds}; training is in "
                "float32, as they are now"
            )
            report(model, Diagnostic("precision-changed", message))
        return PassResult(model, changed)


def _retyped(old: ir.TypeProtocol | None) -> ir.TypeProtocol:
    """The type with elements of float32; shared type objects are not changed."""
    if isinstance(old, ir.SequenceType | ir.OptionalType):
        return type(old)(_retyped(old.elem_type))
    return ir.TensorType(ir.DataType.FLOAT)


def _convert_attributes(node: ir.Node, types: Collection[ir.DataType]) -> bool:
    changed = False
    for name, attribute in list(node.attributes.items()):
        if attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype in types:
            node.attributes[name] = ir.AttrTensor(name, _float32(attribute.as_tensor(), name))
            changed = True
        elif attribute.type is ir.AttributeType.INT and name in _TYPE_ATTRIBUTES and attribute.as_int() in types:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)
            changed = True
    return changed


def _drop_cast(graph: ir.Graph, node: ir.Node) -> bool:
    """Remove a Cast of float32 to float32; the one that names an output becomes an Identity."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.dtype is not ir.DataType.FLOAT:
        return False
    if node.attributes["to"].as_int() != ir.DataType.FLOAT.value:
        return False
    if result.is_graph_output():
        node.op_type = "Identity"
        node.attributes.clear()
        return True
    result.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True


def _float32(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """Numbers too large for float32 (the lowest float64 in a mask) become its largest, and stay finite."""
    array = tensor.numpy()
    if tensor.dtype is ir.DataType.DOUBLE:
        most = np.finfo(np.float32).max
        array = np.where(np.isfinite(array), np.clip(array, -most, most), array)
    return ir.tensor(array.astype(np.float32), name=tensor.name or name)
