"""Where a node came from: the names of the user's nodes behind it, and the pass that made it.

Which tasks a node serves is never stored on it: it is computed from output reachability (:func:`tasks_of_nodes`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import onnx_ir as ir

from onnxmtl.ir.metadata import json_names

SOURCE_KEY = "onnxmtl.source"  # JSON list of node names of the user's model
PASS_KEY = "onnxmtl.pass"  # class name of the pass that created the node
HEAD_KEY = "onnxmtl.head"  # on every node of a head: the task's name


def sources(node: ir.Node) -> tuple[str, ...]:
    """Names of the user's nodes this node stands for; empty for a node we invented."""
    return json_names(node.metadata_props, SOURCE_KEY)


def set_sources(node: ir.Node, names: Iterable[str]) -> None:
    """Record the user's node names (sorted, without duplicates) on `node`."""
    node.metadata_props[SOURCE_KEY] = json.dumps(sorted(set(names)), ensure_ascii=False)


def unite(target: ir.Node, *others: ir.Node) -> None:
    """Give `target` the sources of all `others` too (when CSE merges nodes)."""
    names = {name for node in (target, *others) for name in sources(node)}
    if names:
        set_sources(target, names)


def stamp(node: ir.Node, made_by: object, source: ir.Node | None = None) -> ir.Node:
    """Mark a new node with the pass that made it and, if given, the node it derives from."""
    node.metadata_props[PASS_KEY] = made_by if isinstance(made_by, str) else type(made_by).__name__
    if source is not None and (names := sources(source)):
        set_sources(node, names)
    return node


def head_of(node: ir.Node) -> str | None:
    """The task whose head the node belongs to, or None for a node of the backbone."""
    return node.metadata_props.get(HEAD_KEY)


def tasks_of_nodes(graph: ir.Graph) -> dict[ir.Node, frozenset[str]]:
    """For each node, the outputs (tasks) that need it. Linear, without recursion."""
    needed: dict[ir.Node, set[str]] = {}
    for output in graph.outputs:
        producer = output.producer()
        if producer is not None:
            needed.setdefault(producer, set()).add(str(output.name))
    for node in reversed(graph):
        tasks = needed.setdefault(node, set())
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None:
                needed.setdefault(producer, set()).update(tasks)
    return {node: frozenset(tasks) for node, tasks in needed.items()}
