"""Fold BatchNormalization into the operator before it, or make it a scale and a shift.

At inference a BatchNormalization is affine per channel:

    y = γ (x − μ) / √(σ² + ε) + β = s·x + h        s = γ / √(σ² + ε),  h = β − s·μ

After an operator that is linear in its weights, x = W∗u + b, and so y = (s·W)∗u + (s·b + h), where s multiplies the
weights of each output channel:

    Conv            W [M, C/g, …]    axis 0
    ConvTranspose   W [C, M/g, …]    axis 1, group by group: channel j of group i is output channel i·M/g + j
    Gemm            α A·B + β C: the output axis of B (0 if transB, else 1); bias β·s·C + h, with β = 1 afterwards

This is done where the pair is private: the weight feeds this operator alone, and its output feeds the normalization
alone. Otherwise (tasks share a convolution on different inputs, each with its own statistics; or no such operator
comes before) folding would need a copy of the weights, so the normalization becomes Mul and Add: one shared
convolution, and a scale and a shift per input.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl.cost.sharing import FOLDED_KEY
from onnxmtl.ir import Diagnostic, Namer, new_initializer, report, role_of, set_role, sources, stamp, unite
from onnxmtl.ir.metadata import json_names
from onnxmtl.ir.passes import InPlacePass, PassResult

_Array = np.ndarray[Any, np.dtype[Any]]
_LINEAR = frozenset(("Conv", "ConvTranspose", "Gemm"))
_WHY_NOT = "folding would need a copy of the weights; it costs a multiplication and an addition per element"
_BIAS = 2  # the input that is the bias, of all three


class FoldBatchNorm(InPlacePass):
    """Remove BatchNormalization nodes; the arithmetic is done in float64.

    Ensures that values keep their names and that the only BatchNormalization nodes left are those in training mode,
    with parameters that are no initializers, or on a value of unknown rank. Each of these leaves a diagnostic, and so
    does each that is spelled out.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """One walk in graph order, so that a second normalization folds into the result of the first."""
        graph = model.graph
        namer = Namer(graph)
        modified = False
        for node in list(graph):
            if node.op_type != "BatchNormalization" or node.domain != "":
                continue
            affine = _scale_and_shift(node)
            if isinstance(affine, str):
                report(model, Diagnostic("batchnorm-kept", affine, str(node.name), "export it in inference mode"))
                continue
            before = _private_operator(node)
            if isinstance(before, ir.Node):
                _fold(graph, namer, before, node, *affine)
                modified = True
            elif (rank := _rank(node)) is not None:
                message = f"became Mul and Add instead of part of an operator: {before}"
                report(model, Diagnostic("batchnorm-not-folded", message, str(node.name), _WHY_NOT))
                _spell_out(self, graph, namer, node, rank, *affine)
                modified = True
            else:
                message = "the rank of its input is unknown"
                report(model, Diagnostic("batchnorm-kept", message, str(node.name), "run shape inference first"))
        return PassResult(model, modified)


def _scale_and_shift(norm: ir.Node) -> tuple[_Array, _Array] | str:
    """s and h in float64, or why the node is not affine."""
    if norm.attributes.get_int("training_mode", 0) or any(value.uses() for value in norm.outputs[1:]):
        return "it is in training mode"
    arrays = []
    for value in norm.inputs[1:5]:
        if value is None or not value.is_initializer() or value.const_value is None or value.is_graph_input():
            return "its parameters are computed or fed from outside"
        arrays.append(value.const_value.numpy().astype(np.float64))
    gamma, beta, mean, variance = arrays
    scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    return scale, beta - scale * mean


def _private_operator(norm: ir.Node) -> ir.Node | str:
    """The operator before `norm` if the pair can be folded without copying weights, or why it cannot."""
    x = norm.inputs[0]
    node = x.producer() if x is not None else None
    if x is None or node is None:
        return "no operator comes before it"
    if node.op_type not in _LINEAR or node.domain != "":
        return f"it follows {node.op_type} {node.name!r}, which has no weights to take it in"
    if x.is_graph_output():
        return f"the value before it, {x.name!r}, is an output"
    if len(x.uses()) != 1:
        others = ", ".join(repr(user.name) for user in x.consumers() if user is not norm)
        return f"the value before it, {x.name!r}, is read by {others} too"
    if node.inputs[0] is None or node.inputs[0].is_initializer():
        return f"{node.name!r} has its weight on the left"
    weight = node.inputs[1]
    if weight is None or not _is_constant(weight) or weight.is_graph_output():
        return f"the weight of {node.name!r} is computed or fed from outside"
    if len(weight.uses()) != 1:
        others = ", ".join(repr(user.name) for user in weight.consumers() if user is not node)
        return f"the weight {weight.name!r} serves {others} too, with statistics of their own"
    bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
    return node if bias is None or _is_constant(bias) else f"the bias of {node.name!r} is computed or fed from outside"


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and value.const_value is not None and not value.is_graph_input()


def _fold(graph: ir.Graph, namer: Namer, node: ir.Node, norm: ir.Node, scale: _Array, shift: _Array) -> None:
    """Multiply the weights of `node`, give it the bias, and let it produce the value that `norm` did."""
    weight = node.inputs[1]
    assert weight is not None
    array = _array(weight)
    axes = np.ones(array.ndim, dtype=np.int64)
    if node.op_type == "ConvTranspose":
        groups = node.attributes.get_int("group", 1)
        per_group = scale.reshape(groups, 1, -1, *axes[2:])  # [g, 1, M/g, 1, …] against [g, C/g, M/g, …]
        folded = (array.reshape(groups, -1, *array.shape[1:]) * per_group).reshape(array.shape)
    else:
        axes[1 if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0) else 0] = -1
        folded = array * scale.reshape(axes)
    bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
    offset = np.zeros(1) if bias is None else _array(bias)
    if node.op_type == "Gemm":
        offset = offset * node.attributes.get_float("beta", 1.0)
        node.attributes.pop("beta", None)
    offset = offset * scale + shift

    dtype = weight.const_value.numpy().dtype if weight.const_value is not None else np.dtype(np.float32)
    weight.const_value = ir.tensor(folded.astype(dtype), name=weight.name)
    new_bias = new_initializer(graph, namer.unique(f"{weight.name}/bias"), offset.astype(dtype))
    set_role(new_bias, role_of(weight))
    if len(node.inputs) <= _BIAS:
        node.resize_inputs(_BIAS + 1)
    node.replace_input_with(_BIAS, new_bias)
    unite(node, norm)
    _remember(node, norm)
    _hand_over(norm.outputs[0], node.outputs[0])
    graph.remove(norm, safe=True)


def _spell_out(
    made_by: object, graph: ir.Graph, namer: Namer, norm: ir.Node, rank: int, scale: _Array, shift: _Array
) -> None:
    """Mul by the scale and Add the shift, as [C, 1, …]."""
    x, y = norm.inputs[0], norm.outputs[0]
    gamma = norm.inputs[1]
    assert x is not None and gamma is not None and gamma.const_value is not None
    dtype = gamma.const_value.numpy().dtype
    current = x
    nodes = []
    for op_type, what, array in (("Mul", "scale", scale), ("Add", "shift", shift)):
        column = array.astype(dtype).reshape(-1, *[1] * (rank - 2))
        weight = set_role(new_initializer(graph, namer.unique(f"{norm.name}/{what}"), column), role_of(gamma))
        out = ir.Value(name=namer.unique(f"{norm.name}/{what}_out"), type=y.type or x.type, shape=y.shape or x.shape)
        node = ir.Node(
            "",
            op_type,
            [current, weight],
            outputs=[out],
            name=namer.unique(f"{norm.name}/{op_type.lower()}"),
            metadata_props=dict(norm.metadata_props),
        )
        _remember(node, norm)
        nodes.append(stamp(node, made_by))
        current = out
    graph.insert_before(norm, nodes)
    _hand_over(y, current)
    graph.remove(norm, safe=True)


def _remember(node: ir.Node, norm: ir.Node) -> None:
    """Note which of the sources of `node` are those of a normalization."""
    taken = json_names(node.metadata_props, FOLDED_KEY)
    node.metadata_props[FOLDED_KEY] = json.dumps(sorted({*taken, *sources(norm)}), ensure_ascii=False)


def _hand_over(old: ir.Value, new: ir.Value) -> None:
    """`new` takes the users of `old`, its name, and what is known of it."""
    name, old.name = old.name, None
    new.name = name
    new.type = old.type if old.type is not None else new.type
    new.shape = old.shape if old.shape is not None else new.shape
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _rank(norm: ir.Node) -> int | None:
    for value in (norm.inputs[0], norm.outputs[0]):
        if value is not None and value.shape is not None:
            return max(len(value.shape), 2)
    return None


def _array(value: ir.Value) -> _Array:
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float64)
