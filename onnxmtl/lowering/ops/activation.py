"""Activation functions: elementwise, and softmax."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.reading import number, real
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers

# log(1 + eˣ) equals x to the last bit of a float64 from here on.
_SOFTPLUS_LINEAR = 40.0


def _softplus(x: torch.Tensor) -> torch.Tensor:
    return F.softplus(x, threshold=_SOFTPLUS_LINEAR)


_PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "HardSwish": F.hardswish,
    "Softplus": _softplus,
    "Softsign": F.softsign,
    "Mish": lambda x: x * torch.tanh(_softplus(x)),
}


@lowers(*_PLAIN)
def plain(node: ir.Node) -> Kernel:
    """Activations without attributes."""
    function = _PLAIN[node.op_type]
    return lambda xs, ctx: function(xs[0])


@lowers("LeakyRelu")
def leaky_relu(node: ir.Node) -> Kernel:
    """x, or alpha · x below zero."""
    alpha = real(node, "alpha", 0.01)
    return lambda xs, ctx: F.leaky_relu(xs[0], alpha)


@lowers("PRelu")
def prelu(node: ir.Node) -> Kernel:
    """x, or slope · x below zero; the slope is broadcast to x."""

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, slope = xs
        per_channel = x.dim() > 1 and slope.shape == (x.shape[1], *(1,) * (x.dim() - 2))
        if slope.numel() == 1 or per_channel:
            return torch.prelu(x, slope.reshape(-1))
        return torch.where(x < 0, slope * x, x)

    return kernel


@lowers("Elu")
def elu(node: ir.Node) -> Kernel:
    """x, or alpha · (eˣ − 1) below zero."""
    alpha = real(node, "alpha", 1.0)
    return lambda xs, ctx: F.elu(xs[0], alpha)


@lowers("Celu")
def celu(node: ir.Node) -> Kernel:
    """max(0, x) + min(0, alpha · (exp(x / alpha) − 1))."""
    alpha = real(node, "alpha", 1.0)
    return lambda xs, ctx: F.celu(xs[0], alpha)


@lowers("Selu")
def selu(node: ir.Node) -> Kernel:
    """gamma · elu(x, alpha)."""
    alpha = real(node, "alpha", 1.67326319217681884765625)
    gamma = real(node, "gamma", 1.05070102214813232421875)
    return lambda xs, ctx: gamma * F.elu(xs[0], alpha)


@lowers("HardSigmoid")
def hard_sigmoid(node: ir.Node) -> Kernel:
    """alpha · x + beta, clamped to [0, 1]."""
    alpha = real(node, "alpha", 0.2)
    beta = real(node, "beta", 0.5)
    return lambda xs, ctx: (xs[0] * alpha + beta).clamp(0.0, 1.0)


@lowers("ThresholdedRelu")
def thresholded_relu(node: ir.Node) -> Kernel:
    """x above alpha, 0 elsewhere."""
    alpha = real(node, "alpha", 1.0)
    return lambda xs, ctx: F.threshold(xs[0], alpha, 0.0)


@lowers("Shrink")
def shrink(node: ir.Node) -> Kernel:
    """x + bias below −lambd, x − bias above lambd, 0 between."""
    lambd, bias = real(node, "lambd", 0.5), real(node, "bias", 0.0)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        shrunk = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))
        return shrunk.to(x.dtype)

    return kernel


@lowers("Swish")
def swish(node: ir.Node) -> Kernel:
    """x · sigmoid(alpha · x)."""
    alpha = real(node, "alpha", 1.0)
    if alpha == 1.0:
        return lambda xs, ctx: F.silu(xs[0])
    return lambda xs, ctx: xs[0] * torch.sigmoid(alpha * xs[0])


@lowers("Gelu")
def gelu(node: ir.Node) -> Kernel:
    """x · Φ(x), exact or by tanh."""
    approximate = node.attributes.get_string("approximate", "none")
    return lambda xs, ctx: F.gelu(xs[0], approximate=approximate)


@lowers("Clip")
def clip(node: ir.Node) -> Kernel:
    """min(max(x, low), high); both bounds are optional. Where low > high the result is high."""
    low_of, high_of = number(node, 1), number(node, 2)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        low, high = low_of(xs), high_of(xs)
        if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
            x = x if low is None else torch.clamp(x, min=low)
            return x if high is None else torch.clamp(x, max=high)
        return x if low is None and high is None else torch.clamp(x, low, high)

    return kernel


@lowers("Softmax")
def softmax(node: ir.Node) -> Kernel:
    """Softmax along one axis."""
    axis = node.attributes.get_int("axis", -1)
    return lambda xs, ctx: torch.softmax(xs[0], axis)


@lowers("LogSoftmax")
def log_softmax(node: ir.Node) -> Kernel:
    """Logarithm of softmax along one axis."""
    axis = node.attributes.get_int("axis", -1)
    return lambda xs, ctx: torch.log_softmax(xs[0], axis)


@lowers("Hardmax")
def hardmax(node: ir.Node) -> Kernel:
    """1 at the first largest element along an axis, 0 elsewhere; it has no gradient."""
    axis = node.attributes.get_int("axis", -1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)

    return kernel
