"""Types and shapes of all values, inferred node by node with onnx's own rules, failing loudly.

One node at a time, because then an error names the node, weights are never serialised, and a Choice is simply a
value of its first option's type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import is_choice, shape_text, value_text
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.batch_sizes import REPAIRS, batch_axis, unknown

# Constant inputs up to this many elements are shown to the inference: shapes, axes, pads, sizes.
_CONSTANT_ELEMENTS = 64


class InferShapes(InPlacePass):
    """Gives every value its type and shape.

    Requires: producers before consumers; types and shapes on the graph's inputs.
    Ensures: every value of a known operator has a type; shapes are the inferred ones where inference knows better than
    the annotation. With ``complete=True`` every value has a shape whose only unknown dimension is the batch.

    Raises:
        ModelError: A node whose inputs do not fit together, or (``complete``) a value without a known shape.
    """

    preserves_numerics = True

    def __init__(self, *, complete: bool = False) -> None:
        self.complete = complete

    def call(self, model: ir.Model) -> PassResult:
        """Infer; see :func:`infer_shapes`."""
        return PassResult(model, infer_shapes(model, complete=self.complete))


def infer_shapes(model: ir.Model, *, complete: bool = False) -> bool:
    """Infer types and shapes of all values of the main graph; supermodels are fine.

    Args:
        model: Changed in place: `type` and `shape` of values, nothing else.
        complete: Insist on a shape for every value that is used, known but for dimension 0.

    Returns:
        Whether anything changed.

    Raises:
        ModelError: See :class:`InferShapes`.
    """
    changed = False
    opsets = dict(model.graph.opset_imports)
    for node in model.graph:
        changed |= infer_node(node, opsets)
        if complete:
            for value in node.outputs:
                if value.uses() or value.is_graph_output():
                    _check_known(node, value)
    return changed


def infer_node(
    node: ir.Node, opsets: Mapping[str, int], constant: Callable[[ir.Value], ir.TensorProtocol | None] | None = None
) -> bool:
    """Infer the outputs of one node from the types and shapes of its inputs. Returns whether anything changed.

    Args:
        node: The node; nodes with subgraphs and of unknown domains keep what is annotated.
        opsets: The model's opset imports.
        constant: Gives the data of a value where it is known; default: of initializers.

    Raises:
        ModelError: The inputs do not fit together.
    """
    if is_choice(node):
        option = node.inputs[0]
        return option is not None and _assign(node.outputs[0], option.type, option.shape)
    if not is_standard(node) or any(a.type in _SUBGRAPHS for a in node.attributes.values()):
        return False
    try:
        inferred = _infer_proto(node, opsets, constant or (lambda value: value.const_value))
    except onnx.shape_inference.InferenceError as e:
        raise ModelError(_message(node, e)) from e
    _check_convolution(node)
    _check_window(node)
    changed = False
    for value in node.outputs:
        found = inferred.get(str(value.name))
        if found is None:
            continue
        type_ = ir.serde.deserialize_type_proto_for_type(found)
        shape = ir.serde.deserialize_type_proto_for_shape(found)
        if shape is not None:
            shape = _known_symbols(node, shape)
            repair = REPAIRS.get(node.op_type)
            if repair is not None:
                shape = repair(node, shape)
            elif node.op_type in _POOLS and node.attributes.get_int("ceil_mode", 0) == 1:
                shape = _without_window_in_padding(node, shape)
        changed |= _assign(value, type_, shape)
    return changed


_POOLS = ("MaxPool", "AveragePool", "LpPool")
_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def is_standard(node: ir.Node) -> bool:
    """Whether the node is of the standard ONNX domain."""
    return node.domain in ("", "ai.onnx")


def _infer_proto(
    node: ir.Node, opsets: Mapping[str, int], constant: Callable[[ir.Value], ir.TensorProtocol | None]
) -> dict[str, onnx.TypeProto]:
    """Run onnx's inference on a model of this node alone."""
    graph = onnx.GraphProto(name="node")
    graph.node.append(ir.serde.serialize_node(node))
    seen: set[str] = set()
    for value in node.inputs:
        if value is None or str(value.name) in seen:
            continue
        seen.add(str(value.name))
        tensor = constant(value)
        if tensor is not None and tensor.size <= _CONSTANT_ELEMENTS and tensor.dtype is not ir.DataType.STRING:
            proto = onnx.numpy_helper.from_array(np.asarray(tensor.numpy()), str(value.name))
            if proto.data_type == tensor.dtype.value:
                graph.initializer.append(proto)
                continue
        graph.input.append(_value_info(value, tensor))
    for value in node.outputs:
        if value.name:
            graph.output.append(onnx.ValueInfoProto(name=value.name))
    model = onnx.ModelProto(ir_version=10, graph=graph)
    for domain in {"", node.domain}:
        model.opset_import.append(onnx.OperatorSetIdProto(domain=domain, version=opsets.get(domain, opsets[""])))
    result = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return {value.name: value.type for value in result.graph.output if value.type.WhichOneof("value")}


def _value_info(value: ir.Value, tensor: ir.TensorProtocol | None) -> onnx.ValueInfoProto:
    """Name, type and shape of a value; those of its data if it is constant."""
    info = onnx.ValueInfoProto(name=str(value.name))
    if tensor is not None:
        info.type.tensor_type.elem_type = tensor.dtype.value
        info.type.tensor_type.shape.SetInParent()
        for dim in tensor.shape.numpy():
            info.type.tensor_type.shape.dim.add(dim_value=dim)
    elif value.type is not None:
        ir.serde.serialize_value_into(info, value)
    return info


def _assign(value: ir.Value, type_: ir.TypeProtocol | None, shape: ir.Shape | None) -> bool:
    """Give `value` the type and shape; a dimension the inference does not know keeps its annotation."""
    changed = False
    if type_ is not None and value.type != type_:
        value.type = type_
        changed = True
    if shape is None:
        return changed
    old = value.shape
    if old is not None and len(old) == len(shape):
        dims = [
            o if unknown(d) and isinstance(o, int) and i > 0 else d
            for i, (o, d) in enumerate(zip(old, shape, strict=True))
        ]
    else:
        dims = list(shape)
    if old is None or list(old) != dims:
        value.shape = ir.Shape(dims)
        changed = True
    return changed


def _known_symbols(node: ir.Node, shape: ir.Shape) -> ir.Shape:
    """onnx invents names for dimensions it does not know ("unk__0"), the same for every node: forget them."""
    symbols = {
        dim for v in node.inputs if v is not None and v.shape is not None for dim in v.shape if not isinstance(dim, int)
    }
    return ir.Shape([dim if isinstance(dim, int) or dim in symbols else None for dim in shape])


def _without_window_in_padding(node: ir.Node, shape: ir.Shape) -> ir.Shape:
    """With ``ceil_mode``, a last window that would start in the end padding does not exist; onnx counts it."""
    data = node.inputs[0]
    rank = len(shape) - 2
    strides = node.attributes.get_ints("strides") or [1] * rank
    pads = node.attributes.get_ints("pads") or [0] * (2 * rank)
    dims = list(shape)
    for i in range(rank):
        size, count = None if data is None or data.shape is None else data.shape[i + 2], dims[i + 2]
        if isinstance(size, int) and isinstance(count, int) and (count - 1) * strides[i] >= size + pads[i]:
            dims[i + 2] = count - 1
    return ir.Shape(dims)


def _check_convolution(node: ir.Node) -> None:
    """onnx's inference does not compare a convolution's channels with its weight's."""
    if node.op_type != "Conv" or len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return
    data, weight = node.inputs[0].shape, node.inputs[1].shape
    if data is None or weight is None or min(len(data), len(weight)) < 2:
        return
    groups = node.attributes.get_int("group", 1)
    channels, per_group = data[1], weight[1]
    if isinstance(channels, int) and isinstance(per_group, int) and channels != per_group * groups:
        msg = (
            f"node {node.name!r} (Conv): its input {node.inputs[0].name!r} has {channels} channels, its weight "
            f"{node.inputs[1].name!r} wants {per_group * groups}; the model is inconsistent, export it again"
        )
        raise ModelError(msg)


def _check_window(node: ir.Node) -> None:
    """onnx's inference lets a window be larger than its padded image, and then rounds towards zero."""
    if node.op_type not in ("Conv", *_POOLS) or not node.inputs:  # before attributes are read: names mean nothing yet
        return
    data, sizes = node.inputs[0], node.attributes.get_ints("kernel_shape")
    if data is None or data.shape is None or sizes is None:
        return
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return
    dilations = node.attributes.get_ints("dilations") or [1] * len(sizes)
    pads = node.attributes.get_ints("pads") or [0] * (2 * len(sizes))
    for i, (size, dim) in enumerate(zip(sizes, list(data.shape)[2:], strict=False)):
        if isinstance(dim, int) and dim + pads[i] + pads[i + len(sizes)] < dilations[i] * (size - 1) + 1:
            msg = (
                f"the images are too small: {dim} positions are left at node {node.name!r} ({node.op_type}), its "
                f"window needs {dilations[i] * (size - 1) + 1}"
            )
            raise ModelError(msg)


def _check_known(node: ir.Node, value: ir.Value) -> None:
    if value.shape is None or value.type is None:
        msg = (
            f"the shape of {value.name!r} (node {node.name!r}, {node.op_type}) cannot be inferred; export the model "
            "with fixed image size and without control flow or custom operators"
        )
        raise ModelError(msg)
    for i, dim in enumerate(value.shape):
        if i > 0 and not isinstance(dim, int) and i != batch_axis(value.shape):
            msg = (
                f"dimension {i} of {value.name!r} (node {node.name!r}, {node.op_type}) is unknown, its shape is "
                f"{shape_text(value.shape)}; export the model with a fixed image size"
            )
            raise ModelError(msg)
        if isinstance(dim, int) and dim <= 0:  # onnx lets a window that is larger than its image have no positions
            msg = f"nothing is left of the image at node {node.name!r} ({node.op_type}): the images are too small"
            raise ModelError(msg)


def _message(node: ir.Node, error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[-1].replace("[ShapeInferenceError]", "").replace("[TypeInferenceError]", "").split())
    inputs = ", ".join(value_text(v) for v in node.inputs if v is not None)
    return f"node {node.name!r} ({node.op_type}) cannot work on its inputs {inputs}: {text}; export the model again"
