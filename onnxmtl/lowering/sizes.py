"""Images of another height and width than the exported ones: who cannot take them, when something fails."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch

from onnxmtl.errors import ModelError
from onnxmtl.lowering.program import Op, Plan, Program

# What can have a size in its constants and go on with another input, so that a later node is the one that fails.
_BAKING = frozenset({"Reshape", "Resize", "Expand", "Slice", "Tile", "Pad", "GridSample", "Gather"})


def size_of(image: ir.Value) -> tuple[int, int] | None:
    """Height and width of the image input; None where they are free."""
    if image.shape is None or len(image.shape) != 4:
        return None
    height, width = image.shape[2], image.shape[3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def baked_size(
    program: Program,
    plan: Plan,
    images: torch.Tensor,
    exported: tuple[int, int],
    shapes: Mapping[int, torch.Size],
) -> ModelError:
    """The error for a run that failed on images of another size.

    Named is the first node that made what it makes for the exported size although its input was another one; if there
    is none, the node that failed.

    Args:
        program: The lowered graph.
        plan: What was run.
        images: What it was run on.
        exported: Height and width of the graph's image.
        shapes: Value number -> shape of what was computed before the failure.
    """
    failed: Op | None = None
    culprit: Op | None = None
    sizes = {program.input: images.shape, **shapes}
    for step in plan.steps:
        op = step.op
        done = sizes.get(op.outputs[0])
        if done is None:
            failed = op
            break
        before = [(sizes[n], v) for n, v in zip(step.inputs, op.node.inputs, strict=False) if n in sizes]
        # What is resized to a fixed size may have no size of its own: DeepLab's pooled image.
        other = op.node.op_type == "Resize" or not any(_as_exported(shape, value) for shape, value in before)
        if op.node.op_type in _BAKING and before and other and _as_exported(done, op.node.outputs[0]):
            culprit = op
            break
    named = culprit or failed
    assert named is not None, "the run did not fail"
    height, width = int(images.shape[2]), int(images.shape[3])
    wanted = f"{height}x{width}"
    msg = (
        f"the image size {exported[0]}x{exported[1]} is part of node {named.name!r} ({named.node.op_type}), which "
        f"takes no {wanted} images; import the model for them (--input-size {wanted}), or export it so"
    )
    return ModelError(msg)


def _as_exported(shape: torch.Size, value: ir.Value | None) -> bool:
    """Whether a tensor has the shape that the graph says, as far as the graph says one."""
    if value is None or value.shape is None or len(value.shape) != len(shape):
        return False
    return all(a == b for a, b in zip(shape, value.shape, strict=True) if isinstance(b, int))
