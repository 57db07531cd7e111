"""The blocks of an emitted model that are quantized, or kept in floating point, as a whole.

Nodes that the same tasks need lie together (the trunk, what two of three tasks share, a head); each such part is cut
where one tensor is alive, as backbones are (:mod:`onnxmtl.analysis.frontiers`), and pieces without a layer join the one
before them. A piece of many layers (networks side by side, mixed now and then, are nowhere held by one tensor) is cut
again where as many tensors are alive as there are tasks. What stands behind a task's last layer (resizing to the image,
softmax, argmax) is in no block and stays in floating point: it has no weights, and what it rounds is seen at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxmtl.analysis.blocks import Block, boundaries
from onnxmtl.ir import tasks_of_nodes

TRUNK = "trunk"
_MANY = 12  # layers of a piece that is cut again; the longest inverted residual and inception modules have fewer


@dataclasses.dataclass(frozen=True)
class QuantBlock:
    """Some nodes of a model.

    Attributes:
        name: ``trunk.0``, ``seg.1``: the tasks that need it (``trunk``: all of several), and which of their blocks.
        tasks: The tasks that need it, in the model's order.
        nodes: Names of its nodes, in the model's order.
        first, last: Names of its first and last node that has weights.
    """

    name: str
    tasks: tuple[str, ...]
    nodes: tuple[str, ...]
    first: str
    last: str


def name_nodes(model: ir.Model) -> None:
    """Give every node of the main graph a name of its own; names that are unique stay."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph):
        name, copy = node.name or f"{node.op_type}_{index}", 1
        while name in taken:
            name, copy = f"{node.name or node.op_type}_{index}_{copy}", copy + 1
        node.name = name
        taken.add(name)


def quant_blocks(model: ir.Model) -> tuple[QuantBlock, ...]:
    """The blocks of a model whose outputs are its tasks and whose nodes have names of their own, in its order.

    Every node with a layer is in exactly one block; nodes behind the last layer, and nodes that no task needs, in none.
    """
    graph = model.graph
    order = [str(value.name) for value in graph.outputs]
    needed = tasks_of_nodes(graph)
    behind = _behind_layers(graph)
    parts: dict[tuple[str, ...], list[ir.Node]] = {}
    for node in graph:
        if needed[node] and node not in behind:
            parts.setdefault(tuple(name for name in order if name in needed[node]), []).append(node)
    found = []
    for tasks, nodes in parts.items():
        label = TRUNK if len(tasks) == len(order) > 1 else "+".join(tasks)
        for index, piece in enumerate(_pieces(nodes, len(order))):
            weighted = [str(node.name) for node in piece if _is_layer(node)]
            names = tuple(str(node.name) for node in piece)
            found.append(QuantBlock(f"{label}.{index}", tasks, names, weighted[0], weighted[-1]))
    return tuple(found)


def _is_layer(node: ir.Node) -> bool:
    return Block(0, (node,), (), ()).has_layers


def _behind_layers(graph: ir.Graph) -> set[ir.Node]:
    """The nodes from which no layer is reached, and which are none."""
    found: set[ir.Node] = set()
    for node in reversed(graph):
        readers = [user for value in node.outputs for user, _ in value.uses()]
        if all(user in found for user in readers) and not _is_layer(node):
            found.add(node)
    return found


def _pieces(nodes: Sequence[ir.Node], most: int) -> list[list[ir.Node]]:
    """`nodes` cut at their boundaries of one tensor, long pieces at those of up to `most`; each has a layer."""
    pieces = []
    for piece in _cut(nodes, 1):
        many = sum(map(_is_layer, piece)) > _MANY
        pieces += _cut(piece, most) if many and most > 1 else [piece]
    return pieces


def _cut(nodes: Sequence[ir.Node], k: int) -> list[list[ir.Node]]:
    """`nodes` cut where at most `k` tensors are alive, every piece with a layer; nothing if there is no layer."""
    ends = [*dict.fromkeys([*(cut.position for cut in boundaries(nodes, k=k)), len(nodes)])]
    pieces: list[list[ir.Node]] = []
    start, layers = 0, False  # whether the last piece has layers
    for end in ends:
        part = list(nodes[start:end])
        own = _has_layers(part)
        if pieces and not (own and layers):
            pieces[-1] += part
            layers |= own
        else:
            pieces.append(part)
            layers = own
        start = end
    return pieces if layers else []


def _has_layers(nodes: Iterable[ir.Node]) -> bool:
    return Block(0, tuple(nodes), (), ()).has_layers
