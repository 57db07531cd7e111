"""A fusion unit without an edge folds into its neighbour, where that is exact.

What is left of such a unit is a 1×1 convolution of the layer's own features, y = act(W·x + b), the normalization
folded into it already. In this order:

- W = I and b = 0: it is removed, and with it an activation that x has passed already;
- x = V∗u + a is made by a convolution (a linear bottleneck) for the unit alone: W·x + b = (W V)∗u + (W a + b);
- act never acts (W ≥ 0, b ≥ 0 and x ≥ 0 before a ReLU, or there is none), and only convolutions read y: the kernel of
  each becomes that of its composition with W. With b ≠ 0 they must not pad: padding is with zeros, not with b.

Everywhere else, as behind a ReLU, it stays one 1×1 convolution, and a remark says why.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Diagnostic, Namer, new_initializer, report, role_of, set_role, unite
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes._fusion_parts import ALONE, FUSION_KEY
from onnxmtl.passes.spaces._fusion_units import activation_of

_Array = np.ndarray[Any, np.dtype[Any]]


class FoldFusionUnits(InPlacePass):
    """Fold fusion units without an edge; the arithmetic is done in float64. Run it behind ``FoldBatchNorm``.

    Ensures that values that outputs are called by keep their names. A unit that stays leaves a ``unit-kept``.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """One walk in graph order."""
        graph = model.graph
        namer = Namer(graph)
        modified = False
        for node in [node for node in graph if node.metadata_props.get(FUSION_KEY) == ALONE]:
            unit = _read(node)
            if isinstance(unit, str):
                why = unit
            elif unit.is_identity:
                _remove(graph, unit)
                why = ""
            elif not (before := _convolution_before(unit)):
                _into_the_one_before(graph, namer, unit)
                why = ""
            elif not (behind := _convolutions_behind(unit)):
                _into_those_behind(graph, namer, unit)
                why = ""
            else:
                why = f"{before}; {behind}"
            modified |= not why
            if why:
                hint = "it is one 1x1 convolution, as the search trained it"
                report(model, Diagnostic("unit-kept", f"stays although it reads no other network: {why}",
                                         str(node.name), hint))  # fmt: skip
        return PassResult(model, modified)


@dataclasses.dataclass(frozen=True)
class _Unit:
    """y = act(W·x + b); W is [C, C], b is [C], in float64."""

    node: ir.Node
    x: ir.Value
    weight: _Array
    bias: _Array
    activation: ir.Node | None

    @property
    def is_identity(self) -> bool:
        ends = (self.x, self.node.outputs[0] if self.activation is None else self.activation.outputs[0])
        if all(value.is_graph_output() for value in ends):
            return False  # two outputs cannot be one value
        return np.array_equal(self.weight, np.eye(len(self.weight))) and not self.bias.any()

    @property
    def idle(self) -> bool:
        """Whether the activation changes nothing, whatever the image."""
        if self.activation is None:
            return True
        grows = bool((self.weight >= 0).all() and (self.bias >= 0).all())
        return self.activation.op_type == "Relu" and grows and activation_of(self.x) != "none"

    @property
    def result(self) -> ir.Value:
        return (self.activation or self.node).outputs[0]


def _read(node: ir.Node) -> _Unit | str:
    x, weight = node.inputs[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or weight is None or weight.const_value is None or (bias is not None and bias.const_value is None):
        return "its weights are computed or fed from outside"
    if len(weight.uses()) > 1:
        return f"its weight {weight.name!r} serves others too"
    array = _array(weight)
    offset = np.zeros(len(array)) if bias is None else _array(bias)
    users = list(node.outputs[0].uses())
    activation = None
    if len(users) == 1 and not node.outputs[0].is_graph_output() and users[0].node.op_type in ("Relu", "Clip"):
        activation = users[0].node
    return _Unit(node, x, array[:, :, 0, 0], offset, activation)


def _remove(graph: ir.Graph, unit: _Unit) -> None:
    """An identity: its readers read x; the activation goes too if x has passed one like it."""
    passed = activation_of(unit.x)
    kind = None if unit.activation is None else unit.activation.op_type
    bounded = passed == "relu6" and _is_relu6(unit.activation)
    if unit.activation is not None and (bounded or (kind == "Relu" and passed != "none")):
        _replace(graph, unit.activation, unit.x)
        graph.remove(unit.activation, safe=True)
    _replace(graph, unit.node, unit.x)
    graph.remove(unit.node, safe=True)


def _is_relu6(node: ir.Node | None) -> bool:
    bounds = [] if node is None else [value.const_value for value in node.inputs[1:] if value is not None]
    return node is not None and [float(b.numpy()) for b in bounds if b is not None] == [0.0, 6.0]


def _convolution_before(unit: _Unit) -> str:
    """Why the unit cannot go into the operator before it; empty if it can."""
    before = unit.x.producer()
    if before is None or before.op_type != "Conv" or before.domain != "":
        kind = "the image" if before is None else before.op_type
        return f"{kind} comes before it"
    if before.attributes.get_int("group", 1) != 1:
        return "a grouped convolution comes before it"
    if unit.x.is_graph_output() or len(unit.x.uses()) > 1:
        return f"others read {unit.x.name!r} too"
    return "" if _has_private_weights(before) else f"the weight of {before.name!r} is not its own"


def _convolutions_behind(unit: _Unit) -> str:
    """Why the unit cannot go into the operators behind it; empty if it can."""
    if not unit.idle:
        return "its activation is at work"
    result = unit.result
    if result.is_graph_output():
        return "an output is behind it"
    for node, index in result.uses():
        if node.op_type != "Conv" or node.domain != "" or index != 0 or node.attributes.get_int("group", 1) != 1:
            return f"{node.op_type} {node.name!r} comes behind it"
        if not _has_private_weights(node):
            return f"the weight of {node.name!r} is not its own"
        if unit.bias.any() and _pads(node):
            return f"{node.name!r} pads with zeros"
    return "" if result.uses() else "nothing is behind it"


def _into_the_one_before(graph: ir.Graph, namer: Namer, unit: _Unit) -> None:
    before = unit.x.producer()
    assert before is not None
    kernel, offset = _weights(before)
    _set_weights(
        graph, namer, before, np.einsum("oc,cikl->oikl", unit.weight, kernel), unit.weight @ offset + unit.bias
    )
    unite(before, unit.node)
    name = unit.node.outputs[0].name
    _replace(graph, unit.node, unit.x)
    graph.remove(unit.node, safe=True)
    unit.x.name = name


def _into_those_behind(graph: ir.Graph, namer: Namer, unit: _Unit) -> None:
    for node, _ in list(unit.result.uses()):
        kernel, offset = _weights(node)
        shift = np.einsum("ockl,c->o", kernel, unit.bias)
        _set_weights(graph, namer, node, np.einsum("ockl,ci->oikl", kernel, unit.weight), offset + shift)
    unit.result.replace_all_uses_with(unit.x)
    graph.remove([unit.node, *([] if unit.activation is None else [unit.activation])], safe=True)


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Readers of `node` read `value`; an output keeps its name."""
    old = node.outputs[0]
    if old.is_graph_output():
        name, old.name = old.name, None
        value.name = name
    old.replace_all_uses_with(value, replace_graph_outputs=True)


def _has_private_weights(node: ir.Node) -> bool:
    given = [value for value in node.inputs[1:] if value is not None]
    return len(given) > 0 and all(v.is_initializer() and v.const_value is not None and not v.is_graph_input()
                                  and len(v.uses()) == 1 for v in given)  # fmt: skip


def _pads(node: ir.Node) -> bool:
    automatic = node.attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    return automatic or any(node.attributes.get_ints("pads", ()))


def _weights(node: ir.Node) -> tuple[_Array, _Array]:
    kernel = node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert kernel is not None
    array = _array(kernel)
    return array, np.zeros(len(array)) if bias is None else _array(bias)


def _set_weights(graph: ir.Graph, namer: Namer, node: ir.Node, kernel: _Array, bias: _Array) -> None:
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    dtype = weight.const_value.numpy().dtype
    weight.const_value = ir.tensor(kernel.astype(dtype), name=weight.name)
    weight.shape = ir.Shape(kernel.shape)
    if len(node.inputs) < 3 and not bias.any():
        return
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    new = new_initializer(graph, namer.unique(f"{weight.name}/bias"), bias.astype(dtype))
    node.replace_input_with(2, set_role(new, role_of(weight)))


def _array(value: ir.Value) -> _Array:
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float64)
