"""Models that were fine-tuned from one: copies in which some weights are others'."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import clone, tasks_of_nodes
from onnxmtl.passes.merge_models import Part, canonical_parts, merge_models, number_parts


def tuned(model: ir.Model, names: Iterable[str], seed: int = 1) -> ir.Model:
    """A copy in which the named weights have moved a little."""
    copy = clone(model)
    rng = np.random.default_rng(seed)
    for name in names:
        value = copy.graph.initializers[name]
        array = value.const_value.numpy()
        value.const_value = ir.tensor((array * rng.uniform(1.01, 1.1, array.shape)).astype(array.dtype), name=name)
    return copy


def disguised(model: ir.Model, seed: int = 0) -> ir.Model:
    """A copy that computes the same and looks otherwise: other names, other order, defaults left out, constants as
    nodes, Identities between."""
    copy, rng = clone(model), np.random.default_rng(seed)
    graph = copy.graph
    for node in list(graph):
        node.name = f"n{rng.integers(1 << 60)}"
        for value in node.outputs:
            if not value.is_graph_output():
                value.name = f"v{rng.integers(1 << 60)}"
        if node.op_type == "Conv":
            kernel = len(node.attributes.get_ints("kernel_shape"))
            defaults = {"strides": [1] * kernel, "dilations": [1] * kernel, "pads": [0] * 2 * kernel}
            for name, default in defaults.items():
                if list(node.attributes.get_ints(name)) == default:
                    del node.attributes[name]
            if node.attributes.get_int("group") == 1:
                del node.attributes["group"]
            del node.attributes["kernel_shape"]  # the weight has it
        if node.op_type == "BatchNormalization":
            node.attributes.pop("epsilon", None)  # 1e-5 and 0.9 are the defaults
            node.attributes.pop("momentum", None)
    for value in list(graph.initializers.values()):
        if rng.random() < 0.4:
            del graph.initializers[value.name]
            output = ir.Value(name=f"c{rng.integers(1 << 60)}", type=value.type, shape=value.shape)
            node = ir.node("Constant", [], {"value": value.const_value}, outputs=[output], name=f"k{output.name}")
            graph.insert_before(graph[0], node)
            value.replace_all_uses_with(output)
        else:
            value.name = f"w{rng.integers(1 << 60)}"
    for node in list(graph):
        value = node.outputs[0]
        if value.is_graph_output() or rng.random() < 0.6:
            continue
        users = list(value.uses())
        through = ir.Value(name=f"i{rng.integers(1 << 60)}", type=value.type, shape=value.shape)
        graph.insert_after(node, ir.node("Identity", [value], outputs=[through], name=f"k{through.name}"))
        for use in users:
            use.node.replace_input_with(use.idx, through)
    graph.inputs[0].name = "pixels"
    return copy


def merged(models: dict[str, ir.Model]) -> ir.Model:
    """The models in one, each with one output, called as the model is."""
    parts = [
        Part(
            name, clone(model), tuple(name if i == 0 else f"{name}_{v.name}" for i, v in enumerate(model.graph.outputs))
        )
        for name, model in models.items()
    ]
    inputs = canonical_parts(parts)
    return merge_models(parts, inputs, number_parts(parts, inputs))


def reached(model: ir.Model, names: Iterable[str]) -> int:
    """How many of the nodes that an output needs depend on the named weights."""
    found: set[ir.Node] = set()
    pending = [use.node for name in names for use in model.graph.initializers[name].uses()]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += [use.node for value in node.outputs for use in value.uses()]
    return len([node for node in needed(model) if node in found])


def needed(model: ir.Model) -> list[ir.Node]:
    """The nodes that an output needs."""
    return [node for node, tasks in tasks_of_nodes(model.graph).items() if tasks]
