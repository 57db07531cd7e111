"""Unique, readable, deterministic names for new values and nodes."""

from __future__ import annotations

import onnx_ir as ir


class Namer:
    """Hands out names that no value or node of the graph has yet.

    Example: ``Namer(graph).unique("conv1.weight/seg")``.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._used: set[str] = {str(v.name) for v in graph.inputs}
        self._used |= set(graph.initializers)
        for node in graph:
            self._used.add(str(node.name))
            self._used.update(str(v.name) for v in node.outputs)

    def unique(self, base: str) -> str:
        """`base`, or `base_1`, `base_2`, … if it is taken."""
        name, count = base, 0
        while name in self._used:
            count += 1
            name = f"{base}_{count}"
        self._used.add(name)
        return name


def name_nodes(graph: ir.Graph) -> bool:
    """Give every node a unique name, keeping those that are unique already. Returns whether any changed."""
    seen: set[str] = set()
    changed = False
    unnamed: list[ir.Node] = []
    for node in graph:
        if not node.name or node.name in seen:
            unnamed.append(node)
        else:
            seen.add(node.name)
    for node in unnamed:
        base = node.name or f"{node.op_type}_{node.outputs[0].name}"
        name, count = base, 0
        while name in seen:
            count += 1
            name = f"{base}_{count}"
        seen.add(name)
        node.name = name
        changed = True
    return changed
