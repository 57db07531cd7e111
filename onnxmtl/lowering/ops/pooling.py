"""MaxPool, AveragePool and the global pools, with 1 to 3 spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.reading import has_output
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, UnsupportedError, lowers
from onnxmtl.lowering.ops.spatial import Pads, Window, spatial_rank, torch_pad, window_of

_MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@lowers("MaxPool")
def max_pool(node: ir.Node) -> Kernel:
    """The largest element in each window; pads never win."""
    if has_output(node, 1):
        msg = "indices as an output"
        raise UnsupportedError(msg)
    rank = spatial_rank(node)
    window = window_of(node, rank)
    kernel_shape = tuple(node.attributes["kernel_shape"].as_ints())
    ceil = bool(node.attributes.get_int("ceil_mode", 0))
    strides, dilations, (begin, _) = window.strides, window.dilations, window.pads
    pool = _MAX_POOL[rank]

    def plain(xs: Inputs, ctx: Context) -> torch.Tensor:
        return pool(xs[0], kernel_shape, strides, begin, dilations, ceil)  # type: ignore[no-any-return]

    def padded(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        before, after = _reached(x.shape[2:], window, kernel_shape, ceil)
        lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x = F.pad(x, torch_pad(before, after), value=lowest)
        return pool(x, kernel_shape, strides, 0, dilations)  # type: ignore[no-any-return]

    return plain if _torch_pads(window, kernel_shape) else padded


@lowers("AveragePool")
def average_pool(node: ir.Node) -> Kernel:
    """The mean of each window, pads counted as zeros if ``count_include_pad``, else left out.

    Elements beyond the pads, which ``ceil_mode`` reaches, are never counted.
    """
    rank = spatial_rank(node)
    window = window_of(node, rank)
    kernel_shape = tuple(node.attributes["kernel_shape"].as_ints())
    ceil = bool(node.attributes.get_int("ceil_mode", 0))
    include = bool(node.attributes.get_int("count_include_pad", 0))
    strides, (begin, _) = window.strides, window.pads
    pool = _AVERAGE_POOL[rank]
    dilated = any(d != 1 for d in window.dilations)

    def plain(xs: Inputs, ctx: Context) -> torch.Tensor:
        return pool(xs[0], kernel_shape, strides, begin, ceil, include)  # type: ignore[no-any-return]

    def padded(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        sizes = x.shape[2:]
        reached = _reached(sizes, window, kernel_shape, ceil)
        pads = window.pads_for(sizes, kernel_shape)
        x = F.pad(x, torch_pad(*reached))
        means = _dilated_mean(x, window, kernel_shape) if dilated else pool(x, kernel_shape, strides)
        return means * _shares(sizes, pads, reached, window, kernel_shape, include, means)

    return plain if not dilated and _torch_pads(window, kernel_shape) else padded


@lowers("GlobalAveragePool")
def global_average_pool(node: ir.Node) -> Kernel:
    """The mean over all spatial axes, kept as axes of length 1."""
    return lambda xs, ctx: xs[0].mean(tuple(range(2, xs[0].dim())), keepdim=True)


@lowers("GlobalMaxPool")
def global_max_pool(node: ir.Node) -> Kernel:
    """The maximum over all spatial axes, kept as axes of length 1."""
    return lambda xs, ctx: xs[0].amax(tuple(range(2, xs[0].dim())), keepdim=True)


def _torch_pads(window: Window, kernel: Sequence[int]) -> bool:
    """Whether torch's own pools take the pads: symmetric, and at most half a window."""
    begin, end = window.pads
    return not window.same and begin == end and all(2 * b <= k for b, k in zip(begin, kernel, strict=True))


def _reached(sizes: Sequence[int], window: Window, kernel: Sequence[int], ceil: bool) -> Pads:
    """The pads, the end ones extended to what the last window of ``ceil_mode`` reaches.

    A window that would start beyond the input and its first pad does not exist.
    """
    begin, end = window.pads_for(sizes, kernel)
    if not ceil or window.auto_pad != "NOTSET":
        return begin, end
    after = []
    extents = window.extents(kernel)
    for size, b, e, stride, extent in zip(sizes, begin, end, window.strides, extents, strict=True):
        last = -(-(size + b + e - extent) // stride)  # index of the last window
        if last * stride >= size + b:
            last -= 1
        after.append(max(last * stride + extent - size - b, e))
    return begin, tuple(after)


def _dilated_mean(x: torch.Tensor, window: Window, kernel: Sequence[int]) -> torch.Tensor:
    """Window means of an already padded input, for dilations, which torch's average pools lack."""
    for i, (extent, stride, dilation) in enumerate(
        zip(window.extents(kernel), window.strides, window.dilations, strict=True)
    ):
        x = x.unfold(2 + i, extent, stride)[..., ::dilation].mean(-1)
    return x


def _shares(
    sizes: Sequence[int],
    pads: Pads,
    reached: Pads,
    window: Window,
    kernel: Sequence[int],
    include: bool,
    like: torch.Tensor,
) -> torch.Tensor:
    """Window size / counted elements, for every window: shape of the output's spatial axes."""
    shares = like.new_ones(())
    for axis, size in enumerate(sizes):
        before, after = (pads[0][axis], pads[1][axis]) if include else (0, 0)
        positions = torch.arange(-reached[0][axis], size + reached[1][axis], device=like.device)
        counted = ((positions >= -before) & (positions < size + after)).to(like.dtype)
        extent = window.extents(kernel)[axis]
        fraction = counted.unfold(0, extent, window.strides[axis])[:, :: window.dilations[axis]].mean(-1)
        shares = shares.unsqueeze(-1) / fraction
    return shares
