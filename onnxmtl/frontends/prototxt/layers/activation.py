"""Activations: one operator each, or a short chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxmtl.frontends.prototxt.builder import Builder, only
from onnxmtl.frontends.prototxt.registry import Blob, Layer, converts


@converts("ReLU", reads="relu_param: negative_slope")
def relu(layer: Layer, net: Builder) -> Sequence[Blob]:
    """max(x, 0) + slope · min(x, 0)."""
    x, slope = layer.bottoms[0], layer.message.relu_param.negative_slope
    if slope == 0:
        return [net.node(layer, "Relu", [x], x.shape)]
    if layer.automtl:
        net.differs(layer, "has a negative slope, which AutoMTL's own reader ignores")
    return [net.node(layer, "LeakyRelu", [x], x.shape, alpha=slope)]


@converts("PReLU", reads="prelu_param: filler channel_shared")
def prelu(layer: Layer, net: Builder) -> Sequence[Blob]:
    """max(x, 0) + slope · min(x, 0), a learnt slope per channel or one for all."""
    x, param = layer.bottoms[0], layer.message.prelu_param
    only(layer, len(x.shape) >= 2, f"on a blob with {len(x.shape)} axes")
    channels = 1 if param.channel_shared else x.shape[1]
    filler = param.filler if param.HasField("filler") else None
    shape = () if param.channel_shared else (channels,)
    stored = (channels, *(1 for _ in x.shape[2:]))
    slope = net.weight(layer, 0, "weight", shape, filler, default="constant", value=0.25, stored=stored)
    return [net.node(layer, "PRelu", [x, slope], x.shape)]


@converts("ELU", reads="elu_param: alpha")
def elu(layer: Layer, net: Builder) -> Sequence[Blob]:
    """x or alpha · (eˣ − 1)."""
    x = layer.bottoms[0]
    return [net.node(layer, "Elu", [x], x.shape, alpha=layer.message.elu_param.alpha)]


@converts("ReLU6")
def relu6(layer: Layer, net: Builder) -> Sequence[Blob]:
    """min(max(x, 0), 6)."""
    return _clip(layer, net, 0.0, 6.0)


@converts("Clip", reads="clip_param: min max")
def clip(layer: Layer, net: Builder) -> Sequence[Blob]:
    """min(max(x, lower bound), upper bound)."""
    param = layer.message.clip_param
    if not param.HasField("min") or not param.HasField("max"):
        raise layer.error("min and max are needed")
    return _clip(layer, net, param.min, param.max)


def _clip(layer: Layer, net: Builder, low: float, high: float) -> Sequence[Blob]:
    x = layer.bottoms[0]
    return [net.node(layer, "Clip", [x, net.scalar(layer, "min", low), net.scalar(layer, "max", high)], x.shape)]


@converts("Swish", reads="swish_param: beta")
def swish(layer: Layer, net: Builder) -> Sequence[Blob]:
    """x · sigmoid(beta · x)."""
    x, beta = layer.bottoms[0], layer.message.swish_param.beta
    gate = x
    if beta != 1:
        gate = net.node(layer, "Mul", [x, net.scalar(layer, "beta", beta)], x.shape, suffix="scaled")
    gate = net.node(layer, "Sigmoid", [gate], x.shape, suffix="gate")
    return [net.node(layer, "Mul", [x, gate], x.shape)]


@converts("Softmax", reads="softmax_param: axis")
def softmax(layer: Layer, net: Builder) -> Sequence[Blob]:
    """eˣ over its sum along an axis (channels by default)."""
    x = layer.bottoms[0]
    return [net.node(layer, "Softmax", [x], x.shape, axis=layer.axis(layer.message.softmax_param.axis))]


@converts("Dropout", reads="dropout_param: dropout_ratio scale_train")
def dropout(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Dropout in training, the identity otherwise."""
    x, param = layer.bottoms[0], layer.message.dropout_param
    if not 0 <= param.dropout_ratio < 1:
        raise layer.error(f"dropout_ratio is {param.dropout_ratio:g}; it has to lie in [0, 1)")
    if not param.scale_train:
        net.remark("prototxt-differs", "scales in training instead of testing, which is the same on average", layer)
    return [net.node(layer, "Dropout", [x, net.scalar(layer, "ratio", param.dropout_ratio)], x.shape)]


@converts("Threshold", reads="threshold_param: threshold")
def threshold(layer: Layer, net: Builder) -> Sequence[Blob]:
    """1 where x is larger than the threshold, else 0."""
    x, level = layer.bottoms[0], layer.message.threshold_param.threshold
    larger = net.node(
        layer, "Greater", [x, net.scalar(layer, "threshold", level)], x.shape, suffix="greater", dtype=ir.DataType.BOOL
    )
    return [net.node(layer, "Cast", [larger], x.shape, to=1)]


def _plain(layer_type: str, op_type: str, formula: str) -> Callable[[Layer, Builder], Sequence[Blob]]:
    def convert(layer: Layer, net: Builder) -> Sequence[Blob]:
        x = layer.bottoms[0]
        return [net.node(layer, op_type, [x], x.shape)]

    convert.__doc__ = formula
    return converts(layer_type)(convert)


sigmoid = _plain("Sigmoid", "Sigmoid", "1 / (1 + e⁻ˣ).")
tanh = _plain("TanH", "Tanh", "The hyperbolic tangent.")
abs_val = _plain("AbsVal", "Abs", "|x|.")
bnll = _plain("BNLL", "Softplus", "ln(1 + eˣ).")
