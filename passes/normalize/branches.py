"""An If whose condition is known is one of its branches."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.ir import Namer, set_sources, sources


def take_branch(graph: ir.Graph, node: ir.Node, condition: bool, namer: Namer) -> bool:
    """Put the nodes of an If's branch behind it and remove it. They are ordinary nodes then, nested Ifs included.

    Args:
        graph: The graph that `node` is in.
        node: An If.
        condition: Which branch to take.
        namer: Of `graph`.

    Returns:
        False if an output of the If is an output of the graph and not computed in the branch, or is computed nowhere:
        the If stays.
    """
    branch = node.attributes["then_branch" if condition else "else_branch"].as_graph()
    results = list(branch.outputs)
    inside = {value for inner in branch for value in inner.outputs}
    if any(new not in inside and not new.is_initializer() and _from_nowhere(new) for new in results):
        return False
    asked = [(old, new) for old, new in zip(node.outputs, results, strict=True) if old.is_graph_output()]
    if any(new not in inside for _, new in asked) or len({new for _, new in asked}) != len(asked):
        return False
    weights = list(branch.initializers.values())
    moved = list(branch)
    branch.outputs.clear()
    branch.initializers.clear()
    branch.remove(moved)
    for weight in weights:
        weight.name = namer.unique(str(weight.name))
        graph.register_initializer(weight)
    for inner in moved:
        inner.name = namer.unique(f"{node.name}/{inner.name or inner.op_type}")
        set_sources(inner, sources(inner) or sources(node))
        for value in inner.outputs:
            if value.name:
                value.name = namer.unique(str(value.name))
    graph.insert_after(node, moved)
    for old, new in zip(node.outputs, results, strict=True):
        if old.is_graph_output():
            old.name, new.name = namer.unique(f"{old.name}.if"), old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


def _from_nowhere(value: ir.Value) -> bool:
    """Whether a branch's output is neither computed nor an input: what a file must not, but may, say."""
    return value.producer() is None and not value.is_graph_input()
