"""Activations: a layer each, or a chain of two or three."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl.frontends.prototxt.export.net import Net
from onnxmtl.frontends.prototxt.export.registry import require, says

_MOST = float(np.finfo(np.float32).max)
_PLAIN = {
    "Relu": "ReLU", "Sigmoid": "Sigmoid", "Tanh": "TanH", "Abs": "AbsVal", "Softplus": "BNLL", "Exp": "Exp",
    "Log": "Log",
}  # fmt: skip


@says(*_PLAIN)
def plain(node: ir.Node, net: Net) -> None:
    """Operators that are a layer without settings."""
    net.layer(_PLAIN[node.op_type], node, [node.inputs[0]], [node.outputs[0]])


@says("LeakyRelu")
def leaky_relu(node: ir.Node, net: Net) -> None:
    """ReLU with a slope."""
    written = net.layer("ReLU", node, [node.inputs[0]], [node.outputs[0]])
    written.message.relu_param.negative_slope = node.attributes.get_float("alpha", 0.01)


@says("PRelu")
def prelu(node: ir.Node, net: Net) -> None:
    """PReLU with a slope per channel, or one for all."""
    x, slope = node.inputs
    dims = net.constant(slope, "its slope").shape
    rank, channels = len(net.shape(x)), net.shape(x)[1]
    shared = all(dim == 1 for dim in dims)
    per_channel = tuple([1] * (rank - len(dims)) + list(dims)) == (1, channels, *[1] * (rank - 2))
    require(shared or per_channel, "its slopes are neither one per channel nor one for all")
    written = net.layer("PReLU", node, [x], [node.outputs[0]])
    if shared and channels > 1:
        written.message.prelu_param.channel_shared = True
    net.weight(written, slope, "its slope", shape=() if shared and channels > 1 else (channels,))


@says("Elu")
def elu(node: ir.Node, net: Net) -> None:
    """ELU."""
    written = net.layer("ELU", node, [node.inputs[0]], [node.outputs[0]])
    written.message.elu_param.alpha = node.attributes.get_float("alpha", 1.0)


@says("Selu")
def selu(node: ir.Node, net: Net) -> None:
    """γ · ELU."""
    middle = net.between(node, "elu")
    written = net.layer("ELU", node, [node.inputs[0]], [middle], suffix="elu")
    written.message.elu_param.alpha = node.attributes.get_float("alpha", 1.67326319217681884765625)
    power = net.layer("Power", node, [middle], [node.outputs[0]])
    power.message.power_param.scale = node.attributes.get_float("gamma", 1.05070102214813232421875)


@says("Clip")
def clip(node: ir.Node, net: Net) -> None:
    """Clip; a ReLU where only negative numbers are cut."""
    bounds = [node.inputs[i] if i < len(node.inputs) else None for i in (1, 2)]
    low, high = (
        default if bound is None else float(net.constant(bound, "a bound").reshape(-1)[0])
        for bound, default in zip(bounds, (-_MOST, _MOST), strict=True)
    )
    low, high = max(low, -_MOST), min(high, _MOST)
    if low == 0 and high == _MOST:
        net.layer("ReLU", node, [node.inputs[0]], [node.outputs[0]])
        return
    param = net.layer("Clip", node, [node.inputs[0]], [node.outputs[0]]).message.clip_param
    param.min, param.max = low, high


@says("HardSigmoid")
def hard_sigmoid(node: ir.Node, net: Net) -> None:
    """min(max(α · x + β, 0), 1): Power and Clip."""
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    _gate(node, net, net.blob(node.inputs[0]), node.outputs[0], alpha, beta, "")


@says("HardSwish")
def hard_swish(node: ir.Node, net: Net) -> None:
    """x · min(max(x / 6 + 1 / 2, 0), 1): Power, Clip and Eltwise."""
    gate = net.between(node, "gate")
    _gate(node, net, net.blob(node.inputs[0]), gate, 1.0 / 6.0, 0.5, "gate")
    written = net.layer("Eltwise", node, [node.inputs[0], gate], [node.outputs[0]])
    written.message.eltwise_param.operation = 0


def _gate(node: ir.Node, net: Net, x: str, top: ir.Value | str, alpha: float, beta: float, suffix: str) -> None:
    line = net.between(node, "line")
    power = net.layer("Power", node, [x], [line], suffix="line").message.power_param
    power.scale, power.shift = alpha, beta
    clip = net.layer("Clip", node, [line], [top], suffix=suffix).message.clip_param
    clip.min, clip.max = 0.0, 1.0


@says("Softmax", "LogSoftmax")
def softmax(node: ir.Node, net: Net) -> None:
    """Softmax, with a Log behind it."""
    out = node.outputs[0]
    axis = node.attributes.get_int("axis", -1) % len(net.shape(node.inputs[0]))
    log = node.op_type == "LogSoftmax"
    top = net.between(node, "softmax") if log else out
    written = net.layer("Softmax", node, [node.inputs[0]], [top], suffix="softmax" if log else "")
    if axis != 1:
        written.message.softmax_param.axis = axis
    if log:
        net.layer("Log", node, [top], [out])
