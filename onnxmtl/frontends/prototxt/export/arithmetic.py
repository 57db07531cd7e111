"""Sums, products, powers and reductions.

A constant becomes the weight of a Scale or Bias, a single number the setting of a Power. Two tensors meet in an
Eltwise; where one is smaller, in a Scale or Bias with two inputs, or after copies (Tile).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl.frontends.prototxt.export.net import Array, Blob, Net
from onnxmtl.frontends.prototxt.export.pooling import write_global
from onnxmtl.frontends.prototxt.export.registry import require, says
from onnxmtl.frontends.prototxt.export.shape import write_reshape, write_tiles
from onnxmtl.frontends.prototxt.schema import enum

_MOST = float(np.finfo(np.float32).max)
_REDUCTIONS = {"ReduceSum": "SUM", "ReduceL1": "ASUM", "ReduceSumSquare": "SUMSQ", "ReduceMean": "MEAN"}


@dataclasses.dataclass(frozen=True)
class _Operand:
    """A blob and its shape."""

    blob: Blob
    shape: tuple[int, ...]


@says("Add", "Mul", "Sub", "Div")
def binary(node: ir.Node, net: Net) -> None:
    """The four operations."""
    a, b = node.inputs
    require(not (net.is_constant(a) and net.is_constant(b)), "both of its inputs are constants")
    product = node.op_type in ("Mul", "Div")
    if net.is_constant(b):
        _with_constant(node, net, _operand(net, a), b, product=product, undo=node.op_type in ("Sub", "Div"))
        return
    if net.is_constant(a):
        x = _operand(net, b)
        if node.op_type in ("Sub", "Div"):
            x = _inverse(node, net, x, product=product)
        _with_constant(node, net, x, a, product=product, undo=False)
        return
    x, y = _operand(net, a), _operand(net, b)
    if node.op_type == "Sub" and x.shape == y.shape and not net.automtl:
        param = net.layer("Eltwise", node, [x.blob, y.blob], [node.outputs[0]]).message.eltwise_param
        param.operation = enum("EltwiseOp")["SUM"]
        param.coeff.extend((1.0, -1.0))
        return
    if node.op_type in ("Sub", "Div"):
        y = _inverse(node, net, y, product=product)
    _combine(node, net, [x, y], "PROD" if product else "SUM")


@says("Sum", "Mean", "Max")
def many(node: ir.Node, net: Net) -> None:
    """Any number of tensors; the maximum also with a number, which is a Clip."""
    if len(node.inputs) == 1:
        net.alias(node)
        return
    if node.op_type == "Max" and len(node.inputs) == 2 and any(map(net.is_constant, node.inputs)):
        _clip(node, net)
        return
    operands = [_operand(net, value) for value in node.inputs]
    if node.op_type == "Mean":
        same = all(operand.shape == operands[0].shape for operand in operands)
        require(same, "its inputs have different shapes")
        total = net.between(node, "sum")
        _eltwise(node, net, operands, "SUM", total, suffix="sum")
        power = net.layer("Power", node, [total], [node.outputs[0]])
        power.message.power_param.scale = 1.0 / len(operands)
        return
    _combine(node, net, operands, "MAX" if node.op_type == "Max" else "SUM")


@says("Min")
def minimum(node: ir.Node, net: Net) -> None:
    """With a number, a Clip."""
    require(len(node.inputs) == 2 and any(map(net.is_constant, node.inputs)), "Caffe has no minimum of two tensors")
    _clip(node, net)


def _clip(node: ir.Node, net: Net) -> None:
    x, bound = sorted(node.inputs, key=net.is_constant)
    number = net.constant(bound, "its bound")
    require(number.size == 1 and not net.is_constant(x), "its bound is more than one number")
    level = float(number.reshape(-1)[0])
    if node.op_type == "Max" and level == 0:
        net.layer("ReLU", node, [x], [node.outputs[0]])
        return
    param = net.layer("Clip", node, [x], [node.outputs[0]]).message.clip_param
    param.min, param.max = (level, _MOST) if node.op_type == "Max" else (-_MOST, level)


@says("Pow")
def power(node: ir.Node, net: Net) -> None:
    """Power."""
    exponent = net.constant(node.inputs[1], "its exponent")
    require(exponent.size == 1, "its exponent is more than one number")
    number = float(exponent.reshape(-1)[0])
    net.layer("Power", node, [node.inputs[0]], [node.outputs[0]]).message.power_param.power = number


@says("Sqrt", "Reciprocal", "Neg")
def plain_power(node: ir.Node, net: Net) -> None:
    """Power 1/2 or −1, or a scale of −1."""
    param = net.layer("Power", node, [node.inputs[0]], [node.outputs[0]]).message.power_param
    if node.op_type == "Neg":
        param.scale = -1.0
    else:
        param.power = 0.5 if node.op_type == "Sqrt" else -1.0


@says(*_REDUCTIONS, "ReduceMax")
def reduction(node: ir.Node, net: Net) -> None:
    """Reduction over the last axes; pooling over the whole image."""
    x, out = node.inputs[0], node.outputs[0]
    shape, target = net.shape(x), net.shape(out)
    axes = net.ints(node, 1, "its axes")
    if not axes:
        require(node.attributes.get_int("noop_with_empty_axes", 0) == 0, "it reduces nothing")
        axes = list(range(len(shape)))
    axes = sorted(axis % len(shape) for axis in axes)
    require(0 not in axes, "it mixes the images of a batch")
    keep = bool(node.attributes.get_int("keepdims", 1))
    image = len(shape) == 4 and axes == [2, 3]
    if image and (node.op_type == "ReduceMax" or (keep and node.op_type == "ReduceMean")):
        method = "MAX" if node.op_type == "ReduceMax" else "AVE"
        top: Blob = out if keep else net.between(node, "pooled")
        write_global(node, net, x, top, method, suffix="" if keep else "pooled")
        if not keep:
            write_reshape(node, net, top, (*shape[:2], 1, 1), out, target)
        return
    require(node.op_type != "ReduceMax", "a maximum in Caffe is over the whole image")
    last = axes == list(range(len(shape) - len(axes), len(shape)))
    require(last, f"it reduces axes {axes}, in Caffe these are the last ones")
    top = net.between(node, "reduced") if keep else out
    param = net.layer("Reduction", node, [x], [top], suffix="reduced" if keep else "").message.reduction_param
    param.operation, param.axis = enum("ReductionOp")[_REDUCTIONS[node.op_type]], axes[0]
    if keep:
        write_reshape(node, net, top, shape[: axes[0]], out, target)


@says("ArgMax")
def arg_max(node: ir.Node, net: Net) -> None:
    """ArgMax: the index, as a float."""
    x, out = node.inputs[0], node.outputs[0]
    shape = net.shape(x)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    require(axis > 0, "it compares the images of a batch")
    require(node.attributes.get_int("select_last_index", 0) == 0, "it takes the last of equal ones")
    if out.uses():
        number = float_of(node)
        require(number is not None, "its indices are used as whole numbers")
        assert number is not None
        net.done.add(number)
        named, out = number, number.outputs[0]
    else:
        named = node
        net.remark("prototxt-float", f"the output {out.name!r} holds indices as float32, as Caffe does", str(node.name))
    keep = bool(node.attributes.get_int("keepdims", 1))
    top: Blob = out if keep else net.between(node, "index")
    written = net.layer("ArgMax", named, [x], [top], suffix="" if keep else "index")
    written.message.argmax_param.axis = axis
    if not keep:
        write_reshape(named, net, top, (*shape[:axis], 1, *shape[axis + 1 :]), out, net.shape(out))


@says("Greater")
def greater(node: ir.Node, net: Net) -> None:
    """Threshold, where the result becomes numbers again."""
    x, level = node.inputs
    number = float_of(node)
    require(number is not None, "it makes truth values")
    assert number is not None
    require(net.is_constant(level) and net.constant(level, "").size == 1, "it compares with more than one number")
    net.done.add(number)
    written = net.layer("Threshold", number, [x], [number.outputs[0]])
    written.message.threshold_param.threshold = float(net.constant(level, "").reshape(-1)[0])


def float_of(node: ir.Node) -> ir.Node | None:
    """The Cast to float32 that alone reads the node's result, or None."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or uses[0].node.op_type != "Cast":
        return None
    return uses[0].node if uses[0].node.attributes["to"].as_int() == ir.DataType.FLOAT.value else None


# Constants


def _operand(net: Net, value: ir.Value | None) -> _Operand:
    net.blob(value)  # refuses constants
    assert value is not None
    return _Operand(value, net.shape(value))


def _inverse(node: ir.Node, net: Net, x: _Operand, *, product: bool) -> _Operand:
    """1 / x, or −x."""
    top = net.between(node, "inverse")
    param = net.layer("Power", node, [x.blob], [top], suffix="inverse").message.power_param
    if product:
        param.power = -1.0
    else:
        param.scale = -1.0
    return _Operand(top, x.shape)


def _with_constant(
    node: ir.Node, net: Net, x: _Operand, constant: ir.Value | None, *, product: bool, undo: bool
) -> None:
    """x · c or x + c; with `undo` x / c or x − c."""
    out = node.outputs[0]
    array = net.constant(constant, "its constant")
    require(net.shape(out) == x.shape, "it repeats its input")
    change = _undone(product) if undo else None
    if array.size == 1:
        number = float((array if change is None else change(array.astype(np.float32))).reshape(-1)[0])
        param = net.layer("Power", node, [x.blob], [out]).message.power_param
        if product:
            param.scale = number
        else:
            param.shift = number
        return
    axis, dims = _covered(array.shape, x.shape)
    form = f"{product} {undo}"
    if not product:
        written = net.layer("Bias", node, [x.blob], [out])
        _cover(written.message.bias_param, axis, dims)
        net.weight(written, constant, "its constant", shape=dims, change=change, form=form)
        return
    shift = _shift_behind(node, net, x.shape, axis, dims)
    last = node if shift is None else shift
    written = net.layer("Scale", last, [x.blob], [last.outputs[0]])
    _cover(written.message.scale_param, axis, dims)
    net.weight(written, constant, "its constant", shape=dims, change=change, form=form)
    if shift is not None:
        written.message.scale_param.bias_term = True
        other = shift.inputs[1] if shift.inputs[0] is out else shift.inputs[0]
        net.weight(written, other, "its constant", shape=dims, form="False False")
        net.done.add(shift)


def _undone(product: bool) -> Callable[[Array], Array]:
    return (lambda array: np.float32(1.0) / array) if product else (lambda array: -array)


def _covered(dims: Sequence[int], shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """First axis and sizes of a constant that differs along neighbouring axes only."""
    wide = [*[1] * (len(shape) - len(dims)), *dims]
    different = [i for i, dim in enumerate(wide) if dim > 1]
    first, last = different[0], different[-1]
    require(first > 0, "its constant differs from image to image")
    found = tuple(wide[first : last + 1])
    require(found == tuple(shape[first : last + 1]), "its constant does not differ along neighbouring axes")
    return first, found


def _cover(param: object, axis: int, dims: Sequence[int]) -> None:
    if axis != 1:
        param.axis = axis  # type: ignore[attr-defined]
    if len(dims) != 1:
        param.num_axes = len(dims)  # type: ignore[attr-defined]


def _shift_behind(node: ir.Node, net: Net, shape: Sequence[int], axis: int, dims: tuple[int, ...]) -> ir.Node | None:
    """The Add of a constant of the same form that alone reads a product: both are one Scale."""
    out = node.outputs[0]
    users = [use.node for use in out.uses()]
    if len(users) != 1 or users[0].op_type != "Add" or out.is_graph_output():
        return None
    other = users[0].inputs[1] if users[0].inputs[0] is out else users[0].inputs[0]
    if not net.is_constant(other):
        return None
    array = net.constant(other, "its constant")
    wide = (*[1] * (len(shape) - array.ndim), *array.shape)
    expected = (*[1] * axis, *dims, *[1] * (len(shape) - axis - len(dims)))
    return users[0] if wide == expected else None


# Tensors


def _combine(node: ir.Node, net: Net, operands: Sequence[_Operand], operation: str) -> None:
    """Tensors of one shape in an Eltwise; a smaller one in a Scale or Bias, or copied."""
    out = node.outputs[0]
    target = net.shape(out)
    smaller = [operand for operand in operands if operand.shape != target]
    if len(operands) == 2 and len(smaller) == 1 and operation != "MAX":
        kept = _leading(smaller[0].shape, target)
        if kept:
            large = operands[0] if smaller[0] is operands[1] else operands[1]
            small = _before_reshape(net, smaller[0], kept)
            _scale_by(node, net, large, small, kept, "Scale" if operation == "PROD" else "Bias")
            return
    copied = []
    for i, operand in enumerate(operands):
        if operand.shape != target:
            top = net.between(node, f"copied{i}")
            write_tiles(node, net, operand.blob, operand.shape, top, target, suffix=f"copied{i}")
            operand = _Operand(top, target)
        copied.append(operand)
    _eltwise(node, net, copied, operation, out)


def _leading(small: Sequence[int], large: Sequence[int]) -> int:
    """Number of leading axes that a smaller tensor has in common, if all others of it are 1; else 0."""
    if len(small) != len(large):
        return 0
    kept = len(small)
    while kept and small[kept - 1] == 1:
        kept -= 1
    kept = max(kept, 1)
    return kept if tuple(small[:kept]) == tuple(large[:kept]) else 0


def _before_reshape(net: Net, small: _Operand, kept: int) -> _Operand:
    """What [N, C, 1, 1] was reshaped from, if that is [N, C]."""
    node = small.blob.producer() if isinstance(small.blob, ir.Value) else None
    if node is None or node.op_type not in ("Unsqueeze", "Reshape") or net.shape(node.inputs[0]) != small.shape[:kept]:
        return small
    source = node.inputs[0]
    return small if source is None else _Operand(source, small.shape[:kept])


def _scale_by(node: ir.Node, net: Net, large: _Operand, small: _Operand, kept: int, kind: str) -> None:
    """A Scale or Bias whose weight is a blob: [N, C] for [N, C, 1, 1]."""
    factor: Blob = small.blob
    if kept < len(small.shape):
        factor = net.between(node, "factor")
        write_reshape(node, net, small.blob, small.shape, factor, small.shape[:kept], suffix="factor")
    layer = net.layer(kind, node, [large.blob, factor], [node.outputs[0]]).message
    (layer.scale_param if kind == "Scale" else layer.bias_param).axis = 0


def _eltwise(
    node: ir.Node, net: Net, operands: Sequence[_Operand], operation: str, top: Blob, suffix: str = ""
) -> None:
    """One Eltwise; AutoMTL's reads its first two inputs only, so there it is a chain."""
    if net.automtl and len(operands) > 2:
        middle = net.between(node, "part")
        name = f"{suffix}part{len(operands) - 1}"
        _eltwise(node, net, operands[:-1], operation, middle, suffix=name)
        operands = [_Operand(middle, operands[0].shape), operands[-1]]
    blobs = [operand.blob for operand in operands]
    param = net.layer("Eltwise", node, blobs, [top], suffix=suffix).message.eltwise_param
    param.operation = enum("EltwiseOp")[operation]
