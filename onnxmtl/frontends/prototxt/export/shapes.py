"""Sizes of all tensors as numbers: Caffe's networks are for images of one size, in batches of one size."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import skeleton

_MULTIPLE = re.compile(r"(?:([0-9]+)\*)?([A-Za-z_]\w*)")


def known_shapes(model: ir.Model) -> dict[ir.Value, tuple[int, ...]]:
    """Shapes of inputs and of the outputs of nodes, an open batch counted as 1; those that are not known are missing.

    Shapes on the model's values are believed; what is missing is inferred by onnx.

    Raises:
        ModelError: An input has no shape, or an open size other than the batch.
    """
    graph = model.graph
    found: dict[ir.Value, tuple[int, ...]] = {}
    firsts = [value.shape[0] for value in graph.inputs if value.shape]
    batches = {str(dim.value) for dim in firsts if not isinstance(dim, int)}
    for value in graph.inputs:
        shape = _numbers(value.shape, batches | {"None"})
        if shape is None or not all(isinstance(dim, int) for dim in list(value.shape or ())[1:]):
            shown = "no shape" if value.shape is None else f"shape {list(map(str, value.shape))}"
            msg = (
                f"the input {value.name!r} has {shown}, a prototxt needs sizes; "
                "export the model for a fixed size (only the batch may stay open)"
            )
            raise ModelError(msg)
        found[value] = shape
    outputs = [value for node in graph for value in node.outputs]
    for value in outputs:
        shape = _numbers(value.shape, batches)
        if shape is not None:
            found[value] = shape
    if any(value not in found and value.uses() for value in outputs):
        inferred = _inferred(model, found)
        for value in outputs:
            if value not in found and str(value.name) in inferred:
                found[value] = inferred[str(value.name)]
    return found


def _numbers(shape: ir.Shape | None, batches: set[str]) -> tuple[int, ...] | None:
    """Sizes with N counted as 1, "2*N" as 2; None if one of them is not known."""
    if shape is None:
        return None
    dims: list[int] = []
    for dim in shape:
        if isinstance(dim, int):
            dims.append(dim)
            continue
        match = _MULTIPLE.fullmatch(str(dim.value))
        if match is None or match[2] not in batches:
            return None
        dims.append(int(match[1] or 1))
    return tuple(dims)


def _inferred(model: ir.Model, known: dict[ir.Value, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    proto = skeleton(model)
    sizes = {str(value.name): known[value] for value in model.graph.inputs}
    for info in proto.graph.input:
        if info.name in sizes:
            del info.type.tensor_type.shape.dim[:]
            for dim in sizes[info.name]:
                info.type.tensor_type.shape.dim.add(dim_value=dim)
    del proto.graph.value_info[:]
    try:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError as e:
        msg = f"the sizes of the model's tensors cannot be inferred ({str(e).splitlines()[0]})"
        raise ModelError(msg) from e
    found = {}
    for info in (*proto.graph.value_info, *proto.graph.output):
        if info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                found[info.name] = tuple(dim.dim_value for dim in dims)
    return found
