"""MaxPool and its inverse, AveragePool, LpPool and the global pools, with 1 to 3 spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.reading import has_output
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, Result, lowers
from onnxmtl.lowering.ops.spatial import Pads, Window, spatial_rank, torch_pad, window_of

_MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_BYTES = (torch.int8, torch.uint8)  # torch's pools with indices do not take them
_AVERAGE_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@lowers("MaxPool")
def max_pool(node: ir.Node) -> Kernel:
    """The largest element in each window; pads never win. Its place in the whole input, if asked for."""
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
        x = F.pad(x, torch_pad(before, after), value=_lowest(x))
        return pool(x, kernel_shape, strides, 0, dilations)  # type: ignore[no-any-return]

    if has_output(node, 1):
        return _with_places(node, window, kernel_shape, ceil)
    return plain if _torch_pads(window, kernel_shape) else padded


def _with_places(node: ir.Node, window: Window, kernel_shape: tuple[int, ...], ceil: bool) -> Kernel:
    """MaxPool with its second output: positions in the flat input, in row- or column-major order."""
    pool = _MAX_POOL[len(kernel_shape)]
    column_major = bool(node.attributes.get_int("storage_order", 0))

    def kernel(xs: Inputs, ctx: Context) -> Result:
        x: torch.Tensor = xs[0]
        sizes = x.shape[2:]
        before, after = _reached(sizes, window, kernel_shape, ceil)
        wide = F.pad(x.to(torch.float32) if x.dtype in _BYTES else x, torch_pad(before, after), value=_lowest(x))
        y, place = pool(wide, kernel_shape, window.strides, 0, window.dilations, return_indices=True)
        axes = []
        for size, pad in zip(reversed(wide.shape[2:]), reversed(before), strict=True):
            axes.append(place % size - pad)
            place = place // size
        axes.reverse()
        if column_major:
            axes.reverse()
            sizes = sizes[::-1]
        flat = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *(1,) * len(sizes))
        for axis, size in zip(axes, sizes, strict=True):
            flat = flat * size + axis
        return y.to(x.dtype), flat

    return kernel


def _lowest(x: torch.Tensor) -> float:
    return -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min


@lowers("MaxUnpool")
def max_unpool(node: ir.Node) -> Kernel:
    """Each element put where MaxPool had found it; zeros elsewhere."""
    rank = spatial_rank(node)
    window = window_of(node, rank)
    kernel_shape = tuple(node.attributes["kernel_shape"].as_ints())

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, place = xs[0], xs[1]
        begin, end = window.pads
        own = [
            (n - 1) * s + k - b - e
            for n, s, k, b, e in zip(x.shape[2:], window.strides, kernel_shape, begin, end, strict=True)
        ]
        y = x.new_zeros(math.prod((*x.shape[:2], *own)))
        return y.scatter(0, place.reshape(-1), x.reshape(-1)).reshape(*x.shape[:2], *own)  # type: ignore[no-any-return]

    return kernel


@lowers("LpPool")
def lp_pool(node: ir.Node) -> Kernel:
    """(Σ |x|^p)^(1/p) of each window; pads count as zeros."""
    rank = spatial_rank(node)
    window = window_of(node, rank)
    kernel_shape = tuple(node.attributes["kernel_shape"].as_ints())
    ceil = bool(node.attributes.get_int("ceil_mode", 0))
    order = node.attributes.get_int("p", 2)
    pool = _AVERAGE_POOL[rank]
    dilated = any(d != 1 for d in window.dilations)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        x = F.pad(x, torch_pad(*_reached(x.shape[2:], window, kernel_shape, ceil))).abs() ** order
        means = _dilated_mean(x, window, kernel_shape) if dilated else pool(x, kernel_shape, window.strides)
        return _root(means * math.prod(kernel_shape), order)

    return kernel


@lowers("GlobalLpPool")
def global_lp_pool(node: ir.Node) -> Kernel:
    """(Σ |x|^p)^(1/p) over all spatial axes, kept as axes of length 1."""
    order = node.attributes.get_int("p", 2)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        norm: torch.Tensor = torch.linalg.vector_norm(x, order, tuple(range(2, x.dim())), keepdim=True)
        return norm

    return kernel


def _root(x: torch.Tensor, order: int) -> torch.Tensor:
    """x^(1/order) for x ≥ 0, with gradient 0 at 0, where it is infinite."""
    zero = x == 0
    return torch.where(zero, x, torch.where(zero, torch.ones_like(x), x) ** (1.0 / order))


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
