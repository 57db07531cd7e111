"""Up to the canonical opset, with everything the version converter forgets put back."""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, name_nodes, report, set_sources, sources
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused
from onnxmtl.passes.normalize.old_forms import (
    resizes_without_coordinates,
    restore_coordinates,
    rewrite_old_forms,
)

CANONICAL_OPSET = 21
_IR_VERSION = 10  # the first that allows opset 21
_SMALL_BYTES = 1000  # the converter looks at shapes, axes and scales, never at weights


class ConvertOpset(InPlacePass):
    """Converts the standard operators up to `opset`; never down: a higher opset stays.

    Requires: no model-local functions (the converter drops their bodies); unique node names.
    Ensures: the opset is at least `opset`. Metadata of model, graph, nodes and values is kept by name, weights are the
    same objects. A node that a conversion added carries the source of the node it serves.

    Raises:
        ModelError: The converter has no rule for a node.
    """

    preserves_numerics = True

    def __init__(self, opset: int = CANONICAL_OPSET) -> None:
        self.opset = opset

    def requires(self, model: ir.Model) -> None:
        """Refuse functions."""
        if model.functions:
            msg = "ConvertOpset needs a model without functions: run InlineFunctions before it"
            raise Refused(msg)

    def call(self, model: ir.Model) -> PassResult:
        """Convert."""
        imports = model.graph.opset_imports
        if "ai.onnx" in imports:  # an alias of the standard domain
            imports.setdefault("", imports.pop("ai.onnx"))
        current = imports.get("", self.opset)
        if current >= self.opset:
            if current > self.opset:
                report(model, Diagnostic("opset-kept", f"the model uses opset {current}; opsets are never lowered"))
            model.ir_version = max(model.ir_version, _IR_VERSION)
            return PassResult(model, False)
        old = model.graph
        rewrite_old_forms(old, current)
        resizes = resizes_without_coordinates(old, current)
        model.graph = _convert(model, self.opset)
        _restore(old, model.graph)
        restore_coordinates(model.graph, resizes)
        model.ir_version = max(model.ir_version, _IR_VERSION)
        report(model, Diagnostic("opset-converted", f"converted from opset {current} to {self.opset}"))
        return PassResult(model, True)


def _convert(model: ir.Model, opset: int) -> ir.Graph:
    """The converted graph. Large weights are inputs without data in what the converter sees."""
    graph = onnx.GraphProto(name=model.graph.name or "graph")
    for node in model.graph:
        graph.node.append(ir.serde.serialize_node(node))
    for value in model.graph.inputs:
        graph.input.append(ir.serde.serialize_value(value))
    for value in model.graph.outputs:
        graph.output.append(ir.serde.serialize_value(value))
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.dtype.value, list(tensor.shape.numpy())))
        if tensor.nbytes <= _SMALL_BYTES:
            graph.initializer.append(ir.serde.serialize_tensor(tensor))
            graph.initializer[-1].name = name
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 3), graph=graph)
    for domain, version in model.graph.opset_imports.items():
        proto.opset_import.append(onnx.OperatorSetIdProto(domain=domain, version=version))
    try:
        converted = onnx.version_converter.convert_version(proto, opset)
    except Exception as e:  # the C++ converter raises bare RuntimeErrors, and asserts
        current = model.graph.opset_imports.get("")
        msg = (
            f"the model cannot be converted from opset {current} to {opset}: {_reason(e)}; export it with opset {opset}"
        )
        raise ModelError(msg) from e
    return ir.from_proto(converted).graph


def _reason(error: Exception) -> str:
    """What the C++ converter says, without its own source lines; it forgets to fill in its format."""
    text = " ".join(str(error).split())
    if "has no registered schema" in text:
        return "onnx does not know one of its operators in that opset"
    return text.rpartition("` failed: ")[2] or text


def _restore(old: ir.Graph, new: ir.Graph) -> None:
    """Put weights, metadata, documentation and known shapes back, by name."""
    new.name, new.doc_string = old.name, old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    new.opset_imports.update({k: v for k, v in old.opset_imports.items() if k not in new.opset_imports})
    kept = [value for value in new.inputs if value.name not in old.initializers]
    weights = [value for value in new.inputs if value.name in old.initializers]
    new.inputs.clear()
    new.inputs.extend(kept)
    for value in weights:
        original = old.initializers[str(value.name)]
        value.const_value = original.const_value
        new.initializers.pop(str(value.name), None)
        new.register_initializer(value)
    before = {str(value.name): value for node in old for value in node.outputs}
    before |= {str(value.name): value for value in (*old.inputs, *old.initializers.values())}
    after = [value for node in new for value in node.outputs]
    for value in (*after, *new.inputs, *new.initializers.values()):
        source = before.get(str(value.name))
        if source is None:
            continue
        value.metadata_props.update(source.metadata_props)
        value.meta.update(source.meta)
        value.doc_string = value.doc_string or source.doc_string
        if value.shape is None:
            value.shape = source.shape
        if value.type is None:
            value.type = source.type
    nodes = {node.name: node for node in old}
    for node in new:
        found = nodes.get(node.name) if node.name else None
        if found is not None:
            node.metadata_props.update(found.metadata_props)
            node.meta.update(found.meta)
            node.doc_string = node.doc_string or found.doc_string
    _provenance_of_new(new)
    name_nodes(new)


def _provenance_of_new(graph: ir.Graph) -> None:
    """Nodes the converter added get the sources of the nodes they feed, or else of those they follow."""
    for node in reversed(graph):
        if not sources(node):
            names = {name for value in node.outputs for user in value.consumers() for name in sources(user)}
            _set_if_any(node, names)
    for node in graph:
        if not sources(node):
            producers = [value.producer() for value in node.inputs if value is not None]
            _set_if_any(node, {name for producer in producers if producer is not None for name in sources(producer)})


def _set_if_any(node: ir.Node, names: set[str]) -> None:
    if names:
        set_sources(node, names)
