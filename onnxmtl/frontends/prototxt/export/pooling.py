"""Pooling: only where Caffe's windows and Caffe's divisors are those of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxmtl.frontends.prototxt.export.net import Net
from onnxmtl.frontends.prototxt.export.registry import require, says
from onnxmtl.frontends.prototxt.export.windows import attribute_ints, set_window, window_pads
from onnxmtl.frontends.prototxt.layers.pooling import pooled_size
from onnxmtl.frontends.prototxt.schema import enum

_METHOD = {"MaxPool": "MAX", "GlobalMaxPool": "MAX", "AveragePool": "AVE", "GlobalAveragePool": "AVE"}


@says("GlobalMaxPool", "GlobalAveragePool")
def global_pool(node: ir.Node, net: Net) -> None:
    """Pooling over the whole image."""
    require(len(net.shape(node.inputs[0])) == 4, "its input is no image")
    write_global(node, net, node.inputs[0], node.outputs[0], _METHOD[node.op_type])


def write_global(
    node: ir.Node, net: Net, x: ir.Value | None, top: ir.Value | str, method: str, suffix: str = ""
) -> None:
    """A Pooling layer with ``global_pooling``; `method` is MAX or AVE."""
    param = net.layer("Pooling", node, [x], [top], suffix=suffix).message.pooling_param
    param.pool = enum("PoolMethod")[method]
    param.global_pooling = True


@says("MaxPool", "AveragePool")
def pool(node: ir.Node, net: Net) -> None:
    """Pooling. Its padding is that at the top and left; how many windows there are says the round mode."""
    require(not any(value.uses() or value.is_graph_output() for value in node.outputs[1:]), "its positions are used")
    x = node.inputs[0]
    require(len(net.shape(x)) == 4, "its input is no image")
    kernel = attribute_ints(node, "kernel_shape", [])
    strides, dilations = attribute_ints(node, "strides", [1, 1]), attribute_ints(node, "dilations", [1, 1])
    require(dilations == [1, 1], "it is dilated")
    around = net.zeros(x)
    sizes = [n - around[i] - around[i + 2] for i, n in enumerate(net.shape(x)[2:])]
    pads = window_pads(node, net.shape(x)[2:], kernel, strides, dilations)
    begins = [pads[0] + around[0], pads[1] + around[1]]
    counts = list(net.shape(node.outputs[0])[2:])
    counted = [_counted(node, sizes[i], (around[i], around[i + 2]), (pads[i], pads[i + 2])) for i in range(2)]
    require(all(b < k for b, k in zip(begins, kernel, strict=True)), "it pads by more than its window")
    up = _round_mode(sizes, kernel, strides, begins, counts, automtl=net.automtl)
    if up is None and _covers_all(node, sizes, kernel, begins, counts, counted):
        write_global(node, net, x, node.outputs[0], _METHOD[node.op_type])
        return
    require(up is not None, f"it pads {pads[:2]} before and {pads[2:]} behind the image; Caffe pads both ends alike")
    if node.op_type == "AveragePool":
        columns = zip(sizes, kernel, strides, begins, counts, counted, strict=True)
        same = all(_same_divisors(*column) for column in columns)
        require(same, "it divides by what its windows cover of the image, Caffe by what they cover of the padding too")
    param = net.layer("Pooling", node, [x], [node.outputs[0]]).message.pooling_param
    _fill(param, node, kernel, strides, begins)
    if net.automtl or not up:  # Caffe rounds up where nothing is said, AutoMTL down
        param.round_mode = enum("RoundMode")["CEIL" if up else "FLOOR"]


def _fill(param: Any, node: ir.Node, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> None:
    param.pool = enum("PoolMethod")[_METHOD[node.op_type]]
    for name, values in (("kernel_size", kernel), ("stride", strides), ("pad", pads)):
        set_window(param, name, values)


def _round_mode(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    counts: Sequence[int],
    *,
    automtl: bool,
) -> bool | None:
    """Whether to round up, to have as many windows as the model along both axes; None if neither way has."""
    clip = automtl or any(pads)
    for up in (not automtl, automtl):
        found = [
            pooled_size(n, k, s, p, ceil=up, clip=clip) for n, k, s, p in zip(sizes, kernel, strides, pads, strict=True)
        ]
        inside = all((c - 1) * s < n + p for c, s, n, p in zip(found, strides, sizes, pads, strict=True))
        if found == list(counts) and inside:
            return up
    return None


def _counted(node: ir.Node, size: int, around: tuple[int, int], pads: tuple[int, int]) -> tuple[int, int]:
    """First and last (exclusive) pixel along an axis that a mean counts; 0 is the first one of the image.

    Zeros of a Pad before it count, its own padding only with ``count_include_pad``.
    """
    include = bool(node.attributes.get_int("count_include_pad", 0))
    own = pads if include else (0, 0)
    return -around[0] - own[0], size + around[1] + own[1]


def _covers_all(
    node: ir.Node,
    sizes: Sequence[int],
    kernel: Sequence[int],
    begins: Sequence[int],
    counts: Sequence[int],
    counted: Sequence[tuple[int, int]],
) -> bool:
    """Whether it is one window over the whole image, and nothing else counts."""
    whole = all(k - b >= n for n, k, b in zip(sizes, kernel, begins, strict=True))
    image = all(region == (0, n) for n, region in zip(sizes, counted, strict=True))
    return list(counts) == [1, 1] and whole and (node.op_type == "MaxPool" or image)


def _same_divisors(size: int, kernel: int, stride: int, pad: int, count: int, counted: tuple[int, int]) -> bool:
    """Whether Caffe divides by as much along an axis as the model, which counts pixels from `counted[0]` on and before
    `counted[1]`; 0 is the first one of the image."""
    starts = [i * stride - pad for i in range(count)]
    caffe = [min(start + kernel, size + pad) - start for start in starts]
    return caffe == [min(start + kernel, counted[1]) - max(start, counted[0]) for start in starts]
