"""Merge nodes that compute the same thing: this is what makes a trunk shared.

Two nodes are equal if operator, attributes (defaults filled in) and inputs agree; inputs agree if they are the same
value, so weights are compared by identity, never by content. The node that stays carries the sources of all.
"""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from onnxmtl.ir import unite
from onnxmtl.ir.attributes import canonical_attributes
from onnxmtl.ir.passes import InPlacePass, PassResult

_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)


class MergeEqualNodes(InPlacePass):
    """Common-subexpression elimination that keeps output names and unites provenance.

    Requires topological order. Ensures no two equal deterministic nodes remain, except producers of two different
    graph outputs (each output keeps its name).
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Merge in one sweep over the main graph."""
        graph = model.graph
        seen: dict[Hashable, ir.Node] = {}
        modified = False
        for node in list(graph):
            key = node_key(node, graph.opset_imports)
            if key is None:
                continue
            kept = seen.setdefault(key, node)
            if kept is node:
                continue
            if any(value.is_graph_output() for value in node.outputs):
                if any(value.is_graph_output() for value in kept.outputs):
                    continue
                # The output keeps its name, so the node that produces it stays; it takes the place of the other.
                _move_before(graph, node, kept)
                kept, node = node, kept
                seen[key] = kept
            unite(kept, node)
            for old, new in zip(node.outputs, kept.outputs, strict=True):
                old.replace_all_uses_with(new)
            graph.remove(node, safe=True)
            modified = True
        return PassResult(model, modified)


def _move_before(graph: ir.Graph, node: ir.Node, place: ir.Node) -> None:
    graph.remove(node)
    graph.insert_before(place, node)


def node_key(node: ir.Node, opsets: dict[str, int]) -> Hashable | None:
    """A hashable that is equal for nodes that compute the same values; None for random and control-flow nodes."""
    if node.op_type in _RANDOM and node.domain == "":
        return None
    attributes = canonical_attributes(node, opsets)
    if attributes is None:
        return None
    inputs = tuple(None if v is None else id(v) for v in node.inputs)
    return (node.domain, node.op_type, node.overload, len(node.outputs), inputs, attributes)
