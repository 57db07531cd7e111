"""Constants that have one value whoever computes it, evaluated: the numbers of a graph stay bit for bit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.evaluate import Array, can_evaluate, evaluate, result_elements
from onnxmtl.passes.normalize.fold import remove_dead

# They move elements, or make them out of one number; they compute none.
_MOVING = frozenset(
    ("Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split",
     "Squeeze", "Transpose", "Unsqueeze")
)  # fmt: skip
_ELEMENTS = 1 << 24  # of a result, at most


class FoldExactly(InPlacePass):
    """Turn nodes of constant inputs into initializers where no rounding is involved, and drop Identities.

    Folded are nodes that only move elements, and arithmetic on integers and truth values. Arithmetic on floats stays
    in the graph (:class:`~onnxmtl.passes.normalize.fold.FoldConstants` folds it too): a runtime may round it otherwise
    than onnx's reference implementation, which is used here.

    Requires producers before consumers; nodes that make an output of the graph stay. Subgraphs are left alone.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Walk once in graph order."""
        graph = model.graph
        modified = False
        for node in list(graph):
            if any(value.is_graph_output() for value in node.outputs):
                continue
            source = node.inputs[0] if node.op_type == "Identity" and node.domain == "" else None
            if source is not None:
                node.outputs[0].replace_all_uses_with(source)
                graph.remove(node, safe=True)
                modified = True
            else:
                modified |= _folded(graph, node)
        if modified:
            remove_dead(graph)
        return PassResult(model, modified)


def _folded(graph: ir.Graph, node: ir.Node) -> bool:
    """Put initializers in the place of the node, if its inputs are constants and its result is exact."""
    if not can_evaluate(node):
        return False
    inputs: list[Array | None] = []
    for value in node.inputs:
        if value is None:
            inputs.append(None)
        elif _is_known(value) and (node.op_type in _MOVING or _is_exact(value)):
            assert value.const_value is not None
            inputs.append(value.const_value.numpy())
        else:
            return False
    tensors = _evaluated(graph, node, inputs)
    if tensors is None:
        return False
    for value, tensor in zip(node.outputs, tensors, strict=True):
        if not value.uses():
            continue
        name = str(value.name)
        value.name = f"{name}.folded"  # the name goes to the initializer
        constant = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        constant.metadata_props.update(value.metadata_props)
        graph.register_initializer(constant)
        value.replace_all_uses_with(constant)
    graph.remove(node, safe=True)
    return True


def _evaluated(graph: ir.Graph, node: ir.Node, inputs: list[Array | None]) -> list[ir.TensorProtocol] | None:
    """The node's outputs; None if they cannot be had, are many, or are floats that were computed."""
    if node.op_type == "Constant" and "value" in node.attributes:
        return [node.attributes["value"].as_tensor()]  # of any type, numpy's or not
    if result_elements(node, inputs) > _ELEMENTS:
        return None
    results = evaluate(node, inputs, graph.opset_imports)
    if results is None or not (node.op_type in _MOVING or all(result.dtype.kind in "biu" for result in results)):
        return None
    return [ir.tensor(np.ascontiguousarray(result).reshape(result.shape)) for result in results]


def _is_known(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input() and value.const_value is not None


def _is_exact(value: ir.Value) -> bool:
    return value.dtype is not None and (value.dtype.is_integer() or value.dtype is ir.DataType.BOOL)
