"""What an export in training mode leaves behind: random Dropout, batch statistics, biases without effect."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, counted, listed, report
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.fold import REPEATED


class EvaluationForm(InPlacePass):
    """Brings BatchNormalization and Dropout into evaluation mode; training switches them when it needs to.

    Also drops an all-zero bias of a convolution that exporters write for ``bias=False``: right before a
    BatchNormalization, or computed by the graph (:data:`REPEATED`) and not stored in the file.

    Requires: constants are folded. Ensures: BatchNormalization has one output, Dropout no ``training_mode`` input.
    The numbers change for an export in training mode: that is the point.

    Raises:
        ModelError: Something uses the batch statistics that a BatchNormalization in training mode hands out.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Walk once."""
        switched: list[str] = []
        zero = 0
        for node in model.graph:
            if node.domain != "":
                continue
            switch = _SWITCHES.get(node.op_type)
            if switch is not None and switch(node):
                switched.append(str(node.name))
            elif node.op_type == "Conv" and _drop_zero_bias(model.graph, node):
                zero += 1
        if switched:
            where = f"{counted(len(switched), 'node')} ({listed(switched)})"
            message = f"exported in training mode: {where}; now in evaluation mode"
            report(model, Diagnostic("training-mode", message))
        return PassResult(model, bool(switched or zero))


def _evaluate_batchnorm(node: ir.Node) -> bool:
    changed = node.attributes.get_int("training_mode", 0) == 1
    for value in node.outputs[1:]:
        if value.uses() or value.is_graph_output():
            msg = (
                f"node {node.name!r} (BatchNormalization) hands its batch statistics to others, which only "
                "training code does; export the model with model.eval() and optimize=False"
            )
            raise ModelError(msg)
    if len(node.outputs) > 1:
        node.resize_outputs(1)
        changed = True
    node.attributes.pop("training_mode", None)
    return changed


def _evaluate_dropout(node: ir.Node) -> bool:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    mode = node.inputs[2].const_value
    node.replace_input_with(2, None)
    node.resize_inputs(2)
    return mode is None or bool(mode.numpy().reshape(-1)[0])


_SWITCHES = {"BatchNormalization": _evaluate_batchnorm, "Dropout": _evaluate_dropout}


def _drop_zero_bias(graph: ir.Graph, node: ir.Node) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None or bias.const_value is None:
        return False
    followers = [] if node.outputs[0].is_graph_output() else list(node.outputs[0].uses())
    normalized = len(followers) == 1 and followers[0].node.op_type == "BatchNormalization"
    if not (normalized or REPEATED in bias.meta) or bool(np.any(bias.const_value.numpy())):
        return False
    node.replace_input_with(2, None)
    node.resize_inputs(2)
    if not bias.uses() and not bias.is_graph_input():
        del graph.initializers[str(bias.name)]
    return True
