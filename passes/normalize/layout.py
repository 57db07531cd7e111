"""Images with their channels last (TensorFlow, Keras) come with their channels first."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Diagnostic, Namer, diagnostics, new_initializer, report, set_sources, sources, stamp
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.inputs import channels_last

_TO_FIRST = (0, 3, 1, 2)
_TO_LAST = (0, 2, 3, 1)
_UNARY = frozenset(
    {"Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Clip", "Softplus", "Cast"}
    | {"Identity", "Dropout", "Gelu", "Erf", "Exp", "Sqrt", "Abs", "Neg", "Mish", "Softsign"}
)
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})
# (weight, permutation) -> the weight before the Transpose
_Turned = dict[tuple[ir.Value, tuple[int, ...]], ir.Value]


class ChannelsFirst(InPlacePass):
    """Makes an image input [N, H, W, C] one of [N, C, H, W] and removes the transposes that this makes needless.

    A Transpose is put behind the input; it moves down through elementwise operators until it meets its inverse, which
    an export from TensorFlow has before its first convolution.

    Ensures: the image has its channels first. Where one was turned, pairs of transposes that cancel are gone.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Turn the image, then let transposes meet."""
        graph = model.graph
        images = [value for value in graph.inputs if not value.is_initializer() and channels_last(value)]
        for image in images:
            _turn(graph, image)
            message = f"the input {image.name!r} was [N, H, W, C]; it is [N, C, H, W] now, as all images are here"
            report(model, Diagnostic("channels-first", message))
        if images:
            cancel_transposes(graph)
        return PassResult(model, bool(images))


class CancelTransposes(InPlacePass):
    """Removes the transposes that cancel, once more when constants are known; see :func:`cancel_transposes`.

    Only where the image was turned: other graphs keep their transposes where they are.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Cancel."""
        turned = any(remark.code == "channels-first" for remark in diagnostics(model))
        return PassResult(model, turned and cancel_transposes(model.graph))


def _turn(graph: ir.Graph, image: ir.Value) -> None:
    """Exchange the image's axes and give its users what they had by a Transpose."""
    assert image.shape is not None
    last = image.shape
    users = [(use.node, use.idx) for use in image.uses()]
    image.shape = ir.Shape([last[axis] for axis in _TO_FIRST])
    name = Namer(graph).unique(f"{image.name}.last")
    out = ir.Value(name=name, type=image.type, shape=last)
    attributes = [ir.AttrInt64s("perm", list(_TO_LAST))]
    node = ir.Node("", "Transpose", [image], attributes, outputs=[out], name=f"{name}.node")
    first = next(iter(graph), None)
    stamp(node, ChannelsFirst.__name__)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)
    for user, index in users:
        user.replace_input_with(index, out)


def cancel_transposes(graph: ir.Graph) -> bool:
    """Move transposes down through elementwise operators, join those that meet, remove those that do nothing.

    One walk in graph order: a transposed value is either handed on, or joined, at each of its users.
    """
    namer = Namer(graph)
    constants: _Turned = {}  # a weight that several nodes share stays one weight
    changed = False
    for node in graph:
        if node.domain != "":
            continue
        if node.op_type == "Transpose":
            changed |= _join(graph, node)
        elif _passes(node, namer, graph, constants):
            changed = True
    for node in reversed(graph):
        if node.op_type == "Transpose" and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)
    return changed


def _perm(node: ir.Node | None) -> tuple[int, ...] | None:
    if node is None or node.op_type != "Transpose" or node.domain != "" or "perm" not in node.attributes:
        return None
    return tuple(node.attributes["perm"].as_ints())


def _join(graph: ir.Graph, node: ir.Node) -> bool:
    """Two transposes in a row are one, or none."""
    before = None if node.inputs[0] is None else node.inputs[0].producer()
    first, second = _perm(before), _perm(node)
    if before is None or first is None or second is None:
        return False
    both = tuple(first[axis] for axis in second)
    source = before.inputs[0]
    assert source is not None
    if both == tuple(range(len(both))) and not node.outputs[0].is_graph_output():
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)
        return True
    node.replace_input_with(0, source)
    node.attributes["perm"] = ir.AttrInt64s("perm", list(both))
    return True


def _passes(node: ir.Node, namer: Namer, graph: ir.Graph, constants: _Turned) -> bool:
    """Apply an elementwise operator before the Transpose of its input instead of behind it."""
    if node.op_type not in _UNARY | _BINARY or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return False
    turned = [_perm(None if value is None else value.producer()) for value in node.inputs]
    perms = {perm for perm in turned if perm is not None}
    if len(perms) != 1:
        return False
    (perm,) = perms
    inputs: list[tuple[int, ir.Value]] = []
    for index, (value, own) in enumerate(zip(node.inputs, turned, strict=True)):
        if value is None or (node.op_type in _UNARY and index > 0):
            continue
        if own is not None:
            producer = value.producer()
            assert producer is not None and producer.inputs[0] is not None
            inputs.append((index, producer.inputs[0]))
            continue
        constant = _constant_before(value, perm, namer, graph, constants)
        if constant is None:
            return False
        inputs.append((index, constant))
    for index, value in inputs:
        node.replace_input_with(index, value)
    result = node.outputs[0]
    out = ir.Value(name=namer.unique(f"{result.name}.turned"), type=result.type)
    new = ir.Node(
        "", "Transpose", [out], [ir.AttrInt64s("perm", list(perm))], name=namer.unique(f"{node.name}.transpose")
    )
    new.outputs[0].name = namer.unique(f"{result.name}.back")
    new.outputs[0].type, new.outputs[0].shape = result.type, result.shape
    set_sources(new, sources(node))
    graph.insert_after(node, new)
    result.replace_all_uses_with(new.outputs[0])
    new.replace_input_with(0, result)
    result.shape = None if result.shape is None else ir.Shape([result.shape[perm.index(i)] for i in range(len(perm))])
    return True


def _constant_before(
    value: ir.Value, perm: tuple[int, ...], namer: Namer, graph: ir.Graph, turned: _Turned
) -> ir.Value | None:
    """What a constant operand is on the other side of the Transpose; None if the operand is none."""
    if value.const_value is None or value.is_graph_input():
        return None
    array = value.const_value.numpy()
    if array.ndim > len(perm):
        return None
    if array.size == 1:
        return value
    if (value, perm) not in turned:
        wide = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
        axes = [perm.index(i) for i in range(len(perm))]
        new = new_initializer(graph, namer.unique(f"{value.name}.first"), np.ascontiguousarray(wide.transpose(axes)))
        new.metadata_props.update(value.metadata_props)
        turned[value, perm] = new
    return turned[value, perm]
