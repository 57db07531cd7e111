"""Copying nodes inside a graph with shared weights (``Graph.clone`` would copy the weights too)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import numpy as np
import onnx_ir as ir


def copy_shape(value: ir.Value) -> ir.Shape | None:
    """A shape of its own: shapes can be edited in place."""
    return None if value.shape is None else ir.Shape(list(value.shape))


def copy_nodes(
    nodes: Iterable[ir.Node],
    value_map: MutableMapping[ir.Value, ir.Value],
    rename: Callable[[str], str],
) -> list[ir.Node]:
    """Copy `nodes` (in topological order) and return the copies, not yet in any graph.

    Inputs are looked up in `value_map` and kept as they are where it has no entry: initializers stay shared.
    The copies' outputs are added to `value_map`. Attributes, metadata, types and shapes are kept.

    Args:
        nodes: Nodes to copy, producers before consumers.
        value_map: Old value -> new value; extended in place.
        rename: Old name of a node or value -> name of its copy (must be unique in the target graph).
    """
    copies: list[ir.Node] = []
    for node in nodes:
        outputs = []
        for old in node.outputs:
            new = ir.Value(name=rename(str(old.name)), type=old.type, shape=copy_shape(old), doc_string=old.doc_string)
            new.metadata_props.update(old.metadata_props)
            outputs.append(new)
            value_map[old] = new
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if v is None else value_map.get(v, v) for v in node.inputs],
            node.attributes.values(),
            overload=node.overload,
            outputs=outputs,
            version=node.version,
            name=rename(str(node.name)),
            doc_string=node.doc_string,
            metadata_props=dict(node.metadata_props),
        )
        copies.append(copy)
    return copies


def copy_initializer(graph: ir.Graph, value: ir.Value, name: str, tensor: ir.TensorProtocol | None = None) -> ir.Value:
    """Register a new initializer with `value`'s type, shape and metadata; same data unless `tensor` is given."""
    const = tensor if tensor is not None else value.const_value
    copy = ir.Value(name=name, type=value.type, shape=copy_shape(value), const_value=const)
    copy.metadata_props.update(value.metadata_props)
    graph.register_initializer(copy)
    return copy


def new_initializer(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """Register an initializer that holds `array` (numpy). Its tensor carries the same name."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
