"""DeformConv: a convolution whose taps are moved by computed offsets."""

from __future__ import annotations

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers
from onnxmtl.lowering.ops.spatial import window_of


@lowers("DeformConv")
def deform_conv(node: ir.Node) -> Kernel:
    """y = Σ over taps of W · mask · x(place of the tap + its offset), read by bilinear interpolation, 0 outside.

    Inputs x [N, C, H, W], weight [M, C/groups, kh, kw], offset [N, 2·G·kh·kw, oh, ow] (rows before columns), bias [M]
    and mask [N, G·kh·kw, oh, ow]; the G offset groups split the channels.
    """
    window = window_of(node, 2)
    groups = node.attributes.get_int("group", 1)
    offset_groups = node.attributes.get_int("offset_group", 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, weight, offset = xs[0], xs[1], xs[2]
        bias = xs[3] if len(xs) > 3 else None
        mask = xs[4] if len(xs) > 4 else None
        n, channels, height, width = x.shape
        kh, kw = weight.shape[2:]
        oh, ow = offset.shape[2:]
        before, _ = window.pads_for(x.shape[2:], (kh, kw))
        offset = offset.reshape(n, offset_groups, kh * kw, 2, oh, ow)
        places = []
        for axis, (taps, size) in enumerate(((kh, oh), (kw, ow))):
            tap = torch.arange(taps, device=x.device, dtype=x.dtype) * window.dilations[axis] - before[axis]
            base = torch.arange(size, device=x.device, dtype=x.dtype) * window.strides[axis]
            tap = tap.reshape(-1, 1).expand(kh, kw) if axis == 0 else tap.expand(kh, kw)
            base = base.reshape(-1, 1).expand(oh, ow) if axis == 0 else base.expand(oh, ow)
            places.append(tap.reshape(-1, 1, 1) + base + offset[:, :, :, axis])
        row, column = places  # [N, G, taps, oh, ow]
        # torch's aligned grid: −1 is the first element, 1 the last. A single one has no such scale.
        grid = torch.stack((_scaled(column, width), _scaled(row, height)), -1)
        grid = grid.reshape(n * offset_groups, kh * kw * oh, ow, 2)
        parts = x.reshape(n * offset_groups, channels // offset_groups, height, width)
        read = _sampled(parts, grid).reshape(n, offset_groups, -1, kh * kw, oh, ow)
        if mask is not None:
            read = read * mask.reshape(n, offset_groups, 1, kh * kw, oh, ow)
        read = read.reshape(n, groups, channels // groups * kh * kw, oh * ow)
        y = torch.matmul(weight.reshape(groups, weight.shape[0] // groups, -1), read)
        y = y.reshape(n, weight.shape[0], oh, ow)
        return y if bias is None else y + bias.reshape(1, -1, 1, 1)

    return kernel


def _scaled(place: torch.Tensor, size: int) -> torch.Tensor:
    """Element index to torch's unaligned coordinate, which is defined for a size of 1 too."""
    return (2 * place + 1) / size - 1


def _sampled(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(x, grid, "bilinear", "zeros", False)
