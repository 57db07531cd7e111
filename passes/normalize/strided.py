"""torch's ``as_strided`` of contiguous memory is a Reshape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Namer, new_initializer
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.batch_sizes import batch_axis, batch_multiple, multiple_of
from onnxmtl.passes.normalize.evaluate import Array, can_evaluate, evaluate, result_elements
from onnxmtl.passes.normalize.fold import shape_of
from onnxmtl.passes.normalize.shapes import is_standard

# Positions that depend on the batch size are computed for two of them. Unequal primes: what is k·N in both is k·N.
_PROBES = (3, 5)
_NODES = 64  # more than any exporter needs to say where elements lie
_ELEMENTS = 2**20
_PICKING = frozenset({"Gather", "GatherElements", "GatherND"})  # as many elements as the positions ask for


class GatherToReshape(InPlacePass):
    """Writes a Gather that takes every element of a vector once and in order as the Reshape that it is.

    torch's default exporter writes ``as_strided`` (pooling of a map whose channels stand last in memory, ConvNeXt's)
    as a Gather from the flattened tensor; nothing that follows the image's axes or its batch can look through that.
    With an open batch size N the positions are computed in the graph, from a Range up to N.

    Where that only undoes the flattening, both go.

    Requires: constants are folded and shapes inferred. The nodes that are left over are removed where the model is cut.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Walk once."""
        namer, opsets = Namer(model.graph), dict(model.graph.opset_imports)
        modified = False
        for node in model.graph:
            if node.op_type != "Gather" or node.domain != "" or node.attributes.get_int("axis", 0) != 0:
                continue
            shape = _reshaped(node, opsets)
            if shape is None:
                continue
            modified = True
            data, out = node.inputs[0], node.outputs[0]
            flattened = None if data is None else data.producer()
            before = flattened.inputs[0] if flattened is not None and flattened.op_type == "Reshape" else None
            if before is not None and before.shape == shape and not out.is_graph_output():
                out.replace_all_uses_with(before)  # there and back again
                continue
            target = np.array([dim if isinstance(dim, int) else -1 for dim in shape], np.int64)
            node.op_type = "Reshape"
            node.attributes.pop("axis", None)
            node.replace_input_with(1, new_initializer(model.graph, namer.unique(f"{node.name}.shape"), target))
            if any(dim == 0 for dim in shape):
                node.attributes["allowzero"] = ir.AttrInt64("allowzero", 1)
            out.shape = shape
        return PassResult(model, modified)


def _reshaped(node: ir.Node, opsets: Mapping[str, int]) -> ir.Shape | None:
    """The shape of what is gathered from a vector if that is all of it, in order; None if it is anything else."""
    data, indices = node.inputs
    if data is None or indices is None or data.is_initializer() or data.shape is None or len(data.shape) != 1:
        return None
    size = data.shape[0]
    if indices.const_value is not None and not indices.is_graph_input():
        array = indices.const_value.numpy()
        return ir.Shape(array.shape) if _in_order(array, size) else None
    multiple = None if batch_axis(data.shape) is None else batch_multiple(size)
    if multiple is None:
        return None
    shapes = []
    for batch in _PROBES:
        found = _positions(indices, batch, opsets)
        if found is None or not _in_order(found, multiple[0] * batch):
            return None
        shapes.append(found.shape)
    first, second = shapes
    axes = [i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b]
    if len(first) != len(second) or len(axes) != 1 or first[axes[0]] * _PROBES[1] != second[axes[0]] * _PROBES[0]:
        return None
    open_ = multiple_of(first[axes[0]] // _PROBES[0], multiple[1])
    return ir.Shape([open_ if i == axes[0] else dim for i, dim in enumerate(first)])


def _in_order(array: Array, size: object) -> bool:
    return bool(array.size == size and np.array_equal(array.reshape(-1), np.arange(array.size)))


def _positions(value: ir.Value, batch: int, opsets: Mapping[str, int]) -> Array | None:
    """The value at a batch size of `batch`; None if more than constants and shapes go into it."""
    known: dict[ir.Value, Array] = {}
    stack, steps = [value], 0
    while stack:
        current = stack[-1]
        if current in known:
            stack.pop()
            continue
        node = current.producer()
        if current.const_value is not None and not current.is_graph_input():
            if current.const_value.size > _ELEMENTS:
                return None
            known[current] = current.const_value.numpy()
            continue
        if node is None or not is_standard(node) or not can_evaluate(node) or (steps := steps + 1) > 2 * _NODES:
            return None
        if node.op_type in ("Shape", "Size"):
            results = shape_of(node, batch)
        elif missing := [v for v in node.inputs if v is not None and v not in known]:
            stack += missing
            continue
        else:
            arrays = [None if v is None else known[v] for v in node.inputs]
            results = None if _elements(node, arrays) > _ELEMENTS else evaluate(node, arrays, opsets)
        if results is None or any(array.size > _ELEMENTS for array in results):
            return None
        known.update(zip(node.outputs, results, strict=True))
    return known[value]


def _elements(node: ir.Node, arrays: Sequence[Array | None]) -> int:
    """Upper bound of the elements that the node makes."""
    bound = result_elements(node, arrays)
    shapes = [array.shape for array in arrays if array is not None]
    if node.op_type in _PICKING:
        return max(bound, math.prod(math.prod(shape) for shape in shapes))
    rank = max(map(len, shapes), default=0)
    filled = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    largest: list[int] = [max(dims) for dims in zip(*filled, strict=True)]
    return max(bound, math.prod(largest))
