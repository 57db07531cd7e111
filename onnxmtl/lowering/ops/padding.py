"""Pad: constant, reflect, edge and wrap, on any axes; negative pads crop."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.reading import ints, number
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers
from onnxmtl.lowering.ops.spatial import torch_pad


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """… 2 1 | 0 1 2 | 1 0 …"""
    period = max(2 * (size - 1), 1)
    index = index % period
    return torch.where(index >= size, period - index, index)


def _edge(index: torch.Tensor, size: int) -> torch.Tensor:
    """… 0 0 | 0 1 2 | 2 2 …"""
    return index.clamp(0, size - 1)


def _wrap(index: torch.Tensor, size: int) -> torch.Tensor:
    """… 1 2 | 0 1 2 | 0 1 …"""
    return index % size


_INSIDE: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "reflect": _reflect,
    "edge": _edge,
    "wrap": _wrap,
}


@lowers("Pad")
def pad(node: ir.Node) -> Kernel:
    """Elements added (or, by negative pads, removed) at both ends of the axes."""
    mode = node.attributes.get_string("mode", "constant")
    pads_of, value_of, axes_of = ints(node, 1), number(node, 2), ints(node, 3)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        pads, axes = pads_of(xs) or (), axes_of(xs)
        begin, end = [0] * x.dim(), [0] * x.dim()
        axes = tuple(range(x.dim())) if axes is None else axes
        for i, axis in enumerate(axes):
            begin[axis], end[axis] = pads[i], pads[i + len(axes)]
        if mode == "constant":
            return F.pad(x, torch_pad(begin, end), value=float(value_of(xs) or 0))
        for axis in (a for a in range(x.dim()) if begin[a] or end[a]):
            size = x.shape[axis]
            index = torch.arange(-begin[axis], size + end[axis], device=x.device)
            x = x.index_select(axis, _INSIDE[mode](index, size))
        return x

    return kernel


@lowers("CenterCropPad")
def center_crop_pad(node: ir.Node) -> Kernel:
    """Axes cropped or zero-padded on both sides to the given sizes; an odd element goes to the end."""
    shape_of = ints(node, 1)
    given = tuple(node.attributes.get_ints("axes", ()))

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        begin, end = [0] * x.dim(), [0] * x.dim()
        for axis, size in zip(given or range(x.dim()), shape_of(xs) or (), strict=True):
            more = size - x.shape[axis]
            half = abs(more) // 2 * (1 if more >= 0 else -1)
            begin[axis], end[axis] = half, more - half
        return F.pad(x, torch_pad(begin, end))

    return kernel
