"""Conv and ConvTranspose, with 1 to 3 spatial axes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers
from onnxmtl.lowering.ops.spatial import spatial_rank, torch_pad, window_of

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _bias(xs: Inputs) -> torch.Tensor | None:
    return xs[2] if len(xs) > 2 else None


@lowers("Conv")
def conv(node: ir.Node) -> Kernel:
    """y = w ⋆ x + b. Symmetric pads go to torch's convolution, other ones are put on the input first."""
    rank = spatial_rank(node, 1)
    window = window_of(node, rank)
    groups = node.attributes.get_int("group", 1)
    strides, dilations, (begin, end) = window.strides, window.dilations, window.pads
    convolve = _CONV[rank]

    def padded(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, w = xs[0], xs[1]
        before, after = window.pads_for(x.shape[2:], w.shape[2:])
        if before == after:
            return convolve(x, w, _bias(xs), strides, before, dilations, groups)  # type: ignore[no-any-return]
        x = F.pad(x, torch_pad(before, after))
        return convolve(x, w, _bias(xs), strides, 0, dilations, groups)  # type: ignore[no-any-return]

    def symmetric(xs: Inputs, ctx: Context) -> torch.Tensor:
        b = xs[2] if len(xs) > 2 else None
        return convolve(xs[0], xs[1], b, strides, begin, dilations, groups)  # type: ignore[no-any-return]

    return padded if window.same or begin != end else symmetric


@lowers("ConvTranspose")
def conv_transpose(node: ir.Node) -> Kernel:
    """The gradient of Conv with respect to its input.

    Pads crop the full result; ``output_padding`` crops less at the end; ``output_shape`` and SAME say how much
    is left and the crop follows from it.
    """
    rank = spatial_rank(node, 1)
    window = window_of(node, rank)
    groups = node.attributes.get_int("group", 1)
    extra = tuple(node.attributes.get_ints("output_padding", (0,) * rank))
    target = tuple(node.attributes.get_ints("output_shape", ()))[-rank:]
    strides, dilations, (begin, end) = window.strides, window.dilations, window.pads
    convolve = _CONV_TRANSPOSE[rank]

    def symmetric(xs: Inputs, ctx: Context) -> torch.Tensor:
        b = xs[2] if len(xs) > 2 else None
        return convolve(xs[0], xs[1], b, strides, begin, extra, groups, dilations)  # type: ignore[no-any-return]

    def cropped(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, w = xs[0], xs[1]
        before, after = begin, end
        if target or window.same:
            extents = window.extents(w.shape[2:])
            wanted = target or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
            totals = [
                (n - 1) * s + e + o - t
                for n, s, e, o, t in zip(x.shape[2:], strides, extents, extra, wanted, strict=True)
            ]
            before, after = window.halved([max(total, 0) for total in totals])
            # A result larger than the full one is zero there, plus the bias.
            after = tuple(a + min(total, 0) for a, total in zip(after, totals, strict=True))
        y = convolve(x, w, None, strides, 0, 0, groups, dilations)
        crop = [o - a for o, a in zip(extra, after, strict=True)]
        y = F.pad(y, torch_pad([-b for b in before], crop))
        b = _bias(xs)
        return y if b is None else y + b.reshape(-1, *(1,) * rank)

    # torch takes an output padding only below the stride or the dilation.
    fits = all(o < max(s, d) for o, s, d in zip(extra, strides, dilations, strict=True))
    return symmetric if begin == end and fits and not target and not window.same else cropped
