"""Normalization that was folded away at export: noticed, and put back if asked."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Diagnostic, Namer, Role, head_of, new_initializer, report, set_role, stamp
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ops import spec

EPSILON = 1e-5
_REEXPORT = (
    "in torch: torch.onnx.export(model.train(), ..., optimize=False), or dynamo=False with "
    "training=TrainingMode.PRESERVE and do_constant_folding=False; or let us put fresh ones in: --batchnorm insert"
)


class ReportFoldedBatchNorm(InPlacePass):
    """Leaves a diagnostic ``batchnorm-folded`` if the network has convolutions with bias and no normalization at all.

    Exporters fold BatchNorm into the convolution before it. The network computes the same then, but trains differently.
    Changes nothing.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Look and report."""
        convolutions = [node for node in model.graph if node.op_type == "Conv" and node.domain == ""]
        biased = [node for node in convolutions if _bias(node) is not None]
        if biased and not any(_is_norm(node) for node in model.graph):
            message = (
                f"found no normalization, but {len(biased)} of {len(convolutions)} convolutions with a bias: BatchNorm "
                "was folded into them at export, or the network never had any"
            )
            report(model, Diagnostic("batchnorm-folded", message, str(biased[0].name), _REEXPORT))
        return PassResult(model, False)


class InsertBatchNorm(InPlacePass):
    """Puts a BatchNormalization behind every convolution that has a bias and no normalization behind it.

    It is the identity plus the bias, which moves from the convolution into β: with γ = 1, β = b, mean 0 and variance
    1 - ε, γ·(Wx - 0)/√(1 - ε + ε) + b = Wx + b. In evaluation nothing changes; training normalizes, and its running
    statistics become those of the data.

    Left alone: heads, and convolutions on 1×1 maps (squeeze-and-excitation), where a batch has too few numbers to
    normalize.

    Requires: shapes are inferred. Ensures: the bias of such a convolution is gone; roles are set.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Insert."""
        namer = Namer(model.graph)
        inserted: list[ir.Node] = []
        for node in list(model.graph):
            if node.op_type != "Conv" or node.domain != "":
                continue
            reason = _left_alone(node)
            if reason is None:
                inserted.append(self._insert(model.graph, node, namer))
            elif reason:
                report(model, Diagnostic("no-batchnorm-inserted", f"left as it is: {reason}", str(node.name)))
        if inserted:
            message = f"put BatchNorm behind {len(inserted)} convolutions; it starts as the identity"
            report(model, Diagnostic("batchnorm-inserted", message))
        return PassResult(model, bool(inserted))

    def _insert(self, graph: ir.Graph, conv: ir.Node, namer: Namer) -> ir.Node:
        bias = _bias(conv)
        assert bias is not None and bias.const_value is not None
        old = conv.outputs[0]
        shift = bias.const_value.numpy()
        slots = (
            ("scale", np.ones_like(shift), Role.BACKBONE),
            ("bias", shift, Role.BACKBONE),
            ("mean", np.zeros_like(shift), Role.STATISTIC),
            ("variance", np.full_like(shift, 1.0 - EPSILON), Role.STATISTIC),
        )
        name = namer.unique(f"{conv.name}.bn")
        weights = [
            set_role(new_initializer(graph, namer.unique(f"{name}.{slot}"), array), role) for slot, array, role in slots
        ]
        # The norm takes over the value's name and place: it may be a feature.
        outer = ir.Value(name=str(old.name), type=old.type, shape=old.shape)
        outer.metadata_props.update(old.metadata_props)
        old.name = namer.unique(f"{old.name}.conv")
        old.replace_all_uses_with(outer, replace_graph_outputs=True)
        attributes = [ir.AttrFloat32("epsilon", EPSILON)]
        norm = ir.Node("", "BatchNormalization", [old, *weights], attributes, outputs=[outer], name=name)
        graph.insert_after(conv, stamp(norm, self, conv))
        conv.replace_input_with(2, None)
        conv.resize_inputs(2)
        if not bias.uses():
            del graph.initializers[str(bias.name)]
        return norm


def _left_alone(node: ir.Node) -> str | None:
    """Why a convolution gets no normalization: "" if it has one already, None if it gets one."""
    if any(_is_norm(user) for user in node.outputs[0].consumers()):
        return ""
    if head_of(node) is not None:
        return "it belongs to a head"
    if _bias(node) is None:
        return "it has no bias that is a weight, so no normalization was folded into it"
    shape = node.outputs[0].shape
    if shape is not None and len(shape) == 4 and list(shape)[2:] == [1, 1]:
        return "its map is 1x1, and a batch has too few numbers to normalize"
    return None


def _bias(node: ir.Node) -> ir.Value | None:
    """The convolution's bias, if it is an initializer."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias if bias is not None and bias.is_initializer() else None


def _is_norm(node: ir.Node) -> bool:
    entry = spec(node)
    return entry is not None and entry.norm
