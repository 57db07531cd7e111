"""Resize nodes that say the whole output size: batch and channels must not be part of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl.ir import Namer, new_initializer


def resize_height_and_width(node: ir.Node, sizes: list[int], graph: ir.Graph, namer: Namer) -> bool:
    """Make a Resize to `sizes` [N, C, H, W] one of height and width: by exact scales, or by the axes attribute.

    Returns:
        Whether it was rewritten; not if the input's size is unknown, or channels are resized too.
    """
    data = node.inputs[0]
    dims = [] if data is None or data.shape is None else list(data.shape)
    known = [dim for dim in dims[1:] if isinstance(dim, int)]
    if len(known) != len(sizes) - 1 or sizes[1] != known[0] or "axes" in node.attributes:
        return False
    ratios = [new / old for new, old in zip(sizes[2:], known[1:], strict=True)]
    if all(float(np.float32(ratio)) == ratio for ratio in ratios):
        scales = new_initializer(graph, namer.unique(f"{node.name}.scales"), np.array([1, 1, *ratios], np.float32))
        node.replace_input_with(2, scales)
        node.replace_input_with(3, None)
        node.resize_inputs(3)
    else:
        node.attributes["axes"] = ir.AttrInt64s("axes", list(range(2, len(sizes))))
        value = new_initializer(graph, namer.unique(f"{node.name}.sizes"), np.array(sizes[2:], np.int64))
        node.replace_input_with(3, value)
    return True
