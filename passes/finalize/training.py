"""Take out what only matters while training: Dropout, batch statistics, identities."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, is_supermodel, report
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused


class DropTrainingOnly(InPlacePass):
    """Dropout and Identity nodes vanish, BatchNormalization uses its running statistics.

    Requires a model without Choices. Ensures that no Dropout is left, that no BatchNormalization is in training mode,
    and that Identity nodes are left only where an output would lose its name: an output that is an input or an
    initializer, or two outputs that are one value. Outputs keep their names and order.

    Raises:
        Refused: The model is a supermodel.
        ModelError: A Dropout's mask, or a BatchNormalization's batch statistics, are used.
    """

    preserves_numerics = False  # a model in training mode is random

    def requires(self, model: ir.Model) -> None:
        """Refuse a supermodel."""
        if is_supermodel(model):
            msg = "finalize: this model still holds Choices; select an architecture first"
            raise Refused(msg)

    def call(self, model: ir.Model) -> PassResult:
        """One walk in graph order."""
        graph = model.graph
        modified = False
        for node in list(graph):
            if node.domain != "":
                continue
            if node.op_type == "BatchNormalization":
                modified |= _leave_training(model, node)
            elif node.op_type == "Dropout":
                _refuse_used(node, "the mask of a Dropout is used")
                modified = True
                if not bypass(graph, node):
                    graph.insert_after(node, _identity(node))
                    graph.remove(node, safe=True)
            elif node.op_type == "Identity":
                modified |= bypass(graph, node)
        return PassResult(model, modified)


def bypass(graph: ir.Graph, node: ir.Node) -> bool:
    """Remove a node that hands its first input on; users read the input. Returns whether that was possible.

    If the node's output is an output of the graph, the input takes over its name. That is impossible if the input has
    a name to keep itself: it is an input, an initializer or another output. Then nothing changes.
    """
    source, result = node.inputs[0], node.outputs[0]
    if source is None:
        return False
    if result.is_graph_output():
        places = [i for i, value in enumerate(graph.outputs) if value is result]
        if source.producer() is None or source.is_graph_output() or len(places) > 1:
            return False
        name = result.name
        result.name = None
        source.name = name
    if source.type is None:
        source.type = result.type
    if source.shape is None:
        source.shape = result.shape
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


def _leave_training(model: ir.Model, node: ir.Node) -> bool:
    extra = [value for value in node.outputs[1:] if value.name]
    if not extra and not node.attributes.get_int("training_mode", 0):
        return False
    _refuse_used(node, "the batch statistics of a BatchNormalization are used")
    node.resize_outputs(1)
    node.attributes.pop("training_mode", None)
    message = "it was in training mode and now uses its running statistics"
    report(model, Diagnostic("training-mode-off", message, str(node.name)))
    return True


def _refuse_used(node: ir.Node, what: str) -> None:
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        msg = f"node {node.name!r}: {what}, so it cannot be taken out of training; export the model in inference mode"
        raise ModelError(msg)


def _identity(node: ir.Node) -> ir.Node:
    """An Identity in the place of `node`, which takes over its output."""
    old = node.outputs[0]
    new = ir.Value(name=old.name, type=old.type, shape=old.shape)
    replacement = ir.Node(
        "", "Identity", [node.inputs[0]], outputs=[new], name=node.name, metadata_props=dict(node.metadata_props)
    )
    old.name = None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    return replacement
