"""BatchNormalization, InstanceNormalization, LayerNormalization, GroupNormalization, LRN, LpNormalization."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.reading import has_output, real
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, Result, lowers
from onnxmtl.lowering.together import training_norm


@lowers("BatchNormalization")
def batch_normalization(node: ir.Node) -> Kernel:
    """y = scale · (x − mean) / √(variance + ε) + shift; inputs x, scale, shift, mean, variance.

    In training mean and variance are the batch's (population variance), and the tensors given as running mean
    and variance are updated in place by torch's convention: r ← (1 − m) r + m s with m = 1 − ONNX momentum and
    s the batch's mean or unbiased variance. Otherwise the running ones are used.

    A batch with one value per channel has no unbiased variance: the running variance is then left as it is.
    """
    epsilon = real(node, "epsilon", 1e-5)
    momentum = 1.0 - real(node, "momentum", 0.9)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, scale, shift, mean, variance = xs
        if not ctx.training:
            if mean.requires_grad or variance.requires_grad:
                return _normalize(x, scale, shift, mean, variance, epsilon)
            return torch.batch_norm(x, scale, shift, mean, variance, False, 0.0, epsilon, True)
        return training_norm(x, scale, shift, mean, variance, momentum, epsilon)

    return kernel


def _normalize(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """With gradients for the statistics too, which torch.batch_norm does not give."""
    factor = scale * torch.rsqrt(variance + epsilon)
    per_channel = (-1, *(1,) * (x.dim() - 2))
    return x * factor.reshape(per_channel) + (shift - mean * factor).reshape(per_channel)


@lowers("InstanceNormalization")
def instance_normalization(node: ir.Node) -> Kernel:
    """Normalization over the spatial axes of each sample and channel."""
    epsilon = real(node, "epsilon", 1e-5)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, scale, shift = xs
        return torch.instance_norm(x, scale, shift, None, None, True, 0.0, epsilon, True)

    return kernel


@lowers("GroupNormalization")
def group_normalization(node: ir.Node) -> Kernel:
    """Normalization over groups of channels. Opset 18's scale per group is spread over the group's channels."""
    epsilon = real(node, "epsilon", 1e-5)
    groups = node.attributes["num_groups"].as_int()

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, scale, shift = xs
        channels = x.shape[1]
        if scale.numel() != channels:
            scale, shift = (v.repeat_interleave(channels // v.numel()) for v in (scale, shift))
        return torch.group_norm(x, groups, scale, shift, epsilon)

    return kernel


@lowers("LayerNormalization")
def layer_normalization(node: ir.Node) -> Kernel:
    """Normalization over the axes from ``axis`` on; optional outputs mean and 1/deviation."""
    epsilon = real(node, "epsilon", 1e-5)
    axis = node.attributes.get_int("axis", -1)
    statistics = has_output(node, 1) or has_output(node, 2)

    def kernel(xs: Inputs, ctx: Context) -> Result:
        x, scale = xs[0], xs[1]
        shift = xs[2] if len(xs) > 2 else None
        shape = x.shape[axis:]
        if scale.shape == shape and (shift is None or shift.shape == shape):
            y = F.layer_norm(x, shape, scale, shift, epsilon)
        else:
            y = F.layer_norm(x, shape, None, None, epsilon) * scale
            y = y if shift is None else y + shift
        if not statistics:
            return y
        axes = tuple(range(axis % x.dim(), x.dim()))
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return y, mean, torch.rsqrt(variance + epsilon)

    return kernel


@lowers("RMSNormalization")
def rms_normalization(node: ir.Node) -> Kernel:
    """x / √(mean(x²) + ε) · scale, the mean over the axes from ``axis`` on, in float32 at least."""
    epsilon = real(node, "epsilon", 1e-5)
    axis = node.attributes.get_int("axis", -1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, scale = xs
        if scale.shape == x.shape[axis:] and x.dtype == scale.dtype:
            return F.rms_norm(x, x.shape[axis:], scale, epsilon)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = tuple(range(axis % x.dim(), x.dim()))
        y = wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)
        return y.to(scale.dtype) * scale  # type: ignore[no-any-return]

    return kernel


@lowers("MeanVarianceNormalization")
def mean_variance_normalization(node: ir.Node) -> Kernel:
    """(x − mean) / deviation over the axes, with 1e-9 beside the deviation."""
    axes = tuple(node.attributes.get_ints("axes", (0, 2, 3)))

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) / (variance.sqrt() + 1e-9)

    return kernel


@lowers("LRN")
def local_response_normalization(node: ir.Node) -> Kernel:
    """y_c = x_c / (bias + alpha/size · Σ x_i²)^beta over i = c − ⌊(size−1)/2⌋ … c + ⌈(size−1)/2⌉.

    (torch's own puts the extra channel of an even size at the other end.)
    """
    size = node.attributes["size"].as_int()
    alpha = real(node, "alpha", 1e-4)
    beta = real(node, "beta", 0.75)
    bias = real(node, "bias", 1.0)
    before, after = (size - 1) // 2, math.ceil((size - 1) / 2)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        squares = (x * x).reshape(x.shape[0], 1, x.shape[1], -1)
        means = F.avg_pool2d(F.pad(squares, (0, 0, before, after)), (size, 1), stride=1)
        return x / (bias + alpha * means.reshape(x.shape)) ** beta

    return kernel


@lowers("LpNormalization")
def lp_normalization(node: ir.Node) -> Kernel:
    """y = x / ‖x‖_p along an axis (p = 1 or 2); zero where the norm is zero."""
    axis = node.attributes.get_int("axis", -1)
    order = node.attributes.get_int("p", 2)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        norm = torch.linalg.vector_norm(x, order, dim=axis, keepdim=True)
        return x / torch.where(norm == 0, torch.ones_like(norm), norm)

    return kernel
