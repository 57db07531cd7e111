"""An exported graph for people: weights of its own, names of modules, nothing of the machine that exported it."""

from __future__ import annotations

import ast
import collections
import re

import numpy as np
import onnx_ir as ir

BATCH = "N"  # the name of the open batch dimension

_SCOPES = "pkg.torch.onnx.name_scopes"
# Paths and source lines of the machine that exported: private, and different on every machine.
_PRIVATE = ("pkg.torch.onnx.stack_trace",)
# What the exporter puts around an operator, to give it a zero bias or a shape.
_HELPERS = frozenset(("Cast", "CastLike", "Constant", "ConstantOfShape", "Expand", "Identity", "Shape"))


def tidy(model: ir.Model) -> None:
    """Weights of our own, names and symbols for people, nothing of this machine, Dropout asleep."""
    graph = model.graph
    for holder in model.graphs():
        for name, value in holder.initializers.items():
            if value.const_value is not None:
                value.const_value = ir.tensor(np.array(value.const_value.numpy()), dtype=value.dtype, name=name)
    for node in graph.all_nodes():
        for key in _PRIVATE:
            node.metadata_props.pop(key, None)
        if node.op_type == "Dropout" and node.domain == "" and len(node.inputs) > 2:
            node.replace_input_with(2, None)  # in evaluation mode; training switches it on
            node.resize_inputs(2)
    _name_batch(graph)
    _name_nodes(graph)


def _name_batch(graph: ir.Graph) -> None:
    """torch's symbol of the batch, as s77, becomes N."""
    shape = graph.inputs[0].shape if graph.inputs else None
    symbol = shape[0].value if shape and isinstance(shape[0], ir.SymbolicDim) else None
    if not symbol or not symbol.isidentifier() or symbol == BATCH:
        return
    pattern = re.compile(rf"\b{symbol}\b")
    for value in (*graph.inputs, *(v for node in graph.all_nodes() for v in node.outputs)):
        if value.shape is not None and any(isinstance(d, ir.SymbolicDim) for d in value.shape):
            dims = [
                pattern.sub(BATCH, d.value) if isinstance(d, ir.SymbolicDim) and d.value else d for d in value.shape
            ]
            value.shape = ir.Shape(dims)


def _name_nodes(graph: ir.Graph) -> None:
    """``layer1.0.conv1`` for the one node of a module, ``layer1.0/add`` for one of several, else as torch has it."""
    scopes = {node: _scope(node) for node in graph}
    number = collections.Counter(scope for node, scope in scopes.items() if scope and node.op_type not in _HELPERS)
    used: set[str] = set()
    for node, scope in scopes.items():
        alone = number[scope] == 1 and node.op_type not in _HELPERS
        base = scope if scope and alone else f"{scope}/{node.op_type}" if scope else str(node.name)
        name, count = base, 0
        while name in used:
            count += 1
            name = f"{base}_{count}"
        used.add(name)
        node.name = name


def _scope(node: ir.Node) -> str:
    """Dotted path of the module that the node computes; "" for the outermost, and for constants."""
    text = node.metadata_props.get(_SCOPES)
    if not text or node.op_type == "Constant":
        return ""
    names = ast.literal_eval(text)
    path = str(names[-2]) if len(names) > 1 else ""
    return "" if path.startswith("_empty_nn_module_stack") else path  # torch's word for "of no module"


def rename_outputs(model: ir.Model, names: list[str]) -> None:
    graph = model.graph
    taken = {str(value.name) for value in graph.outputs} | set(names)
    for node in graph:
        for value in node.outputs:
            if value.name in names and not value.is_graph_output():
                value.name = _fresh(str(value.name), taken)
    for value in graph.inputs:
        names = [f"{name}_out" if name == value.name else name for name in names]
    for value in graph.outputs:  # out of the way first: names may be swapped
        value.name = _fresh(f"{value.name}_", taken)
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _fresh(base: str, taken: set[str]) -> str:
    name, count = f"{base}_inner", 0
    while name in taken:
        count += 1
        name = f"{base}_inner_{count}"
    taken.add(name)
    return name
