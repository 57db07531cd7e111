"""Nodes in one canonical order: by level, the longest way from an input.

It is the order that onnx-graphsurgeon's ``toposort()`` makes, so an emitted model that somebody cleans up with it
comes back as it was; and an order that does not depend on the order in which passes made the nodes' consumers.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.ir.passes import InPlacePass, PassResult


class OrderByLevel(InPlacePass):
    """Sorts the main graph's nodes by level, stably. Requires a graph in topological order; linear."""

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Sort if they are not sorted yet."""
        nodes = list(model.graph)
        levels = level_of(model.graph)
        ordered = sorted(nodes, key=levels.__getitem__)
        if ordered == nodes:
            return PassResult(model, modified=False)
        model.graph.remove(nodes)
        model.graph.extend(ordered)
        return PassResult(model, modified=True)


def level_of(graph: ir.Graph) -> dict[ir.Node, int]:
    """Number of nodes on the longest way to each node; what a subgraph reads counts as read by its node."""
    levels: dict[ir.Node, int] = {}
    for node in graph:
        read = list(node.inputs)
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.GRAPH:
                read += [value for inner in attribute.as_graph().all_nodes() for value in inner.inputs]
        producers = (value.producer() for value in read if value is not None)
        levels[node] = 1 + max((levels[p] for p in producers if p is not None and p in levels), default=-1)
    return levels
