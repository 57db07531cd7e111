"""Pooling, with Caffe's rounding, its clipping of the last window, and its divisor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxmtl.frontends.prototxt.builder import Builder, only
from onnxmtl.frontends.prototxt.layers.windows import pair, positive
from onnxmtl.frontends.prototxt.registry import Blob, Layer, converts
from onnxmtl.frontends.prototxt.schema import enum

_CEIL = enum("RoundMode")["CEIL"]
_FLOOR = enum("RoundMode")["FLOOR"]
_MAX = enum("PoolMethod")["MAX"]
_STOCHASTIC = enum("PoolMethod")["STOCHASTIC"]

_READS = (
    "pooling_param: pool pad pad_h pad_w kernel_size kernel_h kernel_w stride stride_h stride_w global_pooling "
    "round_mode ceil_mode"
)


def pooled_size(size: int, kernel: int, stride: int, pad: int, *, ceil: bool, clip: bool) -> int:
    """Number of windows along an axis (``PoolingLayer::Reshape``).

    Args:
        size: Of the input.
        kernel: Of the window.
        stride: Between windows.
        pad: At either end.
        ceil: Round up.
        clip: Drop a last window that would start in the padding behind the input.
    """
    span = size + 2 * pad - kernel
    count = (-(-span // stride) if ceil else span // stride) + 1
    if clip and (count - 1) * stride >= size + pad:
        count -= 1
    return count


@converts("Pooling", reads=_READS)
def pooling(layer: Layer, net: Builder) -> Sequence[Blob]:
    """MaxPool or AveragePool with explicit pads, so that no runtime's idea of ``ceil_mode`` matters.

    The mean of Caffe divides by the window's size within the *padded* input: padding at either end counts, what the
    last window covers beyond it does not.
    """
    x, param = layer.bottoms[0], layer.message.pooling_param
    only(layer, len(x.shape) == 4, f"on a blob with {len(x.shape)} axes")
    only(layer, param.pool != _STOCHASTIC, "stochastic pooling")
    kind = "Max" if param.pool == _MAX else "Average"
    if param.global_pooling:
        return [net.node(layer, f"Global{kind}Pool", [x], (*x.shape[:2], 1, 1))]
    kernel, stride, pad = (
        pair(layer, param, "kernel_size", None),
        pair(layer, param, "stride", 1),
        pair(layer, param, "pad", 0),
    )
    positive(layer, kernel_size=kernel, stride=stride)
    if any(p >= k for p, k in zip(pad, kernel, strict=True)):
        raise layer.error(f"its padding {max(pad)} is not smaller than its window; Caffe refuses that too")
    ceil = _rounds_up(layer)
    clip = layer.automtl or any(pad)
    sizes, ends = [], []
    for size, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True):
        count = pooled_size(size, k, s, p, ceil=ceil, clip=clip)
        if count > 0 and (count - 1) * s >= size + p:
            raise layer.error("its last window would lie outside the image; use another stride or round_mode: FLOOR")
        sizes.append(count)
        ends.append(max((count - 1) * s + k - size - p, 0))
    shape = (*x.shape[:2], *sizes)
    window: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    if kind == "Max":
        return [net.node(layer, "MaxPool", [x], shape, pads=(*pad, *ends), **window)]
    if all(end <= p for end, p in zip(ends, pad, strict=True)):
        return [net.node(layer, "AveragePool", [x], shape, pads=(*pad, *ends), count_include_pad=1, **window)]
    if any(pad):  # the padding counts, so it becomes part of the image; what lies beyond it does not count
        padded = (*x.shape[:2], *(n + 2 * p for n, p in zip(x.shape[2:], pad, strict=True)))
        x = net.node(layer, "Pad", [x, net.ints(layer, "pads", [0, 0, *pad, 0, 0, *pad])], padded, suffix="pad")
        ends = [max(end - p, 0) for end, p in zip(ends, pad, strict=True)]
    return [net.node(layer, "AveragePool", [x], shape, pads=(0, 0, *ends), count_include_pad=0, **window)]


def _rounds_up(layer: Layer) -> bool:
    """Caffe rounds up by default, AutoMTL down."""
    param = layer.message.pooling_param
    if param.HasField("round_mode"):
        return bool(param.round_mode == _CEIL)
    if param.HasField("ceil_mode"):
        return bool(param.ceil_mode)
    return not layer.automtl
