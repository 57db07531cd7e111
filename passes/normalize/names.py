"""Unique names, and provenance from the very start."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.ir import name_nodes, set_sources, sources
from onnxmtl.ir.passes import InPlacePass, PassResult


class NameNodes(InPlacePass):
    """Gives every node a unique name and records it as ``onnxmtl.source``.

    Names that are unique already are the user's and stay. Provenance that is there already stays too.

    Ensures: node names are unique and non-empty; every node has a source; values have names.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Name and record."""
        changed = _name_values(model.graph)
        changed |= name_nodes(model.graph)
        for node in model.graph:
            if not sources(node):
                set_sources(node, [str(node.name)])
                changed = True
        return PassResult(model, changed)


def _name_values(graph: ir.Graph) -> bool:
    """Name the values that have none but are used (an in-memory graph may have them)."""
    used = {str(value.name) for value in graph.inputs} | set(graph.initializers)
    used |= {str(value.name) for node in graph for value in node.outputs if value.name}
    changed = False
    for node in graph:
        for i, value in enumerate(node.outputs):
            if value.name or not (value.uses() or value.is_graph_output()):
                continue
            base = f"{node.name or node.op_type}_out{i}"
            name, count = base, 0
            while name in used:
                count += 1
                name = f"{base}_{count}"
            value.name = name
            used.add(name)
            changed = True
    return changed
