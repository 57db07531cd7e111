"""Evaluating one node on known inputs, with onnx's reference implementation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

Array: TypeAlias = np.ndarray[Any, Any]

# Operators whose result is not a function of their inputs.
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def can_evaluate(node: ir.Node) -> bool:
    """Whether the node is a deterministic standard operator without subgraphs, and no Dropout in training mode."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM:
        return False
    if node.op_type == "Dropout" and len(node.inputs) > 2:
        return False
    return not any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def evaluate(node: ir.Node, inputs: Sequence[Array | None], opsets: Mapping[str, int]) -> list[Array] | None:
    """The node's outputs for the given inputs (None where the node has no input), or None if it cannot be done."""
    if node.op_type == "ConstantOfShape" and inputs[0] is not None:
        value = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
        return [np.full(tuple(int(dim) for dim in inputs[0]), value.reshape(-1)[0], dtype=value.dtype)]
    graph = onnx.GraphProto(name="node")
    graph.node.append(ir.serde.serialize_node(node))
    # Names are positional: the same value may be given twice, and outputs may be unnamed.
    del graph.node[0].input[:], graph.node[0].output[:]
    feeds: dict[str, Array] = {}
    for i, array in enumerate(inputs):
        graph.node[0].input.append(f"in{i}" if array is not None else "")
        if array is not None:
            feeds[f"in{i}"] = array
            graph.input.append(onnx.ValueInfoProto(name=f"in{i}"))
    for i, _ in enumerate(node.outputs):
        graph.node[0].output.append(f"out{i}")
        graph.output.append(onnx.ValueInfoProto(name=f"out{i}"))
    model = onnx.ModelProto(ir_version=10, graph=graph)
    model.opset_import.append(onnx.OperatorSetIdProto(domain="", version=opsets.get("", 21)))
    try:
        results = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # whatever the reference lacks or trips over: the node simply stays in the graph
        return None
    if not isinstance(results, list) or not all(isinstance(result, np.ndarray) for result in results):
        return None
    return results


def result_elements(node: ir.Node, inputs: Sequence[Array | None]) -> int:
    """Upper bound of the elements `evaluate` will make, for the operators that can make many out of few."""
    first = inputs[0] if inputs else None
    second = inputs[1] if len(inputs) > 1 else None
    if node.op_type == "ConstantOfShape" and first is not None:
        return math.prod(max(0, int(dim)) for dim in first)
    if node.op_type == "Expand" and first is not None and second is not None:
        return math.prod(max(1, int(dim)) for dim in second) * first.size
    if node.op_type == "Tile" and first is not None and second is not None:
        return math.prod(max(0, int(dim)) for dim in second) * first.size
    if node.op_type == "Range" and all(array is not None for array in inputs):
        start, limit, delta = (float(array.reshape(-1)[0]) for array in inputs if array is not None)
        return max(0, math.ceil((limit - start) / delta)) if delta else 0
    if node.op_type in ("Resize", "Pad", "Upsample", "OneHot", "EyeLike", "MatMul", "Gemm", "Conv"):
        shape = node.outputs[0].shape
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return 1 << 62
        return math.prod(dim for dim in shape if isinstance(dim, int))
    return sum(array.size for array in inputs if array is not None)
