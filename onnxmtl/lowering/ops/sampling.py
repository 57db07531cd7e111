"""GridSample and AffineGrid: reading an image at computed places."""

from __future__ import annotations

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.reading import ints
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers

# Opset 16 has torch's names, opset 20 on has its own.
_MODES = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic", "nearest": "nearest"}


@lowers("GridSample")
def grid_sample(node: ir.Node) -> Kernel:
    """The image at the grid's places: −1 and 1 are its borders (or, aligned, the centres of its outer elements)."""
    mode = _MODES[node.attributes.get_string("mode", "linear")]
    padding = node.attributes.get_string("padding_mode", "zeros")
    aligned = bool(node.attributes.get_int("align_corners", 0))
    return lambda xs, ctx: F.grid_sample(xs[0], xs[1], mode, padding, aligned)


@lowers("AffineGrid")
def affine_grid(node: ir.Node) -> Kernel:
    """The grid that an affine map of the output's places gives."""
    aligned = bool(node.attributes.get_int("align_corners", 0))
    size_of = ints(node, 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        return F.affine_grid(xs[0], list(size_of(xs) or ()), aligned)

    return kernel
