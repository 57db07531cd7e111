"""What a traced module does not train."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxmtl.ops import mark_buffer, mark_constant

if TYPE_CHECKING:
    import torch


def mark_buffers(model: ir.Model, module: torch.nn.Module) -> None:
    """Mark the buffers of a traced module, and its plain tensors, as constants.

    torch.export says itself what is a buffer (``onnxmtl.passes.normalize.buffers`` reads it). The older exporter keeps
    the names of parameters and buffers, and makes Constant nodes of all other tensors.
    """
    names = {name for name, _ in module.named_buffers()} - {name for name, _ in module.named_parameters()}
    for name, value in model.graph.initializers.items():
        if name in names:
            mark_buffer(value)
    for node in model.graph:
        tensor = (
            node.attributes["value"].as_tensor() if node.op_type == "Constant" and "value" in node.attributes else None
        )
        if tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1:
            mark_constant(node.outputs[0], "buffer")
