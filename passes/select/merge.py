"""Merge nodes that compute the same thing: this is what makes a trunk shared.

Two nodes are equal if operator, attributes (defaults filled in) and inputs agree; inputs agree if they are the same
value, so weights are compared by identity, never by content. The node that stays carries the sources of all.
"""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from onnxmtl.ir import Diagnostic, report, unite
from onnxmtl.ir.attributes import canonical_attributes
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ops import weight_slots

_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)


class MergeEqualNodes(InPlacePass):
    """Common-subexpression elimination that keeps output names and unites provenance.

    Requires topological order. Ensures no two equal deterministic nodes remain, except producers of two different
    graph outputs (each output keeps its name). Operators that share their weights and still are two leave a diagnostic
    ``nearly-equal`` with the first difference.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Merge in one sweep over the main graph."""
        graph = model.graph
        seen: dict[Hashable, ir.Node] = {}
        same_weights: dict[Hashable, ir.Node] = {}
        modified = False
        for node in list(graph):
            key = node_key(node, graph.opset_imports)
            if key is None:
                continue
            kept = seen.setdefault(key, node)
            if kept is node:
                self._explain(model, node, same_weights)
                continue
            if any(value.is_graph_output() for value in node.outputs):
                if any(value.is_graph_output() for value in kept.outputs):
                    continue
                # The output keeps its name, so the node that produces it stays; it takes the place of the other.
                _move_before(graph, node, kept)
                kept, node = node, kept
                seen[key] = kept
            unite(kept, node)
            for old, new in zip(node.outputs, kept.outputs, strict=True):
                old.replace_all_uses_with(new)
            graph.remove(node, safe=True)
            modified = True
        return PassResult(model, modified)

    def _explain(self, model: ir.Model, node: ir.Node, same_weights: dict[Hashable, ir.Node]) -> None:
        """Say why `node` is not one with an earlier node that has its weights."""
        weights = tuple(id(v) if v is not None and v.is_initializer() else None for v in node.inputs)
        if not weight_slots(node):  # the scales of a Resize are no weights
            return
        first = same_weights.setdefault((node.domain, node.op_type, weights), node)
        if first is not node:
            message = f"has the weights of {first.name!r} but stays a node of its own: {first_difference(node, first)}"
            report(model, Diagnostic("nearly-equal", message, str(node.name), "tasks share it from equal inputs on"))


def first_difference(node: ir.Node, other: ir.Node) -> str:
    """The first thing in which two nodes of one operator differ, in words."""
    for index, (one, two) in enumerate(zip(node.inputs, other.inputs, strict=False)):
        if one is not two:
            return f"its input {index} is {_value(one)}, the other's {_value(two)}"
    if len(node.inputs) != len(other.inputs):
        return f"it has {len(node.inputs)} inputs, the other {len(other.inputs)}"
    for name in sorted({*node.attributes, *other.attributes}):
        one_attribute, two_attribute = node.attributes.get(name), other.attributes.get(name)
        if one_attribute != two_attribute:
            values = [None if a is None else a.value for a in (one_attribute, two_attribute)]
            return f"its {name} is {values[0]}, the other's {values[1]}"
    return f"both make outputs of the model, {node.outputs[0].name!r} and {other.outputs[0].name!r}"


def _value(value: ir.Value | None) -> str:
    if value is None:
        return "absent"
    producer = value.producer()
    return repr(value.name) if producer is None else f"{value.name!r} (of {producer.op_type} {producer.name!r})"


def _move_before(graph: ir.Graph, node: ir.Node, place: ir.Node) -> None:
    graph.remove(node)
    graph.insert_before(place, node)


def node_key(node: ir.Node, opsets: dict[str, int]) -> Hashable | None:
    """A hashable that is equal for nodes that compute the same values; None for random and control-flow nodes."""
    if node.op_type in _RANDOM and node.domain == "":
        return None
    attributes = canonical_attributes(node, opsets)
    if attributes is None:
        return None
    inputs = tuple(None if v is None else id(v) for v in node.inputs)
    return (node.domain, node.op_type, node.overload, len(node.outputs), inputs, attributes)
