"""Writing and reading models of ours: deterministic bytes, function bodies attached, no half-written file."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir.choice import attach_functions
from onnxmtl.ir.external import map_external, save_external

# Protobuf refuses messages of 2 GiB; above this many bytes of weights they go to a file beside the model.
EXTERNAL_DATA_BYTES = 1_500_000_000


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers of the main graph."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def to_bytes(model: ir.Model) -> bytes:
    """Serialise with Choice bodies attached; equal models give equal bytes.

    Raises:
        ModelError: The weights are too large for one protobuf message; :func:`save` writes them to a file.
    """
    if (size := weight_bytes(model)) > EXTERNAL_DATA_BYTES:
        msg = f"the weights take {size / 1e9:.1f} GB, more than one ONNX message holds; save the model to a file"
        raise ModelError(msg)
    attach_functions(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    return bytes(proto.SerializeToString(deterministic=True))


def save(model: ir.Model, path: str | os.PathLike[str]) -> Path:
    """Write `model` to `path`: beside it first, then renamed.

    Weights beyond protobuf's limit go to ``<path>.data``, each tensor once (:func:`save_external`); to keep such a
    pair atomic, write into a fresh directory and rename that (:func:`onnxmtl.runs.atomic_directory`).
    """
    target = Path(path)
    if weight_bytes(model) > EXTERNAL_DATA_BYTES:
        return save_external(model, target)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(to_bytes(model))
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def skeleton(model: ir.Model, *, small: int = 1000) -> onnx.ModelProto:
    """The model as onnx's C++ tools should see it: weights of more than `small` bytes are inputs without data."""
    graph = model.graph
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in graph.opset_imports.items():
        proto.opset_import.append(onnx.OperatorSetIdProto(domain=domain, version=version))
    proto.functions.extend(ir.serde.serialize_function(function) for function in model.functions.values())
    target = proto.graph
    target.name = graph.name or "graph"
    target.input.extend(ir.serde.serialize_value(value) for value in graph.inputs)
    target.output.extend(ir.serde.serialize_value(value) for value in graph.outputs)
    listed = {value.name for value in graph.inputs}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and name not in listed:
            shape = list(tensor.shape.numpy())
            target.input.append(onnx.helper.make_tensor_value_info(name, tensor.dtype.value, shape))
        if tensor is not None and tensor.nbytes <= small:
            target.initializer.append(ir.serde.serialize_tensor(tensor))
            target.initializer[-1].name = name
    for node in graph:
        target.node.append(ir.serde.serialize_node(node))
        for value in node.outputs:
            if value.name and value.type is not None and not value.is_graph_output():
                target.value_info.append(ir.serde.serialize_value(value))
    return proto


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read a model written by :func:`save`. For files of users see :mod:`onnxmtl.frontends.onnx`."""
    model = ir.load(path)
    map_external(model)
    return model
