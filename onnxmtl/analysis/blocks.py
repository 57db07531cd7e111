"""Where a network can be cut: boundaries, and the blocks between them.

A boundary is a place in the graph's order where at most k activations are alive: everything after it is computed
from them. Weights, shape arithmetic and tensors that are only kept because they are outputs do not count. One scan,
linear in the number of nodes. For k = 1 and a graph with one output this finds exactly the tensors that every path
from input to output runs through, whatever topological order the nodes are in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ops import weight_slots

_SHAPE_TYPES = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A cut behind a node.

    Attributes:
        position: Number of nodes before the cut.
        values: The live activations, in order of definition.
    """

    position: int
    values: tuple[ir.Value, ...]


@dataclasses.dataclass(frozen=True)
class Block:
    """The nodes between two boundaries.

    Attributes:
        index: 0, 1, … in graph order.
        nodes: In graph order; every live node is in exactly one block.
        inputs: The activations at the boundary before it.
        outputs: The activations at the boundary behind it; of the last block, the outputs of the graph it makes.
    """

    index: int
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]

    @property
    def has_weights(self) -> bool:
        """Whether any of its nodes has weights."""
        return any(weight_slots(node) for node in self.nodes)


def boundaries(
    nodes: Iterable[ir.Node], *, k: int = 1, counts: Callable[[ir.Value], bool] | None = None
) -> list[Boundary]:
    """All boundaries of at most `k` tensors behind one of `nodes`, the first for each set of live tensors.

    Args:
        nodes: In topological order: a graph, or a part of one. Uses by other nodes do not matter.
        k: Largest number of live activations.
        counts: Which values are activations; default :func:`is_activation`.
    """
    nodes = list(nodes)
    counts = counts or is_activation
    inside = {value for node in nodes for value in node.outputs}
    last: dict[ir.Value, int] = {}  # activation -> position of its last consumer
    constant: set[ir.Value] = set()  # computed from weights alone
    for position, node in enumerate(nodes):
        present = [value for value in node.inputs if value is not None]
        if all(value.is_initializer() or value in constant for value in present):
            constant.update(node.outputs)
        for value in present:
            if value not in constant and counts(value):
                last[value] = position
    # Activations that come from outside are alive from the start.
    live: dict[ir.Value, None] = {value: None for value in last if value not in inside}
    found: list[Boundary] = []
    for position, node in enumerate(nodes):
        # A dict keeps order; each value enters and leaves once, so the scan is linear.
        for value in node.outputs:
            if last.get(value, -1) > position:
                live[value] = None
        for used in node.inputs:
            if used is not None and last.get(used) == position:
                live.pop(used, None)
        if 1 <= len(live) <= k:
            values = tuple(live)
            if not found or found[-1].values != values:
                found.append(Boundary(position + 1, values))
    return found


def is_activation(value: ir.Value) -> bool:
    """Whether a value counts at a boundary: no weight and no shape arithmetic (integers)."""
    return not value.is_initializer() and value.dtype not in _SHAPE_TYPES


def blocks(graph: ir.Graph, *, k: int = 1, at: Collection[str] | None = None, merge: bool = True) -> list[Block]:
    """Cut the graph at its boundaries.

    Args:
        graph: Nodes in topological order.
        k: Largest number of live tensors at a boundary.
        at: Names of tensors to cut at; default: all boundaries.
        merge: Join blocks without weights to the block before them (the first ones: to the block behind them).

    Raises:
        ModelError: A name in `at` is no boundary.
    """
    cuts = boundaries(graph, k=k)
    if at is not None:
        cuts = _chosen(cuts, at)
    nodes = list(graph)
    inputs = tuple(value for value in graph.inputs if is_activation(value))
    parts: list[Block] = []
    start = 0
    for cut in [*cuts, Boundary(len(nodes), ())]:
        part = tuple(nodes[start : cut.position])
        if part:
            outputs = cut.values or _made_here(graph, part)
            parts.append(Block(len(parts), part, inputs, outputs))
        start, inputs = cut.position, cut.values
    return _merged(parts) if merge else parts


def _chosen(cuts: Sequence[Boundary], names: Collection[str]) -> list[Boundary]:
    known = {str(value.name): cut for cut in cuts for value in cut.values if len(cut.values) == 1}
    for name in names:
        if name not in known:
            msg = f"the network cannot be cut at {name!r}: more than that tensor is alive there; choose another one"
            raise ModelError(msg)
    return sorted((known[name] for name in set(names)), key=lambda cut: cut.position)


def _made_here(graph: ir.Graph, nodes: Sequence[ir.Node]) -> tuple[ir.Value, ...]:
    """The graph outputs that `nodes` produce."""
    members = set(nodes)
    return tuple(value for value in graph.outputs if value.producer() in members)


def _merged(parts: Sequence[Block]) -> list[Block]:
    groups: list[list[Block]] = []
    for part in parts:
        # A block without weights joins what is before it; so does the first with weights if only such came before.
        if groups and (not part.has_weights or not any(block.has_weights for block in groups[-1])):
            groups[-1].append(part)
        else:
            groups.append([part])
    return [
        Block(i, tuple(n for block in group for n in block.nodes), group[0].inputs, group[-1].outputs)
        for i, group in enumerate(groups)
    ]
