"""Operators that change the shape and keep the elements."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import torch

from onnxmtl.lowering.ops.reading import axes_reader, ints
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers


@lowers("Reshape")
def reshape(node: ir.Node) -> Kernel:
    """The shape's 0 copies the input's dimension (unless ``allowzero``), -1 is what is left."""
    shape_of = ints(node, 1)
    copies = not node.attributes.get_int("allowzero", 0)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        shape = shape_of(xs) or ()
        if copies and 0 in shape:
            shape = tuple(x.shape[i] if dim == 0 else dim for i, dim in enumerate(shape))
        return x.reshape(shape)

    return kernel


@lowers("Flatten")
def flatten(node: ir.Node) -> Kernel:
    """A matrix: the axes before ``axis`` and those from it on."""
    axis = node.attributes.get_int("axis", 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        split = axis if axis >= 0 else axis + x.dim()
        return x.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))

    return kernel


@lowers("Transpose")
def transpose(node: ir.Node) -> Kernel:
    """Axes permuted; reversed by default."""
    given = tuple(node.attributes.get_ints("perm", ()))
    return lambda xs, ctx: xs[0].permute(given or tuple(reversed(range(xs[0].dim()))))


@lowers("Squeeze")
def squeeze(node: ir.Node) -> Kernel:
    """The given axes, or all of length 1, removed."""
    axes_of = axes_reader(node, 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        axes = axes_of(xs)
        return torch.squeeze(xs[0]) if axes is None else torch.squeeze(xs[0], axes)

    return kernel


@lowers("Unsqueeze")
def unsqueeze(node: ir.Node) -> Kernel:
    """Axes of length 1 inserted; the axes count in the output."""
    axes_of = axes_reader(node, 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        axes = axes_of(xs) or ()
        rank = x.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return kernel


@lowers("Expand")
def expand(node: ir.Node) -> Kernel:
    """Broadcast to the common shape of the input and the given shape."""
    shape_of = ints(node, 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        return x.expand(np.broadcast_shapes(x.shape, shape_of(xs) or ()))

    return kernel


@lowers("Tile")
def tile(node: ir.Node) -> Kernel:
    """The input repeated along each axis."""
    repeats_of = ints(node, 1)
    return lambda xs, ctx: xs[0].repeat(repeats_of(xs) or ())


@lowers("DepthToSpace")
def depth_to_space(node: ir.Node) -> Kernel:
    """Channels moved into blocks of the image: DCR (block first) or CRD (channel first, pixel shuffle)."""
    block = node.attributes["blocksize"].as_int()
    column_first = node.attributes.get_string("mode", "DCR") == "CRD"

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        n, c, h, w = x.shape
        if column_first:
            return torch.pixel_shuffle(x, block)
        blocks = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return blocks.reshape(n, c // block**2, h * block, w * block)

    return kernel


@lowers("SpaceToDepth")
def space_to_depth(node: ir.Node) -> Kernel:
    """Blocks of the image moved into channels: the inverse of DepthToSpace."""
    block = node.attributes["blocksize"].as_int()
    column_first = node.attributes.get_string("mode", "DCR") == "CRD"

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        n, c, h, w = x.shape
        if column_first:
            return torch.pixel_unshuffle(x, block)
        blocks = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return blocks.reshape(n, c * block**2, h // block, w // block)

    return kernel


@lowers("Col2Im")
def col2im(node: ir.Node) -> Kernel:
    """Columns of blocks [N, C·∏block, L] added up where the blocks overlap: [N, C, *image]."""
    image_of, block_of = ints(node, 1), ints(node, 2)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        image, block = image_of(xs) or (), block_of(xs) or ()
        rank = len(image)
        strides = tuple(node.attributes.get_ints("strides", (1,) * rank))
        dilations = tuple(node.attributes.get_ints("dilations", (1,) * rank))
        pads = tuple(node.attributes.get_ints("pads", (0,) * (2 * rank)))
        padded = [size + pads[i] + pads[i + rank] for i, size in enumerate(image)]
        # The place in the padded image of every (tap, block position).
        place = torch.zeros((1,) * (2 * rank), dtype=torch.int64, device=x.device)
        for i in range(rank):
            count = (padded[i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
            tap = torch.arange(block[i], device=x.device).reshape([-1 if j == i else 1 for j in range(2 * rank)])
            at = torch.arange(count, device=x.device).reshape([-1 if j == rank + i else 1 for j in range(2 * rank)])
            place = place * padded[i] + tap * dilations[i] + at * strides[i]
        channels = x.shape[1] // math.prod(block)
        y = x.new_zeros(x.shape[0], channels, math.prod(padded))
        y = y.index_add(2, place.reshape(-1), x.reshape(x.shape[0], channels, -1))
        y = y.reshape(x.shape[0], channels, *padded)
        inside = tuple(slice(pads[i], pads[i] + image[i]) for i in range(rank))
        return y[(slice(None), slice(None), *inside)]

    return kernel
