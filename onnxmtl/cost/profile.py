"""What nodes, blocks and whole graphs cost: weights, multiply-adds, activations.

Multiply-adds are those of convolutions, matrix products and attention at batch 1 (:mod:`onnxmtl.ops.counting`);
additions of biases, normalizations, activations and interpolation count nothing. Twice their number is what
``torch.utils.flop_counter`` counts on the lowered graph, but for what torch's counter does not see: a matrix times a
vector (``aten.mv`` has no entry in its table) and the fused attention kernel of the CPU (on a GPU, or under
``sdpa_kernel(MATH)``, it counts what we count). Both do run, so both count here. Borders, where padding is multiplied,
are not taken off, here or there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, role_of
from onnxmtl.ops.counting import shape_at_one


@dataclasses.dataclass(frozen=True)
class NodeCost:
    """What a node, or a set of nodes, costs for one image.

    Attributes:
        parameters: Trainable elements; a weight that several nodes use counts once.
        multiply_adds: Of convolutions, matrix products and attention.
        activation_bytes: Of all outputs, in their own types; memory that they would take if none were released.
        weight_bytes: Of all initializers used, statistics and constants too; each once.
    """

    parameters: int
    multiply_adds: int
    activation_bytes: int
    weight_bytes: int


def node_cost(node: ir.Node) -> NodeCost:
    """Cost of one node.

    Raises:
        ModelError: The shape or type of one of its outputs is unknown.
    """
    return group_cost((node,))


def group_cost(nodes: Iterable[ir.Node]) -> NodeCost:
    """Cost of some nodes together: of a block, or of a whole graph (which is an iterable of its nodes).

    Raises:
        ModelError: The shape or type of an output is unknown.
    """
    trained: set[ir.Value] = set()
    statistics: set[ir.Value] = set()
    used: set[ir.Value] = set()
    work = activations = 0
    for node in nodes:
        for slot, value in ops.weight_slots(node):
            (trained if slot.trainable else statistics).add(value)
        used.update(value for value in node.inputs if value is not None and value.is_initializer())
        work += ops.multiply_adds(node)
        activations += sum(_bytes(node, value) for value in node.outputs if value.name)
    trained = {v for v in trained - statistics if role_of(v) not in (Role.STATISTIC, Role.LOGITS)}
    return NodeCost(
        parameters=sum(map(_elements, trained)),
        multiply_adds=work,
        activation_bytes=activations,
        weight_bytes=sum(map(_weight_bytes, used)),
    )


def peak_activation_bytes(graph: ir.Graph) -> int:
    """The most bytes that activations take at one moment, for one image and nodes run in the graph's order.

    A tensor lives from its node (an input of the graph from the start) up to its last reader; outputs of the graph live
    to the end. While a node runs, its inputs and its outputs are there: nothing is computed in place, and no view
    shares memory. So this is what a plain interpreter needs, and an upper bound for a runtime that reuses memory.

    Raises:
        ModelError: A shape or type is unknown.
    """
    last: dict[ir.Value, int] = {}
    nodes = list(graph)
    for index, node in enumerate(nodes):
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name:
                last[value] = index
    for value in graph.outputs:
        last[value] = len(nodes)
    dying: list[list[ir.Value]] = [[] for _ in range(len(nodes) + 1)]
    for value, index in last.items():
        dying[index].append(value)

    sizes: dict[ir.Value, int] = {}
    for value in graph.inputs:
        if value in last and not value.is_initializer():
            sizes[value] = _bytes(None, value)
    live = peak = sum(sizes.values())
    for index, node in enumerate(nodes):
        for value in node.outputs:
            if value.name:
                sizes[value] = _bytes(node, value)
                live += sizes[value]
        peak = max(peak, live)
        live -= sum(sizes.get(value, 0) for value in dying[index])
    return peak


def _bytes(node: ir.Node | None, value: ir.Value) -> int:
    """Of an activation at batch 1."""
    if value.dtype is None or value.dtype is ir.DataType.UNDEFINED:
        msg = f"the type of {value.name!r} is unknown; run shape inference first"
        raise ModelError(msg)
    if value.dtype is ir.DataType.STRING:
        msg = f"the value {value.name!r} is text, which has no fixed size in memory"
        raise ModelError(msg)
    return math.ceil(math.prod(shape_at_one(node, value)) * value.dtype.itemsize)


def _elements(value: ir.Value) -> int:
    return math.prod(_weight_shape(value))


def _weight_bytes(value: ir.Value) -> int:
    dtype = value.dtype if value.const_value is None else value.const_value.dtype
    if dtype is None or dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return 0
    return math.ceil(_elements(value) * dtype.itemsize)


def _weight_shape(value: ir.Value) -> tuple[int, ...]:
    shape = value.shape if value.const_value is None else value.const_value.shape
    return () if shape is None else tuple(dim if isinstance(dim, int) else 0 for dim in shape)
