"""Convolution, its depthwise relatives, and Deconvolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxmtl.frontends.prototxt.builder import Builder, only
from onnxmtl.frontends.prototxt.layers.windows import pair, positive
from onnxmtl.frontends.prototxt.registry import Blob, Layer, converts

_READS = (
    "convolution_param: num_output bias_term pad kernel_size stride dilation pad_h pad_w kernel_h kernel_w stride_h "
    "stride_w group hole hole_h hole_w weight_filler bias_filler axis force_nd_im2col"
)


@converts("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "HoleConvolution", reads=_READS)
def convolution(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Conv. Weight [outputs, inputs / group, kh, kw] and bias [outputs], as in Caffe."""
    x, param = layer.bottoms[0], layer.message.convolution_param
    kernel, stride, pad, dilation = _window(layer, net, param)
    inputs, outputs = x.shape[1], param.num_output
    group = inputs if layer.type == "ConvolutionDepthwise" else param.group
    _check_groups(layer, inputs, outputs, group)
    sizes = []
    for size, k, s, p, d in zip(x.shape[2:], kernel, stride, pad, dilation, strict=True):
        sizes.append((size + 2 * p - (d * (k - 1) + 1)) // s + 1)
    weight = net.weight(layer, 0, "weight", (outputs, inputs // group, *kernel), _filler(param, "weight_filler"))
    return [
        net.node(
            layer,
            "Conv",
            [x, weight, *_bias(layer, net, param, outputs)],
            (x.shape[0], outputs, *sizes),
            kernel_shape=kernel,
            strides=stride,
            pads=(*pad, *pad),
            dilations=dilation,
            group=group,
        )
    ]


@converts("Deconvolution", reads=_READS)
def deconvolution(layer: Layer, net: Builder) -> Sequence[Blob]:
    """ConvTranspose. Weight [inputs, outputs / group, kh, kw]: Caffe's and ONNX's order are the same."""
    x, param = layer.bottoms[0], layer.message.convolution_param
    kernel, stride, pad, dilation = _window(layer, net, param)
    inputs, outputs, group = x.shape[1], param.num_output, param.group
    _check_groups(layer, inputs, outputs, group)
    sizes = []
    for size, k, s, p, d in zip(x.shape[2:], kernel, stride, pad, dilation, strict=True):
        sizes.append(s * (size - 1) + d * (k - 1) + 1 - 2 * p)
    weight = net.weight(layer, 0, "weight", (inputs, outputs // group, *kernel), _filler(param, "weight_filler"))
    return [
        net.node(
            layer,
            "ConvTranspose",
            [x, weight, *_bias(layer, net, param, outputs)],
            (x.shape[0], outputs, *sizes),
            kernel_shape=kernel,
            strides=stride,
            pads=(*pad, *pad),
            dilations=dilation,
            group=group,
        )
    ]


def _window(
    layer: Layer, net: Builder, param: Any
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride, padding, dilation."""
    only(layer, len(layer.bottoms[0].shape) == 4, f"on a blob with {len(layer.bottoms[0].shape)} axes")
    only(layer, layer.axis(param.axis) == 1, f"axis {param.axis}")
    kernel, stride = pair(layer, param, "kernel_size", None), pair(layer, param, "stride", 1)
    pad = pair(layer, param, "pad", 0)
    holes = any(param.HasField(name) for name in ("hole", "hole_h", "hole_w"))  # DeepLab's first name of it
    dilation = pair(layer, param, "hole" if holes and not param.dilation else "dilation", 1)
    positive(layer, kernel_size=kernel, stride=stride, dilation=dilation)
    if layer.automtl and (param.HasField("kernel_h") or param.HasField("stride_h") or param.HasField("pad_h")):
        net.differs(layer, "is read with its _h and _w fields, which AutoMTL's own reader ignores")
    return kernel, stride, pad, dilation


def _check_groups(layer: Layer, inputs: int, outputs: int, group: int) -> None:
    if outputs < 1:
        raise layer.error("num_output is missing")
    if group < 1 or inputs % group or outputs % group:
        raise layer.error(f"{inputs} inputs and {outputs} outputs do not divide into {group} groups")


def _filler(param: Any, name: str) -> Any:
    return getattr(param, name) if param.HasField(name) else None


def _bias(layer: Layer, net: Builder, param: Any, outputs: int) -> list[Any]:
    if not param.bias_term:
        return []
    return [net.weight(layer, 1, "bias", (outputs,), _filler(param, "bias_filler"), default="constant")]
