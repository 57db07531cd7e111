"""Element by element, and sums: Eltwise, Power, Exp, Log, Axpy, Reduction, ArgMax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxmtl.frontends.prototxt.builder import Builder, only
from onnxmtl.frontends.prototxt.registry import MANY, Blob, Layer, converts
from onnxmtl.frontends.prototxt.schema import enum

_PRODUCT = enum("EltwiseOp")["PROD"]
_SUM = enum("EltwiseOp")["SUM"]
_OPERATORS = {_PRODUCT: "Mul", _SUM: "Add", enum("EltwiseOp")["MAX"]: "Max"}
_REDUCTIONS = {1: "ReduceSum", 2: "ReduceL1", 3: "ReduceSumSquare", 4: "ReduceMean"}


@converts("Eltwise", reads="eltwise_param: operation coeff stable_prod_grad", bottoms=(2, MANY))
def eltwise(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Product, maximum or weighted sum of blobs of one shape, from left to right."""
    param, bottoms = layer.message.eltwise_param, list(layer.bottoms)
    for blob in bottoms[1:]:
        if blob.shape != bottoms[0].shape:
            raise layer.error(f"its inputs have shapes {bottoms[0].shape} and {blob.shape}; Caffe needs equal ones")
    coefficients = list(param.coeff)
    if coefficients and param.operation != _SUM:
        raise layer.error("coeff goes with operation: SUM")
    if coefficients and len(coefficients) != len(bottoms):
        raise layer.error(f"{len(coefficients)} coefficients for {len(bottoms)} inputs")
    if layer.automtl:
        _say_what_differs(layer, net, coefficients)
    for i, factor in enumerate(coefficients):
        if factor != 1:
            number = net.scalar(layer, f"coeff{i}", factor)
            bottoms[i] = net.node(layer, "Mul", [bottoms[i], number], bottoms[i].shape, suffix=f"weighted{i}")
    result, shape = bottoms[0], bottoms[0].shape
    for i, blob in enumerate(bottoms[1:], 1):
        suffix = "" if i == len(bottoms) - 1 else f"part{i}"
        result = net.node(layer, _OPERATORS[param.operation], [result, blob], shape, suffix=suffix)
    return [result]


def _say_what_differs(layer: Layer, net: Builder, coefficients: list[float]) -> None:
    if len(layer.bottoms) > 2:
        net.differs(layer, f"uses all of its {len(layer.bottoms)} inputs; AutoMTL's own reader uses the first two only")
    if any(factor != 1 for factor in coefficients):
        net.differs(layer, "has coefficients, which AutoMTL's own reader ignores")


@converts("Axpy", bottoms=(3, 3))
def axpy(layer: Layer, net: Builder) -> Sequence[Blob]:
    """a · x + y with one a per image and channel (squeeze-and-excitation networks)."""
    a, x, y = layer.bottoms
    if x.shape != y.shape or a.shape[:2] != x.shape[:2] or math.prod(a.shape[2:]) != 1:
        raise layer.error(f"shapes {a.shape}, {x.shape} and {y.shape} do not fit")
    if len(a.shape) < len(x.shape):
        axes = net.ints(layer, "axes", range(len(a.shape), len(x.shape)))
        shape = (*a.shape, *(1 for _ in x.shape[len(a.shape) :]))
        a = net.node(layer, "Unsqueeze", [a, axes], shape, suffix="factor")
    product = net.node(layer, "Mul", [x, a], x.shape, suffix="product")
    return [net.node(layer, "Add", [product, y], x.shape)]


@converts("Power", reads="power_param: power scale shift")
def power(layer: Layer, net: Builder) -> Sequence[Blob]:
    """(shift + scale · x) ^ power."""
    param = layer.message.power_param
    steps = [("Mul", "scale", param.scale, 1.0), ("Add", "shift", param.shift, 0.0), ("Pow", "power", param.power, 1.0)]
    return [_chain(layer, net, layer.bottoms[0], steps)]


@converts("Exp", reads="exp_param: base scale shift")
def exp(layer: Layer, net: Builder) -> Sequence[Blob]:
    """base ^ (shift + scale · x); base −1 stands for e."""
    param, factor = layer.message.exp_param, _log_base(layer, layer.message.exp_param.base)
    steps = [("Mul", "scale", param.scale * factor, 1.0), ("Add", "shift", param.shift * factor, 0.0)]
    return [_chain(layer, net, layer.bottoms[0], [*steps, ("Exp", "", 0.0, 1.0)])]


@converts("Log", reads="log_param: base scale shift")
def log(layer: Layer, net: Builder) -> Sequence[Blob]:
    """The logarithm of shift + scale · x; base −1 stands for e."""
    param, factor = layer.message.log_param, _log_base(layer, layer.message.log_param.base)
    if factor == 0:
        raise layer.error("there is no logarithm of base 1")
    steps = [("Mul", "scale", param.scale, 1.0), ("Add", "shift", param.shift, 0.0), ("Log", "", 0.0, 1.0)]
    return [_chain(layer, net, layer.bottoms[0], [*steps, ("Mul", "base", 1.0 / factor, 1.0)])]


@converts("Reduction", reads="reduction_param: operation axis coeff")
def reduction(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Sum, sum of absolute values or squares, or mean, over all axes from one on, times a factor."""
    x, param = layer.bottoms[0], layer.message.reduction_param
    axis = layer.axis(param.axis)
    axes = net.ints(layer, "axes", range(axis, len(x.shape)))
    op_type = _REDUCTIONS[param.operation]
    shape, batched = x.shape[:axis], x.batched and axis > 0
    suffix = "reduced" if param.coeff != 1 else ""
    y = net.node(layer, op_type, [x, axes], shape, suffix=suffix, batched=batched, keepdims=0)
    if param.coeff != 1:
        y = net.node(layer, "Mul", [y, net.scalar(layer, "coeff", param.coeff)], shape, batched=batched)
    return [y]


@converts("ArgMax", reads="argmax_param: out_max_val top_k axis")
def arg_max(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Index of the largest element along an axis, or of each image; as a float, as in Caffe."""
    x, param = layer.bottoms[0], layer.message.argmax_param
    only(layer, param.top_k == 1, f"top_k {param.top_k}")
    if param.HasField("axis"):
        only(layer, layer.axis(param.axis) > 0, "the batch axis")
        axis = layer.axis(param.axis)
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        if param.out_max_val:
            axes = net.ints(layer, "axes", [axis])
            return [net.node(layer, "ReduceMax", [x, axes], shape, keepdims=1)]
        return [_index(layer, net, x, axis, shape)]
    axis, shape = 2, (x.shape[0], 1, 1)
    count = math.prod(x.shape[1:])
    flat = net.node(layer, "Reshape", [x, net.ints(layer, "flat", [0, 1, -1])], (x.shape[0], 1, count), suffix="flat")
    if not param.out_max_val:
        return [_index(layer, net, flat, axis, shape)]
    index = _index(layer, net, flat, axis, shape, "as_float")
    largest = net.node(layer, "ReduceMax", [flat, net.ints(layer, "axes", [axis])], shape, suffix="largest", keepdims=1)
    return [net.node(layer, "Concat", [index, largest], (x.shape[0], 2, 1), axis=1)]


def _index(layer: Layer, net: Builder, x: Blob, axis: int, shape: Sequence[int], suffix: str = "") -> Blob:
    index = net.node(layer, "ArgMax", [x], shape, suffix="index", dtype=ir.DataType.INT64, axis=axis, keepdims=1)
    return net.node(layer, "Cast", [index], shape, suffix=suffix, to=1)


def _log_base(layer: Layer, base: float) -> float:
    if base != -1 and base <= 0:
        raise layer.error(f"base is {base:g}; it has to be positive, or -1 for e")
    return 1.0 if base == -1 else math.log(base)


def _chain(layer: Layer, net: Builder, x: Blob, steps: Sequence[tuple[str, str, float, float]]) -> Blob:
    """Apply (operator, name, operand, operand that changes nothing) in turn; the last one has the layer's name."""
    steps = [step for step in steps if not step[1] or step[2] != step[3]] or [("Identity", "", 0.0, 0.0)]
    for i, (op_type, name, operand, _) in enumerate(steps):
        last = i == len(steps) - 1
        inputs: list[Blob | ir.Value] = [x, net.scalar(layer, name, operand)] if name else [x]
        x = net.node(layer, op_type, inputs, x.shape, suffix="" if last else f"{op_type.lower()}{i}")
    return x
