"""Boundaries: places in a network's order where few activations are alive.

**What counts.** A tensor counts if it is computed from a graph input otherwise than through `Shape` or `Size`. Weights,
constants and shape arithmetic (of whatever type) do not count, and neither do uses by the graph's outputs: a feature
that is taken out on the way stops nothing.

**What one scan finds.** A cut is a set P of nodes that contains the producers of everything its nodes read; its
frontier is the set of tensors that exist before P or are made in P, and are read behind P. The scan walks *one*
topological order and finds every frontier of at most k tensors of *its prefixes*: all of them, in linear time.

- k = 1 is exact and does not depend on the order, if the order is one of :func:`scan_order`: {v} is found if and only
  if some cut that leaves the main output behind it has the frontier {v}; that is, if without v nothing (no path, in
  either direction) connects the main output with what v is computed from. Proof: let v be such a tensor. Every node
  that the main output needs is an ancestor of v or a descendant of v, so all ancestors come before the end of v's
  producer and all descendants behind it, in any order. The nodes the main output does not need fall into connected
  components; `scan_order` puts each as a whole behind the last main node that it reads. Behind v's producer and the
  components that stand there, what is alive besides v is read by a component that also reads something behind v:
  such a component connects both sides without v, which contradicts. For a graph with one output these are the tensors
  on every path from the image to the output: the dominators of the output.
- k > 1 depends on the order: a set of at most k tensors that separates the network, but is no frontier of a prefix,
  is not found. Parallel branches (Inception, an encoder with skips) can be walked through in many orders, and no
  single one has all frontiers; finding the order with the smallest frontiers is NP-hard. The graph's own order is kept,
  because it is the one in which the user wrote the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

_SHAPE_OPS = frozenset({"Shape", "Size"})


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A cut behind a node.

    Attributes:
        position: Number of nodes before the cut, in the order that was scanned.
        values: The live activations, in order of definition.
    """

    position: int
    values: tuple[ir.Value, ...]

    @property
    def name(self) -> str:
        """The newest live tensor's name, by which users call the boundary."""
        return str(self.values[-1].name) if self.values else ""


def boundaries(
    nodes: ir.Graph | Iterable[ir.Node], *, k: int = 1, counts: Callable[[ir.Value], bool] | None = None
) -> list[Boundary]:
    """All boundaries of at most `k` tensors behind one of `nodes`, the first for each set of live tensors.

    Args:
        nodes: A graph, which is scanned in :func:`scan_order`; or nodes in a topological order, scanned as they are
            (uses by other nodes do not matter).
        k: Largest number of live activations.
        counts: Which values count; default: see the module.
    """
    nodes = scan_order(nodes) if isinstance(nodes, ir.Graph) else list(nodes)
    if counts is None:
        counts = (lambda passive: lambda value: is_activation(value) and value not in passive)(passive_values(nodes))
    inside = {value for node in nodes for value in node.outputs}
    last: dict[ir.Value, int] = {}  # activation -> position of its last consumer
    read = [[value for value in reads(node) if counts(value)] for node in nodes]
    for position, used_here in enumerate(read):
        last.update(dict.fromkeys(used_here, position))
    # Activations that come from outside are alive from the start.
    live: dict[ir.Value, None] = {value: None for value in last if value not in inside}
    given = set(live)
    found: list[Boundary] = []
    for position, node in enumerate(nodes):
        # A dict keeps order; each value enters and leaves once, so the scan is linear.
        for value in node.outputs:
            if last.get(value, -1) > position:
                live[value] = None
        for used in read[position]:
            if last[used] == position:
                live.pop(used, None)
        # Behind nodes that only prepare constants, the inputs alone are alive: nothing is cut there.
        if 1 <= len(live) <= k and not live.keys() <= given:
            values = tuple(live)
            if not found or found[-1].values != values:
                found.append(Boundary(position + 1, values))
    return found


def frontier(nodes: Sequence[ir.Node], position: int) -> tuple[ir.Value, ...]:
    """The activations alive behind the first `position` of `nodes`, however many, in order of definition."""
    passive = passive_values(nodes)
    behind = {value for node in nodes[position:] for value in reads(node)}
    made = {value: None for node in nodes for value in node.outputs}
    given = [value for value in dict.fromkeys(v for node in nodes for v in reads(node)) if value not in made]
    early = [*given, *(value for node in nodes[:position] for value in node.outputs)]
    return tuple(v for v in early if v in behind and is_activation(v) and v not in passive)


def is_activation(value: ir.Value) -> bool:
    """Whether a value is no weight."""
    return not value.is_initializer()


def passive_values(nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """The outputs of `nodes` (in topological order) that do not count: constants and shape arithmetic."""
    found: set[ir.Value] = set()
    for node in nodes:
        shape = node.op_type in _SHAPE_OPS and node.domain == ""
        if shape or all(value.is_initializer() or value in found for value in reads(node)):
            found.update(node.outputs)
    return found


def reads(node: ir.Node) -> list[ir.Value]:
    """What the node reads: its inputs, and what its subgraphs (If, Loop, Scan) take from outside."""
    present = [value for value in node.inputs if value is not None]
    inner = list(_subgraphs(node))
    if not inner:
        return present
    nested: list[ir.Node] = []
    own: set[ir.Value] = set()
    while inner:
        graph = inner.pop()
        own.update(graph.inputs, graph.initializers.values())
        for child in graph:
            nested.append(child)
            own.update(child.outputs)
            inner.extend(_subgraphs(child))
    captured = {value: None for child in nested for value in child.inputs if value is not None and value not in own}
    return [*present, *(value for value in captured if value not in present)]


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
        elif attribute.type is ir.AttributeType.GRAPHS and not attribute.is_ref():
            yield from attribute.as_graphs()


def main_output(graph: ir.Graph) -> tuple[ir.Value | None, set[ir.Node]]:
    """The output that most nodes work for (others may be auxiliary classifiers), and these nodes; of equals the first.

    One pass against the graph's order, with a set of bits per node: which outputs need it.
    """
    outputs = list(graph.outputs)
    if not outputs:
        return None, set()
    needed: dict[ir.Node, int] = {}
    for i, output in enumerate(outputs):
        producer = output.producer()
        if producer is not None:
            needed[producer] = needed.get(producer, 0) | 1 << i
    for node in reversed(graph):
        bits = needed.get(node, 0)
        if bits:
            for value in reads(node):
                producer = value.producer()
                if producer is not None:
                    needed[producer] = needed.get(producer, 0) | bits
    counts = np.zeros(len(outputs), np.int64)
    size = (len(outputs) + 7) // 8
    for bits in needed.values():
        row = np.frombuffer(bits.to_bytes(size, "little"), np.uint8)
        counts += np.unpackbits(row, count=len(outputs), bitorder="little")
    best = int(counts.argmax())
    return outputs[best], {node for node, bits in needed.items() if bits >> best & 1}


def ancestors(values: Iterable[ir.Value]) -> set[ir.Node]:
    """All nodes that `values` are computed by, without recursion."""
    found: set[ir.Node] = set()
    stack = [value.producer() for value in values]
    while stack:
        node = stack.pop()
        if node is None or node in found:
            continue
        found.add(node)
        stack.extend(value.producer() for value in reads(node))
    return found


def scan_order(graph: ir.Graph) -> list[ir.Node]:
    """The graph's nodes in the topological order that is scanned for boundaries.

    The nodes that the main output needs keep their order. Of the others, each connected component (an auxiliary
    classifier, the output layer of a pyramid level) stands behind the last of these nodes that it reads.
    """
    nodes = list(graph)
    _, main = main_output(graph)
    if not main or len(main) == len(nodes):
        return nodes
    position = {node: i for i, node in enumerate(nodes)}
    parent: dict[ir.Node, ir.Node] = {}
    behind: dict[ir.Node, int] = {}  # root of a component -> position of the last main node that it reads
    first: list[ir.Node] = []  # constants, which belong to nobody
    passive: set[ir.Value] = set()

    def root(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in nodes:
        if node in main:
            continue
        values = reads(node)
        if all(value.is_initializer() or value in passive for value in values):
            passive.update(node.outputs)
            first.append(node)
            continue
        parent[node], behind[node] = node, -1
        for value in values:
            producer = value.producer()
            if producer in main:
                behind[root(node)] = max(behind[root(node)], position[producer])
            elif producer in parent:
                joined, kept = root(node), root(producer)
                if joined is not kept:
                    parent[joined] = kept
                    behind[kept] = max(behind[kept], behind.pop(joined))
    return [*first, *_woven(nodes, main, [(behind[root(node)], root(node), node) for node in parent])]


def _woven(
    nodes: Sequence[ir.Node], main: set[ir.Node], side: Sequence[tuple[int, ir.Node, ir.Node]]
) -> Iterator[ir.Node]:
    """The main nodes, and behind each of them the components that belong there, one after the other."""
    groups: dict[int, dict[ir.Node, list[ir.Node]]] = {}
    for where, component, node in side:
        groups.setdefault(where, {}).setdefault(component, []).append(node)
    for position, node in enumerate(nodes):
        if position == 0:
            yield from (member for part in groups.get(-1, {}).values() for member in part)
        if node in main:
            yield node
        yield from (member for part in groups.get(position, {}).values() for member in part)
