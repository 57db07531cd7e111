"""Multiply-adds of single nodes at batch 1, from the shapes in the graph.

Convolutions and matrix products count; bias additions, normalizations and elementwise operators do not.
The batch is dimension 0 of the graph's input. A symbolic first dimension is taken at batch 1; where the
graph's input has a fixed batch, a first dimension that is a multiple of it is divided by it.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxmtl.errors import ModelError


def conv(node: ir.Node) -> int:
    """Output elements × weights that reach one of them: C/groups × kernel. Dilation changes neither."""
    weight = _shape(node, node.inputs[1], batched=False)
    return math.prod(_shape(node, node.outputs[0])) * math.prod(weight[1:])


def conv_transpose(node: ir.Node) -> int:
    """Input elements × outputs that one of them reaches: M/groups × kernel (borders are not cut off)."""
    weight = _shape(node, node.inputs[1], batched=False)
    return math.prod(_shape(node, node.inputs[0])) * math.prod(weight[1:])


def gemm(node: ir.Node) -> int:
    """Output elements × length of the inner products."""
    axis = 1 if node.attributes.get_int("transB", 0) else 0
    return math.prod(_shape(node, node.outputs[0])) * _inner(node, node.inputs[1], axis)


def matmul(node: ir.Node) -> int:
    """Output elements × length of the inner products, for weights and activations alike."""
    return math.prod(_shape(node, node.outputs[0])) * _inner(node, node.inputs[1], -2)


def _dims(node: ir.Node, value: ir.Value | None) -> ir.Shape:
    shape = None
    if value is not None:
        shape = value.shape if value.const_value is None else ir.Shape(value.const_value.shape.numpy())
    if shape is None:
        raise ModelError(_unknown(node, value, "its shape is unknown"))
    return shape


def _inner(node: ir.Node, value: ir.Value | None, axis: int) -> int:
    """Length of the inner products: one dimension of the right factor (the only one of a vector)."""
    shape = _dims(node, value)
    size = shape[axis if len(shape) > 1 else 0]
    if not isinstance(size, int):
        raise ModelError(_unknown(node, value, f"dimension {axis} is {size}, not a number"))
    return size


def _shape(node: ir.Node, value: ir.Value | None, *, batched: bool = True) -> tuple[int, ...]:
    """The shape at batch 1."""
    dims = []
    for axis, dim in enumerate(_dims(node, value)):
        if isinstance(dim, int):
            dims.append(_divided(node, dim) if batched and axis == 0 else dim)
        elif axis == 0 and isinstance(dim, ir.SymbolicDim):
            dims.append(_at_one(dim))
        else:
            raise ModelError(_unknown(node, value, f"dimension {axis} is {dim}, not a number"))
    return tuple(dims)


def _at_one(dim: ir.SymbolicDim) -> int:
    """A symbolic first dimension at batch 1: 1 for N, 64 for 64*N."""
    if dim.value is None or dim.value.isidentifier():
        return 1
    size = dim.evaluate(dict.fromkeys(dim.free_symbols(), 1))
    return size if isinstance(size, int) else 1


def _divided(node: ir.Node, size: int) -> int:
    graph = node.graph
    shape = graph.inputs[0].shape if isinstance(graph, ir.Graph) and graph.inputs else None
    batch = shape[0] if shape is not None and len(shape) > 0 else None
    return size // batch if isinstance(batch, int) and batch > 1 and size % batch == 0 else size


def _unknown(node: ir.Node, value: ir.Value | None, why: str) -> str:
    name = "a missing input" if value is None else repr(value.name)
    return (
        f"cannot count the multiply-adds of {node.op_type} {node.name!r}: value {name}: {why}; "
        "run shape inference with a fixed image size first"
    )
