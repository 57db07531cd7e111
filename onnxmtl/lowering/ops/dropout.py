"""Dropout."""

from __future__ import annotations

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.reading import has_output, number
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, Result, lowers


@lowers("Dropout")
def dropout(node: ir.Node) -> Kernel:
    """y = x · mask / (1 − ratio) in training, x otherwise.

    The context says whether it is training, the node's third input does not. Draws come from torch's
    generator of x's device.
    """
    ratio_of = number(node, 1)
    wants_mask = has_output(node, 1)

    def plain(xs: Inputs, ctx: Context) -> Result:
        x: torch.Tensor = xs[0]
        ratio = _ratio(ratio_of(xs)) if ctx.training else 0.0
        return F.dropout(x, ratio) if ratio > 0 else x

    def with_mask(xs: Inputs, ctx: Context) -> Result:
        x: torch.Tensor = xs[0]
        ratio = _ratio(ratio_of(xs)) if ctx.training else 0.0
        if ratio == 0:
            return x, torch.ones_like(x, dtype=torch.bool)
        mask = torch.rand_like(x) >= ratio
        return x * mask / (1 - ratio), mask

    return with_mask if wants_mask else plain


def _ratio(value: float | torch.Tensor | None) -> float:
    return 0.5 if value is None else float(value)
